"""Table 5: other networks, each by its own paper's recipe, and three WRNs by the authors'.

`wrn reproduce table5`: 15 networks x 2 data sets; medians of 5 in v4, for the WRNs. WRN-28-10 has 4.00% and 19.25%. The
printed numbers of the others are their papers', and some are of other networks.
"""

from wrn.experiments.parts import CIFAR10, CIFAR100, ZCA_THEN_MEANSTD, Claim, Experiment, Row, best

EXPERIMENT = Experiment(
    id="table5",
    title="Comparison of methods",
    columns=(CIFAR10, CIFAR100),
    versions=ZCA_THEN_MEANSTD,
    rows=(
        Row(model="nin", paper=0, recipe="own"),
        Row(model="dsn", paper=1, recipe="own"),
        Row(model="fitnet", paper=2, recipe="own", teacher="wrn-16-8"),
        Row(model="highway", paper=3, recipe="own"),
        Row(model="elu", paper=4, recipe="own"),
        Row(model="resnet-110", paper=5, recipe="own"),
        Row(model="resnet-1202", paper=6, recipe="own"),
        Row(model="stochastic-depth-110", paper=7, recipe="own"),
        Row(model="stochastic-depth-1202", paper=8, recipe="own"),
        Row(model="pre-resnet-110", paper=9, recipe="own"),
        Row(model="pre-resnet-164", paper=10, recipe="own"),
        Row(model="pre-resnet-1001", paper=11, recipe="own"),
        Row(model="wrn-40-4", paper=12),
        Row(model="wrn-16-8", paper=13),
        Row(model="wrn-28-10", paper=14),
    ),
    claims=(
        Claim(
            text="WRN-40-4 and WRN-16-8 are better than the 1001-layer ResNet",
            pairs=(("pre-resnet-1001", "wrn-40-4"), ("pre-resnet-1001", "wrn-16-8")),
        ),
        Claim(
            text="WRN-28-10 is best",
            pairs=best(
                "wrn-28-10", "nin", "dsn", "fitnet", "highway", "elu", "resnet-110", "resnet-1202",
                "stochastic-depth-110", "stochastic-depth-1202", "pre-resnet-110", "pre-resnet-164", "pre-resnet-1001",
                "wrn-40-4", "wrn-16-8",
            ),
        ),
    ),
)  # fmt: skip

"""Table 3: how many convolutions a block, at one number of parameters, medians of 5.

`wrn reproduce table3`: 4 networks x 5 seeds x 200 epochs. Two convolutions are best: 5.43%.
"""

from wrn.experiments.parts import ALWAYS_ZCA, CIFAR10, Claim, Experiment, Row, best

EXPERIMENT = Experiment(
    id="table3",
    title="Convolutions per block",
    columns=(CIFAR10,),
    versions=ALWAYS_ZCA,
    rows=(
        Row(model="wrn-40-2-b3", paper=0, fields={"depth_rule": "true"}),
        Row(model="wrn-40-2", paper=1),
        Row(model="wrn-40-2-b333", paper=2, fields={"depth_rule": "true"}),
        Row(model="wrn-40-2-b3333", paper=3, fields={"depth_rule": "true"}),
    ),
    claims=(
        Claim(
            text="two convolutions are best", pairs=best("wrn-40-2", "wrn-40-2-b3", "wrn-40-2-b333", "wrn-40-2-b3333")
        ),
        Claim(
            text="one is worst",
            pairs=tuple(("wrn-40-2-b3", other) for other in ("wrn-40-2", "wrn-40-2-b333", "wrn-40-2-b3333")),
        ),
    ),
)

"""Table 4: width and depth on CIFAR-10 and CIFAR-100, single runs.

`wrn reproduce table4`: 10 networks x 2 data sets x 200 epochs. WRN-28-10 has 4.17% and 20.50%.
"""

from wrn.experiments.parts import ALWAYS_ZCA, CIFAR10, CIFAR100, Claim, Experiment, Row, chain

EXPERIMENT = Experiment(
    id="table4",
    title="Width and depth",
    columns=(CIFAR10, CIFAR100),
    versions=ALWAYS_ZCA,
    rows=(
        Row(model="wrn-40-1", paper=0),
        Row(model="wrn-40-2", paper=1),
        Row(model="wrn-40-4", paper=2),
        Row(model="wrn-40-8", paper=3),
        Row(model="wrn-28-10", paper=4),
        Row(model="wrn-28-12", paper=5),
        Row(model="wrn-22-8", paper=6),
        Row(model="wrn-22-10", paper=7),
        Row(model="wrn-16-8", paper=8),
        Row(model="wrn-16-10", paper=9),
    ),
    claims=(
        Claim(text="widening helps at depth 40", pairs=chain("wrn-40-1", "wrn-40-2", "wrn-40-4", "wrn-40-8")),
        Claim(text="widening helps at depth 22", pairs=(("wrn-22-8", "wrn-22-10"),)),
        Claim(text="widening helps at depth 16", pairs=(("wrn-16-8", "wrn-16-10"),)),
        Claim(text="depth helps at k = 8, from 16 to 22", pairs=(("wrn-16-8", "wrn-22-8"),)),
        Claim(text="depth helps at k = 10, from 16 to 28", pairs=chain("wrn-16-10", "wrn-22-10", "wrn-28-10")),
        Claim(text="WRN-40-8 is worse than the shallower WRN-22-8", pairs=(("wrn-40-8", "wrn-22-8"),)),
    ),
)

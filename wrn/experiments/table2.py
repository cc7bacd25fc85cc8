"""Table 2: block types at k = 2 on CIFAR-10, medians of 5.

`wrn reproduce table2`: 6 networks x 5 seeds x 200 epochs. B(3,3) has 5.73%. Depths are nominal: N = (n - 4) / 6 blocks
a group whatever the block.
"""

from wrn.experiments.parts import ALWAYS_ZCA, CIFAR10, Claim, Experiment, Row, Times, best

_NOMINAL = {"depth_rule": "nominal"}

EXPERIMENT = Experiment(
    id="table2",
    title="Block types",
    columns=(CIFAR10,),
    versions=ALWAYS_ZCA,
    rows=(
        Row(model="wrn-40-2-b131", paper=0, fields=_NOMINAL),
        Row(model="wrn-40-2-b31", paper=1, fields=_NOMINAL),
        Row(model="wrn-40-2-b13", paper=2, fields=_NOMINAL),
        Row(model="wrn-40-2-b311", paper=3, fields=_NOMINAL),
        Row(model="wrn-28-2", paper=4),
        Row(model="wrn-22-2-b313", paper=5, fields=_NOMINAL),
    ),
    claims=(
        Claim(
            text="B(3,3) is best, by a little",
            pairs=best("wrn-28-2", "wrn-40-2-b131", "wrn-40-2-b31", "wrn-40-2-b13", "wrn-40-2-b311", "wrn-22-2-b313"),
        ),
        Claim(
            text="B(3,1) and B(3,1,3) come near it: they are better than B(1,3,1) and B(1,3)",
            pairs=(
                *best("wrn-40-2-b31", "wrn-40-2-b131", "wrn-40-2-b13"),
                *best("wrn-22-2-b313", "wrn-40-2-b131", "wrn-40-2-b13"),
            ),
        ),
        Claim(
            text="B(3,1,3) is fastest",
            pairs=best("wrn-22-2-b313", "wrn-40-2-b131", "wrn-40-2-b31", "wrn-40-2-b13", "wrn-40-2-b311", "wrn-28-2"),
            columns=("time",),
        ),
    ),
    times=Times(key="time_s_per_epoch", to="wrn-28-2", batch_size=128),
)

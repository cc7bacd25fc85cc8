"""The paper's claims in networks that two processor cores train in minutes each, and ours. None is in the paper.

`wrn reproduce table4-small|table6-small|fig2-small --data folder:PATH --epochs 15 --seeds 3`.
`wrn reproduce precision-small --data folder:PATH --epochs 15 --seeds 5`: does bf16 cost accuracy?
"""

from wrn.experiments.parts import CIFAR10, Claim, Experiment, Rise, Row, chain

TABLE4 = Experiment(
    id="table4-small",
    title="Width and depth in small networks",
    columns=(CIFAR10,),
    rows=(
        Row(model="wrn-10-1"),
        Row(model="wrn-10-2"),
        Row(model="wrn-10-4"),
        Row(model="wrn-16-1"),
        Row(model="wrn-16-2"),
        Row(model="wrn-22-1"),
    ),
    claims=(
        Claim(text="widening helps at depth 10", pairs=chain("wrn-10-1", "wrn-10-2", "wrn-10-4")),
        Claim(text="widening helps at depth 16", pairs=(("wrn-16-1", "wrn-16-2"),)),
        Claim(text="depth helps at k = 1", pairs=chain("wrn-10-1", "wrn-16-1", "wrn-22-1")),
        Claim(text="wide and shallow is better than thin and deep", pairs=(("wrn-22-1", "wrn-10-2"),)),
    ),
    seeds=3,
)

TABLE6 = Experiment(
    id="table6-small",
    title="Dropout in small networks",
    columns=(CIFAR10,),
    rows=(
        Row(model="wrn-10-2"),
        Row(model="wrn-10-2", name="wrn-10-2 dropout", fields={"dropout": 0.3}),
        Row(model="wrn-16-1"),
        Row(model="wrn-16-1", name="wrn-16-1 dropout", fields={"dropout": 0.3}),
    ),
    claims=(
        Claim(text="dropout helps the wider network", pairs=(("wrn-10-2", "wrn-10-2 dropout"),)),
        Claim(text="dropout helps the thinner network", pairs=(("wrn-16-1", "wrn-16-1 dropout"),)),
    ),
    seeds=3,
)

FIGURE2 = Experiment(
    id="fig2-small",
    title="Training curves of small networks",
    columns=(CIFAR10,),
    rows=(Row(model="wrn-22-1"), Row(model="wrn-10-2")),
    claims=(
        Claim(text="the wide network has the lower error", pairs=(("wrn-22-1", "wrn-10-2"),)),
        Rise(
            text="the test error rises after the first drop of the rate, until the next",
            rows=("wrn-22-1", "wrn-10-2"),
        ),
    ),
    curves=True,
    seeds=3,
)

PRECISION = Experiment(
    id="precision-small",
    title="bf16 against fp32",
    columns=(CIFAR10,),
    rows=(
        Row(model="wrn-10-2", recipe="paper"),
        Row(model="wrn-10-2", name="wrn-10-2 in bf16", recipe="paper", precision="bf16"),
    ),
    base="wrn-10-2",
    seeds=5,
)

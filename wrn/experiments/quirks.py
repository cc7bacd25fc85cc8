"""What the text leaves out, one thing at a time: does it matter? Nobody has published that.

`wrn reproduce quirks`: WRN-16-4 as the authors' code trained it, and with each quirk taken back; 10 runs x 5 seeds x
200 epochs. Differences are paired by seed. The paper has no such table.
"""

from wrn.experiments.parts import CIFAR10, CIFAR100, Experiment, Rise, Row

_BASE = "wrn-16-4"

EXPERIMENT = Experiment(
    id="quirks",
    title="What the text leaves out",
    columns=(CIFAR10, CIFAR100),
    rows=(
        Row(model=_BASE),
        Row(model=_BASE, name="BN scales begin at 1", fields={"bn_init": "ones"}),
        Row(model=_BASE, name="momentum kept at drops", fields={"reset_momentum": False}),
        Row(model=_BASE, name="last batch kept", fields={"drop_last": False}),
        Row(model=_BASE, name="as the text prints it", recipe="paper"),
        Row(model=_BASE, name="the data's own constants", fields={"preprocess": "meanstd-own"}),
        Row(model=_BASE, name="one crop for a whole batch", fields={"augment": "v1"}),
        Row(model=_BASE, name="bf16", precision="bf16"),
        Row(model=_BASE, name="weight decay 1e-4", fields={"weight_decay": 1e-4}),
        Row(model=_BASE, name="no weight decay", fields={"weight_decay": 0.0}),
    ),
    claims=(
        Rise(text="the test error rises after the first drop of the rate", rows=(_BASE,)),
        Rise(text="it does so with less weight decay, 1e-4", rows=("weight decay 1e-4",)),
        Rise(text="it does so without weight decay, which v4 names as the cause", rows=("no weight decay",)),
    ),
    base=_BASE,
    seeds=5,
)

"""Figure 2: training curves of a thin, deep network and a wide one, one run each.

`wrn reproduce fig2`: 2 networks x 2 data sets x 200 epochs; 5.46% and 4.00% on CIFAR-10. Both by the authors'
recipe, so that the rates drop at the same epochs, as in the figure.
"""

from wrn.experiments.parts import CIFAR10, CIFAR100, ZCA_THEN_MEANSTD, Claim, Experiment, Rise, Row

EXPERIMENT = Experiment(
    id="fig2",
    title="Training curves on CIFAR",
    columns=(CIFAR10, CIFAR100),
    versions=ZCA_THEN_MEANSTD,
    rows=(Row(model="pre-resnet-164", paper=0), Row(model="wrn-28-10", paper=1)),
    claims=(
        Claim(text="the wide network has the lower error", pairs=(("pre-resnet-164", "wrn-28-10"),)),
        Rise(
            text="the test error rises after the first drop of the rate, until the next",
            rows=("pre-resnet-164", "wrn-28-10"),
        ),
    ),
    curves=True,
)

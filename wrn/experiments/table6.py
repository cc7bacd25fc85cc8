"""Table 6: dropout in the residual block, 0.3 on CIFAR and 0.4 on SVHN, as the paper found by validation.

`wrn reproduce table6`: 6 rows x 3 data sets; medians of 5 on CIFAR in v4. Dropout takes WRN-16-4 on SVHN from 1.85% to
1.64%. `wrn tune dropout` chooses it by validation again.
"""

from wrn.experiments.parts import CIFAR10, CIFAR100, SVHN, ZCA_THEN_MEANSTD, Claim, Experiment, Row

_DROPOUT = {"cifar10": {"dropout": 0.3}, "cifar100": {"dropout": 0.3}, "svhn": {"dropout": 0.4}}
_ELSEWHERE = {"dropout": 0.3}

EXPERIMENT = Experiment(
    id="table6",
    title="Dropout",
    columns=(CIFAR10, CIFAR100, SVHN),
    versions=ZCA_THEN_MEANSTD,
    rows=(
        Row(model="wrn-16-4", paper=0),
        Row(model="wrn-16-4", paper=1, name="wrn-16-4 dropout", fields=_ELSEWHERE, on=_DROPOUT),
        Row(model="wrn-28-10", paper=2, only=("cifar10", "cifar100")),
        Row(
            model="wrn-28-10",
            paper=3,
            name="wrn-28-10 dropout",
            fields=_ELSEWHERE,
            on=_DROPOUT,
            only=("cifar10", "cifar100"),
        ),
        Row(model="wrn-52-1", paper=4),
        Row(model="wrn-52-1", paper=5, name="wrn-52-1 dropout", fields=_ELSEWHERE, on=_DROPOUT),
    ),
    claims=(
        Claim(
            text="dropout helps on SVHN",
            pairs=(("wrn-16-4", "wrn-16-4 dropout"), ("wrn-52-1", "wrn-52-1 dropout")),
            columns=("svhn",),
        ),
        Claim(
            text="dropout helps WRN-28-10",
            pairs=(("wrn-28-10", "wrn-28-10 dropout"),),
            columns=("cifar10", "cifar100"),
        ),
        Claim(
            text="dropout helps the thin network",
            pairs=(("wrn-52-1", "wrn-52-1 dropout"),),
            columns=("cifar10", "cifar100"),
        ),
        Claim(text="WRN-16-4 is better than the thin WRN-52-1", pairs=(("wrn-52-1", "wrn-16-4"),)),
    ),
)

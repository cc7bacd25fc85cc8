"""Table 9: the best results, single runs.

`wrn reproduce table9`: WRN-40-10 with dropout on CIFAR (3.8%, 18.3%), WRN-16-8 with dropout on SVHN (1.54%), WRN-50-2
on ImageNet (21.9%; the printed top-5 is another network's), and the COCO detector, whose 35.2 is a mean
average precision and no error.
"""

from wrn.experiments.parts import CIFAR10, CIFAR100, SVHN, TOP1, TOP5, Experiment, Row

EXPERIMENT = Experiment(
    id="table9",
    title="Best results",
    columns=(CIFAR10, CIFAR100, SVHN, TOP1, TOP5),
    rows=(
        Row(model="wrn-40-10", paper=0, name="wrn-40-10 dropout", fields={"dropout": 0.3}, only=("cifar10",)),
        Row(
            model="wrn-40-10",
            paper=1,
            name="wrn-40-10 dropout, CIFAR-100",
            fields={"dropout": 0.3},
            only=("cifar100",),
        ),
        Row(model="wrn-16-8", paper=2, name="wrn-16-8 dropout", fields={"dropout": 0.4}, only=("svhn",)),
        Row(model="wrn-50-2-bottleneck", paper=3, recipe="fb-resnet", only=("top1", "top5")),
        Row(
            model="wrn-34-2-imagenet",
            paper=4,
            name="the detector with WRN-34-2",
            only=("mAP",),
            cannot="not part of wrn yet; the paper's 35.2 is a mAP",
        ),
    ),
)

"""Table 7: widening the non-bottleneck ImageNet networks, single crops.

`wrn reproduce table7`: 7 networks x 90 epochs; ImageNet's files must be there. WRN-34-2 has 23.39% and 7.00%.
"""

from wrn.experiments.parts import TOP1, TOP5, Claim, Experiment, Row, chain

EXPERIMENT = Experiment(
    id="table7",
    title="Width on ImageNet",
    columns=(TOP1, TOP5),
    rows=(
        Row(model="wrn-18-1-imagenet", paper=0, recipe="fb-resnet"),
        Row(model="wrn-18-1.5-imagenet", paper=1, recipe="fb-resnet"),
        Row(model="wrn-18-2-imagenet", paper=2, recipe="fb-resnet"),
        Row(model="wrn-18-3-imagenet", paper=3, recipe="fb-resnet"),
        Row(model="wrn-34-1-imagenet", paper=4, recipe="fb-resnet"),
        Row(model="wrn-34-1.5-imagenet", paper=5, recipe="fb-resnet"),
        Row(model="wrn-34-2-imagenet", paper=6, recipe="fb-resnet"),
    ),
    claims=(
        Claim(
            text="widening helps at 18 layers",
            pairs=chain("wrn-18-1-imagenet", "wrn-18-1.5-imagenet", "wrn-18-2-imagenet", "wrn-18-3-imagenet"),
        ),
        Claim(
            text="widening helps at 34 layers",
            pairs=chain("wrn-34-1-imagenet", "wrn-34-1.5-imagenet", "wrn-34-2-imagenet"),
        ),
    ),
)

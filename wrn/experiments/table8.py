"""Table 8: bottleneck ImageNet networks, single crops, and the time of a minibatch of 16.

`wrn reproduce table8`: 5 networks x 90 epochs; ImageNet's files must be there. WRN-50-2-bottleneck has 21.9% and 6.03%.
"""

from wrn.experiments.parts import TOP1, TOP5, Claim, Experiment, Row, Times, best

EXPERIMENT = Experiment(
    id="table8",
    title="Bottleneck networks on ImageNet",
    columns=(TOP1, TOP5),
    rows=(
        Row(model="resnet-50", paper=0, recipe="fb-resnet"),
        Row(model="resnet-101", paper=1, recipe="fb-resnet"),
        Row(model="resnet-152", paper=2, recipe="fb-resnet"),
        Row(model="wrn-50-2-bottleneck", paper=3, recipe="fb-resnet"),
        Row(model="pre-resnet-200", paper=4, recipe="fb-resnet"),
    ),
    claims=(
        Claim(
            text="WRN-50-2 is better than ResNet-50, -101 and -152",
            pairs=best("wrn-50-2-bottleneck", "resnet-50", "resnet-101", "resnet-152"),
        ),
        Claim(
            text="WRN-50-2 is faster than pre-ResNet-200, which is as good",
            pairs=(("pre-resnet-200", "wrn-50-2-bottleneck"),),
            columns=("time",),
        ),
    ),
    times=Times(key="time_ms_per_batch16", to="wrn-50-2-bottleneck", batch_size=16, image_size=224),
)

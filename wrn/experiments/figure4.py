"""Figure 4: forward and backward passes at minibatch 32 of networks of like error. `wrn reproduce fig4`: minutes.

The errors beside the bars are in part those of other networks.
"""

from wrn.experiments.parts import Claim, Experiment, Row, Times

EXPERIMENT = Experiment(
    id="fig4",
    title="Time of forward and backward",
    columns=(),
    versions={"v1": {}, "bmvc": {}, "v4": {}},
    rows=(
        Row(model="pre-resnet-164", paper=0),
        Row(model="pre-resnet-1001", paper=1),
        Row(model="wrn-40-4", paper=2),
        Row(model="wrn-16-10", paper=3),
        Row(model="wrn-28-10", paper=4),
    ),
    claims=(
        Claim(
            text="WRN-40-4 and WRN-28-10 are faster than the 1001-layer ResNet",
            pairs=(("pre-resnet-1001", "wrn-40-4"), ("pre-resnet-1001", "wrn-28-10")),
            columns=("time",),
        ),
    ),
    times=Times(key="time_ms", to="wrn-40-4", batch_size=32),
)

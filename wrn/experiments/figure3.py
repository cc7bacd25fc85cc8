"""Figure 3: training curves on SVHN, one run each: thin against wide, and without against with dropout.

`wrn reproduce fig3`: 3 runs of 160 epochs on 604,388 images; 2.07%, 1.85% and 1.64%.
"""

from wrn.experiments.parts import SVHN, Claim, Experiment, Row, chain

EXPERIMENT = Experiment(
    id="fig3",
    title="Training curves on SVHN",
    columns=(SVHN,),
    versions={"v1": {}, "bmvc": {}, "v4": {}},
    rows=(
        Row(model="wrn-52-1", paper=0),
        Row(model="wrn-16-4", paper=1),
        Row(model="wrn-16-4", paper=3, name="wrn-16-4 dropout", fields={"dropout": 0.4}),
    ),
    claims=(
        Claim(
            text="the wide network is better than the thin one, and better yet with dropout",
            pairs=chain("wrn-52-1", "wrn-16-4", "wrn-16-4 dropout"),
        ),
    ),
    curves=True,
)

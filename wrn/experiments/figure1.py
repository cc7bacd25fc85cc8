"""Figure 1: the blocks, drawn from the networks' own modules. `wrn reproduce fig1`; nothing is trained."""

from wrn.experiments.parts import Experiment

EXPERIMENT = Experiment(
    id="fig1", title="Residual blocks", rows=(), columns=(), versions={"v1": {}, "bmvc": {}, "v4": {}}
)

"""What the papers of other networks ask of single layers: other rates, other decay, limits of a norm, first weights.

A network that has such rules gives them by `layer_rules()`, {parameter's name: LayerRule}; one whose first weights are
part of its definition draws them in `first_weights(generator)`. Both are followed where a recipe says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class LayerRule:
    """How one parameter is trained: factors of the recipe's rate and weight decay, and limits."""

    lr: float = 1.0
    decay: float = 1.0
    max_norm: float | None = None  # of all weights that lead into one unit: longer ones are scaled back after each step
    fade: Callable[[float], float] | None = None  # another factor of the rate, by the share of the run that is done


def caffe_rules(model: nn.Module) -> dict[str, LayerRule]:
    """What Caffe's examples do, and so NIN, DSN and Highway: biases learn twice as fast and are not decayed."""
    return {name: LayerRule(lr=2.0, decay=0.0) for name, _ in model.named_parameters() if name.endswith("bias")}


@torch.no_grad()
def limit_norms(parameter: Tensor, max_norm: float) -> None:
    """Scale back the rows (out, …) of a weight whose length exceeds `max_norm`, in place."""
    parameter.renorm_(2, 0, max_norm)


def caffe_xavier(weight: Tensor, generator: Generator | None) -> None:
    """Caffe's "xavier": uniform with variance 1 / fan-in."""
    bound = (3 / weight[0].numel()) ** 0.5
    nn.init.uniform_(weight, -bound, bound, generator=generator)

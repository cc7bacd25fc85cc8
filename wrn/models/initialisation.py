"""How weights begin. The paper does not say; its code changed over time, so each choice has a name."""

from typing import Literal, get_args

import torch
from torch import Generator, nn

from wrn.errors import UsageError, unknown

ConvInit = Literal["fan-in", "fan-out", "published"]
BnInit = Literal["ones", "uniform"]
LinearInit = Literal["uniform", "normal"]


@torch.no_grad()
def initialise(
    module: nn.Module,
    conv: ConvInit = "fan-in",
    bn: BnInit = "ones",
    linear: LinearInit = "uniform",
    generator: Generator | None = None,
) -> None:
    """Draw every weight of `module` anew, in the order of its modules.

    conv: normal with variance 2 / fan, over the inputs (authors' code since September 2016) or the outputs (before);
    "published": all weights as the network's own paper draws them.
    bn: the scale gamma, 1 or U(0, 1) (Torch's default, so the authors'); the shift is 0.
    linear: U(+-1/sqrt(n_in)) (Lua) or normal with variance 2 / n_in (authors' PyTorch); biases are 0.
    A convolution's bias is 0. Layers that need something else say so by `adjust_first_weights`.
    """
    for what, value, kind in (("conv", conv, ConvInit), ("bn", bn, BnInit), ("linear", linear, LinearInit)):
        if value not in get_args(kind):
            raise unknown(f"{what} init", value, get_args(kind))
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            mode = {"fan-in": "fan_in", "fan-out": "fan_out", "published": "fan_in"}[conv]
            nn.init.kaiming_normal_(part.weight, mode=mode, nonlinearity="relu", generator=generator)  # type: ignore[arg-type]
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            if bn == "uniform":
                nn.init.uniform_(part.weight, 0.0, 1.0, generator=generator)
            else:
                nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            if linear == "normal":
                nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            else:
                bound = part.in_features**-0.5
                nn.init.uniform_(part.weight, -bound, bound, generator=generator)
            nn.init.zeros_(part.bias)
    for part in module.modules():
        adjust = getattr(part, "adjust_first_weights", None)
        if adjust is not None:
            adjust()
    if conv == "published":
        draw = getattr(module, "first_weights", None)
        if draw is None:
            raise UsageError("conv init published: this network has no first weights of its own; take fan-in")
        draw(generator)

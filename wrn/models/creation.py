"""From a name to a network."""

import torch
from torch import nn

from wrn.errors import UsageError
from wrn.models.initialisation import BnInit, ConvInit, LinearInit, initialise
from wrn.models.names import DepthRule, parse
from wrn.models.wide_resnet import WideResNet


def create_model(
    name: str,
    *,
    num_classes: int,
    dropout: float = 0.0,
    in_channels: int = 3,
    depth_rule: DepthRule | None = None,
    conv_init: ConvInit = "fan-in",
    bn_init: BnInit = "ones",
    linear_init: LinearInit = "uniform",
    seed: int | None = None,
) -> nn.Module:
    """The network of that name, fp32: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    `seed` makes the initial weights its function; without one they come from torch's global generator.
    Raises ValueError for a name, depth, class count or dropout that makes no sense.
    """
    spec = parse(name, depth_rule)
    if not (isinstance(dropout, (int, float)) and 0.0 <= dropout < 1.0):
        raise UsageError(f"dropout {dropout}: not a probability in [0, 1); the paper uses 0.3 (CIFAR) and 0.4 (SVHN)")
    if num_classes < 1 or in_channels < 1:
        raise UsageError(f"model {name!r}: needs at least one class and one input channel")
    model = WideResNet(spec.blocks_per_group, spec.widen_factor, num_classes, spec.kernels, dropout, in_channels)
    if not next(model.parameters()).is_meta:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        initialise(model, conv_init, bn_init, linear_init, generator)
    return model

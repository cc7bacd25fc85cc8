"""From a name to a network."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import nn

from wrn.errors import UsageError
from wrn.models.families import DepthRule, Spec
from wrn.models.initialisation import BnInit, ConvInit, LinearInit, initialise
from wrn.models.names import parse
from wrn.models.stochastic_depth import Per, set_stochastic_depth


def create_model(
    name: str,
    *,
    num_classes: int,
    dropout: float = 0.0,
    drop_path: float | None = None,
    drop_path_per: Per = "batch",
    in_channels: int = 3,
    image_size: int | None = None,
    depth_rule: DepthRule | None = None,
    conv_init: ConvInit = "fan-in",
    bn_init: BnInit = "ones",
    linear_init: LinearInit = "uniform",
    seed: int | None = None,
) -> nn.Module:
    """The network of that name, fp32: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    `drop_path`: stochastic depth, the probability of dropping the last residual block in training (1 - p_L), earlier
    ones in proportion; drawn per "batch" or "sample"; None: the network's own. `image_size`: the side of the images;
    most networks take any size that leaves a pixel, `dsn` is built for one (default 32).
    With a `seed` the initial weights depend on it alone, and torch's global generator is left as it was; without, they
    come from that.
    Raises ValueError for a name, depth, class count, image size or dropout that makes no sense, and for what the
    network does not have.
    """
    spec = parse(name, depth_rule)
    if not (isinstance(dropout, (int, float)) and 0.0 <= dropout < 1.0):
        raise UsageError(f"dropout {dropout}: not a probability in [0, 1); the paper uses 0.3 (CIFAR) and 0.4 (SVHN)")
    for what, count in (("classes", num_classes), ("input channels", in_channels)):
        if not (isinstance(count, Integral) and 1 <= count <= 1_000_000):
            raise UsageError(f"model {name!r}: has {count!r} {what}; give a whole number from 1 to a million")
    num_classes, in_channels = int(num_classes), int(in_channels)  # NumPy's too
    if image_size is not None and not isinstance(image_size, Integral):
        raise UsageError(f"image size {image_size!r}: must be a whole number")
    if image_size is not None and image_size < spec.smallest:
        raise UsageError(
            f"image size {image_size}: {spec.name} takes at least {spec.smallest}; give a larger image_size"
        )
    if dropout and not spec.dropout:
        raise UsageError(f"dropout {dropout}: {spec.name} has none; leave it out")
    device, generator = torch.get_default_device(), None if seed is None else torch.Generator().manual_seed(seed)
    # With a seed all weights are drawn once more from its own generator, and nobody else's numbers change by that
    apart = torch.random.fork_rng(devices=[], enabled=seed is not None)
    with _usual_numbers(), torch.device("meta" if device.type == "meta" else "cpu"), apart:
        model = _built(spec, num_classes, dropout, in_channels, image_size)
    if spec.drop_path is not None or drop_path or drop_path_per != "batch":
        set_stochastic_depth(model, spec.drop_path or 0.0 if drop_path is None else drop_path, drop_path_per)
    if device.type != "meta":
        initialise(model, conv_init, bn_init, linear_init, generator)
    return model.to(device)


@contextmanager
def _usual_numbers() -> Iterator[None]:
    """Within, torch makes fp32, whatever the process has made its default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _built(spec: Spec, num_classes: int, dropout: float, in_channels: int, image_size: int | None) -> nn.Module:
    arguments: dict[str, Any] = {**spec.arguments, "num_classes": num_classes, "in_channels": in_channels}
    if spec.dropout:
        arguments["dropout"] = dropout
    if spec.one_size:
        arguments["image_size"] = image_size or spec.image_size
    module, _, name = spec.builder.partition(":")
    model = getattr(importlib.import_module(module), name)(**arguments)
    assert isinstance(model, nn.Module)
    return model

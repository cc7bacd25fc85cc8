"""Figure 1: what its four blocks are made of, told by the networks' own modules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wrn.models.creation import create_model

PANELS = {
    "basic": ("pre-resnet-20-basic-cifar", 0.0),
    "bottleneck": ("pre-resnet-29-bottleneck-cifar", 0.0),
    "basic-wide": ("wrn-16-4", 0.0),
    "wide-dropout": ("wrn-16-4", 0.3),
}
"""The figure's names, and a network that has such blocks, with its dropout."""


def blocks() -> list[dict[str, Any]]:
    """For each panel {name, model, layers}, of a block that keeps its width; the layers in the order they run."""
    return [
        {"name": name, "model": model, "layers": _layers(model, dropout)} for name, (model, dropout) in PANELS.items()
    ]


def _layers(model: str, dropout: float) -> list[dict[str, Any]]:
    network = create_model(model, num_classes=10, dropout=dropout)
    block = network.get_submodule("group2.1")
    found: list[dict[str, Any]] = []

    def noted(part: nn.Module) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if isinstance(part, nn.Conv2d):
                found.append({"kind": "conv", "size": part.kernel_size[0], "width": part.out_channels})
            elif isinstance(part, nn.BatchNorm2d):
                found.append({"kind": "bn-relu"})
            elif isinstance(part, nn.Dropout) and part.p:
                found.append({"kind": "dropout", "p": part.p})

        return hook

    for part in block.children():
        part.register_forward_hook(noted(part))
    network(torch.zeros(2, 3, 32, 32))
    return found

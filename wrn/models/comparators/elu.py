"""The CIFAR network of the ELU paper (Clevert, Unterthiner & Hochreiter 2016, arXiv 1511.07289).

Stacks of convolutions, units x kernel size, each before an ELU; a 2x2 max pool after each stack; no BN.
Uncertain: the source does not give the padding. Here each convolution keeps the size and each pool rounds up, which
takes 32 pixels to 1 before the classifier. It names 7 dropout rates for 8 stacks: the last stack is the classifier.
Nor does it give the first weights: with the variance that keeps a ReLU's output, 2 / fan-in, the loss is infinite after
16 steps of its recipe, so here they have the one that keeps an ELU's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.errors import UsageError

STACKS = (
    ((384, 3),),
    ((384, 1), (384, 2), (640, 2), (640, 2)),
    ((640, 1), (768, 2), (768, 2), (768, 2)),
    ((768, 1), (896, 2), (896, 2)),
    ((896, 3), (1024, 2), (1024, 2)),
    ((1024, 1), (1152, 2)),
    ((1152, 1),),
)

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 0.0)
"""Dropout of each stack, of the highest: 0, .1, .2, .3, .4, .5, 0 in the source."""


class Stack(nn.Module):
    """Convolutions with ELU and dropout, then the pool: (N, C, H, W) -> (N, C', H/2, W/2), rounded up."""

    def __init__(self, in_channels: int, layers: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        widths = [in_channels, *(units for units, _ in layers)]
        self.convs = nn.ModuleList(
            nn.Conv2d(width, units, kernel_size, padding=kernel_size // 2 if kernel_size % 2 else 0)
            for width, (units, kernel_size) in zip(widths, layers, strict=False)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(0.0) for _ in layers)

    @torch.no_grad()
    def adjust_first_weights(self) -> None:
        """From variance 2 / fan to 1.55 / fan: an ELU keeps 0.645 of a normal variable's mean square, a ReLU half."""
        for conv in self.convs:
            conv.weight.mul_((0.5 / 0.6449) ** 0.5)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        for conv, dropout in zip(self.convs, self.dropouts, strict=True):
            if conv.kernel_size == (2, 2):
                x = F.pad(x, (0, 1, 0, 1))  # an even kernel keeps the size with one more column and row
            x = dropout(F.elu(conv(x)))
        return F.max_pool2d(x, 2, ceil_mode=True)


class ELUNet(nn.Module):
    """The ELU network: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    `dropout` is the highest of the stacks' rates, 0.5 in the source; the others are in proportion. It comes in stages:
    0, after the last layer of each stack; 1, after every layer; 2, the same with 1.5 times the rates.
    """

    def __init__(self, num_classes: int, dropout: float = 0.0, in_channels: int = 3) -> None:
        super().__init__()
        widths = [in_channels, *(layers[-1][0] for layers in STACKS)]
        for number, (width, layers) in enumerate(zip(widths, STACKS, strict=False), start=1):
            self.add_module(f"stack{number}", Stack(width, layers))
        self.conv = nn.Conv2d(widths[-1], num_classes, 1)
        if dropout * 1.5 >= 1:
            raise UsageError(
                f"dropout {dropout}: elu raises it by half in its last stage, so that it must be below 2/3"
            )
        self.rate = dropout
        self.set_stage(0)

    def set_stage(self, stage: int) -> None:
        """Set each layer's dropout as that stage of training has it."""
        for number, share in enumerate(SHARES, start=1):
            dropouts = list(getattr(self, f"stack{number}").dropouts)
            for dropout in dropouts:
                everywhere = stage >= 1 or dropout is dropouts[-1]
                dropout.p = self.rate * share * (1.5 if stage >= 2 else 1.0) if everywhere else 0.0

    def maps(self, x: Tensor) -> Tensor:
        for number in range(1, len(STACKS) + 1):
            x = getattr(self, f"stack{number}")(x)
        return x  # (N, 1152, H/128, W/128), rounded up

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 1152)."""
        return self.maps(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.maps(x)).mean(dim=(2, 3))

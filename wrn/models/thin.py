"""The thin, deep networks that the paper argues with (its Tables 5 and 6, Figures 2 and 4), for small images.

network             block                       widths          depth   source
pre-resnet-110      BN-ReLU-conv3x3, twice      16, 32, 64      6N + 2  He et al. 2016 (arXiv 1603.05027)
pre-resnet-164      the same, bottleneck        64, 128, 256    9N + 2  the same; -1001 too
resnet-110          conv3x3-BN-ReLU, original   16, 32, 64      6N + 2  He et al. 2015 (arXiv 1512.03385); -1202 too
stochastic-depth-   the same with biases,       16, 32, 64      6N + 2  Huang et al. 2016 (arXiv 1603.09382); its code
110                 averaging shortcut
"""

from collections.abc import Callable

from torch import Tensor, nn

from wrn.models.blocks import BasicBlock, OptionA, PreActBottleneck, ResidualBlock, conv
from wrn.native.operations import bn_relu


def group(make: Callable[[int, int, int], nn.Module], width_in: int, width: int, blocks: int, stride: int) -> nn.Module:
    """So many blocks, each made from its width in, width out and stride; the first changes the shape."""
    return nn.Sequential(make(width_in, width, stride), *(make(width, width, 1) for _ in range(blocks - 1)))


class PreActResNet(nn.Module):
    """Pre-activation ResNet: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    With the bottleneck (authors' `resnet-pre-act`) widths are projected by 1x1 convolutions, in group 1 too. The basic
    one has shortcuts without parameters (option A), here of the activated tensor as everywhere in the authors' code;
    its paper does not say. Keys and children are those of `WideResNet`.
    """

    def __init__(self, blocks_per_group: int, num_classes: int, bottleneck: bool, in_channels: int = 3) -> None:
        super().__init__()

        def basic(width_in: int, width: int, stride: int) -> nn.Module:
            block = ResidualBlock(width_in, width, (3, 3), stride)
            if block.has_projection:
                block.shortcut = OptionA(width_in, width, stride)
            return block

        make = PreActBottleneck if bottleneck else basic
        w1, w2, w3 = (64, 128, 256) if bottleneck else (16, 32, 64)
        self.conv1 = conv(in_channels, 16, 3)
        self.group1 = group(make, 16, w1, blocks_per_group, stride=1)
        self.group2 = group(make, w1, w2, blocks_per_group, stride=2)
        self.group3 = group(make, w2, w3, blocks_per_group, stride=2)
        self.bn = nn.BatchNorm2d(w3)
        self.fc = nn.Linear(w3, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 64 or 256)."""
        x = self.group3(self.group2(self.group1(self.conv1(x))))  # (N, 64 or 256, H/4, W/4)
        return bn_relu(self.bn, x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class ThinResNet(nn.Module):
    """The original, post-activation ResNet: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    `bias`, `averaged`: convolutions with biases, and the shortcut's 2x2 average instead of every second pixel, both as
    in the released code of stochastic depth.
    """

    def __init__(
        self,
        blocks_per_group: int,
        num_classes: int,
        in_channels: int = 3,
        bias: bool = False,
        averaged: bool = False,
    ) -> None:
        super().__init__()

        def basic(width_in: int, width: int, stride: int) -> nn.Module:
            shortcut = OptionA(width_in, width, stride, averaged) if width_in != width else None
            return BasicBlock(width_in, width, stride, shortcut, bias)

        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(16)
        self.group1 = group(basic, 16, 16, blocks_per_group, stride=1)
        self.group2 = group(basic, 16, 32, blocks_per_group, stride=2)
        self.group3 = group(basic, 32, 64, blocks_per_group, stride=2)
        self.fc = nn.Linear(64, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 64)."""
        x = bn_relu(self.bn1, self.conv1(x))  # (N, 16, H, W)
        x = self.group3(self.group2(self.group1(x)))  # (N, 64, H/4, W/4)
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

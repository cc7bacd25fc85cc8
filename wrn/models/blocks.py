"""The residual block B(M): section 2 of the paper, its Figure 1 (c, wide) and (d, wide-dropout)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from wrn.models.stochastic_depth import Residual
from wrn.native.operations import add, bn_relu, bn_relu_and_x, conv2d


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """An m x m convolution that keeps the size at stride 1, without a bias as everywhere in a WRN."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


class ResidualBlock(Residual):
    """B(M) with M = [m1 … ml]: l times BN-ReLU-conv, each conv m x m, added to the shortcut.

    B(3,3) is the paper's basic block: BN-ReLU-conv3x3-BN-ReLU-dropout-conv3x3.
    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    bn1: nn.BatchNorm2d  # these and the later ones are added by number
    conv1: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int] = (3, 3),
        stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        assert stride == 1 or in_channels != out_channels, "the paper halves the size only where it changes the width"
        self.depth = len(kernels)  # l, the paper's deepening factor (section 2.2)
        for j, kernel_size in enumerate(kernels, start=1):
            width = in_channels if j == 1 else out_channels
            self.add_module(f"bn{j}", nn.BatchNorm2d(width))
            # The first conv carries the stride, whatever its kernel: the released code.
            self.add_module(f"conv{j}", conv(width, out_channels, kernel_size, stride if j == 1 else 1))
        self.dropout = nn.Dropout(dropout)
        self.has_projection = in_channels != out_channels
        if self.has_projection:
            self.shortcut: nn.Module = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.path.closed(self.training):
            return conv2d(self.shortcut, bn_relu(self.bn1, x)) if self.has_projection else x
        out, x = bn_relu_and_x(self.bn1, x)
        # Where the width changes, the shortcut too starts from the activated tensor; elsewhere it is x itself.
        shortcut = conv2d(self.shortcut, out) if self.has_projection else x
        out = conv2d(self.conv1, out)
        for j in range(2, self.depth + 1):
            out = bn_relu(getattr(self, f"bn{j}"), out)
            out = self.dropout(out)  # Sec. 2.4: between the convolutions, after ReLU; never on the shortcut
            out = conv2d(getattr(self, f"conv{j}"), out)
        # Nothing after the sum: the next block begins with BN-ReLU
        return add(self.path.scaled(out, self.training), shortcut)


class OptionA(nn.Module):
    """The shortcut without parameters of He et al. 2015: subsampled (or averaged), new channels filled with zeros.

    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, averaged: bool = False) -> None:
        super().__init__()
        self.new_channels, self.stride, self.averaged = out_channels - in_channels, stride, averaged

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride
        x = F.avg_pool2d(x, step, ceil_mode=True) if self.averaged else x[:, :, ::step, ::step]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))


class PreActBottleneck(Residual):
    """The bottleneck of He et al. 2016 (arXiv 1603.05027): three times BN-ReLU-conv, 1x1, 3x3, 1x1, a quarter as wide.

    Where the width changes, the first BN-ReLU feeds branch and 1x1 shortcut, as in `ResidualBlock`. `strided`: which
    convolution carries the stride, 1 in the authors' thin networks, 2 in fb.resnet.torch. `activated`: x has passed
    BN-ReLU already, so that the block begins with the convolution (the first after ImageNet's stem).
    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, strided: int = 1, activated: bool = False
    ) -> None:
        super().__init__()
        inner = out_channels // 4
        self.bn1 = nn.Identity() if activated else nn.BatchNorm2d(in_channels)
        self.conv1 = conv(in_channels, inner, 1, stride if strided == 1 else 1)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride if strided == 2 else 1)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.has_projection = in_channels != out_channels
        if self.has_projection:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.path.closed(self.training):
            return conv2d(self.shortcut, bn_relu(self.bn1, x)) if self.has_projection else x
        out, x = bn_relu_and_x(self.bn1, x)  # where x is activated already, a second ReLU changes nothing
        shortcut = conv2d(self.shortcut, out) if self.has_projection else x
        out = conv2d(self.conv1, out)
        out = conv2d(self.conv2, bn_relu(self.bn2, out))
        out = conv2d(self.conv3, bn_relu(self.bn3, out))
        return add(self.path.scaled(out, self.training), shortcut)


class BasicBlock(Residual):
    """The original block (He et al. 2015, arXiv 1512.03385): conv3x3-BN-ReLU-conv3x3-BN, plus the shortcut, then ReLU.

    `downsample`: the shortcut where the shape changes; without one it is x itself. Names as in torchvision.
    (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.path.closed(self.training):
            return F.relu(shortcut)
        out = bn_relu(self.bn1, conv2d(self.conv1, x))
        out = self.bn2(conv2d(self.conv2, out))
        return F.relu(self.path.scaled(out, self.training) + shortcut)

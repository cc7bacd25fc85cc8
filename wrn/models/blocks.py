"""The residual block B(M): section 2 of the paper, its Figure 1 (c, wide) and (d, wide-dropout)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """An m x m convolution that keeps the size at stride 1, without a bias as everywhere in a WRN."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


class ResidualBlock(nn.Module):
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
            # The first conv carries the stride, whatever its kernel: the released code (SPEC 1.3).
            self.add_module(f"conv{j}", conv(width, out_channels, kernel_size, stride if j == 1 else 1))
        self.dropout = nn.Dropout(dropout)
        self.has_projection = in_channels != out_channels
        if self.has_projection:
            self.shortcut = conv(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        # Where the width changes, the shortcut too starts from the activated tensor; elsewhere it is x itself.
        shortcut = self.shortcut(out) if self.has_projection else x
        out = self.conv1(out)
        for j in range(2, self.depth + 1):
            out = F.relu(getattr(self, f"bn{j}")(out))
            out = self.dropout(out)  # Sec. 2.4: between the convolutions, after ReLU; never on the shortcut
            out = getattr(self, f"conv{j}")(out)
        return out + shortcut  # nothing after the sum: the next block begins with BN-ReLU

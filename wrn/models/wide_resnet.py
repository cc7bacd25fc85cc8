"""WRN-n-k for small images: Table 1 of the paper.

group    output   block type B(3,3)           here
conv1    32 x 32  [3x3, 16]                   conv1: always 16 wide, whatever k
conv2    32 x 32  [3x3, 16k; 3x3, 16k] x N    group1
conv3    16 x 16  [3x3, 32k; 3x3, 32k] x N    group2: its first block halves the size
conv4     8 x 8   [3x3, 64k; 3x3, 64k] x N    group3: likewise
avg-pool  1 x 1   [8 x 8]                     bn, ReLU, mean; then fc
"""

from collections.abc import Sequence

from torch import Tensor, nn

from wrn.models.blocks import ResidualBlock, conv
from wrn.native.operations import bn_relu


class WideResNet(nn.Module):
    """A wide residual network: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    `blocks_per_group` is the paper's N, `widen_factor` its k, `kernels` the M of B(M). Any H, W >= 4 will do:
    the pooling is global.
    """

    def __init__(
        self,
        blocks_per_group: int,
        widen_factor: float,
        num_classes: int,
        kernels: Sequence[int] = (3, 3),
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        w1, w2, w3 = (int(base * widen_factor) for base in (16, 32, 64))

        def group(width_in: int, width: int, stride: int) -> nn.Sequential:
            first = ResidualBlock(width_in, width, kernels, stride, dropout)
            rest = [ResidualBlock(width, width, kernels, 1, dropout) for _ in range(blocks_per_group - 1)]
            return nn.Sequential(first, *rest)

        self.conv1 = conv(in_channels, 16, 3)
        self.group1 = group(16, w1, stride=1)
        self.group2 = group(w1, w2, stride=2)
        self.group3 = group(w2, w3, stride=2)
        self.bn = nn.BatchNorm2d(w3)
        self.fc = nn.Linear(w3, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 64k)."""
        x = self.conv1(x)  # (N, 16, H, W)
        x = self.group1(x)  # (N, 16k, H, W)
        x = self.group2(x)  # (N, 32k, H/2, W/2)
        x = self.group3(x)  # (N, 64k, H/4, W/4)
        return bn_relu(self.bn, x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

"""The VGG of the authors' repository: 16 convolutions 3x3 with BN, which their log takes to 6.3% on CIFAR-10.

group1   32 x 32   3x3, 64, twice        then 2x2 max pool, as after each group but the last
group2   16 x 16   3x3, 128, twice
group3    8 x 8    3x3, 256, four times
group4    4 x 4    3x3, 512, four times
group5    2 x 2    3x3, 512, four times  then average pool, fc

Convolution-BN-ReLU throughout, without biases; BN's epsilon is 0.001; no dropout.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from wrn.models.blocks import conv
from wrn.native.operations import bn_relu, conv2d

GROUPS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


class Group(nn.Sequential):
    """So many times conv3x3-BN-ReLU."""

    def __init__(self, in_channels: int, channels: int, layers: int) -> None:
        parts: list[nn.Module] = []
        for number in range(layers):
            width = in_channels if number == 0 else channels
            parts += [conv(width, channels, 3), nn.BatchNorm2d(channels, eps=1e-3), nn.ReLU()]
        super().__init__(*parts)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self)
        for convolution, bn in zip(parts[::3], parts[1::3], strict=True):
            x = bn_relu(bn, conv2d(convolution, x))
        return x


class VGG(nn.Module):
    """The authors' VGG: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        widths = [in_channels, *(channels for channels, _ in GROUPS)]
        for number, (channels, layers) in enumerate(GROUPS, start=1):
            self.add_module(f"group{number}", Group(widths[number - 1], channels, layers))
        self.fc = nn.Linear(widths[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 512)."""
        for number in range(1, len(GROUPS)):
            x = F.max_pool2d(getattr(self, f"group{number}")(x), 2, ceil_mode=True)
        return getattr(self, f"group{len(GROUPS)}")(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

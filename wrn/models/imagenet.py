"""ImageNet networks of the paper's Tables 7 and 8: original ResNets, widened.

group    output     WRN-18-k, WRN-34-k          WRN-50-k-bottleneck (ResNet-50: k = 1)
conv1    112 x 112  7x7, 64, stride 2           the same: the stem is never widened
         56 x 56    3x3 max pool, stride 2      the same
layer1   56 x 56    [3x3, 64k; 3x3, 64k]        [1x1, 64k;  3x3, 64k;  1x1, 256]
layer2   28 x 28    [3x3, 128k; 3x3, 128k]      [1x1, 128k; 3x3, 128k; 1x1, 512]
layer3   14 x 14    [3x3, 256k; 3x3, 256k]      [1x1, 256k; 3x3, 256k; 1x1, 1024]
layer4   7 x 7      [3x3, 512k; 3x3, 512k]      [1x1, 512k; 3x3, 512k; 1x1, 2048]
         1 x 1      average pool, then fc

The basic block is widened as a whole (Table 7), the bottleneck inside only (Table 8: "wider 3x3"). Names of children
and keys are torchvision's, whose weights load where it has the network.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from wrn.models.blocks import BasicBlock, PreActBottleneck, conv
from wrn.models.stochastic_depth import Residual
from wrn.models.thin import group
from wrn.native.operations import bn_relu, conv2d


class Bottleneck(Residual):
    """The original bottleneck: conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1-BN, plus the shortcut, then ReLU.

    The 3x3 carries the stride. (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).
    """

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        if self.path.closed(self.training):
            return F.relu(shortcut)
        out = bn_relu(self.bn1, conv2d(self.conv1, x))
        out = bn_relu(self.bn2, conv2d(self.conv2, out))
        out = self.bn3(conv2d(self.conv3, out))
        return F.relu(self.path.scaled(out, self.training) + shortcut)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The 1x1 shortcut with BN, only where the widths differ; None elsewhere."""
    if in_channels == out_channels:
        return None
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class ImageNetResNet(nn.Module):
    """An original ResNet: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    `blocks`: how many in each of the four groups. `widen_factor`: the paper's k, of the blocks or, with `bottleneck`,
    inside them. Any H, W will do, 224 being the usual: the pooling is global. No dropout.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int,
        widen_factor: float = 1.0,
        bottleneck: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()

        def wide(base: int) -> int:
            return int(base * widen_factor)

        def basic(width_in: int, width: int, stride: int) -> nn.Module:
            return BasicBlock(width_in, width, stride, projection(width_in, width, stride))

        def bottle(width_in: int, width: int, stride: int) -> nn.Module:
            return Bottleneck(width_in, wide(width // 4), width, stride)

        make = bottle if bottleneck else basic
        widths = [4 * base if bottleneck else wide(base) for base in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(make, 64, widths[0], blocks[0], stride=1)
        self.layer2 = group(make, widths[0], widths[1], blocks[1], stride=2)
        self.layer3 = group(make, widths[1], widths[2], blocks[2], stride=2)
        self.layer4 = group(make, widths[2], widths[3], blocks[3], stride=2)
        self.fc = nn.Linear(widths[3], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 512k or 2048)."""
        x = bn_relu(self.bn1, self.conv1(x))  # (N, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 512k or 2048, H/32, W/32)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class ImageNetPreResNet(nn.Module):
    """A pre-activation ResNet with bottlenecks (Table 8's pre-ResNet-200), as fb.resnet.torch builds it.

    The stem ends in BN-ReLU-maxpool, so that the very first block begins with its convolution. Shortcuts where the
    width changes are 1x1 convolutions of the activated tensor, without BN; a last BN-ReLU precedes the pooling. The 3x3
    carries the stride. Preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).
    """

    def __init__(self, blocks: Sequence[int], num_classes: int, in_channels: int = 3) -> None:
        super().__init__()

        def bottle(width_in: int, width: int, stride: int) -> nn.Module:
            return PreActBottleneck(width_in, width, stride, strided=2, activated=width_in == 64)

        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = group(bottle, 64, 256, blocks[0], stride=1)
        self.layer2 = group(bottle, 256, 512, blocks[1], stride=2)
        self.layer3 = group(bottle, 512, 1024, blocks[2], stride=2)
        self.layer4 = group(bottle, 1024, 2048, blocks[3], stride=2)
        self.bn = nn.BatchNorm2d(2048)
        self.fc = nn.Linear(2048, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 2048)."""
        x = bn_relu(self.bn1, self.conv1(x))  # (N, 64, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # (N, 2048, H/32, W/32)
        return bn_relu(self.bn, x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

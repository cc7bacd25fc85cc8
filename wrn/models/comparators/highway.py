"""Highway network (Srivastava, Greff & Schmidhuber 2015, arXiv 1507.06228), 19 layers, as its released CIFAR network.

stage1   32 x 32   3x3, 32;   4 highway layers, 32    then 2x2 max pool
stage2   16 x 16   3x3, 80;   5 highway layers, 80    then 2x2 max pool
stage3    8 x 8    3x3, 128;  5 highway layers, 128;  1x1, 100   then average pool, fc

Dropout of the input and after each pool. All convolutions have biases.
"""

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wrn.models.rules import LayerRule, caffe_rules, caffe_xavier


class HighwayLayer(nn.Module):
    """y = T H + (1 - T) x, H = ReLU(conv3x3), T = sigmoid(conv3x3): (N, C, H, W) of the same shape.

    The gate's bias begins at -2, so that the layer begins by carrying x on.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(channels, channels, 3, padding=1)

    def adjust_first_weights(self) -> None:
        """After any initialisation."""
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        transformed, gate = F.relu(self.conv(x)), self.gate(x).sigmoid()
        return gate * transformed + (1 - gate) * x


class Stage(nn.Module):
    """A plain 3x3 convolution, then highway layers: (N, in_channels, H, W) -> (N, channels, H, W)."""

    def __init__(self, in_channels: int, channels: int, layers: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.layers = nn.Sequential(*(HighwayLayer(channels) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(F.relu(self.conv(x)))


class Highway(nn.Module):
    """The highway network: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int, dropout: float = 0.0, in_channels: int = 3) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.stage1 = Stage(in_channels, 32, 4)
        self.stage2 = Stage(32, 80, 5)
        self.stage3 = Stage(80, 128, 5)
        self.conv = nn.Conv2d(128, 100, 1)
        self.fc = nn.Linear(100, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 100)."""
        x = self.dropout(x)
        x = self.dropout(F.max_pool2d(self.stage1(x), 2))  # (N, 32, H/2, W/2)
        x = self.dropout(F.max_pool2d(self.stage2(x), 2))  # (N, 80, H/4, W/4)
        x = F.relu(self.conv(self.stage3(x)))  # (N, 100, H/4, W/4)
        return self.dropout(x.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))

    def layer_rules(self) -> dict[str, LayerRule]:
        """Caffe's; and the classifier's weight is decayed ten times as much."""
        return caffe_rules(self) | {"fc.weight": LayerRule(decay=10.0)}

    def first_weights(self, generator: Generator | None) -> None:
        """Convolutions Caffe's "xavier", the classifier normal with standard deviation 0.05; biases 0, gates' -2.

        The released file gives the very first convolution a normal filler with a misspelt deviation, so that Caffe
        took 1; that slip is not repeated here.
        """
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                caffe_xavier(part.weight, generator)
        nn.init.normal_(self.fc.weight, 0.0, 0.05, generator=generator)

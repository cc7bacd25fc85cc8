"""FitNet (Romero et al. 2015, arXiv 1412.6550): a thin, deep maxout network that learns from a teacher.

lower   32 x 32   3x3, 32, three times; 3x3, 48, twice   then 2x2 max pool
        16 x 16   3x3, 80, six times                     then 2x2 max pool: the guided layer, number 10 of 0..18
upper    8 x 8    3x3, 128, six times                    then 8x8 max pool
         1 x 1    500 fully connected units, then the classifier

Units are maxout, of 2 pieces in the convolutions and 5 in the fully connected layer (so the released configuration, of
2,742,102 parameters; the paper says 2.5 million). No BN. How it learns: `wrn.training.objective`.
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wrn.models.rules import LayerRule


class MaxoutConv(nn.Module):
    """The larger of two convolutions, then a max pool: (N, in_channels, H, W) -> (N, channels, H', W').

    The first half of the convolution's channels is the one piece, the second half the other.
    """

    def __init__(self, in_channels: int, channels: int, pool: int = 1, kernel_size: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 2 * channels, kernel_size, padding=padding)
        self.pool = pool

    @torch.no_grad()
    def adjust_first_weights(self) -> None:
        """From variance 2 / fan to 1 / fan: no ReLU halves what the larger of two gives."""
        self.conv.weight.mul_(0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).chunk(2, dim=1)
        x = second + F.relu(first - second)  # max to rounding, but 1.9 times as fast in training as torch.maximum
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


class MaxoutLinear(nn.Module):
    """The largest of some linear maps: (N, in_features) -> (N, units)."""

    def __init__(self, in_features: int, units: int, pieces: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, units * pieces)
        self.units = units

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).unflatten(1, (self.units, -1)).amax(2)


class FitNet(nn.Module):
    """The 19-layer FitNet: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        lower = [(in_channels, 32, 1), (32, 32, 1), (32, 32, 1), (32, 48, 1), (48, 48, 2)]
        lower += [(48, 80, 1), *[(80, 80, 1)] * 4, (80, 80, 2)]
        upper = [(80, 128), *[(128, 128)] * 5]
        self.lower = nn.Sequential(*(MaxoutConv(*layer) for layer in lower))
        self.upper = nn.Sequential(*(MaxoutConv(*layer) for layer in upper))
        self.fc1 = MaxoutLinear(128, 500, pieces=5)
        self.fc2 = nn.Linear(500, num_classes)

    def guided(self, x: Tensor) -> Tensor:
        """What is led to the teacher's hint, by a regressor: (N, in_channels, H, W) -> (N, 80, H/4, W/4)."""
        return self.lower(x)

    def finished(self, guided: Tensor) -> Tensor:
        """The rest of the way, from `guided` to logits."""
        return self.fc2(self._penultimate(guided))

    def _penultimate(self, guided: Tensor) -> Tensor:
        return self.fc1(self.upper(guided).amax(dim=(2, 3)))

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, in_channels, H, W) -> (N, 500)."""
        return self._penultimate(self.guided(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.finished(self.guided(x))

    def layer_rules(self) -> dict[str, LayerRule]:
        """Convolutions learn at a twentieth of the rate; the norm of what leads into a unit is limited."""
        rules = {}
        for name, _ in self.named_parameters():
            if ".conv." in name:
                rules[name] = LayerRule(lr=0.05, max_norm=0.9 if name.endswith("weight") else None)
        return rules | {"fc1.fc.weight": LayerRule(max_norm=1.9), "fc2.weight": LayerRule(max_norm=1.9365)}

    def first_weights(self, generator: Generator | None) -> None:
        """Uniform in +-0.005; biases 0."""
        for part in self.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.uniform_(part.weight, -0.005, 0.005, generator=generator)

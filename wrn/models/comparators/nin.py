"""Network in Network (Lin, Chen & Yan 2014, arXiv 1312.4400), its CIFAR network.

stage1   32 x 32   5x5, 192; 1x1, 160; 1x1, 96    then 3x3 max pool, stride 2, dropout
stage2   16 x 16   5x5, 192; 1x1, 192; 1x1, 192   then the same
stage3    8 x 8    3x3, 192; 1x1, 192; 1x1, classes
          1 x 1    average pool

A ReLU follows every convolution, the last one too; biases, no BN. The second pool is the paper's max; a configuration
that its first author published for Caffe averages there.
"""

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from wrn.models.rules import LayerRule, caffe_rules


class MlpConv(nn.Module):
    """A k x k convolution and two 1x1 ones, each before a ReLU: (N, in_channels, H, W) -> (N, widths[2], H, W).

    `scores`: whether the last one gives scores, without a ReLU.
    """

    def __init__(self, in_channels: int, kernel_size: int, widths: tuple[int, int, int], scores: bool = False) -> None:
        super().__init__()
        self.last = nn.Identity() if scores else nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel_size, padding=kernel_size // 2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 1)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 1)

    def hidden(self, first: Tensor) -> Tensor:
        """From the first convolution's output to the second's, activated."""
        return F.relu(self.conv2(F.relu(first)))

    def rest(self, first: Tensor) -> Tensor:
        """From the first convolution's output to the end."""
        return self.last(self.conv3(self.hidden(first)))

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.conv1(x))


class NIN(nn.Module):
    """Network in Network: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes)."""

    def __init__(self, num_classes: int, dropout: float = 0.0, in_channels: int = 3) -> None:
        super().__init__()
        self.stage1 = MlpConv(in_channels, 5, (192, 160, 96))
        self.drop1 = nn.Dropout(dropout)
        self.stage2 = MlpConv(96, 5, (192, 192, 192))
        self.drop2 = nn.Dropout(dropout)
        self.stage3 = MlpConv(192, 3, (192, 192, num_classes))

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=2, ceil_mode=True)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden maps' means: (N, in_channels, H, W) -> (N, 192). The classifier pools after its ReLU."""
        return self.stage3.hidden(self.stage3.conv1(self.maps(x))).mean(dim=(2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """What the last stage begins with."""
        x = self.drop1(self.pool(self.stage1(x)))  # (N, 96, H/2, W/2)
        return self.drop2(self.pool(self.stage2(x)))  # (N, 192, H/4, W/4)

    def forward(self, x: Tensor) -> Tensor:
        return self.stage3(self.maps(x)).mean(dim=(2, 3))

    def layer_rules(self) -> dict[str, LayerRule]:
        """Caffe's; and the classifying convolution learns at a tenth of the rate."""
        return caffe_rules(self) | {
            "stage3.conv3.weight": LayerRule(lr=0.1),
            "stage3.conv3.bias": LayerRule(lr=0.2, decay=0.0),
        }

    def first_weights(self, generator: Generator | None) -> None:
        """Normal with standard deviation 0.05; biases 0."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.05, generator=generator)

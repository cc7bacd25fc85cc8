"""Deeply-Supervised Nets (Lee et al. 2015, arXiv 1409.5185), the CIFAR network of the released code.

The body of Network in Network, with a companion classifier on what the first convolution of each stage gives before its
ReLU. The companions' losses are added to that of the output while the first training stage lasts; then they are left.
Their rates are scaled by 0.001 and fade by a power law, those of all other layers do not.
"""

from torch import Generator, Tensor, nn

from wrn.errors import UsageError
from wrn.models.comparators.nin import NIN, MlpConv
from wrn.models.rules import LayerRule, caffe_xavier


def _power_inv(done: float) -> float:
    """The solver's policy for the companions, after that share of its 200,000 iterations."""
    return (1 + 1e-4 * 200_000 * done) ** -0.75


class DSN(NIN):
    """NIN with companions: preprocessed images (N, in_channels, H, W) -> logits (N, num_classes).

    The companions see whole maps, so that they fit one `image_size`; without them (in use, or in the later stages of
    training) any size will do. The output has no ReLU, as in the released code: a hinge needs negative scores.
    """

    def __init__(self, num_classes: int, dropout: float = 0.0, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(num_classes, dropout, in_channels)
        self.stage3 = MlpConv(192, 3, (192, 192, num_classes), scores=True)
        self.image_size = image_size
        half = -(-(image_size - 3) // 2) + 1  # of a 3x3 pool, stride 2, that leaves no pixel out
        quarter = -(-(half - 3) // 2) + 1
        self.companion1 = nn.Linear(192 * image_size**2, num_classes)
        self.companion2 = nn.Linear(192 * half**2, num_classes)
        self.companion3 = nn.Linear(192 * quarter**2, num_classes)

    def with_companions(self, x: Tensor) -> list[Tensor]:
        """Logits (N, num_classes) of the output, then of the companions. Raises ValueError for other sizes of image."""
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise UsageError(
                f"dsn: its companions were made for images of {self.image_size} x {self.image_size}, not "
                f"{x.shape[-2]} x {x.shape[-1]}; give create_model the image_size"
            )
        first1 = self.stage1.conv1(x)
        first2 = self.stage2.conv1(self.drop1(self.pool(self.stage1.rest(first1))))
        first3 = self.stage3.conv1(self.drop2(self.pool(self.stage2.rest(first2))))
        output = self.stage3.rest(first3).mean(dim=(2, 3))
        heads = (self.companion1, first1), (self.companion2, first2), (self.companion3, first3)
        return [output, *(companion(first.flatten(1)) for companion, first in heads)]

    def layer_rules(self) -> dict[str, LayerRule]:
        """As NIN's; the companions learn at a thousandth of the rate, ever slower."""
        rules = super().layer_rules()
        for number in (1, 2, 3):
            rules[f"companion{number}.weight"] = LayerRule(lr=0.001, fade=_power_inv)
            rules[f"companion{number}.bias"] = LayerRule(lr=0.002, decay=0.0, fade=_power_inv)
        return rules

    def first_weights(self, generator: Generator | None) -> None:
        """Convolutions as NIN's, companions as Caffe's "xavier"; biases 0."""
        super().first_weights(generator)
        for companion in (self.companion1, self.companion2, self.companion3):
            caffe_xavier(companion.weight, generator)

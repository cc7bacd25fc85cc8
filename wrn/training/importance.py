"""An epoch's samples drawn by how much there is to learn from them (Katharopoulos & Fleuret 2018, arXiv 1803.00942).

Late in training most images are answered well, and their gradients are nearly nothing. Drawing the others more often,
and counting each that much less, leaves the mean gradient as it is and lowers its variance: by half, as these lengths
estimate it. BN then sees batches of harder images than a test has, and weights come to expect such (docs/log.md).
"""

import torch
from torch import Tensor, nn

from wrn.data.batching import generator_of

LEAST, MOST = 0.3, 3.0  # times that a sample comes in an epoch, on average: its importance of an epoch ago is a guess


class Drawn(nn.Module):
    """The samples of an epoch, and how important each was when the network saw it last.

    A module for its buffers, which checkpoints hold: an interrupted epoch goes on with the samples it began with.
    """

    importance: Tensor  # float32 (M,), any positive unit
    order: Tensor  # int64 (M,): the epoch's samples
    weights: Tensor  # float32 (M,): what the loss of each of them counts
    epoch: Tensor  # int64, a scalar: which these are of
    position: Tensor  # int64, a scalar: how many of them were taken

    def __init__(self, samples: int, seed: int, device: torch.device) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("importance", torch.ones(samples, device=device))
        self.register_buffer("order", torch.arange(samples, device=device))
        self.register_buffer("weights", torch.ones(samples, device=device))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64, device=device))

    def start_epoch(self, epoch: int) -> None:
        """Draw the epoch's samples, unless it goes on."""
        if self.epoch == epoch:
            return
        order, weights = draw(self.importance.cpu(), generator_of(self.seed, epoch, "order"))
        self.order.copy_(order)
        self.weights.copy_(weights)
        self.epoch.fill_(epoch)
        self.position.zero_()

    def take(self, importance: Tensor) -> Tensor:
        """Note the importance (N,) of the next N samples; returns what their losses count, (N,)."""
        part = self.position + torch.arange(len(importance), device=importance.device)
        self.importance[self.order[part]] = importance
        self.position += len(importance)
        return self.weights[part]


def draw(importance: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of as many samples as there are, int64 (M,), and what the loss of each counts, float32 (M,).

    A sample comes as often as its importance (M,) is of the mean, within limits, rounded up or down by chance.
    """
    count, expected = len(importance), importance.double() + 1e-3
    for _ in range(20):  # the limits change the mean, by which they are
        expected = (expected / expected.mean()).clamp(LEAST, MOST)
    expected /= expected.mean()
    shuffled = torch.randperm(count, generator=generator)
    at = torch.arange(count) + torch.rand(1, generator=generator, dtype=torch.float64)
    found = torch.searchsorted(expected[shuffled].cumsum(0), at).clamp_max(count - 1)
    places = shuffled[found][torch.randperm(count, generator=generator)]
    return places, (1 / expected[places]).float()

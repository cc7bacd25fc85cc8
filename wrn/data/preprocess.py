"""From pixel values to what the network sees. Part of the model a user loads, so differentiable."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MeanStd(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel; all in units of 0..255."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in 0..255, of any number type -> float32 of the same shape."""
        return (images.float() - self.mean) / self.std

    def constants(self) -> dict[str, list[float]]:
        """What a run stores to build this again."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

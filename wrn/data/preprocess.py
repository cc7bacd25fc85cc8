"""From pixel values to what the network sees. Part of the model a user loads, so differentiable."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

UNIT = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)
"""The mean and deviation that divide by 255: the paper's SVHN."""


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
        return (images.float() - self.mean).div_(self.std)  # in place: one pass over memory less

    def constants(self) -> dict[str, Any]:
        """What a run stores to build this again."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


class Whitening(nn.Module):
    """Global contrast normalisation, then ZCA whitening, as pylearn2's `make_cifar10_gcn_whitened` (SPEC 3.1).

    An image, as a vector of D = 3 x H x W values, channel by channel: its own mean is subtracted, it is scaled to the
    length 55, the training set's mean vector is subtracted, and it is multiplied by the D x D whitening matrix.
    """

    SCALE = 55.0

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        """`mean` (D,) and the symmetric `matrix` (D, D), as `wrn.data.whitening.fit` finds them."""
        super().__init__()
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("matrix", matrix.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in 0..255, of any number type -> float32 of the same shape."""
        vectors = contrast_normalised(images.to(self.matrix.dtype).flatten(1))  # (N, D)
        return ((vectors - self.mean) @ self.matrix).view(images.shape)

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, which stands for this whitening in checkpoints and models."""
        digest = hashlib.sha256()
        for part in (self.mean, self.matrix):
            digest.update(part.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def constants(self) -> dict[str, Any]:
        """What a run stores to know this again; the numbers themselves lie in a file of their own."""
        return {"whitening": self.digest}


Preprocess = MeanStd | Whitening


def contrast_normalised(vectors: Tensor) -> Tensor:
    """GCN of each row of (N, D): its mean is subtracted and its length becomes 55; a constant row becomes zeros."""
    vectors = vectors - vectors.mean(1, keepdim=True)
    squares = vectors.square().sum(1, keepdim=True)
    least = (Whitening.SCALE * 1e-8) ** 2  # pylearn2 divides by 1 where length / 55 is below 1e-8
    lengths = torch.where(squares < least, Whitening.SCALE**2, squares).sqrt()  # no root of 0: it has no gradient
    return vectors * (Whitening.SCALE / lengths)

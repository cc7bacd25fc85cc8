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
        """Pixels (N, C, H, W) in 0..255, of any number type -> the same shape, float32 unless the module was cast."""
        mean, std = self.mean, self.std
        if images.ndim == 4 and images.shape[1] > 1 and images.stride(1) == 1:
            # channels_last: row by row, as loops over three numbers at a time take four times as long
            mean, std = (each.expand(-1, -1, -1, images.shape[3]) for each in (mean, std))
            mean, std = (each.contiguous(memory_format=torch.channels_last) for each in (mean, std))
        return (_wide(images, mean) - mean).div_(std).to(self.mean.dtype)  # in place: one pass over memory less

    def constants(self) -> dict[str, Any]:
        """What a run stores to build this again."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


class WholeImage(nn.Module):
    """What treats an image as one vector of D = 3 x H x W values, channel by channel, and so comes before augmentation.

    In this order: with `contrast`, its own mean is subtracted and it is scaled to the length 55 (GCN); the training
    set's mean vector is subtracted; it is divided by a number; with a matrix, it is multiplied by it. GCN and ZCA
    together are pylearn2's `make_cifar10_gcn_whitened`.
    """

    LENGTH = 55.0

    mean: Tensor
    scale: Tensor
    matrix: Tensor | None

    def __init__(
        self, mean: Tensor, matrix: Tensor | None = None, contrast: bool = True, scale: Tensor | float = 1.0
    ) -> None:
        """`mean` (D,), the symmetric `matrix` (D, D), `scale` a number, as `wrn.data.whitening` finds them."""
        super().__init__()
        self.contrast = contrast
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("scale", torch.as_tensor(scale).float(), persistent=False)
        self.register_buffer("matrix", None if matrix is None else matrix.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W) in 0..255, of any number type -> the same shape, float32 unless the module was cast."""
        vectors = _wide(images, self.mean).flatten(1)  # (N, D)
        if self.contrast:
            vectors = contrast_normalised(vectors)
        vectors = vectors - self.mean
        vectors = vectors / self.scale if self.matrix is None else vectors @ self.matrix.to(vectors.dtype)
        return vectors.view(images.shape).to(self.mean.dtype)

    def numbers(self) -> dict[str, Tensor]:
        """All that was fitted, float32 on the CPU."""
        last = {"scale": self.scale} if self.matrix is None else {"matrix": self.matrix}
        parts = {"mean": self.mean, **last}
        return {name: part.detach().float().cpu().contiguous() for name, part in parts.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, which stands for this preprocessing in checkpoints and models."""
        digest = hashlib.sha256(b"" if self.contrast else b"no contrast normalisation")
        for part in self.numbers().values():
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def constants(self) -> dict[str, Any]:
        """What a run stores to know this again; the numbers themselves lie in a file of their own."""
        return {"whitening": self.digest}


Preprocess = MeanStd | WholeImage


def _wide(images: Tensor, like: Tensor) -> Tensor:
    """In the type of `like`, but at least fp32: half precision holds no sum of squares of pixels."""
    return images.to(torch.promote_types(like.dtype, torch.float32))


def contrast_normalised(vectors: Tensor) -> Tensor:
    """GCN of each row of (N, D): its mean is subtracted and its length becomes 55; a constant row becomes zeros."""
    vectors = vectors - vectors.mean(1, keepdim=True)
    squares = vectors.square().sum(1, keepdim=True)
    least = (WholeImage.LENGTH * 1e-8) ** 2  # pylearn2 divides by 1 where length / 55 is below 1e-8
    lengths = torch.where(squares < least, WholeImage.LENGTH**2, squares).sqrt()  # no root of 0: it has no gradient
    return vectors * (WholeImage.LENGTH / lengths)

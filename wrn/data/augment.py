"""Augmentation of a whole batch at once, on the device the images are on; one draw a sample.

SPEC 3.1: mirror half of the images, pad 4 by reflection (the edge pixel is not repeated), crop at one of 9 x 9 offsets.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

PAD = 4


@dataclass(frozen=True)
class Draws:
    """For each sample, in the order they are taken: mirrored or not, and the crop's offset in -4..4, down and right."""

    flip: Tensor  # bool (N,)
    offset: Tensor  # int64 (N, 2)

    def __getitem__(self, part: slice) -> "Draws":
        return Draws(self.flip[part], self.offset[part])

    def to(self, device: torch.device) -> "Draws":
        return Draws(self.flip.to(device), self.offset.to(device))


def draw(count: int, generator: Generator) -> Draws:
    """Independent draws for `count` samples, on the CPU so that they are the same on every device."""
    flip = torch.rand(count, generator=generator) < 0.5
    offset = torch.randint(-PAD, PAD + 1, (count, 2), generator=generator)
    return Draws(flip, offset)


def take(images: Tensor, indices: Tensor, draws: Draws) -> Tensor:
    """Gather, mirror, pad and crop in one indexing: (M, H, W, C) at indices (N,) -> (N, H, W, C).

    Each output row and column is looked up in the image where reflection puts it, so nothing is padded or copied twice.
    """
    height, width = images.shape[1:3]
    rows = torch.arange(height, device=images.device) + draws.offset[:, :1]  # (N, H), may lie outside
    columns = torch.arange(width, device=images.device) + draws.offset[:, 1:]  # (N, W)
    columns = torch.where(draws.flip[:, None], width - 1 - columns, columns)
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(position: Tensor, size: int) -> Tensor:
    """-1 -> 1, -2 -> 2, size -> size - 2: mirrored at the edge pixel, which is not repeated."""
    return size - 1 - (size - 1 - position.abs()).abs()

"""Augmentation of a whole batch at once, on the device the images are on.

The authors' code mirrors half of the images, pads 4 by reflection (the edge pixel is not repeated) and crops at one of
9 x 9 offsets. Others pad with zeros, or by 8.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

PAD = 4


@dataclass(frozen=True)
class Crops:
    """For each sample, in the order they are taken: mirrored or not, and the crop's offset, -4..4 down and right."""

    flip: Tensor  # bool (N,)
    offset: Tensor  # int64 (N, 2)

    def __getitem__(self, part: slice) -> "Crops":
        return Crops(self.flip[part], self.offset[part])

    def to(self, device: torch.device) -> "Crops":
        return Crops(self.flip.to(device), self.offset.to(device))


def draw(count: int, generator: Generator, pad: int = PAD) -> Crops:
    """Independent draws for `count` samples, on the CPU so that they are the same on every device."""
    flip = torch.rand(count, generator=generator, dtype=torch.float32) < 0.5
    offset = torch.randint(-pad, pad + 1, (count, 2), generator=generator)
    return Crops(flip, offset)


def draw_v1(count: int, batch_size: int, generator: Generator, pad: int = PAD) -> Crops:
    """As the authors' code did until July 2016: one offset for a whole batch, and exactly half of it mirrored."""
    flip = torch.zeros(count, dtype=torch.bool)
    offset = torch.empty(count, 2, dtype=torch.int64)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        flip[start + torch.randperm(size, generator=generator)[: size // 2]] = True
        offset[start : start + size] = torch.randint(-pad, pad + 1, (2,), generator=generator)
    return Crops(flip, offset)


def take(images: Tensor, indices: Tensor, draws: Crops) -> Tensor:
    """Gather, mirror, pad and crop in one indexing: (M, H, W, C) at indices (N,) -> (N, H, W, C).

    Each output row and column is looked up in the image where reflection puts it, so nothing is padded or copied twice.
    """
    height, width = images.shape[1:3]
    rows, columns = _positions(draws, height, width)
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    return images[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


def inside(draws: Crops, height: int, width: int) -> Tensor:
    """Which pixels of the crops come from the image and not from the padding, bool (N, 1, H, W)."""
    rows, columns = _positions(draws, height, width)
    good_rows, good_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return (good_rows[:, :, None] & good_columns[:, None, :])[:, None]


def _positions(draws: Crops, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each row (N, H) and column (N, W) of the crops is in its image; may lie outside."""
    rows = torch.arange(height, device=draws.offset.device) + draws.offset[:, :1]
    columns = torch.arange(width, device=draws.offset.device) + draws.offset[:, 1:]
    return rows, torch.where(draws.flip[:, None], width - 1 - columns, columns)


def _reflect(position: Tensor, size: int) -> Tensor:
    """-1 -> 1, -2 -> 2, size -> size - 2: mirrored at the edge pixel, which is not repeated."""
    return size - 1 - (size - 1 - position.abs()).abs()

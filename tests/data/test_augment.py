"""Batched augmentation against a slow reference, one image at a time."""

import numpy as np
import torch

from wrn.data import augment


def slow(image, flip, offset):
    """NumPy's own reflection padding, mirror, crop: as the paper says it."""
    if flip:
        image = image[:, ::-1]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    top, left = 4 + offset[0], 4 + offset[1]
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def test_equals_the_slow_reference():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (300, 12, 17, 3), dtype=torch.uint8, generator=generator)
    indices = torch.randperm(300, generator=generator)
    draws = augment.draw(300, generator)
    fast = augment.take(images, indices, draws)
    for row, index in enumerate(indices):
        expected = slow(images[index].numpy(), bool(draws.flip[row]), draws.offset[row].tolist())
        np.testing.assert_array_equal(fast[row].numpy(), expected)


def test_flips_are_half_and_all_81_offsets_are_equally_frequent():
    draws = augment.draw(100_000, torch.Generator().manual_seed(0))
    assert abs(draws.flip.float().mean().item() - 0.5) < 0.01
    cells = (draws.offset[:, 0] + 4) * 9 + draws.offset[:, 1] + 4
    counts = torch.bincount(cells, minlength=81).double()
    assert len(counts) == 81
    chi_square = ((counts - 100_000 / 81) ** 2 / (100_000 / 81)).sum().item()
    assert chi_square < 130  # 80 degrees of freedom: 0.03% of fair draws exceed it


def test_wider_padding_and_zeros_equal_the_slow_reference():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(200, 12, 17, 3, generator=generator)
    indices = torch.randperm(200, generator=generator)
    draws = augment.draw(200, generator, pad=8)
    assert draws.offset.min() == -8
    assert draws.offset.max() == 8
    reflected = augment.take(images, indices, draws)
    zeros = reflected.permute(0, 3, 1, 2) * augment.inside(draws, 12, 17)
    for row, index in enumerate(indices):
        image = images[index].numpy()[:, ::-1] if draws.flip[row] else images[index].numpy()
        top, left = 8 + draws.offset[row]
        for mode, found in (("reflect", reflected[row]), ("constant", zeros[row].permute(1, 2, 0))):
            padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode=mode)
            np.testing.assert_array_equal(found.numpy(), padded[top : top + 12, left : left + 17])

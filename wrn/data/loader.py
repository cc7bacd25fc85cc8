"""The resident loader: the whole set on the training device as uint8; batches are made there."""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wrn.data import augment
from wrn.data.arrays import Arrays, channel_statistics
from wrn.data.cache import decoded
from wrn.data.catalog import entry
from wrn.data.preprocess import MeanStd
from wrn.display import Log, say
from wrn.errors import Error, UsageError
from wrn.randomness import key
from wrn.recipes import Recipe


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, 3) and labels int64 (N,) on one device, and how to preprocess them."""

    images: Tensor
    labels: Tensor
    preprocess: MeanStd

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, recipe: Recipe) -> int:
        """Batches in an epoch."""
        return len(self) // recipe.batch_size if recipe.drop_last else -(-len(self) // recipe.batch_size)

    def batches(self, recipe: Recipe, *, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented, preprocessed batches of one epoch (counted from 1), from step `start` on.

        Yields images (N, 3, H, W), float32 in channels_last layout, and labels (N,). Order and augmentation depend on
        (seed, epoch) and the sample's place alone. Before each batch torch's generators are seeded for that step, so
        that dropout depends on (seed, epoch, step) alone.
        """
        device = self.images.device
        order = torch.randperm(len(self), generator=_generator(seed, epoch, "order")).to(device)
        draws = None
        if recipe.augment == "flip-crop":
            draws = augment.draw(len(self), _generator(seed, epoch, "augment")).to(device)
        for step in range(start, self.steps(recipe)):
            part = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
            indices = order[part]
            images = self.images[indices] if draws is None else augment.take(self.images, indices, draws[part])
            torch.manual_seed(key(seed, epoch, step, "dropout"))
            yield self.preprocess(images.permute(0, 3, 1, 2)), self.labels[indices]

    def pixels(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Some images as `wrn.load`'s models take them, RGB in [0, 1], float32 (N, 3, H, W), and their labels (N,)."""
        return self.images[part].permute(0, 3, 1, 2).float() / 255, self.labels[part]

    def in_order(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Preprocessed batches as they lie, for evaluation; shapes as in `batches`."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self.preprocess(images.permute(0, 3, 1, 2)), labels


@dataclass(frozen=True)
class Dataset:
    """Both splits on one device, the class names, and the hash of the decoded content."""

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def preprocess(self) -> MeanStd:
        return self.train.preprocess


def dataset(
    data: str,
    *,
    image_size: int = 32,
    val_fraction: float = 0.0,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    log: Log | None = None,
    preprocess: MeanStd | None = None,
) -> Dataset:
    """The data set of that name (`digits`, `folder:PATH`), decoded once with `workers` threads, then from the cache.

    Normalisation is the catalogue's, else computed from the training split; with `preprocess` given, none is needed.
    Raises ValueError for names that are none, wrn.Error for data that cannot be used.
    """
    known = entry(data)
    module, function = known.reader.split(":")
    source = getattr(importlib.import_module(module), function)(data, image_size, val_fraction)
    if workers is not None and workers < 1:
        raise UsageError(f"workers {workers}: must be at least 1")
    workers = workers or os.cpu_count() or 1
    notice: Callable[[str], None] = say if log is None else log.line
    for remark in source.remarks:
        notice(remark)
    with (log or Log()).bar() as bar:
        arrays = decoded(data, source, workers, bar.show, notice)
    if preprocess is None:
        if not len(arrays.train.images):
            raise Error(
                f"{data}: holds no train/CLASS/ folders; lay the pictures out as train/CLASS/* and test/CLASS/*"
            )
        mean, std = (known.mean, known.std) if known.mean and known.std else channel_statistics(arrays.train.images)
        preprocess = MeanStd(mean, std)
    preprocess = preprocess.to(device)

    def on_device(split: Arrays) -> Split:
        return Split(torch.from_numpy(split.images).to(device), torch.from_numpy(split.labels).to(device), preprocess)

    return Dataset(data, on_device(arrays.train), on_device(arrays.test), arrays.classes, arrays.fingerprint)


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(key(seed, epoch, purpose))

"""What every loader gives: splits in batches, and the data set that they make up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wrn.data.preprocess import Preprocess
from wrn.errors import UsageError
from wrn.randomness import key
from wrn.recipes import Recipe


class Split(Protocol):
    """Images to train or test on, in batches of preprocessed float32 (N, 3, H, W) and labels int64 (N,)."""

    @property
    def labels(self) -> Tensor:
        """int64 (M,)."""

    @property
    def preprocess(self) -> Preprocess:
        """What lies between pixels in 0..255 and the batches."""

    def __len__(self) -> int: ...

    def steps(self, recipe: Recipe) -> int:
        """Batches in an epoch."""

    def batches(
        self, recipe: Recipe, *, seed: int, epoch: int, start: int = 0, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled, augmented batches of one epoch (counted from 1), from step `start` on.

        Order and augmentation depend on (seed, epoch) and the sample's place alone. `order`: the places of samples (M,)
        that an objective has drawn itself, instead of shuffling. Before each batch torch's
        generators are seeded for that step, so that dropout depends on (seed, epoch, step) alone.
        """

    def in_order(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches as they lie, without augmentation, for evaluation."""

    def pixels(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Some images as `wrn.load`'s models take them, RGB in [0, 1], float32 (N, 3, H, W), and their labels (N,)."""

    def views(self, places: Tensor, recipe: Recipe, *, seed: int, draws: int) -> tuple[Tensor, list[Tensor]]:
        """Some images to look at: pixels in 0..255, and preprocessed: as they are, then augmented in so many draws."""


@dataclass(frozen=True)
class Dataset:
    """The splits, the class names, and the hash of the decoded content. `val`: held out of train, if asked for.

    `origin`: where the files were from, of a set that is published but was not had from the published files.
    Of what is streamed the fingerprint is that of names, sizes and labels; `names`, without the sizes, is what a run
    must share that goes on, so that a broken picture can be replaced.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    val: Split | None = None
    names: str | None = None
    origin: str | None = None

    @property
    def preprocess(self) -> Preprocess:
        return self.test.preprocess


def must_fit(made_for: Recipe, recipe: Recipe, augment: tuple[str, ...]) -> None:
    """Raise ValueError where a recipe says something else of the data than the one the data set was made for.

    `augment`: what this loader can do. Without the check another augmentation would silently be none, or ours.
    """
    for name in ("data", "image_size", "preprocess", "val", "labels", "label_noise", "val_fraction"):
        there, here = getattr(made_for, name), getattr(recipe, name)
        if there != here:
            raise UsageError(f"{name}: the data set has {there} and the recipe {here}; make it by wrn.dataset(recipe)")
    if recipe.augment not in augment:
        ours = " or ".join(augment)
        raise UsageError(
            f"augment: the data set has {ours} and the recipe {recipe.augment}; make it by wrn.dataset(recipe)"
        )


def steps(images: int, recipe: Recipe) -> int:
    """Batches in an epoch of so many images."""
    return images // recipe.batch_size if recipe.drop_last else -(-images // recipe.batch_size)


def order_of(count: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch's samples, (count,)."""
    return torch.randperm(count, generator=generator_of(seed, epoch, "order"))


def generator_of(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """What draws one purpose's numbers of one epoch."""
    return torch.Generator().manual_seed(key(seed, epoch, purpose))

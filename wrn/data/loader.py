"""Data sets as training takes them: the resident loader, whole on the training device; batches are made there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wrn.data import augment, whitening
from wrn.data.arrays import Arrays, Progress, Request, Source, channel_statistics
from wrn.data.batching import Dataset, generator_of, must_fit, order_of, steps
from wrn.data.cache import Notice, decoded
from wrn.data.catalog import Entry, entry, label, streams
from wrn.data.preparation import source_of
from wrn.data.preprocess import UNIT, MeanStd, Preprocess, WholeImage
from wrn.data.resize import Resized
from wrn.data.splits import divide
from wrn.display import Log, say
from wrn.errors import Error, UsageError
from wrn.hardware import cores, tf32
from wrn.randomness import key
from wrn.recipes import Recipe, recipe


@dataclass(frozen=True)
class Resident:
    """A split in memory: images uint8 (N, H, W, 3) and labels int64 (N,) on one device, and how to preprocess them."""

    images: Tensor
    labels: Tensor
    preprocess: Preprocess
    made_for: Recipe

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def ready(self) -> Tensor:
        """What augmentation works on, (N, H, W, 3): the pixels or, since whitening comes first, float32."""
        if not isinstance(self.preprocess, WholeImage):
            return self.images  # mean and std are of channels, so that they may as well come after it
        # Once for the run, whatever the run computes in, and to be learnt from, whoever asks first
        with tf32(self.images.device, False), torch.inference_mode(False), torch.no_grad():
            parts = [self.preprocess(part.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) for part in self.images.split(1000)]
            return torch.cat(parts) if parts else self.images.float()

    def _finished(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) of `ready` -> what the network takes, in channels_last layout."""
        images = images.permute(0, 3, 1, 2)
        return images if isinstance(self.preprocess, WholeImage) else self.preprocess(images)

    def steps(self, recipe: Recipe) -> int:
        return steps(len(self), recipe)

    def batches(
        self, recipe: Recipe, *, seed: int, epoch: int, start: int = 0, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Split`; images in channels_last layout. What an epoch needs is made before the first batch."""
        must_fit(self.made_for, recipe, ("flip-crop", "v1", "none"))
        if recipe.sampling == "importance" and order is None:
            raise UsageError("sampling importance: the objective draws; give batches(..., order=objective.order)")
        order = (order_of(len(self), seed, epoch) if order is None else order).to(self.ready.device)
        draws = self._drawn(len(self), recipe, generator_of(seed, epoch, "augment"))

        def made() -> Iterator[tuple[Tensor, Tensor]]:
            for step in range(start, self.steps(recipe)):
                part = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
                indices = order[part]
                batch = self._taken(indices, None if draws is None else draws[part], recipe)
                torch.manual_seed(key(seed, epoch, step, "dropout"))
                yield batch, self.labels[indices]

        return made()

    def views(self, places: Tensor, recipe: Recipe, *, seed: int, draws: int) -> tuple[Tensor, list[Tensor]]:
        made = [self._taken(places, None, recipe)]
        for number in range(draws if recipe.augment != "none" else 0):
            drawn = self._drawn(len(places), recipe, generator_of(seed, number, "show"))
            made.append(self._taken(places, drawn, recipe))
        return self.images[places].permute(0, 3, 1, 2).float(), made

    def _drawn(self, count: int, recipe: Recipe, generator: torch.Generator) -> augment.Crops | None:
        """The recipe's draws for so many samples."""
        if recipe.augment == "none":
            return None
        if recipe.augment == "v1":
            draws = augment.draw_v1(count, recipe.batch_size, generator, recipe.pad)
        else:
            draws = augment.draw(count, generator, recipe.pad)
        return draws.to(self.images.device)

    def _taken(self, indices: Tensor, draws: augment.Crops | None, recipe: Recipe) -> Tensor:
        """Those samples as the network takes them: augmented and preprocessed."""
        if draws is None:
            return self._finished(self.ready[indices])
        batch = self._finished(augment.take(self.ready, indices, draws))
        if recipe.padding == "zero":  # the zeros of what the network sees, not of pixels
            batch *= augment.inside(draws, *batch.shape[2:])
        return batch

    def pixels(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        return self.images[part].permute(0, 3, 1, 2).float() / 255, self.labels[part]

    def in_order(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self.ready.split(batch_size), self.labels.split(batch_size), strict=True):
            yield self._finished(images), labels


def dataset(
    data: str | Recipe,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    log: Log | None = None,
    root: str | Path | None = None,
    url: Sequence[str] = (),
    sha256: Sequence[str] = (),
    fitted: Preprocess | None = None,
    **fields: Any,
) -> Dataset:
    """The data set that a recipe names, or of that name (`digits`, `folder:PATH`), prepared once, then from the cache.

    `fields` are those of a recipe that concern the data: image_size, preprocess, augment, val, labels, label_noise,
    val_fraction. `seed` decides what is held out, left out and mislabelled. `workers` decode pictures. `root`: a folder
    that has the files; `url`, `sha256`: where else to download them. `fitted`: the preprocessing of a trained network,
    instead of the recipe's. Raises ValueError for what makes no sense, wrn.Error for data that cannot be used.
    """
    wanted = data if isinstance(data, Recipe) else recipe("wrn-16-1", data=data, **fields)
    known = entry(wanted.data)
    request = Request(
        image_size=wanted.image_size,
        val_fraction=wanted.val_fraction,
        root=None if root is None else Path(root).expanduser(),
        url=(url,) if isinstance(url, str) else tuple(url),
        sha256=(sha256,) if isinstance(sha256, str) else tuple(sha256),
    )
    _check(wanted, known, request)
    if workers is not None and workers < 1:
        raise UsageError(f"workers {workers}: must be at least 1")
    workers = workers or cores()
    notice: Notice = say if log is None else log.line
    source = source_of(wanted, request)
    for remark in source.remarks:
        notice(remark)
    with (log or Log()).bar() as bar:
        if streams(wanted.data, wanted.augment):
            from wrn.data.streaming import streamed

            return streamed(wanted, source, seed, torch.device(device), workers, fitted, bar.show, notice)
        return _resident(wanted, source, seed, torch.device(device), workers, fitted, bar.show, notice)


def _resident(
    wanted: Recipe,
    source: Source,
    seed: int,
    device: torch.device,
    workers: int,
    fitted: Preprocess | None,
    progress: Progress,
    notice: Notice,
) -> Dataset:
    name = label(wanted.data)
    arrays = decoded(name, source, workers, progress, notice)
    origin = None if arrays.origin.get("published", True) else arrays.origin["where"]
    if source.image_size != wanted.image_size:
        arrays = decoded(name, Resized(name, arrays, wanted.image_size), workers, progress, notice)
    train, val = arrays.train, None
    if wanted.val or wanted.labels is not None or wanted.label_noise:
        parts = divide(train.labels, len(arrays.classes), wanted, seed)
        if wanted.val:
            val = Arrays(train.images[parts.val], train.labels[parts.val])
        train = Arrays(train.images[parts.train], parts.train_labels)
    preprocess = (fitted or _fit(wanted, train, progress, notice)).to(device)

    def on_device(split: Arrays) -> Resident:
        images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
        return Resident(images.to(device), labels.to(device), preprocess, wanted)

    return Dataset(
        wanted.data,
        on_device(train),
        on_device(arrays.test),
        arrays.classes,
        arrays.fingerprint,
        on_device(val) if val is not None else None,
        origin=origin,
    )


def _fit(wanted: Recipe, train: Arrays, progress: Progress, notice: Notice) -> Preprocess:
    """The recipe's preprocessing, fitted where it needs that on exactly the images that are trained on."""
    known = entry(wanted.data)
    if not len(train.images):
        raise Error(f"{wanted.data}: holds nothing to train on; lay pictures out as train/CLASS/* and test/CLASS/*")
    if wanted.preprocess == "unit":
        return MeanStd(*UNIT)
    if wanted.preprocess in ("gcn", "gcn-mean", "pixel-mean"):
        return whitening.centred(wanted.preprocess, train.images)
    if wanted.preprocess == "zca":
        return whitening.fitted(label(wanted.data), train.images, progress, notice)
    if wanted.preprocess == "meanstd" and known.mean and known.std:
        return MeanStd(known.mean, known.std)
    return MeanStd(*channel_statistics(train.images))


def _check(wanted: Recipe, known: Entry, request: Request) -> None:
    """Raise ValueError for what this data set cannot be asked."""
    name = wanted.data
    if wanted.val_fraction and not known.takes_path:
        raise UsageError(f"--val-fraction: {name} has a test split of its own; leave the option out")
    for option, given in (("root", request.root), ("url", request.url)):
        if given and option not in known.origins:
            raise UsageError(f"--{option}: {name} is not had from there; leave the option out")
    possible = ["imagenet", "none"] if known.streamed else ["flip-crop", "v1", "none"]
    if name.startswith("folder:"):
        possible.append("imagenet")  # which streams the pictures, as they are too large to be kept
    if wanted.augment not in possible:
        raise UsageError(f"--augment {wanted.augment}: not possible with {name}; take {' or '.join(possible)}")
    streamed = streams(name, wanted.augment)
    if streamed and wanted.sampling == "importance":
        raise UsageError(f"sampling importance: {name} is not held in memory; take --sampling shuffled")
    if streamed and wanted.preprocess not in ("meanstd", "unit"):
        raise UsageError(f"--preprocess {wanted.preprocess}: {name} is never whole in memory; take meanstd or unit")

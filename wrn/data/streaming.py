"""The streaming loader: pictures are decoded and augmented by worker processes, and never all in memory."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from wrn.data import imagenet_transforms as transforms
from wrn.data.arrays import Progress
from wrn.data.cache import Notice
from wrn.data.catalog import entry
from wrn.data.imagenet import Files, ImageNet
from wrn.data.loader import Dataset, order_of, steps
from wrn.data.preprocess import MeanStd, Preprocess
from wrn.data.splits import divide
from wrn.errors import Error
from wrn.randomness import key
from wrn.recipes import Recipe


@dataclass(frozen=True)
class _Task:
    """A sample that a worker is to make: its place, and the seed of its augmentation, if it gets one."""

    place: int
    draw: int | None = None


class Pictures(TorchDataset[tuple[int, Tensor | str]]):
    """Decodes and transforms: a task -> its place, and float32 (3, S, S) in 0..255, or what went wrong, in words."""

    def __init__(self, root: str, files: Files, image_size: int) -> None:
        self.root, self.files, self.image_size = root, files, image_size

    def __getitem__(self, task: _Task) -> tuple[int, Tensor | str]:
        return task.place, self._made(task)

    def _made(self, task: _Task) -> Tensor | str:
        path = f"{self.root}/{self.files.path(task.place)}"
        try:
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                picture = transforms.rgb(image)
        except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
            return f"{path}: cannot be decoded ({error}); replace it, or remove it and prepare the data set again"
        if task.draw is None:
            return transforms.validation(picture, self.image_size)
        return transforms.training(picture, self.image_size, torch.Generator().manual_seed(task.draw))


@dataclass(frozen=True)
class Streamed:
    """A split on disk. labels: int64 (N,) on the training device; `workers` processes decode."""

    pictures: Pictures
    labels: Tensor
    preprocess: Preprocess
    workers: int

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, recipe: Recipe) -> int:
        return steps(len(self), recipe)

    def batches(self, recipe: Recipe, *, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `wrn.data.loader.Split`; images in channels_last layout."""
        order = order_of(len(self), seed, epoch)
        size = recipe.batch_size
        augmented = recipe.augment == "imagenet"

        def plan() -> Iterator[list[_Task]]:
            for step in range(start, self.steps(recipe)):
                places = order[step * size : (step + 1) * size].tolist()
                yield [_Task(place, key(seed, epoch, place, "augment") if augmented else None) for place in places]

        for step, (images, places) in enumerate(self._made(plan()), start):
            torch.manual_seed(key(seed, epoch, step, "dropout"))
            yield self.preprocess(images), self.labels[places]

    def in_order(self, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        places = [_Task(place) for place in range(len(self))]
        for images, chosen in self._made(places[at : at + batch_size] for at in range(0, len(places), batch_size)):
            yield self.preprocess(images), self.labels[chosen]

    def pixels(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        """See `wrn.data.loader.Split`."""
        places = torch.arange(len(self))[part].tolist()
        [(images, chosen)] = self._made(iter([[_Task(place) for place in places]]))
        return images / 255, self.labels[chosen]

    def views(self, places: Tensor, recipe: Recipe, *, seed: int, draws: int) -> tuple[Tensor, list[Tensor]]:
        """See `wrn.data.loader.Split`."""
        chosen = places.tolist()
        plans = [[_Task(place) for place in chosen]]
        numbers = range(draws if recipe.augment == "imagenet" else 0)
        plans += [[_Task(place, key(seed, number, place, "show")) for place in chosen] for number in numbers]
        batches = [images for images, _ in self._made(iter(plans))]
        return batches[0], [self.preprocess(images) for images in batches]

    def _made(self, plan: Iterator[list[_Task]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of pixels (N, 3, S, S) on the device, and their places (N,). Raises wrn.Error for a bad picture."""
        device = self.labels.device
        loader = DataLoader(
            self.pictures,
            batch_sampler=plan,
            num_workers=self.workers,
            collate_fn=_collated,
            worker_init_fn=_leave_signals_alone,
            pin_memory=device.type == "cuda",
            prefetch_factor=2,
        )
        for images, places in loader:
            if isinstance(images, str):
                raise Error(images)
            yield images.to(device, non_blocking=True, memory_format=torch.channels_last), places.to(device)


def _collated(samples: list[tuple[int, Tensor | str]]) -> tuple[Tensor | str, Tensor]:
    places, images = zip(*samples, strict=True)
    wrong = [image for image in images if isinstance(image, str)]
    return wrong[0] if wrong else torch.stack(images), torch.tensor(places)


def _leave_signals_alone(worker: int) -> None:  # noqa: ARG001
    """Ctrl-C reaches the whole process group, but only the training process may decide when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def streamed(
    wanted: Recipe,
    source: ImageNet,
    seed: int,
    device: torch.device,
    workers: int,
    fitted: Preprocess | None,
    progress: Progress,
    notice: Notice,
) -> Dataset:
    """What `wrn.dataset` returns for a set that is streamed."""
    listing = source.listing(progress, notice)
    known = entry(wanted.data)
    assert known.mean is not None and known.std is not None
    constants: Any = ((0.0,) * 3, (255.0,) * 3) if wanted.preprocess == "unit" else (known.mean, known.std)
    preprocess = (fitted or MeanStd(*constants)).to(device)
    parts = divide(listing.train.labels, len(listing.classes), wanted, seed)

    def split(files: Files) -> Streamed:
        pictures = Pictures(str(listing.root), files, wanted.image_size)
        return Streamed(pictures, torch.from_numpy(files.labels).to(device), preprocess, workers)

    train = listing.train
    return Dataset(
        wanted.data,
        split(train.part(parts.train, parts.train_labels)),
        split(listing.test),
        listing.classes,
        listing.fingerprint,
        split(train.part(parts.val, train.labels[parts.val])) if wanted.val else None,
    )

"""The streaming loader: pictures are decoded and augmented by worker processes, and never all in memory."""

import copy
import math
import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from wrn.data import imagenet_transforms as transforms
from wrn.data.arrays import Progress
from wrn.data.batching import Dataset, must_fit, order_of, steps
from wrn.data.cache import Notice
from wrn.data.catalog import IMAGENET_MEAN, IMAGENET_STD
from wrn.data.folder import Folder
from wrn.data.imagenet import ImageNet
from wrn.data.paths import Files
from wrn.data.pictures import opened, rgb
from wrn.data.preprocess import UNIT, MeanStd, Preprocess
from wrn.data.splits import divide
from wrn.errors import DataError, Error
from wrn.native.library import floats, lacking
from wrn.randomness import key
from wrn.recipes import Recipe

PREFETCH = 2
"""Batches that each worker makes ahead."""

PATIENCE = 300.0
"""Seconds after which a batch that does not come is given up: a file server that is gone never says so."""


@dataclass(frozen=True)
class _Task:
    """A sample that a worker is to make: its place, and the seed of its augmentation, if it gets one."""

    place: int
    draw: int | None = None


Batch = tuple[Tensor, Tensor]
"""Places int64 (N,), and float32 (N, S, S, 3) in 0..255."""


class Pictures(TorchDataset[Batch | str]):
    """Decodes and transforms, in a worker process: tasks -> a batch, or what went wrong, in words."""

    def __init__(self, root: str, files: Files, image_size: int, advice: str = "") -> None:
        self.root, self.files, self.image_size, self.advice = root, files, image_size, advice
        self.at = torch.empty(0, 2, dtype=torch.int64)  # (workers, 2), shared: each one's process, and its sample or -1
        self.rooms: deque[Tensor] = deque()  # of this worker, for a batch each, in turn

    def __getitems__(self, tasks: Sequence[_Task]) -> Batch | str:
        worker = get_worker_info()
        assert worker is not None
        pixels = self._room(len(tasks))
        for task, square in zip(tasks, pixels, strict=True):
            self.at[worker.id] = torch.tensor([os.getpid(), task.place])
            if wrong := self._make(task, square):
                return wrong
        self.at[worker.id, 1] = -1  # nor does it name a sample if it is killed while it waits
        return torch.tensor([task.place for task in tasks]), pixels

    def _room(self, count: int) -> Tensor:
        """For a batch, in memory that is shared with the training process.

        When its turn comes again that has received later batches of this worker and is done with what was there. New
        memory for each batch would be faulted in page by page, which takes as long as the transforms.
        """
        room = self.rooms.popleft() if len(self.rooms) > PREFETCH else None
        if room is None or len(room) < count:
            room = _shared(count, self.image_size, self.image_size, 3)
        self.rooms.append(room)
        return room[:count]

    def path(self, place: int) -> str:
        """Where that sample lies."""
        return f"{self.root}/{self.files.path(place)}"

    def _make(self, task: _Task, square: Tensor) -> str | None:
        """Fill (S, S, 3); or say what is wrong."""
        path = self.path(task.place)
        try:
            picture = opened(Path(path), rgb)
        except (Error, OSError) as error:
            why = getattr(error, "strerror", None) or error  # the system's own words do not name the file again
            return f"{path}: {why}; replace it, or remove it{self.advice}"
        if task.draw is None:
            view = transforms.validation_view(*picture.size, self.image_size)
        else:
            generator = torch.Generator().manual_seed(task.draw)
            view = transforms.training_view(*picture.size, self.image_size, generator)
        transforms.see(picture, view, square)
        return None


def _shared(*sizes: int) -> Tensor:
    """Room for float32 in memory that processes share; torch would copy there what is made elsewhere."""
    count = math.prod(sizes)
    storage = torch.UntypedStorage._new_shared(4 * count, device="cpu")
    return floats(0).set_(storage, 0, (count,), (1,)).view(sizes)


@dataclass(frozen=True)
class Streamed:
    """A split on disk. labels: int64 (N,) on the training device; `workers` processes decode."""

    pictures: Pictures
    labels: Tensor
    preprocess: Preprocess
    workers: int
    made_for: Recipe

    def __len__(self) -> int:
        return len(self.labels)

    def steps(self, recipe: Recipe) -> int:
        return steps(len(self), recipe)

    def batches(
        self, recipe: Recipe, *, seed: int, epoch: int, start: int = 0, order: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `wrn.data.batching.Split`; images in channels_last layout."""
        must_fit(self.made_for, recipe, ("imagenet", "none"))
        order = order_of(len(self), seed, epoch) if order is None else order.cpu()
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
        """See `wrn.data.batching.Split`; images in channels_last layout."""
        for images, places in self._made(_as_they_are(part) for part in torch.arange(len(self)).split(batch_size)):
            yield self.preprocess(images), self.labels[places]

    def pixels(self, part: slice | Tensor) -> tuple[Tensor, Tensor]:
        """See `wrn.data.batching.Split`."""
        [(images, places)] = self._made(iter([_as_they_are(torch.arange(len(self))[part])]))
        return images / 255, self.labels[places]

    def views(self, places: Tensor, recipe: Recipe, *, seed: int, draws: int) -> tuple[Tensor, list[Tensor]]:
        """See `wrn.data.batching.Split`."""
        numbers = range(draws if recipe.augment == "imagenet" else 0)
        plans = [_as_they_are(places)]
        plans += [[_Task(place, key(seed, number, place, "show")) for place in places.tolist()] for number in numbers]
        batches = [images.clone() for images, _ in self._made(iter(plans))]
        return batches[0], [self.preprocess(images) for images in batches]

    def _made(self, plan: Iterator[list[_Task]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of pixels (N, 3, S, S) on the device, and their places (N,). Raises wrn.Error for a bad picture.

        On a CPU a batch is overwritten once the next is asked for.
        """
        device = self.labels.device
        pinned = device.type == "cuda"  # torch then copies batches into memory that the GPU can read by itself
        pictures = copy.copy(self.pictures)  # for each pass its own workers
        pictures.at = torch.full((self.workers, 2), -1).share_memory_()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # so many workers, as was asked for
            loader = DataLoader(
                pictures,
                batch_sampler=plan,
                num_workers=self.workers,
                collate_fn=_as_made,
                worker_init_fn=_prepare,
                pin_memory=pinned,
                prefetch_factor=PREFETCH,
                timeout=PATIENCE,
            )
            batches = iter(loader)
        explained, rooms = None, {}  # or torch would map the workers' memory again for each batch
        try:
            for made in batches:
                if isinstance(made, str):
                    raise DataError(made)
                places, images = made
                if not pinned:
                    rooms[images.data_ptr()] = images
                images = images.permute(0, 3, 1, 2)  # in channels_last layout
                yield images.to(device, non_blocking=pinned), places.to(device, non_blocking=pinned)
        except RuntimeError as error:
            explained = _explained(str(error), pictures)
            if explained is None:
                raise
            error.with_traceback(None)  # torch leaves itself in it in a circle, and with it the workers
        finally:
            # The workers and their memory end with these: now, not when the traceback of whatever happened is forgotten
            del batches, rooms
        if explained is not None:
            raise explained  # here, since in the `except` it would carry that traceback along


def _as_they_are(places: Tensor) -> list[_Task]:
    return [_Task(place) for place in places.tolist()]


def _as_made(made: Any) -> Any:
    return made


def _explained(why: str, pictures: Pictures) -> Error | None:
    """What to tell the user if a worker was killed, hangs or had no room for a batch; None for any other failure."""
    workers, at = len(pictures.at), dict(pictures.at.tolist())
    if "DataLoader timed out" in why:
        busy = [f"process {process} at {pictures.path(place)}" for process, place in at.items() if place >= 0]
        return DataError(
            f"decoding: no batch came for {PATIENCE:.0f} s ({', '.join(busy[:3]) or 'no worker is at a picture'}); see "
            "if these files can be read, then run the same command again"
        )
    if "out of shared memory" in why or "shared memory(shm)" in why:
        return DataError(
            f"decoding: {workers} workers have no room for their batches in shared memory (/dev/shm); lower --workers "
            "or --batch-size, or make room (docker run --shm-size)"
        )
    if "DataLoader worker (pid" in why:
        process = int(re.findall(r"\d+", why)[0])
        place = at.get(process, -1)
        doing = f" at {pictures.path(place)}" if place >= 0 else ""
        return DataError(
            f"decoding: worker process {process} of {workers} was killed{doing}, as the system does where memory runs "
            "out; lower --workers, then run the same command again"
        )
    return None


def _prepare(worker: int) -> None:  # noqa: ARG001
    """Begin a worker process. Only the training process may decide when it stops: see `_end_if_told`."""
    warnings.simplefilter("ignore")  # of damaged EXIF data, which nobody looks at
    # Where torch shares memory as files these stay until the last process that has them lets go of them
    Finalize(None, cast(Any, get_worker_info()).dataset.rooms.clear, exitpriority=0)
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):  # training survives them
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    trainer = multiprocessing.parent_process()  # not always the system's parent: there are servers that fork for it
    if hasattr(signal, "sigwaitinfo") and trainer is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_if_told, args=(trainer.pid,), daemon=True).start()
    else:  # macOS, Windows
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_if_told(trainer: int | None) -> None:
    """Ctrl-C, `timeout` and schedulers signal every process; a worker that obeyed would take its batch with it."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != trainer:
        pass
    os._exit(0)


def streamed(
    wanted: Recipe,
    source: ImageNet | Folder,
    seed: int,
    device: torch.device,
    workers: int,
    fitted: Preprocess | None,
    progress: Progress,
    notice: Notice,
) -> Dataset:
    """What `wrn.dataset` returns for a set that is streamed: ImageNet, or a folder that is treated like it."""
    listing = source.listing(progress, notice)
    if why := lacking("pictures"):  # asked here, so that no worker has to compile it
        notice(f"{why}; preparing pictures without them is slower")
    if fitted is None and not len(listing.train):
        raise Error(f"{wanted.data}: holds nothing to train on; lay pictures out as train/CLASS/* and test/CLASS/*")
    constants = UNIT if wanted.preprocess == "unit" else (IMAGENET_MEAN, IMAGENET_STD)
    preprocess = (fitted or MeanStd(*constants)).to(device)
    parts = divide(listing.train.labels, len(listing.classes), wanted, seed)

    def split(files: Files) -> Streamed:
        again = f" and run wrn data prepare imagenet --root {listing.root}" if wanted.data == "imagenet" else ""
        pictures = Pictures(str(listing.root), files, wanted.image_size, again)
        return Streamed(pictures, torch.from_numpy(files.labels).to(device), preprocess, workers, wanted)

    train = listing.train
    return Dataset(
        wanted.data,
        split(train.part(parts.train, parts.train_labels)),
        split(listing.test),
        listing.classes,
        listing.fingerprint,
        split(train.part(parts.val, train.labels[parts.val])) if wanted.val else None,
        listing.names,
    )

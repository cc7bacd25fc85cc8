"""A decoded data set: uint8 images in NumPy arrays, as readers make them and the cache keeps them. No torch."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wrn.errors import Error, UsageError

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Arrays:
    """One split. images: uint8 (N, H, W, 3), RGB; labels: int64 (N,), indices into the class names."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decoded:
    """Both splits, the class names in the order of the labels, and the hash that stands for all of it."""

    train: Arrays
    test: Arrays
    classes: tuple[str, ...]
    fingerprint: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)  # where it came from, where that can differ


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a reader beside the name.

    image_size, val_fraction: as in the recipe. root: a folder of files that the user has. url, sha256: mirrors, and the
    hashes that the user vouches for.
    """

    image_size: int = 32
    val_fraction: float = 0.0
    root: Path | None = None
    url: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.url) != len(self.sha256):
            raise UsageError(f"--url: {len(self.url)} given with {len(self.sha256)} --sha256; give one for each")
        if self.root is not None and self.url:
            raise UsageError("--root: given together with --url; take the files from one of them")
        for url in self.url:
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"--url {url}: not an http(s) address; for files on this machine give --root FOLDER")
        for digest in self.sha256:
            if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
                raise UsageError(f"--sha256 {digest}: not a SHA-256; it has 64 hexadecimal digits")

    def origin(self, files: Iterable[Path] = ()) -> Mapping[str, Any] | None:
        """Where the user wants the data from; None: from anywhere that is good.

        `files`: those in the root that would be read, as they are now; a copy made of others is not used.
        """
        if self.root is not None:
            found = ((file.name, file.stat()) for file in files if file.is_file())
            stamps = [[name, status.st_size, status.st_mtime_ns] for name, status in found]
            return {"root": str(self.root.resolve()), **({"files": stamps} if stamps else {})}
        return {"url": list(self.url), "sha256": [digest.lower() for digest in self.sha256]} if self.url else None


class Source(Protocol):
    """What a reader, `read(name, request)`, returns: where data is, known before it is decoded."""

    @property
    def key(self) -> Mapping[str, Any]:
        """Everything the decoded arrays depend on, JSON-ready: the cache's key."""

    @property
    def remarks(self) -> Sequence[str]:
        """What the user should know of it, a line each."""

    @property
    def image_size(self) -> int:
        """Side of the images that `decode` gives, in pixels."""

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """The `Request.origin`, if where the data lies can be asked for: a copy from elsewhere is not used then."""

    def decode(self, workers: int, progress: Progress) -> Decoded:
        """Read and decode all of it. Raises wrn.Error naming what cannot be read."""


def channel_statistics(images: npt.NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Per-channel mean and standard deviation in units of 0..255, exact: from the 256 counts of each channel."""
    values = np.arange(256, dtype=np.float64)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 4096):
            counts += np.bincount(images[start : start + 4096, ..., channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        std = float(np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum()))
        means.append(mean)
        stds.append(std or 1.0)  # a constant channel carries nothing; leave its scale alone
    return means, stds


def room_for(what: str, count: int, image_size: int) -> npt.NDArray[np.uint8]:
    """An array (count, image_size, image_size, 3) to fill. Raises wrn.Error if the machine has too little memory."""
    size = count * image_size * image_size * 3
    memory = _memory()
    if memory is not None and size > memory:
        raise Error(
            f"{what}: {count:,} images of {image_size} x {image_size} take {size / 2**30:,.1f} GiB, and this machine "
            f"has {memory / 2**30:,.1f} GiB of memory free; choose a smaller --image-size"
        )
    return np.empty((count, image_size, image_size, 3), np.uint8)


def _memory() -> int | None:
    """Bytes that can be had without swapping."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None

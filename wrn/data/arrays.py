"""A decoded data set: uint8 images in NumPy arrays, as readers make them and the cache keeps them. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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


class Source(Protocol):
    """What a reader returns: where data is, known before it is decoded."""

    @property
    def key(self) -> Mapping[str, Any]:
        """Everything the decoded arrays depend on, JSON-ready: the cache's key."""

    @property
    def remarks(self) -> Sequence[str]:
        """What the user should know of it, a line each."""

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

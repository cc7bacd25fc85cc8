"""Pictures that stay on disk: what the streaming loader works on. No torch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

Found = Sequence[tuple[str, int, int]]
"""Pictures: (path below the root, label, size in bytes)."""


@dataclass(frozen=True)
class Files:
    """Pictures: their paths below the root, and their labels int64 (N,).

    The paths of 1.3 million files are one array, which worker processes share; a list they would each come to copy.
    """

    paths: np.ndarray  # uint8: all of them, joined by zeros
    ends: np.ndarray  # int64: where each ends
    places: np.ndarray  # int64 (N,): which of the paths these pictures have
    labels: np.ndarray

    @staticmethod
    def of(paths: np.ndarray, labels: np.ndarray) -> "Files":
        ends = np.append(np.flatnonzero(paths == 0), len(paths))
        return Files(paths, ends, np.arange(len(labels)), labels)

    def part(self, places: np.ndarray, labels: np.ndarray) -> "Files":
        return replace(self, places=self.places[places], labels=labels)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        place = self.places[index]
        start = self.ends[place - 1] + 1 if place else 0
        return self.paths[start : self.ends[place]].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Listing:
    """Where the pictures are. The fingerprint stands for names, sizes and labels, not for the pictures' content."""

    root: Path
    train: Files
    test: Files
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def names(self) -> str:
        """SHA-256 of names and labels."""
        digest = hashlib.sha256()
        for files in (self.train, self.test):
            for part in (files.paths, files.places, files.labels):
                digest.update(part.tobytes() + b"\0")
        return digest.hexdigest()


def packed(found: Found) -> tuple[np.ndarray, np.ndarray]:
    """What `Files.of` takes."""
    joined = "\0".join(name for name, _, _ in found).encode("utf-8", "surrogateescape")
    return np.frombuffer(joined, np.uint8), np.array([label for _, label, _ in found], np.int64)


def fingerprint_of(splits: Mapping[str, Found]) -> str:
    """SHA-256 of what is listed, split by split."""
    digest = hashlib.sha256()
    for split, found in splits.items():
        for name, label, size in found:
            digest.update(f"{split}/{name}/{label}/{size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

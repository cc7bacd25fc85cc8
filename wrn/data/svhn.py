"""`svhn`, `svhn-train`: Street View House Numbers, 32 x 32 crops (Netzer et al. 2011, ufldl.stanford.edu/housenumbers).

`svhn` trains on train + extra, 73,257 + 531,131 = 604,388 images, as the paper does (SPEC 3.2); `svhn-train` without
extra. A file is MATLAB's: `X` (32, 32, 3, N), `y` (N, 1) in 1..10, where 10 stands for the digit 0.
"""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wrn.data.arrays import Arrays, Decoded, Progress, Request, room_for
from wrn.data.download import Remote, described, digest_of, fetched, remotes
from wrn.errors import Error, MissingError

_URL = "http://ufldl.stanford.edu/housenumbers/"
FILES = {
    "train": Remote(f"{_URL}train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test": Remote(f"{_URL}test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
    "extra": Remote(f"{_URL}extra_32x32.mat", "md5:a93ce644f1a588dc4d68dda5feec44a7"),
}
SETS = {"svhn": ("train", "test", "extra"), "svhn-train": ("train", "test")}
_PIECE = 8192  # images copied at a time


class Svhn:
    """One of the two."""

    remarks = ()
    image_size = 32

    def __init__(self, name: str, request: Request) -> None:
        self.name, self.request = name, request

    @property
    def key(self) -> Mapping[str, Any]:
        return {"reader": "svhn", "version": 1, "set": self.name}

    @property
    def origin(self) -> Mapping[str, Any] | None:
        return self.request.origin

    def decode(self, workers: int, progress: Progress) -> Decoded:  # noqa: ARG002  one file after the other
        published = [FILES[part] for part in SETS[self.name]]
        root = self.request.root
        if root is not None:
            paths = [root / remote.name for remote in published]
            for path in paths:
                if not path.is_file():
                    raise MissingError(f"{path}: not there; --root must be a folder that holds it")
            good = all(digest_of(path, "md5") == remote.digest for path, remote in zip(paths, published, strict=True))
            where = str(root)
        else:
            wanted = remotes(published, self.request)
            paths = [fetched(remote, progress) for remote in wanted]
            good, where = wanted == published, ", ".join(remote.url for remote in wanted)
        counts = [_shape_of(path) for path in paths]
        train, test = [0, *range(2, len(paths))], [1]
        total = sum(counts)

        def split(numbers: list[int]) -> Arrays:
            images = room_for(self.name, sum(counts[number] for number in numbers), 32)
            labels = np.empty(len(images), np.int64)
            start = 0
            for number in numbers:  # one file in memory at a time
                part = slice(start, start + counts[number])
                _read(paths[number], images[part], labels[part])
                start = part.stop
                progress(f"reading {paths[number].name}", start, total)
            return Arrays(images, labels)

        origin = {**(self.origin or {}), "where": where, "published": good}
        return Decoded(split(train), split(test), tuple("0123456789"), origin=origin)


def _shape_of(path: Path) -> int:
    """How many images the file says it has, before any is read."""
    from scipy.io import whosmat

    with _explained(path):
        shapes = {name: shape for name, shape, _ in whosmat(path)}
    if missing := {"X", "y"} - shapes.keys():
        raise _unexpected(path, f"no {min(missing)} in it")
    count = shapes["X"][-1]
    if shapes["X"] != (32, 32, 3, count) or np.prod(shapes["y"]) != count or not count:
        raise _unexpected(path, f"X is {shapes['X']} and y is {shapes['y']}, not (32, 32, 3, N) and (N, 1)")
    return int(count)


def _read(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Fill images (N, 32, 32, 3) and labels (N,) from the file."""
    from scipy.io import loadmat

    with _explained(path):
        digits = loadmat(path, variable_names=["y"])["y"].reshape(-1)
    if digits.dtype.kind not in "iuf" or digits.min() < 1 or digits.max() > 10:
        raise _unexpected(path, f"labels {digits.min()} to {digits.max()}, not 1 to 10")
    labels[:] = digits % 10
    with _explained(path):
        pixels = loadmat(path, variable_names=["X"])["X"]
    if pixels.dtype != np.uint8:
        raise _unexpected(path, f"X of type {pixels.dtype}, not uint8")
    for start in range(0, len(images), _PIECE):
        part = slice(start, start + _PIECE)
        images[part] = pixels[..., part].transpose(3, 0, 1, 2)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what scipy raises for a file that is no .mat file, or a damaged one, into an Error."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise _unexpected(path, f"{described(path)}: {error}") from error


def _unexpected(path: Path, what: str) -> Error:
    return Error(f"{path}: not the MATLAB file it should be ({what}); delete it and get it again")


def read(data: str, request: Request) -> Svhn:
    """The source of `svhn` or `svhn-train`; nothing is fetched yet."""
    return Svhn(data, request)

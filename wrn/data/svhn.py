"""`svhn`, `svhn-train`: Street View House Numbers, 32 x 32 crops (Netzer et al. 2011, ufldl.stanford.edu/housenumbers).

`svhn` trains on train + extra, 73,257 + 531,131 = 604,388 images, as the paper does; `svhn-train` without
extra. A file is MATLAB's: `X` (32, 32, 3, N), `y` (N, 1) in 1..10, where 10 stands for the digit 0.
"""

import math
import warnings
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
COUNTS = {"train": 73_257, "test": 26_032, "extra": 531_131}  # images
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
        root = self.request.root
        return self.request.origin(() if root is None else (root / FILES[part].name for part in SETS[self.name]))

    def decode(self, workers: int, progress: Progress) -> Decoded:  # noqa: ARG002  one file after the other
        published = {part: FILES[part] for part in SETS[self.name]}
        root = self.request.root
        if root is not None:
            paths = {part: root / remote.name for part, remote in published.items()}
            for path in paths.values():
                if not path.is_file():
                    raise MissingError(f"{path}: not there; --root must be a folder that holds it")
            good = all(digest_of(paths[part], "md5") == remote.digest for part, remote in published.items())
            where = str(root)
        else:
            wanted = remotes([*published.values()], self.request)
            paths = {part: fetched(remote, progress) for part, remote in zip(published, wanted, strict=True)}
            good, where = wanted == [*published.values()], ", ".join(remote.url for remote in wanted)
        counts = {part: _count(path, COUNTS[part]) for part, path in paths.items()}
        done = 0

        def split(parts: list[str]) -> Arrays:
            nonlocal done
            images = room_for(self.name, sum(counts[part] for part in parts), 32)
            labels = np.empty(len(images), np.int64)
            start = 0
            for part in parts:  # one file in memory at a time, beside the array that it goes to
                progress(f"reading {paths[part].name}", done, sum(counts.values()))
                place = slice(start, start + counts[part])
                _read(paths[part], images[place], labels[place])
                start, done = place.stop, done + counts[part]
            return Arrays(images, labels)

        train, test = split([part for part in paths if part != "test"]), split(["test"])
        origin = {**(self.origin or {}), "where": where, "published": good}
        return Decoded(train, test, tuple("0123456789"), origin=origin)


def _count(path: Path, most: int) -> int:
    """How many images the file says it has, before memory is taken for any."""
    from scipy.io import whosmat

    with _explained(path):
        variables = {name: (shape, kind) for name, shape, kind in whosmat(path)}
    if missing := {"X", "y"} - variables.keys():
        raise _unexpected(path, f"no {min(missing)} in it")
    (shape, kind), (labels, _) = variables["X"], variables["y"]
    count = math.prod(labels)
    if kind != "uint8":
        raise _unexpected(path, f"X is of type {kind}, not uint8")
    if shape != (32, 32, 3, count):
        raise _unexpected(path, f"X is {shape} and y is {labels}, not (32, 32, 3, N) and (N, 1)")
    if not 0 < count <= most:
        raise _unexpected(path, f"{count:,} images; the published file has {most:,}")
    return count


def _read(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Fill images (N, 32, 32, 3) and labels (N,) from the file."""
    from scipy.io import loadmat

    with _explained(path):
        digits = loadmat(path, variable_names=["y"])["y"].reshape(-1)
    if digits.dtype.kind not in "iuf":
        raise _unexpected(path, f"y is of type {digits.dtype}, not a number")
    if (wrong := ~np.isin(digits, np.arange(1, 11))).any():
        raise _unexpected(path, f"a label {digits[wrong][0]:g}, not one of 1 to 10")
    labels[:] = digits % 10
    with _explained(path):
        pixels = loadmat(path, variable_names=["X"])["X"]
    if pixels.dtype != np.uint8:
        raise _unexpected(path, f"X is of type {pixels.dtype}, not uint8")
    for start in range(0, len(images), _PIECE):
        part = slice(start, start + _PIECE)
        images[part] = pixels[..., part].transpose(3, 0, 1, 2)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn whatever a file that is no .mat file, or a damaged one, leads scipy to raise into an Error."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Unreadable variable")  # scipy would go on with words in its place
            yield
    except Exception as error:
        raise _unexpected(path, " ".join(str(error).split())) from error


def _unexpected(path: Path, what: str) -> Error:
    return Error(f"{path}: not the MATLAB file it should be ({described(path)}; {what}); delete it and get it again")


def read(data: str, request: Request) -> Svhn:
    """The source of `svhn` or `svhn-train`; nothing is fetched yet."""
    return Svhn(data, request)

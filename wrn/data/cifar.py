"""`cifar10` and `cifar100` from Krizhevsky's binary archives (cs.toronto.edu/~kriz/cifar.html), without unpacking them.

A record is one label byte (CIFAR-100: the coarse label, then the fine one, which is used) and 3,072 bytes of pixels,
channel by channel, row by row.
"""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from wrn.data import pictures
from wrn.data.arrays import Arrays, Decoded, Progress
from wrn.data.download import fetched
from wrn.errors import Error, UsageError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """Where one set lies, and what its files are called."""

    url: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int
    train_images: int = 50_000
    test_images: int = 10_000


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
        classes=100,
    ),
}


class Cifar:
    """One of the two, at an image size (32, unless asked for otherwise)."""

    remarks = ()

    def __init__(self, archive: Archive, image_size: int) -> None:
        self.archive, self.image_size = archive, image_size

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "reader": "cifar",
            "version": 1,
            "md5": self.archive.md5,
            "image_size": self.image_size,
            "pillow": PIL.__version__ if self.image_size != 32 else None,
        }

    def decode(self, workers: int, progress: Progress) -> Decoded:  # noqa: ARG002  a few seconds with one
        path = fetched(self.archive.url, self.archive.md5, progress)
        members = self._read_members(path)
        names = members[self.archive.names].decode("ascii", "replace").split()
        if len(names) != self.archive.classes:
            raise self._unexpected(path, f"{len(names)} class names")
        train = b"".join(members[name] for name in self.archive.train)
        return Decoded(
            self._records(path, train, self.archive.train_images),
            self._records(path, members[self.archive.test], self.archive.test_images),
            tuple(names),
        )

    def _read_members(self, path: Path) -> dict[str, bytes]:
        wanted = {*self.archive.train, self.archive.test, self.archive.names}
        limit = self.archive.train_images * (_PIXELS + self.archive.label_bytes)
        members: dict[str, bytes] = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    name = member.name.removeprefix("./").removeprefix(f"{self.archive.folder}/")
                    file = archive.extractfile(member) if name in wanted and member.isfile() else None
                    if file is not None and member.size <= limit:
                        members[name] = file.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise self._unexpected(path, str(error)) from error
        if missing := wanted - members.keys():
            raise self._unexpected(path, f"no {min(missing)}")
        return members

    def _records(self, path: Path, content: bytes, count: int) -> Arrays:
        width = self.archive.label_bytes + _PIXELS
        if len(content) != count * width:
            raise self._unexpected(path, f"{len(content):,} bytes of records, not {count * width:,}")
        records = np.frombuffer(content, np.uint8).reshape(count, width)
        labels = records[:, self.archive.label_bytes - 1].astype(np.int64)
        if labels.max() >= self.archive.classes:
            raise self._unexpected(path, f"a label {labels.max()}")
        images = records[:, self.archive.label_bytes :].reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
        if self.image_size != 32:
            images = np.stack([pictures.to_square(Image.fromarray(image), self.image_size) for image in images])
        return Arrays(np.ascontiguousarray(images), labels)

    def _unexpected(self, path: Path, what: str) -> Error:
        return Error(f"{path}: not the archive it should be ({what}); delete it, to have it downloaded again")


def read(data: str, image_size: int, val_fraction: float) -> Cifar:
    """The source of `cifar10` or `cifar100`; nothing is fetched yet. Raises ValueError if a test split is asked for."""
    if val_fraction:
        raise UsageError(f"--val-fraction: {data} has a test split of its own; leave the option out")
    return Cifar(ARCHIVES[data], image_size)

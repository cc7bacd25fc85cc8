"""`cifar10` and `cifar100` (Krizhevsky 2009, cs.toronto.edu/~kriz/cifar.html), without unpacking any archive.

Downloaded as the *binary* archives. A record there is one label byte (CIFAR-100: the coarse label, then the fine one,
which is used) and 3,072 bytes of pixels, channel by channel, row by row. In a folder that the user has, torchvision's
layout is read too: its batches are pickles, so only those with their published hashes are, and nothing in them is
called.
"""

import codecs
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrn.data import archives
from wrn.data.arrays import Arrays, Decoded, Progress, Request
from wrn.data.download import Remote, described, digest_of, fetched, remotes
from wrn.errors import Error, MissingError

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Archive:
    """Where one set lies, and what its files are called."""

    remote: Remote
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    classes: int
    python: "Pickles"
    train_images: int = 50_000


@dataclass(frozen=True)
class Pickles:
    """The same set for Python: its files with their published MD5s (torchvision's), and its keys in them."""

    archive: str
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    names: Mapping[str, str]
    labels_key: str
    names_key: str

    @property
    def published(self) -> Mapping[str, str]:
        """All its files, with their MD5s."""
        return {**self.train, **self.test, **self.names}


ARCHIVES = {
    "cifar10": Archive(
        remote=Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"
        ),
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
        python=Pickles(
            archive="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            train={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            test={"test_batch": "40351d587109b95175f43aff81a1287e"},
            names={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
            labels_key="labels",
            names_key="label_names",
        ),
    ),
    "cifar100": Archive(
        remote=Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"
        ),
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        label_bytes=2,
        classes=100,
        python=Pickles(
            archive="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            train={"train": "16019d7e3df5f24257cddd939b257f8d"},
            test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
            names={"meta": "7973b15100ade9c7d40fb424638fde48"},
            labels_key="fine_labels",
            names_key="fine_label_names",
        ),
    ),
}


class Cifar:
    """One of the two."""

    remarks = ()
    image_size = 32

    def __init__(self, name: str, request: Request) -> None:
        self.name, self.request, self.archive = name, request, ARCHIVES[name]

    @property
    def key(self) -> Mapping[str, Any]:
        return {"reader": "cifar", "version": 2, "set": self.name}

    @property
    def origin(self) -> Mapping[str, Any] | None:
        return self.request.origin(() if self.request.root is None else self._files(self.request.root))

    def decode(self, workers: int, progress: Progress) -> Decoded:  # noqa: ARG002  a few seconds with one
        if self.request.root is not None:
            return self._from_root(self.request.root)
        [remote] = remotes([self.archive.remote], self.request)
        path = fetched(remote, progress)
        origin = {**(self.origin or {}), "where": remote.url, "published": remote == self.archive.remote}
        return self._binary(path, origin)

    def _from_root(self, root: Path) -> Decoded:
        known, python = self.archive, self.archive.python
        if (found := self._found(root)) is None:
            raise MissingError(
                f"--root {root}: holds neither {known.folder}/ nor {python.folder}/ nor an archive of one of them; "
                "give the folder that does"
            )
        path, pickled = found
        origin = {**(self.origin or {}), "where": str(root)}
        if pickled:
            return self._pickled(path, origin | {"published": True})
        published = path.is_file() and digest_of(path, "md5") == known.remote.digest
        return self._binary(path, origin | {"published": published})

    def _found(self, root: Path) -> tuple[Path, bool] | None:
        """Where the first of the layouts lies, an archive or a folder of files, and whether it is torchvision's."""
        known, python = self.archive, self.archive.python
        if root.is_file():
            return root, root.name == python.archive
        for path in (root / known.remote.name, root / known.folder, root):
            if path.is_file() or (path / known.test).is_file():
                return path, False
        for path in (root / python.folder, root / python.archive, root):
            if path.is_file() or (path / next(iter(python.test))).is_file():
                return path, True
        return None

    def _files(self, root: Path) -> list[Path]:
        """What would be read in `root`."""
        known, found = self.archive, self._found(root)
        if found is None:
            return []
        path, pickled = found
        names = known.python.published if pickled else (*known.train, known.test, known.names)
        return [path] if path.is_file() else [path / name for name in names]

    def _binary(self, path: Path, origin: Mapping[str, Any]) -> Decoded:
        known = self.archive
        limit = known.train_images * (_PIXELS + known.label_bytes)
        members = _members(path, known.folder, {*known.train, known.test, known.names}, limit)
        names = members[known.names].decode("ascii", "replace").split()
        if len(names) != known.classes:
            raise _unexpected(path, f"{len(names)} class names")
        train = b"".join(members[name] for name in known.train)
        return Decoded(
            self._records(path, train), self._records(path, members[known.test]), tuple(names), origin=origin
        )

    def _records(self, path: Path, content: bytes) -> Arrays:
        width = self.archive.label_bytes + _PIXELS
        if not content or len(content) % width:
            raise _unexpected(path, f"{len(content):,} bytes of records, not a multiple of {width:,}")
        records = np.frombuffer(content, np.uint8).reshape(-1, width)
        return self._arrays(path, records[:, self.archive.label_bytes :], records[:, self.archive.label_bytes - 1])

    def _arrays(self, path: Path, pixels: np.ndarray, labels: np.ndarray) -> Arrays:
        if labels.min() < 0 or labels.max() >= self.archive.classes:
            raise _unexpected(path, f"a label {labels.max()}")
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Arrays(np.ascontiguousarray(images), labels.astype(np.int64))

    def _pickled(self, path: Path, origin: Mapping[str, Any]) -> Decoded:
        python = self.archive.python
        members = _members(path, python.folder, set(python.published), self.archive.train_images * (_PIXELS + 200))
        for name, md5 in python.published.items():
            if digest_of(members[name], "md5") != f"md5:{md5}":
                raise Error(
                    f"{path}: {name} is not the published file (MD5 {md5}), and a pickle can run any code, so it "
                    "is not opened; get the original, or let `wrn data prepare` download the binary archive"
                )

        def split(names: Mapping[str, str]) -> Arrays:
            batches = [_unpickled(members[name]) for name in names]
            labels = np.concatenate([np.asarray(batch[python.labels_key]) for batch in batches])
            return self._arrays(path, np.concatenate([batch["data"] for batch in batches]), labels)

        names = _unpickled(members[next(iter(python.names))])[python.names_key]
        return Decoded(split(python.train), split(python.test), tuple(names), origin=origin)


class _Arrays(pickle.Unpickler):
    """Unpickles what NumPy arrays are made of, and calls nothing else, whatever the file says."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstructed
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return codecs.encode
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _reconstructed(*_: Any) -> np.ndarray:
    """An empty array, which the unpickler then fills. NumPy's own is not public."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _unpickled(content: bytes) -> Any:
    return _Arrays(io.BytesIO(content), encoding="latin1").load()


def _members(path: Path, folder: str, wanted: set[str], limit: int) -> dict[str, bytes]:
    """The content of the `wanted` files in an archive, where they lie below `folder`, or in a folder."""
    members: dict[str, bytes] = {}
    try:
        if path.is_dir():
            for name in wanted:
                if (file := path / name).is_file() and file.stat().st_size <= limit:
                    members[name] = file.read_bytes()
        else:
            with archives.opened(path) as archive:
                for member in archives.members(archive):
                    name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                    if name in wanted and member.isfile() and member.size <= limit:
                        members[name] = archives.content(archive, member, limit)
    except archives.DAMAGE as error:
        raise _unexpected(path, f"{described(path) if path.is_file() else 'a folder'}: {error}") from error
    if missing := wanted - members.keys():
        raise _unexpected(path, f"no {min(missing)}, or one larger than it can be")
    return members


def _unexpected(path: Path, what: str) -> Error:
    return Error(f"{path}: not what it should be ({what}); delete it and get it again")


def read(data: str, request: Request) -> Cifar:
    """The source of `cifar10` or `cifar100`; nothing is fetched yet."""
    return Cifar(data, request)

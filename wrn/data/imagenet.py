"""`imagenet`: ILSVRC 2012 in the folders that people have it in. Listed once; the pictures stay where they are.

train/n01440764/*.JPEG … and val/n01440764/*.JPEG …, or val/ILSVRC2012_val_00000001.JPEG … flat, with the devkit
(ILSVRC2012_devkit_t12, a folder or its .tar.gz) beside them, whose ground truth says what each shows. No torch.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from wrn.data.arrays import Progress, Request
from wrn.data.cache import Notice, kept
from wrn.errors import Error, MissingError

CLASSES = 1000
_WORDNET_ID = re.compile(r"n\d{8}")
_SUFFIXES = (".jpeg", ".jpg", ".png")
_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"


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


class ImageNet:
    """See the module."""

    remarks = ()

    def __init__(self, request: Request) -> None:
        self.origin = request.origin

    @property
    def key(self) -> Mapping[str, Any]:
        return {"reader": "imagenet", "version": 1}

    def listing(self, progress: Progress, notice: Notice) -> Listing:
        """From the cache if it was listed before and no other `--root` is given. Raises wrn.Error for what is amiss."""

        def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            if self.origin is None:
                raise MissingError(
                    "imagenet: not prepared, and it cannot be downloaded; get ILSVRC 2012 from image-net.org and run "
                    "wrn data prepare imagenet --root FOLDER, which holds train/ and val/"
                )
            return _listed(Path(self.origin["root"]), progress)

        def fits(info: dict[str, Any]) -> bool:
            return self.origin is None or self.origin["root"] == info["origin"]["root"]

        entry = kept("data", "imagenet", self.key, make, notice, fits)

        def files(split: str) -> Files:
            return Files.of(entry.arrays[f"{split}_paths"], entry.arrays[f"{split}_labels"])

        root = Path(entry.info["origin"]["root"])
        if not root.is_dir():
            raise MissingError(
                f"imagenet: {root} is gone; run wrn data prepare imagenet --root FOLDER with where it is now"
            )
        return Listing(root, files("train"), files("test"), tuple(entry.info["classes"]), entry.info["listing"])


def _listed(root: Path, progress: Progress) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Both splits as the cache keeps them."""
    digest = hashlib.sha256()
    classes = _classes(root / "train")
    arrays: dict[str, np.ndarray] = {}
    for split, folder in (("train", "train"), ("test", "val")):
        if not (root / folder).is_dir():
            raise MissingError(f"imagenet: {root / folder} is not there; --root must be the folder of train/ and val/")
        flat = not any(item.is_dir() for item in os.scandir(root / folder))
        found = _flat(root, classes) if flat else _by_class(root, folder, classes, progress)
        for name, label, size in found:
            digest.update(f"{split}/{name}/{label}/{size}\n".encode("utf-8", "surrogateescape"))
        joined = "\0".join(name for name, _, _ in found).encode("utf-8", "surrogateescape")
        arrays[f"{split}_paths"] = np.frombuffer(joined, np.uint8)
        arrays[f"{split}_labels"] = np.array([label for _, label, _ in found], np.int64)
    origin = {"root": str(root)}
    return arrays, {"classes": list(classes), "origin": origin, "listing": digest.hexdigest()}


def _classes(train: Path) -> tuple[str, ...]:
    """The WordNet ids that the training folder is divided into, in their order."""
    if not train.is_dir():
        raise MissingError(f"imagenet: {train} is not there; --root must be the folder of train/ and val/")
    names = sorted(item.name for item in os.scandir(train) if item.is_dir() and _WORDNET_ID.fullmatch(item.name))
    if len(names) != CLASSES:
        raise Error(
            f"imagenet: {train} has {len(names)} folders named by a WordNet id, not {CLASSES:,}; complete it, or "
            "train on a part of it as folder:PATH"
        )
    return tuple(names)


def _by_class(root: Path, folder: str, classes: Sequence[str], progress: Progress) -> list[tuple[str, int, int]]:
    """(path below the root, label, size) of each picture, by class and name."""
    found: list[tuple[str, int, int]] = []
    strangers = sorted(item.name for item in os.scandir(root / folder) if item.is_dir() and item.name not in classes)
    if strangers and _WORDNET_ID.fullmatch(strangers[0]):
        raise Error(f"imagenet: {root / folder} has a class {strangers[0]} that train/ lacks; complete train/")
    for label, name in enumerate(classes):
        if not (root / folder / name).is_dir():
            raise Error(f"imagenet: {root / folder} lacks the class {name} that train/ has; complete it")
        pictures = sorted(
            (item.name, item.stat().st_size)
            for item in os.scandir(root / folder / name)
            if item.name.lower().endswith(_SUFFIXES) and not item.name.startswith(".")
        )
        if not pictures:
            raise Error(f"imagenet: {root / folder / name} holds no pictures; complete it")
        found += [(f"{folder}/{name}/{picture}", label, size) for picture, size in pictures]
        progress(f"listing {folder}", label + 1, len(classes))
    return found


def _flat(root: Path, classes: Sequence[str]) -> list[tuple[str, int, int]]:
    """The same of `val/ILSVRC2012_val_*.JPEG`, whose labels are lines of the devkit's ground truth."""
    sizes = {
        item.name: item.stat().st_size for item in os.scandir(root / "val") if item.name.startswith("ILSVRC2012_val_")
    }
    if not sizes:
        raise Error(f"imagenet: {root / 'val'} holds neither class folders nor ILSVRC2012_val_*.JPEG; complete it")
    truth, identifiers = _devkit(root)
    found = []
    for name in sorted(sizes):
        number = int(Path(name).stem.rsplit("_", 1)[-1])
        if not 1 <= number <= len(truth) or truth[number - 1] not in identifiers:
            raise Error(
                f"imagenet: the devkit does not say what val/{name} shows; get the devkit of task 1 and 2 again"
            )
        identifier = identifiers[truth[number - 1]]
        if identifier not in classes:
            raise Error(f"imagenet: val/{name} shows {identifier}, which train/ lacks; complete train/")
        found.append((f"val/{name}", classes.index(identifier), sizes[name]))
    return found


def _devkit(root: Path) -> tuple[list[int], dict[int, str]]:
    """The devkit's ground truth, a class number for each validation picture, and the WordNet id of each number."""
    from scipy.io import loadmat

    archive = root / f"{_DEVKIT}.tar.gz"
    folder = next((place for place in (root / _DEVKIT, root) if (place / _TRUTH).is_file()), None)
    try:
        if folder is not None:
            contents: Mapping[str, bytes] = {name: (folder / name).read_bytes() for name in (_TRUTH, _META)}
        elif archive.is_file():
            contents = _read_archive(archive)
        else:
            raise Error(
                f"imagenet: val/ is not divided into classes, and neither {_DEVKIT}/ nor {_DEVKIT}.tar.gz lies in "
                f"{root} to say which is which; put it there"
            )
        truth = [int(line) for line in contents[_TRUTH].split()]
        synsets = np.atleast_1d(loadmat(BytesIO(contents[_META]), squeeze_me=True, struct_as_record=True)["synsets"])
        leaves = synsets[synsets["num_children"] == 0]
        return truth, {
            int(number): str(name) for number, name in zip(leaves["ILSVRC2012_ID"], leaves["WNID"], strict=True)
        }
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, Error):
            raise
        raise Error(f"imagenet: the devkit in {root} cannot be read ({error}); get it again") from error


def _read_archive(path: Path) -> Mapping[str, bytes]:
    with tarfile.open(path) as archive:
        contents = {}
        for member in archive:
            name = member.name.removeprefix("./").removeprefix(f"{_DEVKIT}/")
            if name in (_TRUTH, _META) and member.isfile() and member.size < 1 << 24:
                file = archive.extractfile(member)
                assert file is not None
                contents[name] = file.read()
    return contents


def read(data: str, request: Request) -> ImageNet:  # noqa: ARG001
    """The source of `imagenet`; nothing is listed yet."""
    return ImageNet(request)

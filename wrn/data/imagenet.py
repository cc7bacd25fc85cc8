"""`imagenet`: ILSVRC 2012 in the folders that people have it in. Listed once; the pictures stay where they are.

train/n01440764/*.JPEG … and val/n01440764/*.JPEG …, or val/ILSVRC2012_val_00000001.JPEG … flat, with the devkit
(ILSVRC2012_devkit_t12, a folder or its .tar.gz) beside them, whose ground truth says what each shows. No torch.
"""

import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from wrn.data import archives
from wrn.data.arrays import Progress, Request
from wrn.data.cache import Notice, kept
from wrn.data.catalog import DATASETS
from wrn.data.paths import Files, Found, Listing, fingerprint_of, packed
from wrn.errors import Error, MissingError

CLASSES = 1000
_WORDNET_ID = re.compile(r"n\d{8}")
_FLAT = re.compile(r"ILSVRC2012_val_(\d{8})\.JPE?G", re.IGNORECASE)
_SUFFIXES = (".jpeg", ".jpg", ".png")
_DEVKIT = "ILSVRC2012_devkit_t12"
_TRUTH, _META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"

Entry = tuple[dict[str, np.ndarray], dict[str, Any]]  # of the cache: arrays, and what else is known


class ImageNet:
    """See the module."""

    remarks = ()

    def __init__(self, request: Request) -> None:
        self.origin = request.origin()

    @property
    def key(self) -> Mapping[str, Any]:
        return {"reader": "imagenet", "version": 1}

    def listing(self, progress: Progress, notice: Notice) -> Listing:
        """From the cache, unless `--root` is given: what lies there now. Raises wrn.Error for what is amiss."""
        # Before the cache is looked at, which throws away what does not fit: a wrong folder must not cost the listing
        fresh = None if self.origin is None else _listed(Path(self.origin["root"]), progress)

        def make() -> Entry:
            if fresh is None:
                raise MissingError(
                    "imagenet: not prepared, and it cannot be downloaded; get ILSVRC 2012 from image-net.org and run "
                    "wrn data prepare imagenet --root FOLDER, which holds train/ and val/"
                )
            return fresh

        def fits(info: dict[str, Any]) -> bool:
            return fresh is None or all(info[name] == fresh[1][name] for name in ("origin", "listing"))

        entry = kept("data", "imagenet", self.key, make, notice, fits)

        def files(split: str) -> Files:
            return Files.of(entry.arrays[f"{split}_paths"], entry.arrays[f"{split}_labels"])

        found = Listing(
            Path(entry.info["origin"]["root"]),
            files("train"),
            files("test"),
            tuple(entry.info["classes"]),
            entry.info["listing"],
        )
        if not found.root.is_dir():
            raise MissingError(
                f"imagenet: {found.root} is gone; run wrn data prepare imagenet --root FOLDER with where it is now"
            )
        if (counts := (len(found.train), len(found.test))) != (complete := DATASETS["imagenet"].images):
            here, there = (" + ".join(f"{count:,}" for count in each or ()) for each in (counts, complete))
            notice(f"imagenet: {here} pictures lie in {found.root}, where ILSVRC 2012 has {there}")
        return found


def _listed(root: Path, progress: Progress) -> Entry:
    """Both splits as the cache keeps them."""
    for folder in (root / "train", root / "val"):
        if not folder.is_dir():
            raise MissingError(f"imagenet: {folder} is not there; --root must be the folder of train/ and val/")
    classes = _classes(root / "train")
    if len(classes) != CLASSES:
        raise Error(
            f"imagenet: {root / 'train'} has {len(classes)} folders named by a WordNet id, not {CLASSES:,}; complete "
            "it, or train on a part of it as folder:PATH"
        )
    train = _by_class(root, "train", classes, progress)
    test = _by_class(root, "val", classes, progress) if _classes(root / "val") else _flat(root, classes)

    splits = {"train": train, "test": test}
    arrays: dict[str, np.ndarray] = {}
    for split, found in splits.items():
        arrays[f"{split}_paths"], arrays[f"{split}_labels"] = packed(found)
    return arrays, {"classes": classes, "origin": {"root": str(root)}, "listing": fingerprint_of(splits)}


def _classes(folder: Path) -> list[str]:
    """The WordNet ids that a folder is divided into, in the order of their labels."""
    with os.scandir(folder) as items:
        return sorted(item.name for item in items if _WORDNET_ID.fullmatch(item.name) and item.is_dir())


def _pictures(folder: Path) -> list[tuple[str, int]]:
    """(name, size in bytes) of the pictures in a folder, by name."""
    with os.scandir(folder) as items:
        return sorted(
            (item.name, item.stat().st_size)
            for item in items
            if item.name.lower().endswith(_SUFFIXES) and not item.name.startswith(".")
        )


def _by_class(root: Path, folder: str, classes: Sequence[str], progress: Progress) -> Found:
    here = _classes(root / folder)
    if strangers := sorted(set(here) - set(classes)):
        raise Error(f"imagenet: {root / folder} has a class {strangers[0]} that train/ lacks; complete train/")
    if missing := sorted(set(classes) - set(here)):
        raise Error(f"imagenet: {root / folder} lacks the class {missing[0]} that train/ has; complete it")
    found: list[tuple[str, int, int]] = []
    for label, name in enumerate(classes):
        pictures = _pictures(root / folder / name)
        if not pictures:
            raise Error(f"imagenet: {root / folder / name} holds no pictures; complete it")
        found += [(f"{folder}/{name}/{picture}", label, size) for picture, size in pictures]
        progress(f"listing {folder}", label + 1, len(classes))
    return found


def _flat(root: Path, classes: Sequence[str]) -> Found:
    """The labels of `val/ILSVRC2012_val_*.JPEG` are lines of the devkit's ground truth, by the pictures' numbers."""
    pictures = [(match, size) for name, size in _pictures(root / "val") if (match := _FLAT.fullmatch(name))]
    if not pictures:
        raise Error(f"imagenet: {root / 'val'} holds neither class folders nor ILSVRC2012_val_*.JPEG; complete it")
    shown = _devkit(root)
    labels = {name: label for label, name in enumerate(classes)}
    found = []
    for match, size in pictures:
        name, number = f"val/{match[0]}", int(match[1])
        if not 1 <= number <= len(shown):
            raise Error(f"imagenet: the devkit in {root} does not say what {name} shows; get the devkit again")
        if (identifier := shown[number - 1]) not in labels:
            raise Error(f"imagenet: {name} shows {identifier}, which train/ lacks; complete train/")
        found.append((name, labels[identifier], size))
    return found


def _devkit(root: Path) -> list[str]:
    """The WordNet id of each validation picture, by its number."""
    from scipy.io import loadmat

    archive = root / f"{_DEVKIT}.tar.gz"
    folder = next((place for place in (root / _DEVKIT, root) if (place / _TRUTH).is_file()), None)
    if folder is None and not archive.is_file():
        raise Error(
            f"imagenet: val/ is not divided into classes, and neither {_DEVKIT}/ nor {_DEVKIT}.tar.gz lies in {root} "
            "to say which is which; put it there"
        )
    try:
        if folder is not None:
            contents = {name: (folder / name).read_bytes() for name in (_TRUTH, _META)}
        else:
            contents = _read_archive(archive)
        synsets = np.atleast_1d(loadmat(BytesIO(contents[_META]), squeeze_me=True)["synsets"])
        leaves = synsets[synsets["num_children"] == 0]
        ids = dict(zip(leaves["ILSVRC2012_ID"].tolist(), leaves["WNID"].tolist(), strict=True))
        return [ids.get(int(line), f"class {int(line)}") for line in contents[_TRUTH].split()]
    except Exception as error:  # gzip, tarfile and SciPy raise whatever a damaged file leads them to
        what = " ".join(str(error).split()) or type(error).__name__
        raise Error(f"imagenet: the devkit in {root} cannot be read ({what}); get it again") from error


def _read_archive(path: Path) -> dict[str, bytes]:
    contents = {}
    with archives.opened(path) as archive:
        for member in archives.members(archive):
            name = member.name.removeprefix("./").removeprefix(f"{_DEVKIT}/")
            if name in (_TRUTH, _META):
                contents[name] = archives.content(archive, member, 1 << 21)
    return contents


def read(data: str, request: Request) -> ImageNet:  # noqa: ARG001
    """The source of `imagenet`; nothing is listed yet."""
    return ImageNet(request)

"""`folder:PATH`: your own pictures in train/CLASS/* and test/CLASS/*, or a tar (.gz, .bz2, .xz) of that. No torch."""

import hashlib
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL

from wrn.data import archives, pictures
from wrn.data.arrays import Arrays, Decoded, Progress, Request, room_for
from wrn.data.cache import Notice
from wrn.data.paths import Files, Listing, fingerprint_of, packed
from wrn.errors import Error, MissingError, UsageError
from wrn.files import walk
from wrn.randomness import key


@dataclass(frozen=True)
class Picture:
    """One file of the data set."""

    split: str
    label: str
    name: str  # below the root: train/cat/1.jpg


class Folder:
    """A folder or an archive of pictures, listed but not yet decoded."""

    origin = None

    def __init__(self, path: Path, image_size: int, val_fraction: float) -> None:
        self.path, self.image_size, self.val_fraction = path, image_size, val_fraction
        try:
            self._is_archive = not path.is_dir()
            entries, self._prefix = _list_archive(path) if self._is_archive else (_list_folder(path), "")
        except FileNotFoundError:
            raise MissingError(f"folder:{path}: there is nothing at that path; give a folder or a tar file") from None
        except archives.DAMAGE as error:
            reason = str(error).partition(":\n")[0]  # tarfile tells of all compressions it tried
            unpack = (
                "unpack it, and name the folder" if path.suffix.lower() == ".zip" else "give a folder or a tar file"
            )
            raise Error(f"folder:{path}: cannot be listed: {reason}; {unpack}") from error
        self._stamps = {name: stamp for name, stamp in entries.items() if stamp is not None}
        self.train, self.test, self.classes = self._sort(entries)

    @property
    def key(self) -> Mapping[str, Any]:
        listing = hashlib.sha256(repr(sorted(self._stamps.items())).encode()).hexdigest()
        settings = {"path": str(self.path.resolve()), "image_size": self.image_size, "val_fraction": self.val_fraction}
        return {"reader": "folder", "version": 2, "listing": listing, "pillow": PIL.__version__, **settings}

    def _sort(self, entries: Mapping[str, Any]) -> tuple[list[Picture], list[Picture], tuple[str, ...]]:
        """Pictures by split, in the order of class and name. Raises wrn.Error for what cannot be a data set."""
        classes: dict[str, dict[str, list[Picture]]] = {"train": {}, "test": {}}
        left_out: list[str] = []
        for name, stamp in sorted(entries.items()):
            parts = PurePosixPath(name).parts
            if len(parts) < 2 or parts[0] not in classes or any(part.startswith(".") for part in parts):
                continue
            if stamp is None and len(parts) == 2:
                classes[parts[0]].setdefault(parts[1], [])  # a class folder; empty until pictures are seen in it
            elif stamp is not None and len(parts) == 2:
                left_out.append(name)  # it is in no class
            elif stamp is not None:
                of_class = classes[parts[0]].setdefault(parts[1], [])
                if PurePosixPath(name).suffix.lower() in pictures.SUFFIXES:
                    of_class.append(Picture(parts[0], parts[1], name))
                else:
                    left_out.append(name)
        what = f"folder:{self.path}"
        self.remarks = [
            f"{what}: left out what lies in no class or is no picture by its name: {len(left_out)}, such as {name}"
            for name in left_out[:1]
        ]
        if not classes["train"] and not classes["test"]:
            tops = self._top_folders(entries)
            named = {"training": "train", "Train": "train", "Training": "train", "TRAIN": "train", "Test": "test"}
            if alike := [top for top in tops if top in named]:
                how = f"rename {alike[0]}/ to {named[alike[0]]}/"
            elif tops and "train" not in tops and "test" not in tops:  # CLASS/*
                how = f"move {tops[0]}/ and the other classes into train/, and add --val-fraction 0.1"
            else:
                how = "lay the pictures out as train/CLASS/* and test/CLASS/*"
            raise Error(f"{what}: holds no train/CLASS/ folders; {how}")
        for split, by_class in classes.items():
            for label, found in by_class.items():
                if not found:
                    raise Error(f"{what}: {split}/{label} holds no pictures; fill the folder or remove it")
        if not classes["train"]:  # good for evaluation alone
            tests = [picture for label in sorted(classes["test"]) for picture in classes["test"][label]]
            return [], tests, tuple(sorted(classes["test"]))
        for label in sorted(classes["train"]):
            if any("\ud800" <= letter <= "\udfff" for letter in label):  # bytes that Python could not read as UTF-8
                raise Error(f"{what}: class {label!a} has a name that is not UTF-8; rename the folder")
        if len(classes["train"]) == 1:
            raise Error(f"{what}: holds one class only, {next(iter(classes['train']))!r}; classification needs two")
        if strangers := sorted(set(classes["test"]) - set(classes["train"])):
            raise Error(f"{what}: class {strangers[0]!r} is in test/ but not in train/; add it there or remove it")
        if classes["test"] and (untested := sorted(set(classes["train"]) - set(classes["test"]))):
            more = f" and {len(untested) - 1} more" if len(untested) > 1 else ""
            self.remarks.append(f"{what}: test/ has no pictures of {untested[0]!r}{more}; errors are of others")
        train = [picture for label in sorted(classes["train"]) for picture in classes["train"][label]]
        test = [picture for label in sorted(classes["test"]) for picture in classes["test"][label]]
        if test and self.val_fraction:
            raise UsageError(f"--val-fraction: {what} has a test split of its own; leave the option out")
        if not test:
            train, test = self._hold_out(classes["train"])
        return train, test, tuple(sorted(classes["train"]))

    def _top_folders(self, entries: Mapping[str, Any]) -> list[str]:
        """What lies where train/ and test/ should."""
        if self._is_archive:
            found = {PurePosixPath(name).parts[0] for name in entries if len(PurePosixPath(name).parts) > 1}
        else:
            found = {each.name for each in self.path.iterdir() if each.is_dir()}
        return sorted(name for name in found if not name.startswith((".", "__")))

    def _hold_out(self, by_class: Mapping[str, list[Picture]]) -> tuple[list[Picture], list[Picture]]:
        """A share of each class, chosen by file name alone, as the test split."""
        if not self.val_fraction:
            alike = next((name for name in ("val", "valid", "validation") if (self.path / name).is_dir()), None)
            add = f"rename {alike}/ to test/" if alike else "add one"
            raise Error(
                f"folder:{self.path}: has no test/ split; {add}, or hold out a part of train/ with --val-fraction 0.1"
            )
        train, test = [], []
        for label, found in sorted(by_class.items()):
            count = round(len(found) * self.val_fraction)
            if not 1 <= count < len(found):
                raise Error(
                    f"folder:{self.path}: train/{label} has {len(found)} pictures, so that --val-fraction "
                    f"{self.val_fraction:g} leaves one side without any; add pictures or change the share"
                )
            held_out = set(sorted(found, key=lambda picture: key("val-fraction", picture.name))[:count])
            train += [picture for picture in found if picture not in held_out]
            test += [picture for picture in found if picture in held_out]
        return train, test

    def decode(self, workers: int, progress: Progress) -> Decoded:
        place = {picture.name: index for index, picture in enumerate(self.train + self.test)}
        images = room_for(f"folder:{self.path}", len(place), self.image_size)
        broken: dict[str, str] = {}

        def decode_one(name: str, load: Callable[[], bytes | Path]) -> None:
            try:
                images[place[name]] = pictures.decode(load(), self.image_size)
            except (Error, OSError) as error:
                broken[name] = str(error)

        contents = self._read_archive(set(place)) if self._is_archive else self._read_folder(place)
        with ThreadPoolExecutor(workers) as pool:  # Pillow lets go of the interpreter while it decodes
            done = 0
            while chunk := list(islice(contents, (4 if self._is_archive else 64) * workers)):  # read ahead
                list(pool.map(lambda item: decode_one(*item), chunk))
                done += len(chunk)
                progress(f"decoding {self.path.name}", done, len(place))
        if broken:
            name = min(broken)
            count = f"{len(broken)} of {len(place)} pictures cannot be used, the first is " if len(broken) > 1 else ""
            raise Error(f"folder:{self.path}: {count}{name}: {broken[name]}; replace or remove it")
        index = {label: number for number, label in enumerate(self.classes)}
        labels = np.array([index[picture.label] for picture in self.train + self.test], dtype=np.int64)
        n = len(self.train)
        return Decoded(Arrays(images[:n], labels[:n]), Arrays(images[n:], labels[n:]), self.classes)

    def listing(self, progress: Progress, notice: Notice) -> Listing:  # noqa: ARG002  it was listed already
        """Where the pictures are, for the streaming loader. Raises ValueError for an archive."""
        if self._is_archive:
            raise UsageError(f"folder:{self.path}: --augment imagenet cannot stream from an archive; unpack it")
        index = {label: number for number, label in enumerate(self.classes)}
        splits = {
            split: [(each.name, index[each.label], self._stamps[each.name][0]) for each in pictures]
            for split, pictures in (("train", self.train), ("test", self.test))
        }
        train, test = (Files.of(*packed(found)) for found in splits.values())
        return Listing(self.path, train, test, self.classes, fingerprint_of(splits))

    def _read_folder(self, names: Mapping[str, int]) -> Iterator[tuple[str, Callable[[], bytes | Path]]]:
        for name in names:
            yield name, lambda name=name: self.path / name  # type: ignore[misc]

    def _read_archive(self, names: set[str]) -> Iterator[tuple[str, Callable[[], bytes | Path]]]:
        """Members in the archive's order, read one by one: nothing is extracted."""
        try:
            with archives.opened(self.path) as archive:
                for member in archives.members(archive):
                    name = _clean(member.name).removeprefix(self._prefix)
                    if name in names:
                        content = archives.content(archive, member, pictures.MOST_BYTES)
                        yield name, lambda content=content: content  # type: ignore[misc]
        except archives.DAMAGE as error:
            raise Error(f"folder:{self.path}: damaged ({error}); get it again") from error


def _list_folder(root: Path) -> dict[str, tuple[int, int] | None]:
    """{name below root: (size, modification time)}, None for folders; links are followed."""
    entries: dict[str, tuple[int, int] | None] = {}
    for split in ("train", "test"):
        for folder, subfolders, files in walk(root / split, _raise_unless_missing):
            base = Path(folder).relative_to(root).as_posix()
            entries.update({f"{base}/{name}": None for name in subfolders})
            for name in files:
                try:
                    status = (Path(folder) / name).stat()
                except FileNotFoundError:
                    raise Error(f"folder:{root}: {base}/{name} leads nowhere; mend or remove the link") from None
                entries[f"{base}/{name}"] = (status.st_size, status.st_mtime_ns)
    return entries


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _list_archive(path: Path) -> tuple[dict[str, tuple[int, int] | None], str]:
    """Entries as of a folder, and the folder inside the archive that holds them all, if there is one."""
    with archives.opened(path) as archive:
        members = list(archives.members(archive))
    prefix = _prefix(members)
    there = {_clean(member.name) for member in members}
    for link in (member for member in members if member.issym()):
        name = _clean(link.name).removeprefix(prefix)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(_clean(link.name)), link.linkname))
        if name.startswith(("train/", "test/")) and target not in there:
            raise Error(f"folder:{path}: {name} leads to nothing in the archive; mend or remove the link")
    stamp = path.stat().st_mtime_ns
    entries = {
        _clean(member.name).removeprefix(prefix): None if member.isdir() else (member.size, stamp)
        for member in members
        if member.isdir() or member.isfile() or member.islnk() or member.issym()
    }
    return entries, prefix


def _clean(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _prefix(members: list[tarfile.TarInfo]) -> str:
    """The one folder that holds everything, if there is one: archives are often made of a folder with its name."""
    tops = {_clean(member.name).split("/")[0] for member in members}
    tops = {top for top in tops if not top.startswith((".", "__MACOSX")) and top}
    return f"{tops.pop()}/" if len(tops) == 1 and not tops & {"train", "test"} else ""


def read(data: str, request: Request) -> Folder:
    """List the pictures of `folder:PATH`. Raises wrn.Error (see `Folder`) before anything is decoded."""
    return Folder(Path(data.partition(":")[2]).expanduser(), request.image_size, request.val_fraction)

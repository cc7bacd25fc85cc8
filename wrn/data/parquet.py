"""`parquet:PATH`: pictures and labels in Parquet files, laid out as on the Hugging Face hub. No torch.

A picture is bytes, or a struct with a field `bytes`; a label is a string, or an integer whose name is in the schema's
metadata, as `datasets` writes them. Rows are counted from 0. The names of files, or else of their folders, tell the
splits: data/train-00000-of-00002.parquet, plain_text/test/0000.parquet (after
huggingface.co/docs/hub/datasets-file-names-and-splits).
"""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from wrn.data import pictures
from wrn.data.arrays import Arrays, Decoded, Progress, Request, room_for
from wrn.errors import Error, MissingError, UsageError
from wrn.files import parsed, walk
from wrn.randomness import key

try:
    import pyarrow as pa  # type: ignore[import-untyped,unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped,unused-ignore]
except ImportError:  # said by `read`, with the path
    pa = pq = None

_SPLITS = ("train", "test", "val", "extra")
_SPLIT = re.compile(rf"({'|'.join(_SPLITS)})(ing|id|idation)?(?![a-z])", re.IGNORECASE)
_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label", "labels")
_BATCH = 1024  # rows in memory at a time
_MOST_CLASSES = 100_000  # without names; beyond it the integers count something else (ImageNet-21k has 21,841 classes)


@dataclass(frozen=True)
class File:
    """One Parquet file, not yet opened."""

    path: Path
    name: str  # below the root: data/train-00000-of-00002.parquet
    split: str  # train, test, val, extra; empty: not told
    configuration: str  # the folder below the root that holds its splits
    size: int
    modified: int  # nanoseconds


@dataclass(frozen=True)
class Columns:
    """What is read of a file."""

    image: str
    is_struct: bool  # whose field `bytes` is the picture
    label: str
    label_type: str  # integers or strings
    names: tuple[str, ...]  # of the classes that integers stand for, if they have names


class ParquetFiles:
    """Parquet files whose labels are read, and whose pictures are not yet.

    labels: int64 (N,), indices into the class names, of all rows in the order of the files, training files first;
    held_out: bool (N,), the rows of the test split.
    """

    origin = None

    def __init__(self, path: Path, image_size: int, val_fraction: float) -> None:
        self.path, self.image_size, self.val_fraction = path, image_size, val_fraction
        self.what = f"parquet:{path}"
        self.remarks: list[str] = []
        self.train, self.test = self._sort(self._list())
        self._columns = {file: self._columns_of(file) for file in self.train + self.test}
        names = self._agreed_names()
        train, test = ([self._labels(file, names) for file in files] for files in (self.train, self.test))
        self._rows = dict(zip(self.train + self.test, map(len, train + test), strict=True))
        self.classes, self.labels = self._classify([*chain(*train)], [*chain(*test)], names)
        self.held_out = np.arange(len(self.labels)) >= sum(map(len, train))
        if not self.test:
            self._hold_out()

    @property
    def key(self) -> Mapping[str, Any]:
        files = [[file.name, file.size, file.modified] for file in self.train + self.test]
        settings = {"path": str(self.path.resolve()), "image_size": self.image_size, "val_fraction": self.val_fraction}
        return {"reader": "parquet", "version": 1, "files": files, "pillow": PIL.__version__, **settings}

    def _list(self) -> list[File]:
        try:
            if self.path.is_file():
                return [_file(self.path, self.path.parent, split="train")]
            files = [_file(path, self.path) for path in _walk(self.path)]
        except FileNotFoundError as error:
            if self.path.exists():
                raise Error(f"{self.what}: {error.filename} leads nowhere; mend or remove the link") from None
            raise MissingError(
                f"{self.what}: there is nothing at that path; give a folder or a .parquet file"
            ) from None
        except OSError as error:
            raise Error(f"{self.what}: cannot be listed: {error}; give a folder or a .parquet file") from error
        if not files:
            raise Error(
                f"{self.what}: holds no .parquet files; give a folder of them, such as "
                "data/train-00000-of-00001.parquet, or one such file"
            )
        return sorted(files, key=lambda file: file.name)

    def _sort(self, files: list[File]) -> tuple[list[File], list[File]]:
        """Files to train on and files to test on. Raises wrn.Error for what cannot be a data set."""
        by_split = {split: [file for file in files if file.split == split] for split in (*_SPLITS, "")}
        for split in ("train", "test", "val"):
            configurations = sorted({file.configuration for file in by_split[split]})
            if len(configurations) > 1:
                raise Error(
                    f"{self.what}: holds several configurations, {', '.join(configurations)}; give one of them, as in "
                    f"parquet:{self.path / configurations[-1]}"
                )
        train, test = by_split["train"], by_split["test"] or by_split["val"]
        if not train and not test:
            raise Error(
                f"{self.what}: neither names nor folders tell which files are to train or to test on, such as "
                f"{files[0].name}; name them train-*.parquet and test-*.parquet"
            )
        if test and self.val_fraction:
            raise UsageError(f"--val-fraction: {self.what} has a test split of its own; leave the option out")
        if not test and not self.val_fraction:
            raise Error(f"{self.what}: has no test split; add one, or hold out a part of train with --val-fraction 0.1")
        left_out = {"extra": "of the extra split", "": "whose split no name tells"}
        if by_split["test"]:
            left_out["val"] = "of the validation split, as there is a test split"
        elif test:
            self.remarks.append(f"{self.what}: has no test split; its validation split is used as one")
        for split, which in left_out.items():
            if out := by_split[split]:
                count = "1 file" if len(out) == 1 else f"{len(out)} files"
                self.remarks.append(f"{self.what}: left out {count} {which}, such as {out[0].name}")
        return train, test

    def _columns_of(self, file: File) -> Columns:
        where = f"{self.what}: {file.name}"
        with _explained(where), pq.ParquetFile(file.path) as source:
            schema = source.schema_arrow
        types = {field.name: field.type for field in schema}
        held = ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "none"
        images = [name for name, kind in types.items() if _is_bytes(kind) or _has_bytes(kind)]
        image = next((name for name in _IMAGES if name in images), images[0] if len(images) == 1 else None)
        if image is None:
            why = f"{' and '.join(images)} may each be the column of pictures" if images else "no column of pictures"
            raise Error(
                f"{where}: {why}, which holds bytes, or a struct with a field bytes; its columns are {held}; name the "
                "right one image"
            )
        label = next((name for name in _LABELS if _label_type(types.get(name))), None)
        if label is None:
            raise Error(
                f"{where}: no column of labels, which holds integers or strings and is named {' or '.join(_LABELS)}; "
                f"its columns are {held}; name the right one label"
            )
        label_type = _label_type(types[label])
        names = _class_names(schema.metadata, label) if label_type == "integers" else ()
        if label == "fine_label" and "coarse_label" in types and file is (self.train + self.test)[0]:
            self.remarks.append(f"{self.what}: labels are fine_label; coarse_label is left out")
        return Columns(image, _has_bytes(types[image]), label, label_type, names)

    def _agreed_names(self) -> tuple[str, ...]:
        """The class names of all files, () if there are none. Raises wrn.Error for files of different sets."""
        first = next(iter(self._columns))
        named = next((file for file, columns in self._columns.items() if columns.names), first)
        for file, columns in self._columns.items():
            ours, theirs = (f"{c.label} ({c.label_type})" for c in (columns, self._columns[first]))
            if ours != theirs:
                raise Error(
                    f"{self.what}: {file.name} has the labels {ours}, but {first.name} has {theirs}; give files of "
                    "one set"
                )
            if columns.names and columns.names != self._columns[named].names:
                raise Error(f"{self.what}: {file.name} has other class names than {named.name}; give files of one set")
        return self._columns[named].names

    def _labels(self, file: File, names: tuple[str, ...]) -> list[Any]:
        """The label of each row: a string, or an integer that can stand for a class."""
        where, column = f"{self.what}: {file.name}", self._columns[file].label
        with _explained(where), pq.ParquetFile(file.path) as source:
            promised = source.metadata.num_rows
            labels = [
                label for batch in source.iter_batches(columns=[column]) for label in batch.column(column).to_pylist()
            ]
        if len(labels) != promised:
            raise Error(f"{where}: holds {len(labels)} rows, not {promised} as it says; replace or remove it")
        limit = len(names) or _MOST_CLASSES
        for row, label in enumerate(labels):
            if label is None:
                raise Error(f"{where}, row {row}: has no label; correct or remove it")
            if not isinstance(label, str) and not 0 <= label < limit:
                classes = f"{limit} classes that have names" if names else f"{limit:,} that there may be"
                raise Error(f"{where}, row {row}: label {label} is none of the {classes}; correct or remove it")
        return labels

    def _classify(self, train: list[Any], test: list[Any], names: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
        """The class names, and the labels of all rows as indices into them."""
        for split, files, labels in (("training", self.train, train), ("test", self.test, test)):
            if files and not labels:
                raise Error(f"{self.what}: its {split} split has no rows; replace the files")
        known = sorted(set(train or test))  # test files alone are good for evaluation
        if known and isinstance(known[0], str):
            classes, index = tuple(known), {label: number for number, label in enumerate(known)}
        else:
            classes, index = names or tuple(map(str, range(known[-1] + 1))), {label: label for label in known}
        if train and len(known) == 1:
            raise Error(f"{self.what}: holds one class only, {classes[index[known[0]]]!r}; classification needs two")
        if strangers := sorted(set(test) - set(known)):
            stranger = names[strangers[0]] if names else str(strangers[0])
            raise Error(f"{self.what}: class {stranger!r} is in test but not in train; add it there or remove it")
        if train and len(known) < len(classes):
            empty = next(name for number, name in enumerate(classes) if number not in index)
            self.remarks.append(
                f"{self.what}: {len(classes) - len(known)} of {len(classes)} classes have no picture, such as {empty!r}"
            )
        return classes, np.array([index[label] for label in chain(train, test)], dtype=np.int64)

    def _hold_out(self) -> None:
        """Make a share of each class the test split, chosen by file name and row alone."""
        rows = [(file.name, row) for file in self.train for row in range(self._rows[file])]
        for label, name in enumerate(self.classes):
            found = np.flatnonzero(self.labels == label).tolist()
            share = round(len(found) * self.val_fraction)
            if found and not 1 <= share < len(found):
                raise Error(
                    f"{self.what}: class {name!r} has {len(found)} pictures, so that --val-fraction "
                    f"{self.val_fraction:g} leaves one side without any; add pictures or change the share"
                )
            self.held_out[sorted(found, key=lambda at: key("val-fraction", *rows[at]))[:share]] = True

    def decode(self, workers: int, progress: Progress) -> Decoded:
        total = len(self.labels)
        images = room_for(self.what, total, self.image_size)
        order = np.argsort(self.held_out, kind="stable")  # the training split's rows, then the test split's
        place = np.argsort(order)
        broken: dict[int, str] = {}

        def decode_one(at: int, file: File, row: int, content: bytes | None) -> None:
            try:
                if content is None:
                    raise Error("holds no bytes")
                images[place[at]] = pictures.decode(content, self.image_size)
            except Error as error:
                broken[at] = f"{file.name}, row {row}: {error}"

        with ThreadPoolExecutor(workers) as pool:  # Pillow lets go of the interpreter while it decodes
            done = 0
            for file, row, contents in self._contents():
                list(pool.map(decode_one, count(done), repeat(file), count(row), contents))
                done += len(contents)
                progress(f"decoding {self.path.name}", done, total)
        if broken:
            several = f"{len(broken)} of {total} pictures cannot be used, the first is " if len(broken) > 1 else ""
            raise Error(f"{self.what}: {several}{broken[min(broken)]}; replace or remove it")
        labels = self.labels[order]
        n = int((~self.held_out).sum())
        return Decoded(Arrays(images[:n], labels[:n]), Arrays(images[n:], labels[n:]), self.classes)

    def _contents(self) -> Iterator[tuple[File, int, list[bytes | None]]]:
        """The pictures' bytes, some rows at a time, with their file and the first of the rows."""
        for file, columns in self._columns.items():
            where, end = f"{self.what}: {file.name}", 0
            wanted = f"{columns.image}.bytes" if columns.is_struct else columns.image
            with _explained(where), pq.ParquetFile(file.path) as source:
                for batch in source.iter_batches(_BATCH, columns=[wanted]):
                    column = batch.column(columns.image)
                    contents = (column.field("bytes") if columns.is_struct else column).to_pylist()
                    start, end = end, end + len(contents)
                    if end > self._rows[file]:
                        break
                    yield file, start, contents
            if end != self._rows[file]:
                raise Error(f"{where}: changed while it was read; start again")


def _walk(root: Path) -> Iterator[Path]:
    """All .parquet files below, links followed; hidden ones are some program's own."""
    for folder, subfolders, names in walk(root, _refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if re.fullmatch(r"[^.].*\.parquet", name, re.IGNORECASE))


def _refuse(error: OSError) -> None:
    raise error


def _file(path: Path, root: Path, split: str = "") -> File:
    relative, status = path.relative_to(root), path.stat()
    told, configuration = _split(path.name), relative.parent
    if not told:
        told, configuration = _split(path.parent.absolute().name), relative.parent.parent
    return File(path, relative.as_posix(), split or told, configuration.as_posix(), status.st_size, status.st_mtime_ns)


def _split(name: str) -> str:
    found = _SPLIT.match(name)
    return found[1].lower() if found else ""


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _has_bytes(kind: Any) -> bool:
    return bool(pa.types.is_struct(kind)) and any(field.name == "bytes" and _is_bytes(field.type) for field in kind)


def _label_type(kind: Any) -> str:
    """`integers`, `strings`, or nothing for what cannot be labels."""
    if kind is None:
        return ""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_string = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(matches(kind) for matches in is_string):
        return "strings"
    return "integers" if pa.types.is_integer(kind) else ""


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The names that `datasets` keeps of a ClassLabel, () if there are none that can be told from each other."""
    try:
        names = parsed((metadata or {})[b"huggingface"].decode())["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    good = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return tuple(names) if good else ()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what pyarrow raises for files that are not Parquet, or are damaged, into an Error of one line."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise Error(
            f"{where}: cannot be read as Parquet ({' '.join(str(error).split())}); replace or remove it"
        ) from error


def read(data: str, request: Request) -> ParquetFiles:
    """Files and labels of `parquet:PATH`. Raises wrn.Error (see `ParquetFiles`) before any picture is decoded."""
    if pq is None:
        raise Error(f"{data}: reading Parquet needs pyarrow, which is not installed; pip install pyarrow")
    return ParquetFiles(Path(data.partition(":")[2]).expanduser(), request.image_size, request.val_fraction)

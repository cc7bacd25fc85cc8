"""Arrays kept on disk, each file checked against its recorded hash the first time a process reads it.

Only one process at a time makes an entry; the others wait for it. An entry appears whole or not at all.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wrn.data.arrays import Arrays, Decoded, Progress, Source
from wrn.errors import Error
from wrn.files import cache_dir, read_sealed, sealed, sha256_of, write_whole

Notice = Callable[[str], None]
"""Told, in a line, what the user should know."""


@dataclass(frozen=True)
class Kept:
    """An entry of the cache: its arrays, and what is known of them."""

    arrays: dict[str, np.ndarray]
    info: dict[str, Any]


def folder_of(kind: str, name: str, key: Mapping[str, Any]) -> Path:
    """Where the entry of that key lies, if there is one."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[-40:]
    return cache_dir() / kind / f"{label}-{hashlib.sha256(_canonical(key).encode()).hexdigest()[:16]}"


def kept(
    kind: str,
    name: str,
    key: Mapping[str, Any],
    make: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]],
    notice: Notice,
    fits: Callable[[dict[str, Any]], bool] | None = None,
) -> Kept:
    """The entry of that key, from the disk if it is there undamaged and `fits`, else made now: arrays and their info.

    Raises wrn.Error if the cache cannot be written, and whatever `make` raises.
    """
    folder = folder_of(kind, name, key)
    with locked(folder, notice):
        for scratch in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        if folder.exists():
            try:
                info = _info(folder, key)
                if fits is None or fits(info):
                    return Kept(_arrays(folder, info, notice), info)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                notice(f"cache {folder}: damaged ({error}); making it again")
        _make(folder, key, make)
        info = _info(folder, key)
        return Kept(_arrays(folder, info, notice), info)


@contextmanager
def locked(path: Path, notice: Notice) -> Iterator[None]:
    """Keep other processes out while this one looks at, or makes, what lies at `path`."""
    with explained():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{path}.lock")
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                notice(f"{path.name}: another process prepares it; waiting")
                lock.acquire()
        except OSError:
            if not path.exists():
                raise
            lock = None  # somebody else's cache, which may be read
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def explained() -> Iterator[None]:
    """Turn the system's refusal to write the cache into what to do about it."""
    try:
        yield
    except OSError as error:
        raise Error(
            f"cache {cache_dir()}: cannot be written ({error.strerror or error}); free some space there, or set "
            "WRN_CACHE_DIR to a folder elsewhere"
        ) from error


def decoded(name: str, source: Source, workers: int, progress: Progress, notice: Notice) -> Decoded:
    """The arrays of `source`: from the cache if it holds them undamaged, else decoded now and kept."""

    def make() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        fresh = source.decode(workers, progress)
        arrays: dict[str, np.ndarray] = {
            "train_images": fresh.train.images,
            "train_labels": fresh.train.labels,
            "test_images": fresh.test.images,
            "test_labels": fresh.test.labels,
        }
        return arrays, {"classes": list(fresh.classes), "origin": dict(fresh.origin)}

    def fits(info: dict[str, Any]) -> bool:
        return source.origin is None or source.origin.items() <= info["origin"].items()

    entry = kept("data", name, source.key, make, notice, fits)
    classes, origin = entry.info["classes"], entry.info.get("origin", {})
    if origin and not origin["published"]:
        notice(f"{name}: prepared from {origin['where']}, not from the published files")
    return Decoded(
        Arrays(entry.arrays["train_images"], entry.arrays["train_labels"]),
        Arrays(entry.arrays["test_images"], entry.arrays["test_labels"]),
        tuple(classes),
        # The class names are part of what a run depends on, so they are part of the fingerprint
        hashlib.sha256(json.dumps([entry.info["sha256"], classes]).encode()).hexdigest(),
        origin,
    )


def _canonical(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _make(folder: Path, key: Mapping[str, Any], make: Callable[[], Any]) -> None:
    """Apart from `kept`, so that the arrays are gone from memory before they are read back."""
    arrays, info = make()
    with explained():
        if folder.exists():  # damaged, or from elsewhere than it is wanted; it stays until there is something better
            shutil.rmtree(folder)
        write_whole(folder, lambda temporary: _write(temporary, key, arrays, info))


def _write(folder: Path, key: Mapping[str, Any], arrays: dict[str, np.ndarray], info: dict[str, Any]) -> None:
    folder.mkdir()
    file = folder / "arrays.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    about = {"key": json.loads(_canonical(key)), "sha256": sha256_of(file), **info}
    (folder / "info.json").write_text(sealed(about), encoding="utf-8", newline="\n")


def _info(folder: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the entry. Raises what damaged JSON raises, ValueError for another content than was written."""
    info = read_sealed(folder / "info.json")
    if _canonical(info["key"]) != _canonical(key):
        raise ValueError("info.json is of something else")
    return info


_checked: set[tuple[str, int, int]] = set()


def _arrays(folder: Path, info: dict[str, Any], notice: Notice) -> dict[str, np.ndarray]:
    """Its arrays. Raises OSError if there are none, ValueError for another content than was written."""
    file = folder / "arrays.safetensors"
    status = file.stat()
    state = (str(file), status.st_size, status.st_mtime_ns)
    if state not in _checked:
        clock = time.perf_counter()
        if sha256_of(file) != info["sha256"]:
            raise ValueError("arrays.safetensors does not have its recorded hash")
        _checked.add(state)
        if status.st_size > 1e6:
            notice(
                f"cache {folder.name}: {status.st_size / 1e6:,.0f} MB checked in {time.perf_counter() - clock:.2f} s"
            )
    return load_file(file)

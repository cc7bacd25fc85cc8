"""Decoded data sets kept on disk, each checked against its hash whenever it is read."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wrn.data.arrays import Arrays, Decoded, Progress, Source
from wrn.files import sha256_of, write_json, write_whole


def cache_dir() -> Path:
    """Where caches lie: `WRN_CACHE_DIR`, else the platform's user cache."""
    return Path(os.environ.get("WRN_CACHE_DIR") or platformdirs.user_cache_dir("wrn"))


def decoded(name: str, source: Source, workers: int, progress: Progress, notice: Callable[[str], None]) -> Decoded:
    """The arrays of `source`: from the cache if it holds them undamaged, else decoded now and kept.

    A damaged cache is said, thrown away and made again.
    """
    key = json.dumps(source.key, sort_keys=True)
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[-40:]
    folder = cache_dir() / "data" / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if folder.exists():
        try:
            return _read(folder, key)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            notice(f"cache {folder}: damaged ({error}); decoding again")
            shutil.rmtree(folder)
    fresh = source.decode(workers, progress)
    try:
        write_whole(folder, lambda temporary: _write(temporary, fresh, key))
    except OSError:
        if not folder.exists():  # else another process was first, with the same content
            raise
    return _read(folder, key)


def _write(folder: Path, data: Decoded, key: str) -> None:
    folder.mkdir()
    arrays = {
        "train_images": data.train.images,
        "train_labels": data.train.labels,
        "test_images": data.test.images,
        "test_labels": data.test.labels,
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "arrays.safetensors")
    # The class names are part of what a run depends on, so they are part of the fingerprint
    digest = sha256_of(folder / "arrays.safetensors")
    info = {"key": json.loads(key), "classes": list(data.classes), "sha256": digest}
    write_json(folder / "info.json", info | {"fingerprint": _fingerprint(info)})


def _fingerprint(info: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([info["sha256"], info["classes"]]).encode()).hexdigest()


def _read(folder: Path, key: str) -> Decoded:
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    if json.dumps(info["key"], sort_keys=True) != key or info["fingerprint"] != _fingerprint(info):
        raise ValueError("info.json is not what was written")
    if sha256_of(folder / "arrays.safetensors") != info["sha256"]:
        raise ValueError("arrays.safetensors does not have its recorded hash")
    arrays = load_file(folder / "arrays.safetensors")
    return Decoded(
        Arrays(arrays["train_images"], arrays["train_labels"]),
        Arrays(arrays["test_images"], arrays["test_labels"]),
        tuple(info["classes"]),
        info["fingerprint"],
    )

"""Files written whole or not at all, and their hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from wrn.errors import Error


def cache_dir() -> Path:
    """Where caches lie: `WRN_CACHE_DIR`, else the platform's user cache."""
    return Path(os.environ.get("WRN_CACHE_DIR") or platformdirs.user_cache_dir("wrn"))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no handle for folders and needs none
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file (or fill a folder) beside `path`, then rename it into place.

    A reader sees the old content or the new, never a part: temp -> fsync -> rename -> fsync of the folder.
    A folder replaces nothing: `path` must not exist then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = scratch / path.name
        write(temporary)
        readers = path.parent.stat().st_mode & 0o666
        for part in [*temporary.rglob("*"), temporary]:
            if part.is_file():
                part.chmod(readers)  # safetensors shuts out all others; let those read it who can read the folder
            sync(part)
        temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    write_whole(path, write)


def read_json(path: Path, *fields: str) -> dict[str, Any]:
    """The object that a file holds. Raises wrn.Error for a damaged file and for one that lacks any of the fields."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Error(f"{path}: damaged ({error}); remove it, and run again what made it") from error
    if not isinstance(content, dict) or not content.keys() >= set(fields):
        raise Error(f"{path}: damaged (lacks {' or '.join(fields)}); remove it, and run again what made it")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented for a person, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

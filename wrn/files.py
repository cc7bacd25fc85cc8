"""Files and folders: written whole or not at all, walked through, hashed; and JSON, read and written."""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from wrn.errors import Error


def cache_dir() -> Path:
    """Where caches lie: `WRN_CACHE_DIR`, else the platform's user cache."""
    if given := os.environ.get("WRN_CACHE_DIR"):
        return Path(given)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("wrn"))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(
    root: str | os.PathLike[str], onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk` with links followed, but into no folder that was seen at a higher level: a link may lead back."""
    seen = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=onerror):
        real = {name: os.path.realpath(Path(folder, name)) for name in sorted(subfolders)}
        subfolders[:] = [name for name, place in real.items() if place not in seen]
        seen.update(real.values())
        yield folder, subfolders, names


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows has no handle for folders and needs none
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems have it for files alone, and need no more
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file (or fill a folder) beside `path`, then rename it into place.

    A reader sees the old content or the new, never a part: temp -> fsync -> rename -> fsync of the folder.
    A folder replaces nothing: `path` must not exist then. Raises OSError naming `path`.
    """
    with _naming(path):
        make_folder(path.parent)
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


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each on the disk before anything is put into it."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder that has a meaning as a whole: under another name first, so that no part of it is ever met.

    Of a link to a folder, the link.
    """
    if path.is_symlink():
        path.unlink()
        return
    doomed = path.with_name(f".{path.name}.removed")
    path.rename(doomed)
    shutil.rmtree(doomed)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let a failure to write name the file that was wanted, not the scratch, and have the system's number."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    write_whole(path, write)


def read_json(path: Path, *fields: str) -> dict[str, Any]:
    """The object that a file holds. Raises wrn.Error for a damaged file and for one that lacks any of the fields."""
    try:
        content = parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Error(f"{path}: damaged ({error}); remove it, and run again what made it") from error
    if not isinstance(content, dict) or not content.keys() >= set(fields):
        raise Error(f"{path}: damaged (lacks {' or '.join(fields)}); remove it, and run again what made it")
    return content


def parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, however deep it is nested.

    So it does for numbers that are none, infinite, or longer than 64 bits: no file of ours has such.
    """
    try:
        return json.loads(text, parse_constant=_refused, parse_int=_whole, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_json(value: Any) -> str:
    """One line for programs to read; what is not a number, or infinite, is null, as JSON has no word for it."""

    def told(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: told(each) for name, each in part.items()}
        if isinstance(part, (list, tuple)):
            return [told(each) for each in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(told(value), allow_nan=False)


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number")


def _whole(text: str) -> int:
    return int(text) if len(text) < 20 else _refused(text)


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refused(text)


def seal_of(content: Any) -> str:
    """What tells if JSON is as it was written: the SHA-256 of its canonical form."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(content: dict[str, Any]) -> str:
    """A JSON object as text, with its seal as the last field."""
    return _indented(content | {"seal": seal_of(content)})


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with its seal, whole or not at all."""
    write_text(path, sealed(content))


def read_sealed(path: Path, unsealed: Collection[str] = ()) -> dict[str, Any]:
    """The object of a file, without its seal. Raises ValueError if it is not, to the byte, what was written.

    A file without a seal, as a person or an older version wrote it, passes if it has none but the fields `unsealed`.
    """
    text = path.read_text(encoding="utf-8")
    content = parsed(text)
    if not isinstance(content, dict):
        raise ValueError("holds no object")
    try:
        as_written = text == _indented(content)  # 1E-5 is not what was written for 1e-5
    except RecursionError:  # some versions of Python read what they cannot write
        raise ValueError("nested too deeply") from None
    seal = content.pop("seal", None)
    good = content.keys() <= set(unsealed) if seal is None else as_written and seal == seal_of(content)
    if not good:
        raise ValueError("is not what was written")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented for a person, whole or not at all."""
    write_text(path, _indented(value))


def _indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

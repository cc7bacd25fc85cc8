"""Files fetched once into the cache and checked against their hash; an interrupted download continues."""

import hashlib
import re
import shutil
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, InvalidURL
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from wrn.data.arrays import Progress, Request
from wrn.data.cache import explained, locked
from wrn.display import say
from wrn.errors import Error, UsageError
from wrn.files import cache_dir

_TRIES = 4  # in a row without a byte gained
_WAIT = 0.5  # seconds before the second; before the third twice that, and so on
_PIECE = 1 << 18


@dataclass(frozen=True)
class Remote:
    """A file somewhere: its address, and the hash that makes it the right one, "md5:…" or "sha256:…"."""

    url: str
    digest: str

    @property
    def name(self) -> str:
        """The last part of the address, as a file can be called anywhere."""
        return re.sub(r"[^\w.-]+", "-", urlsplit(self.url).path.rsplit("/", 1)[-1])[-100:].strip(".") or "file"

    @property
    def place(self) -> Path:
        """Where it is kept. A mirror's file lies apart from the published one, under its hash."""
        kind, _, value = self.digest.partition(":")
        folder = cache_dir() / "downloads"
        return folder / self.name if kind == "md5" else folder / value[:16] / self.name


def remotes(published: Sequence[Remote], request: Request) -> list[Remote]:
    """The files to fetch: the published ones, or the mirrors that the user named for each of them, in their order."""
    if not request.url:
        return list(published)
    if len(request.url) != len(published):
        names = ", ".join(remote.name for remote in published)
        raise UsageError(f"--url: {len(request.url)} given; give {len(published)}, one for each of {names}")
    return [Remote(url, f"sha256:{digest.lower()}") for url, digest in zip(request.url, request.sha256, strict=True)]


def fetched(remote: Remote, progress: Progress) -> Path:
    """The file, from the cache if it has the right hash, else downloaded now, from where an earlier try ended.

    Raises wrn.Error if it cannot be had, saying what to put where by hand, or if it is not the right file.
    """
    path = remote.place
    part = path.with_name(f"{path.name}.part")

    def is_right(file: Path) -> bool:
        return digest_of(file, remote.digest) == remote.digest

    with locked(path, say):
        if path.exists():
            if is_right(path):
                return path
            say(f"{path}: not the right file ({described(path)}); downloading it")
        if part.exists() and not is_right(part):
            _download(remote, part, progress)
            if not is_right(part):
                part.unlink()  # its two ends may belong to different files
        if not part.exists():
            _download(remote, part, progress)
            if not is_right(part):
                what = described(part)
                part.unlink()
                raise Error(
                    f"{remote.url}: what came ({what}) is not the right file ({remote.digest}); try again later, or "
                    f"get it elsewhere and put it at {path}"
                )
        part.replace(path)
    return path


def digest_of(source: Path | bytes, like: str) -> str:
    """The hash of a file or some bytes, of the kind that `like` is: "md5:…" or "sha256:…"."""
    kind = like.partition(":")[0]
    digest = hashlib.new(kind, usedforsecurity=kind != "md5")
    if isinstance(source, bytes):
        digest.update(source)
    else:
        with source.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return f"{kind}:{digest.hexdigest()}"


def described(path: Path) -> str:
    """What a file seems to be, for a person who expected another one."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    page = start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
    return f"{'an HTML page, ' if page else ''}{path.stat().st_size:,} bytes"


def _download(remote: Remote, part: Path, progress: Progress) -> None:
    """Bring `part` to its full length, however often the connection breaks, while now and then a try brings more."""
    tries, most = 0, _size(part)
    while True:
        try:
            _continue(remote, part, progress)
            return
        except (OSError, HTTPException, ValueError) as error:  # of the network or, the last, of the address
            tries = 1 if _size(part) > most else tries + 1
            most = max(most, _size(part))
            code = error.code if isinstance(error, HTTPError) else None
            refused = code is not None and code < 500 and code not in (408, 429)
            refused |= isinstance(error, (ValueError, InvalidURL))
            if refused or tries >= _TRIES:
                reason = getattr(error, "reason", error)
                raise Error(
                    f"{remote.url}: cannot be downloaded ({f'{code} ' if code else ''}{reason}); run the same command "
                    f"again to continue, or download the file by hand and put it at {remote.place}"
                ) from error
            time.sleep(_WAIT * 2 ** (tries - 1))


def _continue(remote: Remote, part: Path, progress: Progress) -> None:
    """Ask for what is missing of `part` and append it. Raises wrn.Error if the disk does not take it."""
    done = _size(part)
    headers = {"User-Agent": "wrn"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=60)
    except HTTPError as error:
        error.close()
        if error.code != 416 or not done:
            raise
        part.unlink()  # as long as the file there or longer, and not it
        _continue(remote, part, progress)
        return
    with response:
        if response.status != 206:  # the whole file comes
            done = 0
        length = _length(response.headers)
        total = None if length is None else done + length
        with explained():
            free = shutil.disk_usage(part.parent).free
            if length is not None and length > free:
                raise OSError(f"{remote.name} takes {length:,} more bytes and {free:,} are free")
            file = part.open("ab" if done else "wb", buffering=0)  # what came is on the disk, whatever happens next
        with file:
            while piece := memoryview(response.read1(_PIECE)):
                done += len(piece)
                with explained():
                    while piece:
                        piece = piece[file.write(piece) :]
                progress(f"downloading {remote.name}", done, total or done)
    if total is not None and done < total:
        raise ConnectionError(f"it ended after {done:,} of {total:,} bytes")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _length(headers: Message) -> int | None:
    value = headers.get("Content-Length")
    return int(value) if value and value.isdigit() else None

"""Files fetched once into the cache and checked against their published hash."""

import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from wrn.data.arrays import Progress
from wrn.data.cache import cache_dir
from wrn.errors import Error
from wrn.files import write_whole


def fetched(url: str, md5: str, progress: Progress) -> Path:
    """The file behind `url`, from the cache if its MD5 is the published one, else downloaded now.

    Raises wrn.Error if it cannot be had, saying what to put where by hand, or if it is not the published file.
    """
    path = cache_dir() / "downloads" / url.rsplit("/", 1)[-1]
    if path.exists() and _md5(path) == md5:
        return path
    try:
        write_whole(path, lambda temporary: _download(url, temporary, progress))
    except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Error(f"{url}: cannot be downloaded ({reason}); download it by hand and put it at {path}") from error
    if _md5(path) != md5:
        size = path.stat().st_size
        path.unlink()
        raise Error(
            f"{url}: what came ({size:,} bytes) is not the published file (MD5 {md5}); try again later, or "
            f"get it elsewhere and put it at {path}"
        )
    return path


def _download(url: str, path: Path, progress: Progress) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while chunk := response.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            progress(f"downloading {path.name}", done, max(total, done))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

"""Memory that a training step on a CPU frees is kept for the next step instead of returned to the system.

Large arrays come from one region (`pool.cpp`): buffers whose lifetimes do not overlap share storage, as the paper's
optnet had it, and no gaps are left between them. For all else glibc is told not to return memory, which would be
faulted in again page by page. Results do not depend on it. Both are process-wide settings, on Linux alone.
"""

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from wrn.errors import Error
from wrn.native.library import compiled


@dataclass(frozen=True)
class Pooled:
    """Bytes of the pool: in arrays now, in arrays at most so far, and touched at most."""

    in_use: int
    most_in_use: int
    touched: int


def keep_freed_memory() -> None:
    """Keep it for the next step. WRN-16-4 at batch 128 trained 1.4 times as fast with it (docs/log.md)."""
    _mallopt(mmap_max=0, trim_threshold=2**31 - 1)
    if (pool := _pool()) is not None:
        pool.pool_enable(1)


def free_memory_as_usual() -> None:
    """The settings that glibc adapts to once arrays of tens of megabytes have been freed; no pool for new arrays."""
    _mallopt(mmap_max=65536, mmap_threshold=32 << 20, trim_threshold=64 << 20)
    if (pool := _pool()) is not None:
        pool.pool_enable(0)


def give_back_freed_memory() -> None:
    """Let the system have what is free now, since no next step is coming."""
    if (pool := _pool()) is not None:
        pool.pool_trim()
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


def pooled() -> Pooled | None:
    """What the pool holds; None where there is none."""
    if (pool := _pool()) is None:
        return None
    numbers = (ctypes.c_uint64 * 3)()
    pool.pool_statistics(numbers)
    return Pooled(*numbers)


@cache
def _pool() -> ctypes.CDLL | None:
    """The installed pool; None without Linux, a C++ compiler or torch's headers, and where addresses are limited."""
    if sys.platform != "linux" or _addresses_are_limited():
        return None
    torch_folder = Path(torch.__file__).parent
    libraries = str(torch_folder / "lib")
    options = (f"-I{torch_folder / 'include'}", f"-L{libraries}", "-lc10", f"-Wl,-rpath,{libraries}")
    # The version: the headers of another torch may lie at the same place
    with suppress(Error, OSError):
        pool = ctypes.CDLL(
            str(compiled("pool", [Path(__file__).with_name("pool.cpp")], *options, f"-DTORCH={torch.__version__}"))
        )
        memory_of_the_machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if pool.pool_install(ctypes.c_uint64(memory_of_the_machine)) == 0:
            return pool
    return None


def _addresses_are_limited() -> bool:
    """Whether the process may not reserve what it will not use (`ulimit -v`)."""
    import resource  # not on Windows

    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


@cache
def _libc() -> ctypes.CDLL | None:
    """glibc; None elsewhere, for musl has no such settings."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt, libc.malloc_trim  # noqa: B018
            return libc
    return None


def _mallopt(**settings: int) -> None:
    numbers = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}
    if (libc := _libc()) is not None:
        for name, value in settings.items():
            libc.mallopt(numbers[name], value)

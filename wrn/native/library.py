"""What is written in C++ here: compiled once, kept in the cache, loaded by ctypes."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from wrn.errors import Error
from wrn.files import cache_dir, write_whole

Kind = Literal["bf16", "fp32"]
Name = Literal["bf16", "fp32", "pictures", "sgd"]

KINDS: dict[torch.dtype, Kind] = {torch.bfloat16: "bf16", torch.float32: "fp32"}
WIDTHS: dict[Kind, int] = {"bf16": 16, "fp32": 8}  # numbers that the kernels take at a time, as in vectors.h

_KERNELS = ("vectors.h", "bn_relu.cpp", "winograd.h", "winograd.cpp", "winograd_gradient.cpp", "network.cpp")
_SOURCES: dict[Name, tuple[str, ...]] = {
    "bf16": (*_KERNELS, "weight_gradient.cpp"),
    "fp32": _KERNELS,
    "pictures": ("pictures.cpp",),
    "sgd": ("sgd.cpp",),
}
_NEEDS: dict[Name, tuple[str, ...]] = {  # as torch calls them
    "bf16": ("avx512_bf16", "avx512_bw"),
    "fp32": ("avx2", "fma3"),
    "pictures": (),
    "sgd": ("avx2", "fma3"),
}
_OPTIONS: dict[Name, str] = {
    "bf16": "-DBF16 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mamx-tile -mamx-bf16 -mfma -fopenmp",
    "fp32": "-mavx2 -mfma -fopenmp",
    "pictures": "-ffp-contract=off",  # each product rounded by itself, as torch's operations do
    "sgd": "-mavx2 -mfma -fopenmp -ffp-contract=off",
}


def capable(name: Name) -> bool:
    """Whether this processor has what that library is written for, on Linux."""
    has = torch.cpu.get_capabilities()
    return sys.platform == "linux" and all(has.get(each) for each in _NEEDS[name])


@cache
def lacking(name: Name) -> str | None:
    """Why there is no such library on a processor that could run it; None if there is, or it could not."""
    try:
        if capable(name):
            library(name)
    except Error as error:
        return str(error)
    return None


def available(name: Name) -> bool:
    """Whether there is such a library: kernels for tensors of a kind, for pictures, or for SGD."""
    return capable(name) and lacking(name) is None


@cache
def has_amx() -> bool:
    """Whether the kernels may use AMX, which the one of bf16's weight gradients is written for."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and library("bf16").request_amx() == 0


@cache
def library(name: Name) -> ctypes.CDLL:
    """The compiled kernels of that name. Raises wrn.Error, saying why, where there are none."""
    if not capable(name):
        instructions = "AVX-512 with bf16" if name == "bf16" else "AVX2"
        why = f"this processor has no {instructions}" if sys.platform == "linux" else "they are for Linux"
        raise Error(f"native kernels: {why}; leave --native out")
    sources = [Path(__file__).with_name(source) for source in _SOURCES[name]]
    file = compiled(name, sources, *_OPTIONS[name].split())
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError as error:  # it lies in a folder that nothing may be run from
        raise Error(f"native kernels: {error}; delete {file}, or set WRN_CACHE_DIR to another folder") from error
    if name == "bf16":
        loaded.weight_gradient_scratch.restype = ctypes.c_int64
    if name in WIDTHS:
        for function in (loaded.bn_statistics, loaded.add_with_statistics, loaded.bn_relu_backward):
            function.errcheck = _had_memory
    return loaded


def _had_memory(failed: Any, *_: object) -> Any:
    if failed:
        raise MemoryError("no more could be had for a map's sums")


def compiler() -> str:
    """The command by which C++ is compiled, with options of its own if CXX has some. Raises wrn.Error without one."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        raise Error("native kernels: no C++ compiler was found; install g++ or clang, or name one in CXX")
    return found


def compiled(name: str, sources: Sequence[Path], *options: str) -> Path:
    """The library made of the sources, with the compiler's `options`. Raises wrn.Error, saying why, if it cannot be."""
    try:
        words = shlex.split(compiler())
    except ValueError as error:
        raise Error(f"native kernels: CXX={compiler()}: {error}; name a compiler, with its options, there") from error
    command = [*words, "-O3", "-std=c++20", "-fPIC", "-shared"]
    # Of the text, not the place: a checkout that is moved compiles nothing again
    facts = [*(source.read_bytes() for source in sources), *(word.encode() for word in (*command, *options))]
    kept = cache_dir() / "native" / f"{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"

    def compile(made: Path) -> None:
        parts = [source for source in sources if source.suffix == ".cpp"]
        whole: list[str | Path] = [*command, *parts, *options, "-o", made]
        reason = None
        try:
            done = subprocess.run(whole, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode != 0:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
        except OSError as error:
            reason = str(error)
        if reason is not None:
            raise Error(f"native kernels: {compiler()} failed ({reason.strip()}); update it, or name another in CXX")
        made.write_bytes(sealed(made.read_bytes()))

    try:
        if not _is_whole(kept):
            write_whole(kept, compile)
    except OSError as error:
        raise Error(f"native kernels: {error}; set WRN_CACHE_DIR to a folder that can be read and written") from error
    return kept


def sealed(content: bytes) -> bytes:
    """With its SHA-256 at the end, which a loader does not look at."""
    return content + hashlib.sha256(content).digest()


def _is_whole(kept: Path) -> bool:
    """A process that loads a library of which a part is lost is killed, and not told why."""
    try:
        content = kept.read_bytes()
    except FileNotFoundError:
        return False
    return sealed(content[:-32]) == content


def kernels_of(dtype: torch.dtype) -> ctypes.CDLL:
    """The compiled kernels for bf16 or fp32."""
    return library(KINDS[dtype])


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where its numbers begin, as C++ takes it; null for None. The tensor must outlive the call."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def numbers(*values: int) -> tuple[ctypes.c_int64, ...]:
    """As C++ takes them."""
    return tuple(ctypes.c_int64(value) for value in values)


def arranged(tensor: torch.Tensor) -> torch.Tensor:
    """In channels_last layout, as the kernels read it: a part of a larger map, or one that a hook has kept, is not."""
    return tensor.contiguous(memory_format=torch.channels_last)


def floats(*sizes: int) -> torch.Tensor:
    """Room for fp32 numbers on the CPU, whatever torch makes where it is not told."""
    return torch.empty(sizes, dtype=torch.float32, device="cpu")

"""What is written in C++ here: compiled once, kept in the cache, loaded by ctypes."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from wrn.errors import Error
from wrn.files import cache_dir, write_whole

SOURCE = Path(__file__).with_name("kernels.cpp")
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16", "amx-tile", "amx-bf16", "fma")


def capable() -> bool:
    """Whether this processor has what the kernels are written for, AVX-512 with bf16, on Linux."""
    has = torch.cpu.get_capabilities()
    return sys.platform == "linux" and bool(has.get("avx512_bf16") and has.get("avx512_bw"))


@cache
def has_amx() -> bool:
    """Whether the kernels may use AMX, which the one of weight gradients is written for."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and library().request_amx() == 0


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises wrn.Error, saying why, where there are none."""
    if not capable():
        raise Error("native kernels: this processor has no AVX-512 with bf16; leave --native out")
    loaded = ctypes.CDLL(str(compiled(SOURCE, *(f"-m{name}" for name in _INSTRUCTIONS), "-fopenmp")))
    loaded.weight_gradient_scratch.restype = ctypes.c_int64
    return loaded


def compiled(source: Path, *options: str) -> Path:
    """The library made of a source, with the compiler's `options`. Raises wrn.Error, saying why, if it cannot be."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise Error("native kernels: no C++ compiler was found; install g++ or clang, or name one in CXX")
    command = [compiler, "-O3", "-std=c++20", "-fPIC", "-shared", str(source), *options]
    # Of the text, not the place: a checkout that is moved compiles nothing again
    facts = [source.read_bytes(), *(word.encode() for word in command if word != str(source))]
    kept = cache_dir() / "native" / f"{source.stem}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    if kept.exists():
        return kept

    def compile(made: Path) -> None:
        done = subprocess.run([*command, "-o", made], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
            raise Error(f"native kernels: {compiler} failed ({reason.strip()}); update it, or name another in CXX")

    try:
        write_whole(kept, compile)
    except OSError as error:
        raise Error(f"native kernels: {error}; set WRN_CACHE_DIR to a folder that can be written") from error
    return kept


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where its numbers begin, as C++ takes it; null for None. The tensor must outlive the call."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def numbers(*values: int) -> tuple[ctypes.c_int64, ...]:
    """As C++ takes them."""
    return tuple(ctypes.c_int64(value) for value in values)

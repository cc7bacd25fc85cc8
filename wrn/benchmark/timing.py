"""Fair timings in one process: contestants alternate, medians count; and the machine's peak rates."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from wrn.environment import processor
from wrn.errors import UsageError
from wrn.hardware import multiplies_bf16, tf32
from wrn.native.memory import free_memory_as_usual, keep_freed_memory

Contestant = Callable[[], None]
"""One step of the work to be timed. On a GPU it may return before its kernels have finished."""


def alternate(
    contestants: Mapping[str, Contestant], rounds: int, turn: float = 0.5, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds a step, of each round: the contestants take turns of at least `turn` seconds, and at least a step.

    On a GPU, too, the time is taken when all launched work is done.
    """
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: must be at least 1")
    first = 2 if torch.device(device).type == "cpu" else 5  # by the fifth a CUDA graph has been recorded
    for step in contestants.values():
        for _ in range(first):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            step()  # the processor's caches are full of the last one's
            synchronize(device)
            steps, clock = 0, time.perf_counter()
            while steps == 0 or time.perf_counter() - clock < turn:
                step()
                steps += 1
            synchronize(device)
            seconds[name].append((time.perf_counter() - clock) / steps)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    found = {"ms": statistics.median(seconds), "ms_min": min(seconds), "ms_max": max(seconds)}
    return {name: round(1000 * value, 4) for name, value in found.items()}


def compared(model: str, batch_size: int, seconds: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each contestant, ours first: its times and images/s, and of ours the ratio to each other's."""
    rows: list[dict[str, Any]] = []
    for name, each in seconds.items():
        row: dict[str, Any] = {"model": model, "batch_size": batch_size, "contestant": name, **summary(each)}
        rows.append(row | {"images_per_second": round(1000 * batch_size / row["ms"], 1)})
    for row in rows[1:]:
        rows[0][f"times {row['contestant']}"] = round(row["ms"] / rows[0]["ms"], 2)
    return rows


def share_of_matmul_peak(macs: int, batch_size: int, ms: float, passes: int, peak_tflops: float) -> float:
    """Multiplications, `macs` an image and pass, as a share of the machine's peak; `passes`: 3 with the backward pass.

    `ms`: of a step.
    """
    return round(2 * passes * macs * batch_size / ms / 1e9 / peak_tflops, 3)


def as_ours(step: Contestant) -> Contestant:
    """The step in a process that `wrn train` has set up."""

    def timed() -> None:
        keep_freed_memory()
        step()

    return timed


def as_usual(step: Contestant, device: str, search: bool = False) -> Contestant:
    """The step in a process as it begins: glibc's memory, and cuDNN, but not cuBLAS, free to round to TF32.

    `search`: cuDNN looks for the fastest convolutions, as it does in a loop that was tuned.
    """

    def timed() -> None:
        free_memory_as_usual()
        searched = torch.backends.cudnn.benchmark
        with tf32(device, False):
            if torch.device(device).type == "cuda":
                torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = search
            step()
        torch.backends.cudnn.benchmark = searched

    return timed


def peaks(device: str) -> dict[str, float]:
    """The machine's peak rates, best of several tries: TFLOP/s of matrix products in fp32 and, where these are fast,
    in bf16 and TF32; GB/s of copying (read and written).
    """
    best = {}
    n = 8192 if device != "cpu" else 2048
    kinds = {"fp32": torch.float32}
    if multiplies_bf16(torch.device(device)):
        kinds["bf16"] = torch.bfloat16
        if torch.device(device).type == "cuda":
            kinds["tf32"] = torch.float32
    for name, kind in kinds.items():
        a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
        with tf32(device, name == "tf32"):
            best[f"matmul_{name}_tflops"] = round(2 * n**3 / _best(partial(torch.mm, a, b), device) / 1e12, 3)
    source = torch.empty(64 << 20, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best["copy_gb_per_s"] = round(2 * source.nbytes / _best(lambda: target.copy_(source), device) / 1e9, 2)
    return best


def _best(work: Callable[[], Any], device: str, times: int = 8) -> float:
    found = []
    for _ in range(times):
        clock = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - clock)
    return min(found)


def synchronize(device: str) -> None:
    """Wait for what was asked of a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    amx = " with AMX" if torch.cpu.get_capabilities().get("amx_bf16") else ""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else processor() + amx,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }

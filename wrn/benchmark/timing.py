"""Fair timings in one process: contestants alternate, medians count; and what the machine could do at most."""

import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from wrn.training.precision import keep_freed_memory

Contestant = Callable[[], None]
"""One step of the work to be timed; whatever it computes is done when it returns."""


def alternate(contestants: Mapping[str, Contestant], rounds: int, turn: float = 0.5) -> dict[str, list[float]]:
    """Seconds a step, of each round: the contestants take turns of at least `turn` seconds, and at least a step."""
    for step in contestants.values():
        step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            step()  # the processor's caches are full of the last one's
            steps, clock = 0, time.perf_counter()
            while steps == 0 or time.perf_counter() - clock < turn:
                step()
                steps += 1
            seconds[name].append((time.perf_counter() - clock) / steps)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    found = {"ms": statistics.median(seconds), "ms_min": min(seconds), "ms_max": max(seconds)}
    return {name: round(1000 * value, 4) for name, value in found.items()}


def with_allocator(step: Contestant, keep: bool) -> Contestant:
    """The step with glibc's memory as `wrn train` sets it, or as a process begins with it (on other systems: as is)."""

    def timed() -> None:
        keep_freed_memory() if keep else _usual_memory()
        step()

    return timed


def _usual_memory() -> None:
    """What glibc's own adaptation comes to once arrays of tens of megabytes were freed."""
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL("libc.so.6").mallopt
        except (OSError, AttributeError):
            return
        m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4
        mallopt(m_mmap_max, 65536)
        mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, 64 << 20)


def peaks(device: str) -> dict[str, float]:
    """The machine's best of some: TFLOP/s of bf16 and fp32 matrix products, GB/s of copying (read and written)."""
    best = {}
    for name, kind in (("matmul_bf16_tflops", torch.bfloat16), ("matmul_fp32_tflops", torch.float32)):
        n = 8192 if device != "cpu" else 2048
        a, b = torch.randn(n, n, device=device, dtype=kind), torch.randn(n, n, device=device, dtype=kind)
        best[name] = round(2 * n**3 / _best(lambda: torch.mm(a, b), device) / 1e12, 3)  # noqa: B023  # called at once
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
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    has = torch.cpu.get_capabilities()
    return name + (" with AMX" if has.get("amx_bf16") else "")

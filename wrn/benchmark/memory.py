"""Peak memory of a training step, each way in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import torch

import wrn
from wrn.benchmark.timing import Contestant, machine, with_allocator
from wrn.benchmark.training import BATCH_SIZES, OURS, TUNED, USUAL, ours, usual
from wrn.data.loader import Resident
from wrn.errors import Error
from wrn.training.precision import Execution, choose, peak_memory

LOW = "wrn --memory low"


def bench_memory(models: tuple[str, ...], batch_size: int | None = None, device: str | None = None) -> dict[str, Any]:
    """Bytes of a training step at most, above what the process held once data and network were there.

    Gradients and the optimiser's momentum count; weights do not. Returns {machine, rows}; a row has model, batch_size,
    contestant, mib, and of ours the share of each usual loop's.
    """
    execution = choose(device)
    rows: list[dict[str, Any]] = []
    for model in models:
        size = batch_size or (BATCH_SIZES.get(model, 128) if execution.device == "cpu" else 128)
        found = []
        names = [OURS, LOW, USUAL, TUNED] if execution.native else [OURS, USUAL, TUNED]
        for name in names:
            words = [sys.executable, "-m", "wrn.benchmark.memory", model, str(size), name, execution.device]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Error(f"bench memory: {name} failed ({(done.stderr.splitlines() or ['no reason given'])[-1]})")
            peak = json.loads(done.stdout.splitlines()[-1])
            found.append({"model": model, "batch_size": size, "contestant": name, "mib": round(peak / 2**20, 1)})
        for row in found:
            if row["contestant"] in (OURS, LOW):
                for other in (USUAL, TUNED):
                    least = next(each["mib"] for each in found if each["contestant"] == other)
                    row[f"share of {other}"] = round(row["mib"] / least, 3)
        rows += found
    return {"what": "memory", "machine": machine(execution.device), "execution": execution.in_words(), "rows": rows}


def measure(model: str, batch_size: int, name: str, device: str) -> int:
    """Bytes, in this process, which must do nothing else."""
    recipe = wrn.recipe(model, data="digits", batch_size=batch_size, augment="flip-crop", drop_last=True)
    execution = choose(device, memory="low" if name == LOW else "normal")
    data = wrn.dataset(recipe, device=device)
    assert isinstance(data.train, Resident)
    step: Contestant
    if name in (OURS, LOW):
        execution.apply()
        step = ours(recipe, execution, execution.place(wrn.network_of(recipe, 10, 0)).train(), data.train)
    else:
        images, labels = data.train.images.cpu().numpy(), data.train.labels.cpu().numpy()
        step = with_allocator(usual(recipe, device, images, labels, name == TUNED, workers=0), keep=False)
    before = _held(execution)
    for _ in range(3):
        step()
    return (peak_memory(device) or 0) - before


def _held(execution: Execution) -> int:
    if torch.device(execution.device).type == "cuda":
        return torch.cuda.memory_allocated(execution.device)
    # Linux's own count of what is resident now; elsewhere the peak so far
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096
    except OSError:
        return peak_memory(execution.device) or 0


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))

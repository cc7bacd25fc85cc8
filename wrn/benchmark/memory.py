"""Peak memory of a training step, each way in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import wrn
from wrn.benchmark.timing import machine, with_allocator
from wrn.benchmark.training import BATCH_SIZES, OURS, TUNED, USUAL, endless, ours, recipe_of, resident, usual
from wrn.errors import Error
from wrn.hardware import memory_held, peak_memory
from wrn.training.precision import choose

LOW = "wrn --memory low"


def bench_memory(
    models: tuple[str, ...] = (), batch_size: int | None = None, device: str | None = None
) -> dict[str, Any]:
    """Bytes of a training step at most, above what the process held once data and network were there.

    Gradients and the optimiser's momentum count; weights do not. Returns {machine, rows}; a row has model, batch_size,
    contestant, mib, and of ours the share of each usual loop's.
    """
    execution = choose(device)
    rows: list[dict[str, Any]] = []
    for model in models or BATCH_SIZES:
        size = recipe_of(model, batch_size, execution.device, "digits").batch_size
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
    recipe = recipe_of(model, batch_size, device, "digits")
    execution = choose(device, memory="low" if name == LOW else "normal")
    classes, split = resident(recipe, device)
    if name in (OURS, LOW):
        execution.apply()
        network = execution.place(wrn.network_of(recipe, classes, 0)).train()
        step = ours(recipe, execution, network, endless(split, recipe))
    else:
        step = with_allocator(usual(recipe, device, split, name == TUNED, workers=0), keep=False)
    before = memory_held(device)
    for _ in range(3):
        step()
    return (peak_memory(device) or 0) - before


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))

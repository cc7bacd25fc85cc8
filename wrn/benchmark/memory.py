"""Peak memory of a training step, each way in a process of its own; beside it what the paper's framework took."""

import importlib
import json
import subprocess
import sys
from typing import Any, get_args

import torch
from torch import Tensor, nn

import wrn
from wrn.benchmark.timing import machine
from wrn.benchmark.training import (
    BATCH_SIZES,
    OURS,
    USUAL,
    endless,
    ours,
    recipe_of,
    resident,
    tuned,
    usual_loops,
    usual_size,
)
from wrn.errors import Error
from wrn.hardware import memory_held, peak_memory
from wrn.models.stochastic_depth import Residual
from wrn.native.memory import Pooled, free_memory_as_usual, pooled
from wrn.native.recomputation import Memory
from wrn.training.precision import choose

OURS_BY_MEMORY: dict[str, Memory] = {
    OURS if memory == "normal" else f"{OURS} --memory {memory}": memory for memory in get_args(Memory)
}
TORCH7, OPTNET = "Torch7, counted", "Torch7 with optnet at best, counted"


def bench_memory(
    models: tuple[str, ...] = (), batch_size: int | None = None, device: str | None = None
) -> dict[str, Any]:
    """Peak memory of a training step, beyond what the process held once data and network were loaded.

    Gradients and the optimiser's momentum count; weights do not. Returns {machine, rows}; a row has model, batch_size,
    contestant, mib, and of ours the share of each other's; `arrays_mib` of it is in large arrays, where we can tell.
    What Torch7 took is counted from the network (`counted`), not measured.
    """
    execution = choose(device)
    rows: list[dict[str, Any]] = []
    for model in models or BATCH_SIZES:
        size = recipe_of(model, batch_size, execution.device, "digits").batch_size
        usual = [USUAL, tuned(execution.device)] if usual_size(model) else []
        found = []
        for name in [*OURS_BY_MEMORY, *usual]:
            words = [sys.executable, "-m", "wrn.benchmark.memory", model, str(size), name, execution.device]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Error(f"bench memory: {name} failed ({(done.stderr.splitlines() or ['no reason given'])[-1]})")
            peak, arrays = json.loads(done.stdout.splitlines()[-1])
            found.append(_row(model, size, name, peak, arrays))
        found += [_row(model, size, name, count) for name, count in counted(model, size).items()]
        others = [row for row in found if row["contestant"] not in OURS_BY_MEMORY]
        for row in found[: len(OURS_BY_MEMORY)]:
            row |= {f"share of {other['contestant']}": round(row["mib"] / other["mib"], 3) for other in others}
        rows += found
    return {"what": "memory", "machine": machine(execution.device), "execution": execution.in_words(), "rows": rows}


def _row(model: str, batch_size: int, name: str, peak: int, arrays: int | None = None) -> dict[str, Any]:
    row = {"model": model, "batch_size": batch_size, "contestant": name, "mib": round(peak / 2**20, 1)}
    return row if arrays is None else row | {"arrays_mib": round(arrays / 2**20, 1)}


def counted(model: str, batch_size: int) -> dict[str, int]:
    """Bytes of the same step in the framework of the paper, without and with its authors' optnet, counted.

    There each layer keeps its output and its gradInput, in fp32; ReLU and sums work in place. optnet, as the authors
    used it, keeps the outputs and lets gradInputs share storage once they are read: at best three of the largest, for
    what reaches a block, what a layer is given and what it makes (its own page says half of all gradInputs; the paper,
    that its best networks fit into 4 GB at batch 128). Gradients and momentum of the weights count as in ours.
    """
    outputs, gradients = [0], [0]

    def look(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        outputs.append(made.nbytes)
        gradients.append(given[0].nbytes)

    with torch.device("meta"):
        network = wrn.create_model(model, num_classes=10).train()
        for part in network.modules():
            if isinstance(part, (nn.Conv2d, nn.BatchNorm2d)):
                part.register_forward_hook(look)
            elif isinstance(part, Residual):  # where branch and shortcut part, their gradients are added
                part.register_forward_pre_hook(lambda _, given: gradients.append(given[0].nbytes))
        network(torch.empty(batch_size, 3, 32, 32))
    weights = 2 * sum(parameter.nbytes for parameter in network.parameters())
    return {
        TORCH7: weights + sum(outputs) + sum(gradients),
        OPTNET: weights + sum(outputs) + 3 * max(gradients),
    }


def measure(model: str, batch_size: int, name: str, device: str) -> tuple[int, int | None]:
    """Bytes, in this process, which must do nothing else; and those of them in large arrays, None if not known."""
    importlib.import_module("torch._dynamo")  # 70 MiB that some ways load as they are made, others in the first step
    recipe = recipe_of(model, batch_size, device, "digits")
    classes, split = resident(recipe, device)
    if name in OURS_BY_MEMORY:
        execution = choose(device, memory=OURS_BY_MEMORY[name])
        execution.apply()
        network = execution.place(wrn.network_of(recipe, classes, 0)).train()
        step = ours(recipe, execution, network, endless(split, recipe))
    else:
        free_memory_as_usual()
        step = usual_loops(recipe, device, split, workers=0, libraries=False)[name]

    def arrays() -> Pooled | None:
        return pooled() if device == "cpu" and name in OURS_BY_MEMORY else None

    before, arrays_before = memory_held(device), arrays()
    for _ in range(3):
        step()
    after, of_arrays = arrays(), None
    if arrays_before is not None and after is not None:
        of_arrays = after.most_in_use - arrays_before.in_use
    return (peak_memory(device) or 0) - before, of_arrays


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])))

"""Figure 4: forward and backward of networks of like error at minibatch 32, as ratios beside the paper's."""

from typing import Any

import torch
import torch.nn.functional as F

import wrn
from wrn.benchmark.timing import Contestant, alternate, machine, summary, synchronize, with_allocator
from wrn.paper import rows as rows_of
from wrn.training.precision import Execution, choose

_OURS = {"thin 164 (pre-act bottleneck)": "pre-resnet-164", "thin 1004 (sic; 1001)": "pre-resnet-1001"}
TO = "wrn-40-4"  # what the ratios are to


def bench_figure4(
    batch_size: int = 32,
    rounds: int = 5,
    device: str | None = None,
    precision: str | None = None,
    native: bool | None = None,
) -> dict[str, Any]:
    """Time forward and backward of the figure's networks on noise.

    Returns {machine, execution, rows}; a row has model, ms, paper_ms (a Titan X in fp32) and both as
    ratios to WRN-40-4.
    """
    execution = choose(device, precision, native=native)
    execution.apply()
    paper = {_OURS.get(row["network"], row["network"].lower()): row["time_ms"] for row in rows_of("fig4")}
    contestants = {model: with_allocator(_forward_and_backward(model, batch_size, execution), True) for model in paper}
    seconds = alternate(contestants, rounds)
    rows = [
        {"model": model, "batch_size": batch_size, "paper_ms": paper[model], **summary(seconds[model])}
        for model in paper
    ]
    of = next(row for row in rows if row["model"] == TO)
    for row in rows:
        row[f"ratio to {TO}"] = round(row["ms"] / of["ms"], 2)
        row["paper's ratio"] = round(row["paper_ms"] / of["paper_ms"], 2)
    return {"what": "fig4", "machine": machine(execution.device), "execution": execution.in_words(), "rows": rows}


def _forward_and_backward(model: str, batch_size: int, execution: Execution) -> Contestant:
    network = execution.place(wrn.create_model(model, num_classes=10, seed=0)).train()
    images = execution.arrange(torch.randn(batch_size, 3, 32, 32, device=execution.device))
    labels = torch.zeros(batch_size, dtype=torch.int64, device=execution.device)

    def step() -> None:
        with execution.autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        network.zero_grad()
        synchronize(execution.device)

    return step

"""The time of forward and backward passes, network beside network, as the paper prints it in three places."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

import wrn
from wrn.benchmark.timing import Contestant, alternate, as_ours, machine, summary
from wrn.errors import UsageError
from wrn.experiments.catalog import EXPERIMENTS
from wrn.models.families import DepthRule
from wrn.paper import rows as rows_of
from wrn.training.precision import Execution, choose


def bench_times(
    experiment: str,
    batch_size: int | None = None,
    rounds: int = 5,
    device: str | None = None,
    precision: str | None = None,
    native: bool | None = None,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """Time forward and backward of an experiment's networks on noise, in turns; `only` some rows, by their names.

    Returns {machine, execution, rows}; a row has model, ms, paper's time in its own unit, and both as ratios to one of
    the networks.
    """
    known = EXPERIMENTS[experiment]
    times = known.times
    assert times is not None
    size = times.batch_size if batch_size is None else batch_size
    if size < 1:
        raise UsageError(f"--batch-size {size}: must be at least 1")
    execution = choose(device, precision, native=native)
    execution.apply()
    chosen = [row for row in known.rows if not only or row.key in (*only, times.to)]
    contestants = {
        row.key: as_ours(_passes(row.model, row.fields.get("depth_rule"), size, times.image_size, execution))
        for row in chosen
    }
    seconds = alternate(contestants, rounds, device=execution.device)
    to = summary(seconds[times.to])["ms"]
    paper = {row.key: rows_of(experiment)[row.paper][times.key] for row in chosen if row.paper is not None}
    rows = []
    for row in chosen:
        found: dict[str, Any] = {"model": row.model, "batch_size": size, **summary(seconds[row.key])}
        found[f"ratio to {times.to}"] = round(found["ms"] / to, 2)
        if row.key in paper and times.to in paper:
            found["paper's ratio"] = round(paper[row.key] / paper[times.to], 2)
        rows.append(found)
    return {"what": experiment, "machine": machine(execution.device), "execution": execution.in_words(), "rows": rows}


def _passes(model: str, rule: DepthRule | None, batch_size: int, image_size: int, execution: Execution) -> Contestant:
    network = execution.place(wrn.create_model(model, num_classes=10, depth_rule=rule, seed=0)).train()
    images = execution.arrange(torch.randn(batch_size, 3, image_size, image_size, device=execution.device))
    labels = torch.zeros(batch_size, dtype=torch.int64, device=execution.device)

    def step() -> None:
        with execution.autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        network.zero_grad()

    return step

"""The data pipeline's share of a training step."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from torch import Tensor

import wrn
from wrn.benchmark.timing import alternate, machine, summary, synchronize, with_allocator
from wrn.benchmark.training import ours_on
from wrn.data.loader import Resident
from wrn.errors import UsageError
from wrn.training.precision import choose


def bench_loading(
    models: tuple[str, ...],
    batch_size: int | None = None,
    rounds: int = 5,
    device: str | None = None,
    data: str = "digits",
) -> dict[str, Any]:
    """Time steps on batches from the resident loader, on one fixed batch, and the making of batches alone.

    Returns {machine, execution, rows}; a row has model, batch_size, the three in ms, and the share that making batches
    has of a step.
    """
    execution = choose(device)
    execution.apply()
    rows = []
    for model in models:
        recipe = wrn.recipe(model, data=data, batch_size=batch_size or 128, augment="flip-crop", drop_last=True)
        split = wrn.dataset(recipe, device=execution.device).train
        if not isinstance(split, Resident):
            raise UsageError(f"data {data}: is not held in memory; `benchmarks/streaming.py` times decoding")

        def batches(split: Resident = split, recipe: Any = recipe) -> Iterator[tuple[Tensor, Tensor]]:
            for epoch in range(1, 1_000_000):
                yield from split.batches(recipe, seed=0, epoch=epoch)

        network = execution.place(wrn.network_of(recipe, 10, 0)).train()
        alone = batches()

        def make(alone: Iterator[tuple[Tensor, Tensor]] = alone) -> None:
            execution.arrange(next(alone)[0])
            synchronize(execution.device)

        seconds = alternate(
            {
                name: with_allocator(step, keep=True)
                for name, step in {
                    "ms_loaded": ours_on(recipe, execution, network, batches()),
                    "ms_fixed": ours_on(recipe, execution, network, cycle([next(batches())])),
                    "ms_making": make,
                }.items()
            },
            rounds,
        )
        found = {name: summary(each)["ms"] for name, each in seconds.items()}
        share = round(found["ms_making"] / found["ms_loaded"], 4)
        rows.append({"model": model, "batch_size": recipe.batch_size, **found, "share": share})
    return {"what": "data", "machine": machine(execution.device), "execution": execution.in_words(), "rows": rows}

"""The data pipeline's share of a training step."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from torch import Tensor

import wrn
from wrn.benchmark.timing import alternate, as_ours, machine, summary
from wrn.benchmark.training import endless, ours, recipe_of, resident
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
        recipe = recipe_of(model, batch_size, execution.device, data)
        classes, split = resident(recipe, execution.device)
        network = execution.place(wrn.network_of(recipe, classes, 0)).train()
        alone = endless(split, recipe)

        def make(alone: Iterator[tuple[Tensor, Tensor]] = alone) -> None:
            execution.arrange(next(alone)[0])

        seconds = alternate(
            {
                name: as_ours(step)
                for name, step in {
                    "ms_loaded": ours(recipe, execution, network, endless(split, recipe)),
                    "ms_fixed": ours(recipe, execution, network, cycle([next(alone)])),
                    "ms_making": make,
                }.items()
            },
            rounds,
            device=execution.device,
        )
        found = {name: summary(each)["ms"] for name, each in seconds.items()}
        share = round(found["ms_making"] / found["ms_loaded"], 4)
        rows.append({"model": model, "batch_size": recipe.batch_size, **found, "share": share})
    return {"what": "data", "machine": machine(execution.device), "execution": execution.in_words(), "rows": rows}

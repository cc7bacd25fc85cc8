"""What the resident loader costs: a WRN-16-4 training step with a fixed batch against one with the loader.

    python benchmarks/loader.py [--data cifar10] [--model wrn-16-4] [--rounds 9] [--steps 8]

The two alternate in one process; medians over the rounds. The share is also taken directly, as the time that making the
batches takes by itself, which noise of the steps does not reach.
"""

import json
import platform
import statistics
import time
from collections.abc import Iterator
from itertools import cycle

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import wrn
from wrn.training.precision import choose


def main(
    data: str = "glyphs-10", model: str = "wrn-16-4", rounds: int = 9, steps: int = 8, preprocess: str = "meanstd"
) -> None:
    """Print the median milliseconds of a step both ways, and the loader's share of it, as a table and as JSON."""
    recipe = wrn.recipe(model, data=data, preprocess=preprocess, augment="flip-crop")
    execution = choose()
    execution.apply()
    known = wrn.dataset(recipe, device=execution.device)
    network = execution.place(wrn.network_of(recipe, len(known.classes), 0)).train()
    optimizer = wrn.optimizer(network, recipe)

    def run(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        """Milliseconds a step."""
        clock = time.perf_counter()
        for _ in range(steps):
            images, labels = next(batches)
            with execution.autocast():
                loss = F.cross_entropy(network(execution.arrange(images)).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        return 1000 * (time.perf_counter() - clock) / steps

    def make(batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        """Milliseconds a batch, nothing done with it."""
        clock = time.perf_counter()
        for _ in range(steps):
            execution.arrange(next(batches)[0])
        if execution.device != "cpu":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - clock) / steps

    def epochs() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(1, recipe.epochs + 1):
            yield from known.train.batches(recipe, seed=0, epoch=epoch)

    loaded, fixed = epochs(), cycle([next(epochs())])
    run(fixed), run(loaded)
    times: dict[str, list[float]] = {"fixed batch": [], "loader": [], "loader alone": []}
    for _ in range(rounds):
        times["fixed batch"].append(run(fixed))
        times["loader"].append(run(loaded))
        times["loader alone"].append(make(loaded))
    medians = {name: statistics.median(found) for name, found in times.items()}
    facts = {
        "model": model,
        "data": data,
        "preprocess": preprocess,
        "batch_size": recipe.batch_size,
        "ms": {name: round(value, 2) for name, value in medians.items()},
        "share_by_difference": round(medians["loader"] / medians["fixed batch"] - 1, 4),
        "share_alone": round(medians["loader alone"] / medians["fixed batch"], 4),
        "rounds": rounds,
        "steps": steps,
        "execution": execution.in_words(),
        "torch": torch.__version__,
        "machine": platform.platform(),
    }
    print("| | ms a step |\n|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} |")
    print(json.dumps(facts))


if __name__ == "__main__":
    tyro.cli(main)

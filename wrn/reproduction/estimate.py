"""How long runs take and how much they leave on the disk, before they are begun."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from wrn.data.catalog import entry
from wrn.data.preparation import prepared
from wrn.errors import Error
from wrn.hardware import out_of_memory
from wrn.models.creation import create_model
from wrn.recipes import Recipe
from wrn.reproduction.plan import Job
from wrn.runs import Run
from wrn.training.objective import Objective
from wrn.training.optim import optimizer
from wrn.training.precision import choose
from wrn.training.steps import step

FILES = 2_000_000  # bytes of logs, curves and predictions, about


@dataclass(frozen=True)
class Estimate:
    """Seconds of one run's steps alone on the machine, None where they cannot be told; bytes that it leaves."""

    seconds: float | None
    bytes: int
    parameters: int


_OF_A_STEP = (
    "model", "depth_rule", "dropout", "drop_path", "drop_path_per", "image_size", "batch_size", "loss", "optimizer",
)  # fmt: skip
"""The fields that decide how long an image takes; how many classes there are, for one, does not."""


def estimate(jobs: Sequence[Job], device: str | None = None) -> dict[str, Estimate]:
    """By the jobs' names: from a timed step of each network, or from a finished run of the same recipe."""
    known: dict[tuple[Any, ...], float | None] = {}
    found = {}
    for job in jobs:
        like = (job.precision, *(getattr(job.recipe, name) for name in _OF_A_STEP))
        if (seconds := _of_a_finished(job)) is None:
            if like not in known:
                known[like] = _seconds_of_an_image(job.recipe, job.precision, device)
            images = job.recipe.labels or _images(job.recipe.data, job.recipe.image_size, job.recipe.val_fraction)
            if (per_image := known[like]) is not None and images:
                seconds = per_image * images * job.recipe.epochs
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in _network(job.recipe).parameters())
        # Weights and momentum in each of two checkpoints, and the finished network
        found[job.name] = Estimate(seconds, 5 * 4 * parameters + FILES, parameters)
    torch.cuda.empty_cache()  # for the processes that train; nothing where there is no GPU
    return found


def _of_a_finished(job: Job) -> float | None:
    """What the same recipe took with another seed, in the same arithmetic."""
    for path in sorted(job.path.parent.glob("seed*/result.json")):
        with suppress(Error, KeyError):  # what is damaged is told where it is looked at for itself
            if (result := Run(path.parent).result)["precision"] == job.precision:
                return float(result["seconds"])
    return None


@cache
def _images(data: str, image_size: int, val_fraction: float) -> int | None:
    """To train on; None for a data set of one's own that is not prepared yet."""
    if (known := entry(data).images) is not None:
        return known[0]
    with suppress(Error):
        wanted = Recipe(data=data, image_size=image_size, val_fraction=val_fraction)
        return cast(int | None, prepared(wanted).get("train_images"))
    return None


def _network(recipe: Recipe) -> nn.Module:
    return create_model(
        recipe.model, num_classes=entry(recipe.data).classes or 10, image_size=recipe.image_size,
        depth_rule=recipe.depth_rule, seed=0,
    )  # fmt: skip


def _seconds_of_an_image(recipe: Recipe, precision: str, device: str | None) -> float | None:
    execution = choose(device, precision)
    execution.apply()
    network = execution.place(_network(recipe)).train()
    plain = replace(recipe, layer_rules=False, stages=(), teacher=None)
    learnt, optimised = Objective(network, plain, execution.autocast), optimizer(network, plain, execution.products)
    for group in optimised.param_groups:
        group["lr"] = 0.0  # the rate is for larger batches
    size = recipe.batch_size if torch.device(execution.device).type == "cuda" else 8
    images = execution.arrange(torch.randn(size, 3, recipe.image_size, recipe.image_size, device=execution.device))
    labels = torch.zeros(size, dtype=torch.int64, device=execution.device)

    def seconds(work: Callable[[], Any]) -> float:
        clock = time.perf_counter()
        work()
        next(network.parameters()).flatten()[0].item()  # which waits for a GPU
        return time.perf_counter() - clock

    whole, updates = list[float](), list[float]()
    try:
        while len(whole) < 2 or (len(whole) < 9 and sum(whole) < 1):
            whole.append(seconds(lambda: step(learnt, optimised, images, labels)))
            updates.append(seconds(optimised.step))
    except RuntimeError as error:
        if out_of_memory(error) is None:
            raise
        return None  # too large for this machine, as its run will say
    update = min(updates)  # the first one sets up; others may have had to share the machine
    return (min(whole) - update) / size + update / recipe.batch_size

"""How long runs take and how much they leave on the disk, before they are begun."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wrn.data.catalog import entry
from wrn.models.creation import create_model
from wrn.recipes import Recipe
from wrn.reproduction.plan import Job
from wrn.runs import Run
from wrn.training.objective import Objective
from wrn.training.optim import optimizer
from wrn.training.precision import choose

FILES = 2_000_000  # bytes of logs, curves and predictions, about


@dataclass(frozen=True)
class Estimate:
    """Seconds of one run's steps alone on the machine, None where they cannot be told; bytes that it leaves."""

    seconds: float | None
    bytes: int
    parameters: int


def estimate(jobs: Sequence[Job], device: str | None = None) -> dict[str, Estimate]:
    """By the jobs' names: from a timed step of each network, or from a finished run of the same recipe."""
    known: dict[Recipe, tuple[float | None, int]] = {}
    found = {}
    for job in jobs:
        if (like := replace(job.recipe, teacher=None)) not in known:
            known[like] = _image_seconds_and_parameters(like, job.precision, device)
        per_image, parameters = known[like]
        seconds = _of_a_finished(job)
        images = job.recipe.labels or (entry(job.recipe.data).images or (0, 0))[0]
        if seconds is None and per_image is not None and images:
            seconds = per_image * images * job.recipe.epochs
        # Weights and momentum in each of two checkpoints, and the finished network
        found[job.name] = Estimate(seconds, 5 * 4 * parameters + FILES, parameters)
    return found


def _of_a_finished(job: Job) -> float | None:
    """What the same recipe took with another seed, in the same arithmetic."""
    for path in sorted(job.path.parent.glob("seed*/result.json")):
        if (result := Run(path.parent).result)["precision"] == job.precision:
            return float(result["seconds"])
    return None


def _image_seconds_and_parameters(recipe: Recipe, precision: str, device: str | None) -> tuple[float | None, int]:
    execution = choose(device, precision)
    execution.apply()
    network = execution.place(
        create_model(
            recipe.model, num_classes=entry(recipe.data).classes or 10, image_size=recipe.image_size,
            depth_rule=recipe.depth_rule, seed=0,
        )
    ).train()  # fmt: skip
    parameters = sum(parameter.numel() for parameter in network.parameters())
    plain = replace(recipe, layer_rules=False, stages=())
    learnt, optimised = Objective(network, plain, execution.autocast), optimizer(network, plain)
    size = recipe.batch_size if torch.device(execution.device).type == "cuda" else 8
    images = execution.arrange(torch.randn(size, 3, recipe.image_size, recipe.image_size, device=execution.device))
    labels = torch.zeros(size, dtype=torch.int64, device=execution.device)

    def step() -> None:
        loss, _ = learnt(images, labels)
        optimised.zero_grad()
        loss.backward()
        optimised.step()
        loss.item()

    try:
        step()
        clock = time.perf_counter()
        step()
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return None, parameters  # too large for this machine, as its run will say
    return (time.perf_counter() - clock) / size, parameters

"""The network that another one learns from: a finished run's, or one in memory."""

import copy
from typing import Any

from torch import nn

from wrn import weights
from wrn.data.batching import Dataset
from wrn.errors import Error, UsageError
from wrn.evaluation import bare, preprocess_of
from wrn.recipes import Recipe

_IN_MEMORY = "in-memory:"


def named(teacher: nn.Module) -> str:
    """What a recipe calls a teacher that is in memory. Raises ValueError for one that is for answers alone."""
    if getattr(teacher, "how", "as it is") != "as it is":
        raise UsageError("teacher: was loaded to answer fast and has no weights of its own; load it without optimize")
    return _IN_MEMORY + weights.digest(bare(teacher).state_dict())[:16]


def teacher_of(recipe: Recipe, given: nn.Module | None, data: Dataset) -> nn.Module | None:
    """The recipe's teacher, from preprocessed images to logits, on the CPU; None if it has none.

    Raises ValueError where it was trained on other classes, sizes or preprocessing than `data` has, wrn.Error for a
    run that is not finished and for a teacher in memory that was not given again.
    """
    if given is not None:
        _must_fit(preprocess_of(given), getattr(given, "classes", None), None, recipe, data)
        return copy.deepcopy(bare(given))  # the caller's stays where and as it is
    if recipe.teacher is None:
        return None
    if recipe.teacher.startswith(_IN_MEMORY):
        raise Error(
            f"teacher {recipe.teacher}: was in memory; give the same one again, wrn.train(recipe, teacher=model)"
        )
    header = weights.header_of(recipe.teacher)
    _must_fit(weights.load_preprocess(recipe.teacher), header["classes"], header["image_size"], recipe, data)
    return weights.load_network(recipe.teacher)


def _must_fit(preprocess: Any, classes: Any, image_size: int | None, recipe: Recipe, data: Dataset) -> None:
    if classes is not None and tuple(classes) != data.classes:
        raise UsageError(f"teacher: it knows other classes than {recipe.data} has; train it on the same data")
    if image_size not in (None, recipe.image_size):
        raise UsageError(
            f"teacher: it takes images of {image_size} pixels, not {recipe.image_size}; train it on the same"
        )
    if preprocess is not None and preprocess.constants() != data.preprocess.constants():
        raise UsageError(
            f"teacher: its images were preprocessed with other numbers than {recipe.preprocess} has here; train both "
            "with the same --preprocess and on the same images (--labels, --val, --seed)"
        )

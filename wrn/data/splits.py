"""Parts of a training set, by seed: held out for validation, with few labels, with wrong labels. No torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wrn.errors import UsageError
from wrn.randomness import Draws
from wrn.recipes import Recipe

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """Places in the whole training set, ascending, and the labels to train with."""

    train: Ints
    train_labels: Ints
    val: Ints


def divide(labels: Ints, classes: int, recipe: Recipe, seed: int) -> Parts:
    """The parts that `val`, `labels` and `label_noise` of the recipe make of a training set with `labels` (N,).

    Validation images are taken first and keep their labels; of the rest, `labels` are kept; of those, `label_noise`
    get another class, each of the others equally likely. Raises ValueError where a class has too few images,
    or none is left of it.
    """
    rest = np.arange(len(labels))
    val = rest[:0]
    if recipe.val:
        val = _balanced("val", rest, labels, classes, recipe.val, seed, leave=1)
        rest = np.setdiff1d(rest, val)
    if recipe.labels is not None:
        if recipe.labels < classes:
            raise UsageError(
                f"--labels {recipe.labels}: leaves some of the {classes} classes without an image; ask for more"
            )
        rest = _balanced("labels", rest, labels[rest], classes, recipe.labels, seed)
    given = labels[rest].copy()
    if recipe.label_noise:
        draws = Draws("label-noise", seed)
        wrong = draws.shuffled(np.arange(len(given)))[: round(recipe.label_noise * len(given))]
        given[wrong] = (given[wrong] + 1 + draws.below(classes - 1, len(wrong))) % classes
    return Parts(rest, given, val)


def _balanced(field: str, places: Ints, labels: Ints, classes: int, count: int, seed: int, leave: int = 0) -> Ints:
    """`count` of `places` (N,), from each class equally many, or one more where that does not come out even."""
    draws = Draws(field, seed)
    share, more = divmod(count, classes)
    extra = set(draws.shuffled(np.arange(classes))[:more].tolist())
    chosen = []
    for label in range(classes):
        of_class = places[labels == label]
        wanted = share + (label in extra)
        if wanted > len(of_class) - leave:
            raise UsageError(
                f"--{field} {count}: takes {wanted} images of each of {classes} classes, and a class has only "
                f"{len(of_class)}; ask for fewer"
            )
        chosen.append(draws.shuffled(of_class)[:wanted])
    return np.sort(np.concatenate(chosen))

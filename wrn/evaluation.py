"""Loss and error of a network on a split, with running statistics and no augmentation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.data.loader import Dataset, Split, dataset
from wrn.errors import Error
from wrn.prediction import header_of, load
from wrn.training.precision import choose


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy in nats; error: percent; wrong of count images; logits float32 (count, classes)."""

    loss: float
    error: float
    wrong: int
    count: int
    logits: Tensor


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    arrange: Callable[[Tensor], Tensor] = lambda images: images,
) -> Scores:
    """Score `model` on all of `split`; leaves it in the mode it was in."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for images, targets in split.in_order():
        with autocast():
            logits.append(model(arrange(images)).float())
        labels.append(targets)
    model.train(was_training)
    outputs, targets = torch.cat(logits).cpu(), torch.cat(labels).cpu()
    wrong = int((outputs.argmax(1) != targets).sum())
    loss = F.cross_entropy(outputs.double(), targets).item()
    return Scores(loss, 100 * wrong / len(targets), wrong, len(targets), outputs)


def evaluate_run(run: str | Path, data: str | None = None, device: str | None = None) -> dict[str, Any]:
    """Score a finished run in fp32 on its own test split or that of another data set with (some of) its classes.

    Returns test_error (percent), test_loss, wrong, images, data, and whether the run's own data changed since it was
    trained. Raises wrn.Error for unfinished or damaged runs and for classes that the network does not know.
    """
    execution = choose(device, "fp32")
    execution.apply()
    header = header_of(run)
    model = load(run, execution.device)
    known = dataset(
        data or header["data"],
        image_size=model.image_size,
        val_fraction=header["val_fraction"] if data is None else 0.0,
        device=execution.device,
        preprocess=model.preprocess,
    )
    scores = evaluate(execution.place(model.network), _relabelled(known, model.classes), arrange=execution.arrange)
    return {
        "test_error": scores.error,
        "test_loss": scores.loss,
        "wrong": scores.wrong,
        "images": scores.count,
        "data": known.name,
        "changed_since": data is None and known.fingerprint != header["data_fingerprint"],
        "precision": "fp32",
    }


def _relabelled(data: Dataset, classes: tuple[str, ...]) -> Split:
    """The test split with its labels in the order of the network's classes."""
    if strangers := [name for name in data.classes if name not in classes]:
        raise Error(
            f"data set {data.name}: has a class {strangers[0]!r} that the network was not trained on; "
            f"it knows {', '.join(classes)}"
        )
    order = torch.tensor([classes.index(name) for name in data.classes], device=data.test.labels.device)
    return replace(data.test, labels=order[data.test.labels])

"""Loss and error of a network on a split, with running statistics and no augmentation."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.data.batching import Split
from wrn.data.preprocess import MeanStd, WholeImage
from wrn.errors import UsageError


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy in nats; errors in percent; wrong of count images; logits float32 (count, classes)."""

    loss: float
    error: float
    wrong: int
    count: int
    logits: Tensor
    top5_error: float | None  # none of the five likeliest classes is right; None with five classes or fewer


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    arrange: Callable[[Tensor], Tensor] = lambda images: images,
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Score `model` on all of `split`; leaves each part in the mode it was in. `between` is called before each batch.

    `model`: a network, of preprocessed images, or one of `wrn.load`, whose own preprocessing must be the split's, also
    where it is the `module` of something else, as of an average of weights. Raises ValueError where it is not: the data
    set is then made by `wrn.dataset(…, fitted=model.preprocess)`. Classes are not compared: they must be the network's,
    in its order.
    """
    if not hasattr(split, "in_order"):
        given = split if isinstance(split, str) else type(split).__name__
        raise UsageError(f"evaluate: {given} is no split; give wrn.dataset(NAME).test")
    own = preprocess_of(model)
    if own is not None and own.constants() != split.preprocess.constants():
        raise UsageError(
            "evaluate: the model preprocesses images with other numbers than the data set does; make the data set by "
            "wrn.dataset(..., fitted=model.preprocess)"
        )
    model = bare(model)
    logits, labels = [], []
    with evaluating(model):
        for images, targets in split.in_order():
            between()
            with autocast():
                logits.append(model(arrange(images)).float())
            labels.append(targets)
    outputs, targets = torch.cat(logits).cpu(), torch.cat(labels).cpu()
    wrong = int((outputs.argmax(1) != targets).sum())
    loss = F.cross_entropy(outputs.double(), targets).item()
    top5_error = None
    if outputs.shape[1] > 5:
        top5_error = 100 * (1 - (outputs.topk(5).indices == targets[:, None]).any(1).double().mean().item())
    return Scores(loss, 100 * wrong / len(targets), wrong, len(targets), outputs, top5_error)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all of `model` in evaluation mode, then each part back in its own mode, such as BN that is kept frozen."""
    learning = [part for part in model.modules() if part.training]
    if learning:
        model.eval()
    try:
        yield
    finally:
        for part in learning:
            part.training = True


def preprocess_of(model: nn.Module) -> MeanStd | WholeImage | None:
    """What a model of `wrn.load` does with pixels before its network sees them; None of a network itself."""
    loaded = _loaded(model)
    return None if loaded is None else loaded.preprocess


def bare(model: nn.Module) -> nn.Module:
    """The network itself, of preprocessed images."""
    loaded = _loaded(model)
    return model if loaded is None else loaded.network


def _loaded(model: nn.Module) -> Any:
    """The model of `wrn.load` that this is, or that is its `module` (AveragedModel, DataParallel); None of a network.

    Raises ValueError where there is one deeper inside, which would preprocess again what was preprocessed.
    """
    inner: Any = model
    while isinstance(inner, nn.Module):
        if isinstance(getattr(inner, "preprocess", None), (MeanStd, WholeImage)):
            return inner
        inner = getattr(inner, "module", None)
    if any(isinstance(part, (MeanStd, WholeImage)) for part in model.modules()):
        raise UsageError(f"{type(model).__name__}: has a model of wrn.load somewhere inside; give that one itself")
    return None

"""Loss and error of a network on a split, with running statistics and no augmentation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.data.batching import Split


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy in nats; errors in percent; wrong of count images; logits float32 (count, classes)."""

    loss: float
    error: float
    wrong: int
    count: int
    logits: Tensor
    top5_error: float | None  # none of the five likeliest classes is right; None with five classes or fewer


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    arrange: Callable[[Tensor], Tensor] = lambda images: images,
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Score `model` on all of `split`; leaves it in the mode it was in. `between` is called before each batch."""
    was_training = model.training
    model.eval()
    logits, labels = [], []
    for images, targets in split.in_order():
        between()
        with autocast():
            logits.append(model(arrange(images)).float())
        labels.append(targets)
    model.train(was_training)
    outputs, targets = torch.cat(logits).cpu(), torch.cat(labels).cpu()
    wrong = int((outputs.argmax(1) != targets).sum())
    loss = F.cross_entropy(outputs.double(), targets).item()
    top5_error = None
    if outputs.shape[1] > 5:
        top5_error = 100 * (1 - (outputs.topk(5).indices == targets[:, None]).any(1).double().mean().item())
    return Scores(loss, 100 * wrong / len(targets), wrong, len(targets), outputs, top5_error)

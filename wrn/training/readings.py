"""What steps came to, read without holding a GPU up."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """One step's mean loss, the norm of its gradient, and how many of its images were answered wrongly."""

    step: int
    loss: float
    gradient_norm: float
    wrong: int
    images: int


class Readings:
    """The steps' numbers, in order: at once, or from a GPU two steps later.

    Reading a number from a GPU blocks until it is computed. Two steps later it is there already: Python stays two steps
    ahead of the GPU, which never waits. Before anything trained is saved, the `rest` must be read.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.lag = 2 if self.on_gpu else 0
        self._waiting: deque[tuple[int, Tensor, int, torch.cuda.Event | None]] = deque()

    def add(self, step: int, loss: Tensor, gradient_norm: Tensor, wrong: Tensor, images: int) -> Iterator[Reading]:
        """Note one step; gives those that are due."""
        numbers, arrived = torch.stack([loss.detach().float(), gradient_norm.float(), wrong.float()]), None
        if self.on_gpu:
            numbers = torch.empty(3, pin_memory=True).copy_(numbers, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(self.device))  # not of the first GPU, if this is another
        self._waiting.append((step, numbers, images, arrived))
        return self.rest(self.lag)

    def rest(self, but: int = 0) -> Iterator[Reading]:
        """All readings not given yet, except the last `but`."""
        while len(self._waiting) > but:
            step, numbers, images, arrived = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            loss, norm, wrong = numbers.tolist()
            yield Reading(step, loss, norm, int(wrong), images)

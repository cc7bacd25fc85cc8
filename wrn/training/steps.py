"""A training step: forward, backward, and the optimiser's; on CUDA also as a graph."""

from collections import Counter
from functools import cache

import torch
from torch import Tensor, nn

from wrn.errors import Error
from wrn.training.objective import Objective
from wrn.training.optim import read_rates_from_device, skip_unless_finite

Found = tuple[Tensor, Tensor, Tensor, int]
_AT_FIRST = 3  # steps by which torch and cuDNN choose kernels and take memory, as none may while a graph is recorded


class Steps:
    """The steps of a run, (images, labels) -> mean loss, norm of the gradient, wrong answers, images.

    `graphs`: after three batches of one shape the next such is recorded as a CUDA graph, which from then on launches
    all kernels of a step at once: a small network's finish sooner than Python can launch them. Batches of other shapes,
    as an epoch's last may be, are computed kernel by kernel, in memory beside the graph's. Each replay overwrites the
    results of the last. A new stage of the objective is recorded anew.
    """

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, graphs: bool = False) -> None:
        self.objective, self.optimizer, self.graphs = objective, optimizer, graphs
        self._stage, self._seen = objective.stage, Counter[torch.Size]()
        self._graph: _Graph | None = None
        if graphs:  # from the first step on: a run that is continued in between is to come to the same bits
            read_rates_from_device(optimizer)

    def __call__(self, images: Tensor, labels: Tensor) -> Found:
        if not self.graphs:
            return step(self.objective, self.optimizer, images, labels)
        if self._stage != self.objective.stage:  # a graph repeats what was done in that of its recording
            self._stage, self._seen, self._graph = self.objective.stage, Counter(), None
        if self._graph is None and self._seen[images.shape] == _AT_FIRST:
            self._graph = _Graph(self.objective, self.optimizer, images, labels)
        if self._graph is not None and images.shape == self._graph.images.shape:
            return self._graph.replay(images, labels)
        self._seen[images.shape] += 1
        return self._aside(images, labels)

    def _aside(self, images: Tensor, labels: Tensor) -> Found:
        """Kernel by kernel, on the stream that a graph is then recorded on: torch wants the same for gradients."""
        usual, stream = torch.cuda.current_stream(images.device), _stream_of(images.device)
        stream.wait_stream(usual)
        with torch.cuda.stream(stream):
            found = step(self.objective, self.optimizer, images, labels)
        usual.wait_stream(stream)
        return found


class _Graph:
    """The step of batches of one shape, which are copied to where the recorded one lay."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.clone(), labels.clone()
        usual, stream = torch.cuda.current_stream(images.device), _stream_of(images.device)
        self.graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad()  # the graph's gradients are in memory of its own
        try:  # what other threads ask of the GPU, such as those that load data, is none of the graph's
            with (
                torch.cuda.device(images.device),
                torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"),
            ):
                self.found = step(objective, optimizer, self.images, self.labels)
        except RuntimeError as error:
            torch.cuda.set_stream(usual)  # which torch 2.11 leaves to us
            cause = error.__context__ or error  # to end a recording that failed fails too
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from error
            raise Error(f"--graphs: {str(cause).strip().splitlines()[0]}; leave the option out") from error

    def replay(self, images: Tensor, labels: Tensor) -> Found:
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.found


@cache
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """One for the process: cuBLAS keeps memory for each that it has worked on."""
    return torch.cuda.Stream(device)


def step(objective: Objective, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Found:
    """One step, kernel by kernel. A gradient that is not finite moves no weight on a CPU, nor by SGD on CUDA."""
    loss, logits = objective(images, labels)
    wrong = (logits.argmax(1) != labels).sum()
    optimizer.zero_grad()
    loss.backward()
    norm = gradient_norm(optimizer)
    skip_unless_finite(optimizer, norm)
    if norm.device.type != "cpu" or norm.isfinite():  # elsewhere to look at it is to wait for it
        optimizer.step()
    return loss.detach(), norm, wrong, len(labels)


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """The length of the whole gradient, a scalar: not finite if any part of it is not."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])

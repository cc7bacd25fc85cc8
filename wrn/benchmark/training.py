"""Training steps: ours, and the usual loops; beside what the machine could do at most."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wrn
from wrn.benchmark import baselines
from wrn.benchmark.timing import Contestant, alternate, machine, peaks, summary, synchronize, with_allocator
from wrn.data.loader import Resident
from wrn.errors import UsageError
from wrn.models.complexity import describe
from wrn.native.operations import weight_gradient
from wrn.recipes import Recipe
from wrn.training.objective import objective
from wrn.training.precision import Execution, choose

USUAL, TUNED = "usual loop, fp32", "usual loop, bf16 autocast, channels_last"
OURS = "wrn"
BATCH_SIZES = {"wrn-16-4": 128, "wrn-28-10": 32, "wrn-40-4": 64}  # on a CPU; elsewhere the paper's 128


def bench_training(
    models: tuple[str, ...],
    batch_size: int | None = None,
    rounds: int = 5,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    native: bool | None = None,
    compare: bool = False,
    data: str = "digits",
) -> dict[str, Any]:
    """Time training steps of some networks on a data set that fits in memory, loading and augmentation included.

    Returns {machine, execution, peaks, rows}; a row has model, batch_size, contestant, ms (median, least, most) and
    images_per_second. Of ours also: how many times as fast as each usual loop it is, what share its multiplications are
    of the peak of bf16 matrix products, and what share the bare convolutions are of its time.
    """
    execution = choose(device, precision, compile, native)
    rows = []
    for model in models:
        size = batch_size or (BATCH_SIZES.get(model, 128) if execution.device == "cpu" else 128)
        recipe = wrn.recipe(model, data=data, batch_size=size, augment="flip-crop", drop_last=True)
        rows += _rows(recipe, execution, rounds, compare)
    found = peaks(execution.device)
    for row in rows:
        if row["contestant"] == OURS:
            flops = 6 * describe(row["model"]).macs * row["batch_size"]  # a backward pass is two forward ones
            row["share_of_matmul_peak"] = round(flops / row["ms"] / 1e9 / found["matmul_bf16_tflops"], 3)
    return {
        "what": "train",
        "machine": machine(execution.device),
        "execution": execution.in_words(),
        "peaks": found,
        "rows": rows,
    }


def _rows(recipe: Recipe, execution: Execution, rounds: int, compare: bool) -> list[dict[str, Any]]:
    execution.apply()
    data = wrn.dataset(recipe, device=execution.device)
    assert isinstance(data.train, Resident)
    if len(data.train) < recipe.batch_size:
        raise UsageError(f"batch size {recipe.batch_size}: {recipe.data} has {len(data.train)} images; lower it")
    network = execution.place(wrn.network_of(recipe, len(data.classes), 0)).train()
    contestants = {OURS: with_allocator(ours(recipe, execution, network, data.train), keep=True)}
    if compare:
        images, labels = data.train.images.cpu().numpy(), data.train.labels.cpu().numpy()
        for name, tuned in ((USUAL, False), (TUNED, True)):
            contestants[name] = with_allocator(usual(recipe, execution.device, images, labels, tuned), keep=False)
    seconds = alternate(contestants, rounds)
    rows = []
    for name in contestants:
        row: dict[str, Any] = {"model": recipe.model, "batch_size": recipe.batch_size, "contestant": name}
        row |= summary(seconds[name])
        row["images_per_second"] = round(1000 * recipe.batch_size / row["ms"], 1)
        rows.append(row)
    own = rows[0]
    for row in rows[1:]:
        own[f"times {row['contestant']}"] = round(row["ms"] / own["ms"], 2)
    if execution.device == "cpu":
        with execution.autocast():
            bare = bare_convolutions(network, recipe.batch_size, recipe.image_size, execution, rounds)
        own["bare_convolutions_ms"] = round(1000 * bare, 2)
        own["share_of_bare_convolutions"] = round(1000 * bare / own["ms"], 3)
    return rows


def ours(recipe: Recipe, execution: Execution, network: nn.Module, split: Resident) -> Contestant:
    """A step as `wrn train` makes it, on the split's batches."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(1, 1_000_000):
            yield from split.batches(recipe, seed=0, epoch=epoch)

    return ours_on(recipe, execution, network, batches())


def ours_on(
    recipe: Recipe, execution: Execution, network: nn.Module, loaded: Iterator[tuple[Tensor, Tensor]]
) -> Contestant:
    """The same on batches of any origin."""
    learnt = objective(network, recipe, autocast=execution.autocast, compiled=execution.compiled)
    learnt.start_epoch(1)
    optimizer = wrn.optimizer(network, recipe)

    def step() -> None:
        images, labels = next(loaded)
        loss, logits = learnt(execution.arrange(images), labels)
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        int((logits.argmax(1) != labels).sum())
        synchronize(execution.device)

    return step


def usual(
    recipe: Recipe, device: str, images: np.ndarray, labels: np.ndarray, tuned: bool, workers: int = 2
) -> Contestant:
    """The usual loop with the usual network, in fp32 or in bf16 and channels_last. Blocks B(3,3) alone."""
    _, depth, widen_factor, *others = recipe.model.split("-")
    if others or not recipe.model.startswith("wrn-"):
        raise UsageError(f"model {recipe.model!r}: the written-out loop has WRNs of blocks B(3,3); leave --compare out")
    network = baselines.UsualWRN(int(depth), float(widen_factor), int(labels.max()) + 1)
    loaded = baselines.batches(images, labels, recipe.batch_size, workers)
    return baselines.training(network, loaded, device, tuned)


def bare_convolutions(network: nn.Module, batch_size: int, image_size: int, execution: Execution, rounds: int) -> float:
    """Seconds of all convolutions of a step on a CPU, forward and both gradients, one by one, on ready tensors."""
    shapes: Counter[tuple[int, ...]] = Counter()
    hooks = [
        part.register_forward_hook(lambda part, given, _: shapes.update([_shape_of(part, given[0])]))
        for part in network.modules()
        if isinstance(part, nn.Conv2d)
    ]
    with torch.no_grad():
        network(execution.arrange(torch.zeros(batch_size, 3, image_size, image_size)))
    for hook in hooks:
        hook.remove()
    contestants = {str(shape): _convolution(shape, execution) for shape in shapes}
    seconds = alternate(contestants, rounds, turn=0.02)
    return sum(count * summary(seconds[str(shape)])["ms"] / 1000 for shape, count in shapes.items())


def _shape_of(part: nn.Conv2d, x: Tensor) -> tuple[int, ...]:
    return (*x.shape, part.out_channels, part.kernel_size[0], part.stride[0])


def _convolution(shape: tuple[int, ...], execution: Execution) -> Contestant:
    n, channels, height, width, out, kernel, stride = shape
    kind = torch.bfloat16 if execution.precision == "bf16" else torch.float32
    x = execution.arrange(torch.randn(n, channels, height, width).to(kind))
    weight = execution.arrange(torch.randn(out, channels, kernel, kernel).to(kind))
    dy = torch.randn_like(F.conv2d(x, weight, None, stride, kernel // 2))
    kernels = execution.native and channels % 16 == 0 and out % 16 == 0

    def step() -> None:
        F.conv2d(x, weight, None, stride, kernel // 2)
        wanted = [channels > 3, not kernels, False]  # nobody needs the gradient of images
        torch.ops.aten.convolution_backward(
            dy, x, weight, None, [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 1, wanted
        )
        if kernels:
            weight_gradient(x, dy, kernel, stride)

    return step

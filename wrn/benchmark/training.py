"""Training steps: ours, and the usual loops; beside what the machine could do at most."""

import re
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wrn
from wrn.benchmark import baselines
from wrn.benchmark.timing import (
    Contestant,
    alternate,
    as_ours,
    as_usual,
    compared,
    machine,
    peaks,
    share_of_matmul_peak,
    summary,
)
from wrn.data.catalog import streams
from wrn.data.loader import Resident
from wrn.errors import UsageError
from wrn.hardware import cores, multiplies_bf16
from wrn.native import winograd
from wrn.native.library import has_amx
from wrn.native.operations import weight_gradient
from wrn.recipes import Recipe
from wrn.training.objective import objective
from wrn.training.precision import Execution, choose
from wrn.training.readings import Readings
from wrn.training.steps import Steps

OURS, USUAL = "wrn", "usual loop, fp32"
BATCH_SIZES = {"wrn-16-4": 128, "wrn-28-10": 32, "wrn-40-4": 64}  # on a CPU; elsewhere the paper's 128


def bench_training(
    models: tuple[str, ...] = (),
    batch_size: int | None = None,
    rounds: int = 5,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    native: bool | None = None,
    graphs: bool = False,
    compare: bool = False,
    data: str = "digits",
) -> dict[str, Any]:
    """Time training steps of networks, or of our tables', on data in memory, loading and augmentation included.

    Returns {machine, execution, peaks, rows}; a row has model, batch_size, contestant, ms (median, least, most) and
    images_per_second. Of ours also: how many times as fast as each usual loop it is, what share its multiplications are
    of the peak of matrix products in the arithmetic of training, and what share the bare convolutions are of its time.
    """
    execution = choose(device, precision, compile, native, graphs=graphs)
    recipes = [recipe_of(model, batch_size, execution.device, data) for model in models or BATCH_SIZES]
    by_model = [_rows(recipe, execution, rounds, compare) for recipe in recipes]
    found = peaks(execution.device)
    if (peak := found.get(f"matmul_{execution.precision}_tflops")) is not None:
        for recipe, (own, *_) in zip(recipes, by_model, strict=True):
            macs = wrn.describe(recipe.model, image_size=recipe.image_size).macs
            own["share_of_matmul_peak"] = share_of_matmul_peak(macs, recipe.batch_size, own["ms"], 3, peak)
    return {
        "what": "train",
        "machine": machine(execution.device),
        "execution": execution.in_words(),
        "peaks": found,
        "rows": [row for rows in by_model for row in rows],
    }


def _rows(recipe: Recipe, execution: Execution, rounds: int, compare: bool) -> list[dict[str, Any]]:
    execution.apply()
    classes, split = resident(recipe, execution.device)
    network = execution.place(wrn.network_of(recipe, classes, 0)).train()
    name = OURS + (", compiled" if execution.compile else "") + (", graphs" if execution.graphs else "")
    contestants = {name: as_ours(ours(recipe, execution, network, endless(split, recipe)))}
    if compare:
        for name, each in usual_loops(recipe, execution.device, split).items():
            contestants[name] = as_usual(each, execution.device, search=name != USUAL)
    rows = compared(recipe.model, recipe.batch_size, alternate(contestants, rounds, device=execution.device))
    own = rows[0]
    if execution.device == "cpu":
        with execution.autocast():
            bare = bare_convolutions(network, recipe.batch_size, recipe.image_size, execution, rounds)
        own["bare_convolutions_ms"] = round(1000 * bare, 2)
        own["share_of_bare_convolutions"] = round(1000 * bare / own["ms"], 3)
    return rows


def recipe_of(model: str, batch_size: int | None, device: str, data: str) -> Recipe:
    """What a step is made of: the paper's recipe, flips and crops, whole batches."""
    size = (BATCH_SIZES.get(model, 128) if device == "cpu" else 128) if batch_size is None else batch_size
    return wrn.recipe(model, data=data, batch_size=size, augment="flip-crop", drop_last=True)


def resident(recipe: Recipe, device: str) -> tuple[int, Resident]:
    """How many classes the recipe's data set has, and its training images in memory."""
    if streams(recipe.data, recipe.augment):
        raise UsageError(f"data {recipe.data}: is not held in memory; `wrn bench stream FOLDER` times decoding")
    data = wrn.dataset(recipe, device=device)
    assert isinstance(data.train, Resident)
    if len(data.train) < recipe.batch_size:
        raise UsageError(f"batch size {recipe.batch_size}: {recipe.data} has {len(data.train)} images; lower it")
    return len(data.classes), data.train


def endless(split: Resident, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch of batches."""
    for epoch in count(1):
        yield from split.batches(recipe, seed=0, epoch=epoch)


def ours(
    recipe: Recipe, execution: Execution, network: nn.Module, loaded: Iterator[tuple[Tensor, Tensor]]
) -> Contestant:
    """A step as `wrn train` makes it."""
    learnt = objective(network, recipe, autocast=execution.autocast, compiled=execution.compiled)
    learnt.start_epoch(1)
    optimizer = wrn.optimizer(network, recipe, execution.products)
    steps = Steps(learnt, optimizer, execution.graphs)
    readings = Readings(execution.device)

    def step() -> None:
        images, labels = next(loaded)
        list(readings.add(0, *steps(execution.arrange(images), labels)))

    return step


def tuned(device: str) -> str:
    """The name of the usual loop with the settings that help it most on the device."""
    return f"usual loop, {'bf16 autocast' if multiplies_bf16(torch.device(device)) else 'fp32'}, channels_last"


def usual_size(model: str) -> tuple[int, float] | None:
    """Depth and widen factor, if the written-out loop has a network of that name."""
    found = re.fullmatch(r"wrn-(\d+)-([\d.]+)", model)
    return (int(found[1]), float(found[2])) if found else None


def usual_loops(
    recipe: Recipe, device: str, split: Resident, workers: int | None = None, libraries: bool = True
) -> dict[str, Contestant]:
    """The loops to compare with, by name: as most are written, tuned, and tuned with torchvision's and timm's parts.

    The latter two where these are installed and `libraries` says so. Of WRNs with blocks B(3,3) alone.
    """
    if (wide := usual_size(recipe.model)) is None:
        raise UsageError(f"model {recipe.model!r}: the written-out loop has WRNs of blocks B(3,3); leave --compare out")
    images, labels = split.images.cpu().numpy(), split.labels.cpu().numpy()
    if workers is None:  # two is what most take; a GPU would wait for them
        workers = min(2 if torch.device(device).type == "cpu" else 8, cores())
    given = (images, labels, recipe.batch_size, workers)

    def network() -> nn.Module:
        return baselines.UsualWRN(*wide, int(labels.max()) + 1)

    best: dict[str, Any] = {"channels_last": True, "bf16": multiplies_bf16(torch.device(device))}
    found = {
        USUAL: baselines.training(network(), baselines.batches(*given), device),
        tuned(device): baselines.training(network(), baselines.batches(*given), device, **best),
    }
    if libraries and find_spec("torchvision"):
        loaded = baselines.torchvision_batches(*given)
        found["torchvision's transforms, tuned loop"] = baselines.training(network(), loaded, device, **best)
    if libraries and find_spec("timm"):
        loaded = baselines.timm_batches(*given, device)
        found["timm's loader and optimiser, tuned loop"] = baselines.training(
            network(), loaded, device, **best, optimizer_of=baselines.timm_sgd
        )
    return found


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
    return sum(times * summary(seconds[str(shape)])["ms"] / 1000 for shape, times in shapes.items())


def _shape_of(part: nn.Conv2d, x: Tensor) -> tuple[int, ...]:
    return (*x.shape, part.out_channels, part.kernel_size[0], part.stride[0])


def _convolution(shape: tuple[int, ...], execution: Execution) -> Contestant:
    n, channels, height, width, out, kernel, stride = shape
    kind = torch.bfloat16 if execution.precision == "bf16" else torch.float32
    x = execution.arrange(torch.randn(n, channels, height, width).to(kind))
    master = execution.arrange(torch.randn(out, channels, kernel, kernel))
    weight = execution.arrange(master.to(kind))
    dy = torch.randn_like(F.conv2d(x, weight, None, stride, kernel // 2))
    kernels = execution.native and execution.precision == "bf16" and has_amx() and channels % 16 == out % 16 == 0
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    fewer, fewer_for_weight = (execution.native and winograd.fits(conv, x, each) for each in (1, 2))

    def with_fewer_multiplications() -> None:
        winograd.convolve(x, winograd.prepared(master, kind), out)
        winograd.convolve(dy, winograd.prepared(master, kind, for_gradient=True), channels)
        winograd.weight_gradient(x, dy)

    def step() -> None:
        F.conv2d(x, weight, None, stride, kernel // 2)
        wanted = [channels > 3, not (kernels or fewer_for_weight), False]  # nobody needs the gradient of images
        torch.ops.aten.convolution_backward(
            dy, x, weight, None, [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 1, wanted
        )
        if kernels:
            weight_gradient(x, dy, kernel, stride)
        elif fewer_for_weight:
            winograd.weight_gradient(x, dy, stride)

    return with_fewer_multiplications if fewer else step

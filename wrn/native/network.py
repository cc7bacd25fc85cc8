"""A network as a list of layers, which `network.cpp` walks through in one call: on CPUs, without gradients."""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.errors import UsageError
from wrn.native import winograd
from wrn.native.library import KINDS, WIDTHS, Kind, floats, library, numbers, pointer

INPUT = -1  # where a layer reads what the network is given; else 0, 1 or 2, a map
_HANDED = 3  # the first of the maps that stages hand on
_KERNELS = (1, 3, 7)
_ROOM = 12 << 20  # bytes for a stage's maps, which the caches are to hold: so many images are computed at a time
_BETWEEN = 64 << 20  # bytes for the maps that stages hand on: more images are computed one part after the other
_SCALE_SHIFT_RELU, _CONVOLUTION, _MAX_POOL = range(3)


@dataclass(frozen=True)
class Convolution:
    """By (out, in, k, k), padded by half of k; plus bias, plus what the target holds if it `adds`; then ReLU."""

    source: int
    target: int
    weight: Tensor
    bias: Tensor | None = None
    stride: int = 1
    adds: bool = False
    relu: bool = False


@dataclass(frozen=True)
class ScaleShiftRelu:
    """max(0, x * scale + shift), with (C,) each."""

    source: int
    target: int
    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class MaxPool:
    """Of 3x3 places, stride 2, padded by 1."""

    source: int
    target: int


Layer = Convolution | ScaleShiftRelu | MaxPool
"""They run in order, read `INPUT` and the maps 0, 1 and 2, and write these."""


class _Row(NamedTuple):
    """As in `network.cpp`, in this order; weights are places in the program's array, or -1."""

    kind: int
    source: int
    target: int
    channels: int
    out: int
    kernel: int
    stride: int
    weight: int = -1
    winograd: int = -1
    winograd_step: int = 0
    vector: int = -1
    adds: bool = False
    relu: bool = True
    height: int = 0  # of the source, once that is known
    width: int = 0

    def after(self, side: int) -> int:
        """What becomes of a map's side, padded by half the kernel."""
        return (side + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1


class _Stage(NamedTuple):
    """Layers up to `end`, run for as many images at a time as there is room for."""

    end: int
    size: int  # numbers of an image in the largest of its maps
    weights: int  # numbers in the largest of its weights, as Winograd has them
    handed: int  # numbers of an image in the map that it leaves to the next stage


class _Plan(NamedTuple):
    """A network for images of one size, as C++ takes it."""

    layers: Tensor
    stages: list[_Stage]
    ends: ctypes.Array[ctypes.c_int64]
    handed: ctypes.Array[ctypes.c_int64]
    places: int  # in the last map


class _Array:
    """What lies behind one another in one array of that type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype, self._length = dtype, 0
        self._parts: list[Tensor] = []

    def add(self, part: Tensor) -> int:
        """Where it will be, at a multiple of 64 bytes."""
        place = self._length
        self._parts.append(F.pad(part.detach().to(self._dtype).flatten(), (0, -part.numel() % 32)))
        self._length += len(self._parts[-1])
        return place

    def made(self) -> Tensor:
        whole, place = _empty(self._dtype, self._length), 0
        while self._parts:  # each is given up before the next is copied
            part = self._parts.pop(0)
            whole[place : place + len(part)] = part
            place += len(part)
        return whole


class Program:
    """The layers of a network that it `takes`, run in one call.

    `dtype`: of maps and weights, fp32 or bf16; sums are fp32. On large enough maps 3x3 convolutions need fewer
    multiplications (`wrn.native.winograd`).
    """

    def __init__(self, layers: Iterable[Layer], dtype: torch.dtype = torch.float32) -> None:
        self._dtype, self._kind = dtype, KINDS[dtype]
        weights, vectors = _Array(dtype), _Array(torch.float32)
        self._layers: list[_Row] = []
        self._channels = 0  # of images
        for layer in layers:
            self._layers.append(self._row(layer, weights, vectors))
        self._weights, self._vectors = weights.made(), vectors.made()
        self._spare: list[Tensor] = []  # room for maps, from call to call, so that it is not faulted in each time
        self._plans: dict[tuple[int, int], _Plan] = {}

    @staticmethod
    def takes(network: nn.Module) -> bool:
        """Whether the kernels support all of a network's convolutions."""
        convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
        return all(conv.out_channels % 16 == 0 and conv.kernel_size[0] in _KERNELS for conv in convolutions)

    def _row(self, layer: Layer, weights: _Array, vectors: _Array) -> _Row:
        ends = layer.source, layer.target
        if isinstance(layer, ScaleShiftRelu):
            channels = len(layer.scale)
            both = vectors.add(torch.cat([layer.scale, layer.shift]))
            return _Row(_SCALE_SHIFT_RELU, *ends, channels, channels, 1, 1, vector=both)
        if isinstance(layer, MaxPool):
            channels = next(row.out for row in reversed(self._layers) if row.target == layer.source)
            return _Row(_MAX_POOL, *ends, channels, channels, 3, 2)
        self._channels = self._channels or layer.weight.shape[1]
        weight = F.pad(layer.weight.float(), (0, 0, 0, 0, 0, layer.weight.shape[1] % 2))  # pairs, as bf16 is multiplied
        out, channels, kernel = weight.shape[:3]
        assert kernel in _KERNELS and out % 16 == 0
        direct, tiles, step = weights.add(_panels(weight, self._kind)), -1, 0
        if kernel == 3 and layer.stride == 1 and winograd.suits(self._kind, channels, out):
            made = winograd.prepared(weight, self._dtype)
            tiles, step = weights.add(made), made.stride(0)
        bias = -1 if layer.bias is None else vectors.add(layer.bias)
        places = direct, tiles, step, bias
        return _Row(_CONVOLUTION, *ends, channels, out, kernel, layer.stride, *places, adds=layer.adds, relu=layer.relu)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_spare": [], "_plans": {}}

    def __call__(self, x: Tensor) -> Tensor:
        """The layers' output for x (N, C, H, W), averaged over positions: (N, C'). Raises ValueError for another x."""
        fits = x.ndim == 4 and x.shape[1] == self._channels and 0 not in x.shape[2:]
        if not fits or x.device.type != "cpu":
            wanted = f"(N, {self._channels}, H, W), on the CPU"
            raise UsageError(f"images: {tuple(x.shape)} on {x.device}; must be {wanted}")
        if torch.jit.is_tracing():  # type: ignore[attr-defined]  # addresses would become constants of the trace
            raise UsageError("an optimised network cannot be traced; load it without optimize")
        x, plan = x.float().resolve_neg(), self._plan(x.shape[2], x.shape[3])
        between = sum(stage.handed for stage in plan.stages) * self._weights.itemsize
        parts = x.split(_evenly(len(x), _BETWEEN // between if between else len(x)))
        return torch.cat([self._run(part, plan) for part in parts])

    def _run(self, x: Tensor, plan: _Plan) -> Tensor:
        at_a_time = [self._at_a_time(len(x), stage) for stage in plan.stages]
        room = max(count * stage.size for count, stage in zip(at_a_time, plan.stages, strict=True))
        room = -(-room // 32) * 32
        length = (_HANDED + 1) * room + len(x) * sum(stage.handed for stage in plan.stages)
        try:
            maps = self._spare.pop()  # so that no other thread's call has it
        except IndexError:
            maps = _empty(self._dtype, 0)
        if len(maps) < length:
            maps = _empty(self._dtype, length)
        features = floats(len(x), self._layers[-1].out)
        library(self._kind).run_network(
            pointer(plan.layers), plan.ends, plan.handed, _int64s(at_a_time), *numbers(len(at_a_time), len(x)),
            pointer(x), _int64s(x.stride()), *numbers(self._channels),
            *map(pointer, (self._weights, self._vectors, maps)), *numbers(room, plan.places), pointer(features),
        )  # fmt: skip
        self._spare = [maps]
        return features

    def _at_a_time(self, images: int, stage: _Stage) -> int:
        """Of so many images; of large weights each reading is to serve many."""
        size = self._weights.itemsize
        return _evenly(images, max(_ROOM, 4 * stage.weights * size) // ((_HANDED + 1) * stage.size * size))

    def _plan(self, height: int, width: int) -> _Plan:
        """For images of that size."""
        if (height, width) not in self._plans:
            sides, layers, sizes = {INPUT: (height, width)}, [], []
            for layer in self._layers:
                before = sides[layer.source]
                layers.append(layer._replace(height=before[0], width=before[1]))
                after = sides[layer.target] = layer.after(before[0]), layer.after(before[1])
                sizes.append(layer.out * after[0] * after[1])
            layers, stages = _staged(layers, sizes)
            self._plans[height, width] = _Plan(
                torch.tensor(layers, dtype=torch.int64, device="cpu"),
                stages,
                _int64s([stage.end for stage in stages]),
                _int64s([stage.handed for stage in stages]),
                after[0] * after[1],
            )
        return self._plans[height, width]


def _staged(layers: Sequence[_Row], sizes: Sequence[int]) -> tuple[list[_Row], list[_Stage]]:
    """The layers in stages; what a stage hands on gets a map of its own. `sizes`: numbers of an image in each."""
    handed = _handed(layers, sizes)
    renamed: list[_Row] = []
    stages: list[_Stage] = []
    names: dict[int, int] = {}
    for begin, end in pairwise([0, *handed, len(layers)]):
        part, last = layers[begin:end], handed.get(end)
        made = max((at for at, row in enumerate(part) if row.target == last and not row.adds), default=-1)
        own = _HANDED + len(stages)
        for at, row in enumerate(part):
            source = names.get(row.source, row.source)
            if not row.adds:
                names[row.target] = own if at == made else row.target
            renamed.append(row._replace(source=source, target=names.get(row.target, row.target)))
        given = 0 if stages else part[0].channels * part[0].height * part[0].width
        largest, weights = max(given, *sizes[begin:end]), max(36 * row.winograd_step for row in part)
        stages.append(_Stage(end, largest, weights, 0 if last is None else sizes[begin + made]))
        names = {} if last is None else {last: own}
    return renamed, stages


def _handed(layers: Sequence[_Row], sizes: Sequence[int]) -> dict[int, int]:
    """Where stages end, and the map that each hands on: where that alone is needed later, and is half of what was."""
    found: dict[int, int] = {}
    written: dict[int, int] = {}  # sizes of maps since the stage began
    largest = 0
    for place, (layer, size, needed) in enumerate(zip(layers, sizes, _needed(layers), strict=True)):
        if len(needed) == 1 and needed <= written.keys() and 2 * written[max(needed)] <= largest:
            found[place] = max(needed)
            largest, written = written[max(needed)], {}
        if not layer.adds:
            written[layer.target] = size
        largest = max(largest, size)
    return found


def _needed(layers: Sequence[_Row]) -> list[set[int]]:
    """Before each layer, the maps that it or a later one reads before they are written anew."""
    needed: set[int] = set()
    found = []
    for row in reversed(layers):
        needed = needed - {row.target} | {row.source} | ({row.target} if row.adds else set())
        found.append(needed)
    return found[::-1]


def _evenly(images: int, most: int) -> int:
    """How many at a time, of parts as even as can be and at most so large; at least one."""
    parts = max(-(-images // max(most, 1)), 1)
    return max(-(-images // parts), 1)


def _int64s(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _empty(dtype: torch.dtype, length: int) -> Tensor:
    return torch.empty(length, dtype=dtype, device="cpu")


def _panels(weight: Tensor, kind: Kind) -> Tensor:
    """Of a weight (out, in, k, k), `in` even, for direct convolutions: (panels, k, k, in / depth, wide, depth)."""
    depth, wide = 2 if kind == "bf16" else 1, 2 * WIDTHS[kind]
    (out, channels), k = weight.shape[:2], weight.shape[2:]
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, -out % wide))
    return weight.reshape(-1, wide, channels // depth, depth, *k).permute(0, 4, 5, 2, 1, 3)

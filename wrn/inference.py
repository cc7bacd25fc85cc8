"""A trained network prepared for inference: BN folded where the order of layers allows it, bf16, weights laid out once.

ReLU and the block's sum are fused into the convolution: by oneDNN, one call per layer, or by kernels of our own, one
call for the network.
"""

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, partial
from itertools import combinations_with_replacement
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.environment import code, processor
from wrn.errors import UsageError
from wrn.files import cache_dir, write_json
from wrn.folding import foldable, layers_of
from wrn.hardware import multiplies_bf16
from wrn.native.library import KINDS, available
from wrn.native.network import INPUT, Convolution, Layer, Program, ScaleShiftRelu
from wrn.native.operations import scale_shift_relu


class Folded(nn.Module):
    """Preprocessed images (N, C, H, W) -> logits (N, classes), float32; on a CPU, without gradients.

    `runner`: what runs its layers, such as `Program` or `OneDNN`; they keep the device and precision they were made
    with, whatever the module is moved to. Raises ValueError for a network that is not `foldable`, or not on the CPU.
    """

    def __init__(self, network: nn.Module, runner: Callable[[Iterable[Layer]], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        if not foldable(network) or any(parameter.device.type != "cpu" for parameter in network.parameters()):
            raise UsageError(f"{type(network).__name__}: cannot be folded; it must be of a kind that can, on the CPU")
        assert isinstance(network.fc, nn.Linear)
        with torch.no_grad():
            self.layers, self.fc = runner(layers_of(network)), network.fc
        self.train(network.training)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, C, H, W) -> (N, as many as the classifier takes), float32."""
        return self.layers(x)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits.float()  # whatever autocast surrounds this


class OneDNN:
    """Layers by oneDNN, a call each. `dtype`: of maps and weights; sums within one are fp32."""

    def __init__(self, layers: Iterable[Layer], dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self._layers = [(layer.source, layer.target, _runs(layer, dtype)) for layer in layers]

    def __call__(self, x: Tensor) -> Tensor:
        """The last layer's output for images (N, C, H, W), averaged over positions: (N, C'), float32."""
        maps = {INPUT: x.to(self.dtype, memory_format=torch.channels_last)}
        for source, target, run in self._layers:
            maps[target] = run(maps[source], maps.get(target))
        features = maps[target].mean(dim=(2, 3), dtype=torch.float32)
        if not x.sum().isfinite():  # oneDNN's ReLU makes zero of what is not a number
            features[~x.flatten(1).isfinite().all(1)] = torch.nan
        return features


def _runs(layer: Layer, dtype: torch.dtype) -> Callable[[Tensor, Tensor | None], Tensor]:
    """What computes the layer, from its source and what its target holds."""
    if isinstance(layer, Convolution):
        return _Convolution(layer, dtype)
    return _ScaleShiftRelu(layer, dtype) if isinstance(layer, ScaleShiftRelu) else _max_pool


class _ScaleShiftRelu:
    def __init__(self, layer: ScaleShiftRelu, dtype: torch.dtype) -> None:
        self.scale, self.shift = layer.scale, layer.shift
        self.native = available("bf16" if dtype == torch.bfloat16 else "fp32") and len(self.scale) % 16 == 0

    def __call__(self, x: Tensor, _: Tensor | None) -> Tensor:
        if self.native:
            return scale_shift_relu(x.contiguous(memory_format=torch.channels_last), self.scale, self.shift)
        return F.relu(x * self.scale[:, None, None] + self.shift[:, None, None]).to(x.dtype)


def _max_pool(x: Tensor, _: Tensor | None) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, padding=1)


class _Convolution:
    """Laid out for the first 8 sizes of x."""

    def __init__(self, layer: Convolution, dtype: torch.dtype) -> None:
        self.weight = layer.weight.to(dtype, memory_format=torch.channels_last)
        self.bias, self.adds, self.relu = None if layer.bias is None else layer.bias.to(dtype), layer.adds, layer.relu
        self.geometry = ([layer.weight.shape[2] // 2] * 2, [layer.stride] * 2, [1, 1], 1)
        self.laid_out: dict[torch.Size, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"laid_out": {}}  # which can be neither copied nor kept

    def __call__(self, x: Tensor, before: Tensor | None) -> Tensor:
        if self.adds and before is not None and before.shape[2:] == (1, 1):
            return self._plain(x, before)  # torch 2.11's fused sum takes no maps of one pixel
        if x.shape not in self.laid_out:
            if len(self.laid_out) >= 8:
                return self._plain(x, before)
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.laid_out[x.shape] = reorder(self.weight, *self.geometry, list(x.shape))
        weight = self.laid_out[x.shape]
        if self.adds:
            relu = "relu" if self.relu else None
            return torch.ops.mkldnn._convolution_pointwise.binary(
                x, before, weight, self.bias, *self.geometry, "add", 1.0, relu, [], None
            )
        activation = "relu" if self.relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, activation, [], "")

    def _plain(self, x: Tensor, before: Tensor | None) -> Tensor:
        out = F.conv2d(x, self.weight, self.bias, self.geometry[1], self.geometry[0])
        out = out + before if self.adds and before is not None else out
        return F.relu(out) if self.relu else out


class _Rounded(nn.Module):
    """Any network, under bf16 autocast and in channels_last layout."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        return logits.float()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            found: Tensor = self.network.features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return found.float()


_WORTH_TWO = 1.05  # how many times as slow as two forms the best one must be, on average over numbers of images


class BySize(nn.Module):
    """One form of a network for up to `most` images at a time, another for more; `names` says which."""

    def __init__(self, few: nn.Module, many: nn.Module, names: tuple[str, str], most: int) -> None:
        super().__init__()
        self.few, self.many, self.names, self.most = few, many, names, most
        self.train(many.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = (self.few if len(x) <= self.most else self.many)(x)
        return logits

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = (self.few if len(x) <= self.most else self.many).features(x)  # type: ignore[operator]
        return found

    def how(self, count: int) -> str:
        """The form that so many images at a time get."""
        return self.names[count > self.most]


def fastest(network: nn.Module, name: str, image_size: int) -> tuple[nn.Module, str]:
    """The fastest form of the network for inference on its device, and its name: "as it is", "bf16", "folded",
    "folded bf16", "native", "native bf16", or two (`BySize`) where few and many images want different ones.

    Forms that change the logits of noise by more than 2% are left out. The first time a network of this name is
    prepared here, all forms are timed, with one image and with 8 to 64 at a time; their times are kept in the cache.
    """
    ways, device = _ways(network), next(network.parameters()).device
    noise = torch.randn(64, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        exact = network(noise[:8])
        near = 0.02 * torch.linalg.vector_norm(exact)
        seconds, size = _times(network, name, ways, noise)

        @cache
        def form(how: str) -> nn.Module | None:
            made = ways[how]()
            return made if made is network or torch.linalg.vector_norm(made(noise[:8]) - exact) <= near else None

        for few, many in _pairs(seconds, size):
            of_few, of_many = form(few), form(many)
            if of_few is None or of_many is None:
                continue
            if few == many:
                return of_few, few
            ahead, behind = (seconds[many][0] - seconds[few][0], seconds[few][1] - seconds[many][1])
            most = int(1 + (size - 1) * ahead / (ahead + behind))  # where their lines cross
            return BySize(of_few, of_many, (few, many), most), f"{few} for up to {most} images, {many} for more"
    raise AssertionError("the network as it is was not among the pairs")


def _pairs(seconds: Mapping[str, tuple[float, float]], size: int) -> list[tuple[str, str]]:
    """Forms for few and for many images, what is fastest first; a form alone comes before its pairs that are no faster.

    `seconds` of one image and of `size`: those between lie on a line, and each number of images counts for as many as
    it has, 1, 2, 4 and so on.
    """
    numbers = [2**power for power in range(size.bit_length())]

    def line(how: str, count: int) -> float:
        one, more = seconds[how]
        return one + (more - one) * (count - 1) / (size - 1)

    def slowness(pair: tuple[str, str]) -> float:
        few, many = pair
        mean = sum(math.log(min(line(few, count), line(many, count))) for count in numbers) / len(numbers)
        return mean + (math.log(_WORTH_TWO) if few != many else 0.0)

    pairs = combinations_with_replacement(sorted(seconds, key=lambda how: seconds[how]), 2)
    return sorted(pairs, key=slowness)


def _times(
    network: nn.Module, name: str, ways: Mapping[str, Callable[[], nn.Module]], images: Tensor
) -> tuple[Mapping[str, tuple[float, float]], int]:
    """Seconds that each way takes for one image, and for as many as are then said."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    computes = torch.cuda.get_device_name(images.device) if images.is_cuda else processor()
    machine = [str(images.device), computes, torch.get_num_threads(), torch.__version__, torch.cpu.get_capabilities()]
    facts = [name, parameters, images.shape[-1], sorted(ways), *machine, code()]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    kept = cache_dir() / "inference" / f"{key}.json"
    with suppress(OSError, ArithmeticError, LookupError, TypeError, ValueError):  # what damage there can be
        known = json.loads(kept.read_text(encoding="utf-8"))
        found = {how: (float(known["seconds"][how][0]), float(known["seconds"][how][1])) for how in ways}
        size = int(known["size"])
        if size > 1 and all(0 < each < math.inf for times in found.values() for each in times):
            return found, size
    many = max(8, min(64, int(1 / _seconds(network, images[:1]))))  # about a second's
    one, more = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, math.inf)
    for how in [*ways, *ways]:  # twice, at different times, as the machine may have been busy at one of them
        candidate = ways[how]()  # only this one is held, with weights of its own
        one[how] = min(one[how], _seconds(candidate, images[:1]))
        more[how] = min(more[how], _seconds(candidate, images[:many]))
    found = {how: (one[how], more[how]) for how in ways}
    with suppress(OSError):  # a cache that cannot be written costs the time again
        write_json(kept, {"seconds": found, "size": many, "network": name})
    return found, many


def _ways(network: nn.Module) -> dict[str, Callable[[], nn.Module]]:
    """What makes the network answer in each way that its device and kind allow."""
    device = next(network.parameters()).device
    ways: dict[str, Callable[[], nn.Module]] = {"as it is": lambda: network}
    if multiplies_bf16(device):
        ways["bf16"] = lambda: _Rounded(copy.deepcopy(network).to(memory_format=torch.channels_last))
    if foldable(network) and device.type == "cpu" and torch.backends.mkldnn.is_available():
        ways["folded"] = lambda: Folded(network, OneDNN)
        if multiplies_bf16(device):
            ways["folded bf16"] = lambda: Folded(network, partial(OneDNN, dtype=torch.bfloat16))
        if Program.takes(network):
            for dtype, kind in KINDS.items():
                if available(kind):
                    name = "native" if kind == "fp32" else "native bf16"
                    ways[name] = partial(Folded, network, partial(Program, dtype=dtype))
    return ways


@torch.inference_mode()
def _seconds(network: nn.Module, x: Tensor) -> float:
    """The least of seven, or of as many as two seconds leave time for, after one that lays out weights."""
    found: list[float] = []
    while len(found) < 2 or (len(found) < 8 and sum(found) < 2):
        clock = time.perf_counter()
        network(x)[0, 0].item()  # waits for a GPU too
        found.append(time.perf_counter() - clock)
    return min(found[1:])

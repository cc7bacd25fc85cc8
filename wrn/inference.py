"""A trained WRN prepared for use alone: BN folded where the order of layers allows it, bf16, weights laid out once.

In a block BN-ReLU-conv-BN-ReLU-conv the inner BN follows a convolution and becomes part of its weight; the first one
follows a sum, and stays a pass over the activations. ReLU and the block's sum are done where the convolution is: by
oneDNN, a call a layer, or in fp32 by kernels of our own, one call for the network.
"""

import copy
import hashlib
import json
import time
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.environment import code
from wrn.files import cache_dir, write_json
from wrn.hardware import multiplies_bf16
from wrn.models.blocks import ResidualBlock
from wrn.models.wide_resnet import WideResNet
from wrn.native.library import available
from wrn.native.network import INPUT, Program
from wrn.native.operations import scale_and_shift, scale_shift_relu


class FoldedWRN(nn.Module):
    """Preprocessed images (N, C, H, W) -> logits (N, classes), float32; on a CPU, without gradients.

    `kind` is the number format of its activations and weights; sums within a layer are fp32.
    """

    def __init__(self, network: WideResNet, kind: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.kind = kind
        with torch.inference_mode():
            self.stem = _Convolution(*_folded(network.conv1), kind)
            self.blocks = nn.ModuleList(_FoldedBlock(block, kind) for block in _blocks(network))
            self.bn = _ScaleShiftRelu(network.bn, kind)
            self.fc = network.fc

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, C, H, W) -> (N, 64k), float32."""
        x = self.stem(x.to(self.kind, memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        return self.bn(x).mean(dim=(2, 3), dtype=torch.float32)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.features(x), self.fc.weight, self.fc.bias)


class _FoldedBlock(nn.Module):
    def __init__(self, block: ResidualBlock, kind: torch.dtype) -> None:
        super().__init__()
        self.bn1 = _ScaleShiftRelu(block.bn1, kind)
        *inner, last = _branch(block)
        self.inner = nn.ModuleList(_Convolution(*each, kind) for each in inner)
        self.last = _Convolution(*last, kind)
        self.shortcut = _Convolution(*_folded(block.shortcut), kind) if block.has_projection else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        for conv in self.inner:
            out = conv(out)
        return self.last(out, shortcut)


class _ScaleShiftRelu(nn.Module):
    """What a BN does in evaluation, and ReLU."""

    def __init__(self, bn: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        assert isinstance(bn, nn.BatchNorm2d)
        self.scale, self.shift = scale_and_shift(bn)
        self.native = available("bf16" if kind == torch.bfloat16 else "fp32") and len(self.scale) % 16 == 0

    def forward(self, x: Tensor) -> Tensor:
        if self.native:
            return scale_shift_relu(x.contiguous(memory_format=torch.channels_last), self.scale, self.shift)
        return F.relu(x * self.scale[:, None, None] + self.shift[:, None, None]).to(x.dtype)


class _Convolution(nn.Module):
    """With the bias and ReLU of a BN after it, or plus a shortcut; laid out for the first 8 sizes of x."""

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int, kind: torch.dtype) -> None:
        super().__init__()
        self.weight = weight.to(kind, memory_format=torch.channels_last)
        self.bias, self.relu = None if bias is None else bias.to(kind), bias is not None
        self.geometry = ([weight.shape[2] // 2] * 2, [stride] * 2, [1, 1], 1)
        self.laid_out: dict[torch.Size, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"laid_out": {}}  # which can be neither copied nor kept

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if x.shape not in self.laid_out:
            if len(self.laid_out) >= 8:
                return self._plain(x, shortcut)
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self.laid_out[x.shape] = reorder(self.weight, *self.geometry, list(x.shape))
        weight = self.laid_out[x.shape]
        if shortcut is None:
            activation = "relu" if self.relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self.geometry, activation, [], "")
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, shortcut, weight, self.bias, *self.geometry, "add", 1.0, None, [], None
        )

    def _plain(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        out = F.conv2d(x, self.weight, self.bias, self.geometry[1], self.geometry[0])
        out = F.relu(out) if self.relu else out
        return out if shortcut is None else out + shortcut


class NativeWRN(nn.Module):
    """The same in fp32 by kernels of our own, in one call: small networks spend half of their time between layers.

    Of large enough maps 3x3 convolutions make fewer multiplications (`wrn.native.winograd`).
    """

    def __init__(self, network: WideResNet) -> None:
        super().__init__()
        x, out, other = range(3)  # the maps: a block's input and then its sum, and two for its branch
        with torch.inference_mode():
            self.program = Program()
            self.program.convolution(INPUT, x, *_folded(network.conv1))
            for block in _blocks(network):
                self.program.scale_shift_relu(x, out, *scale_and_shift(block.bn1))
                if block.has_projection:
                    self.program.convolution(out, x, *_folded(block.shortcut))
                *inner, last = _branch(block)
                here, there = out, other
                for each in inner:
                    self.program.convolution(here, there, *each, relu=True)
                    here, there = there, here
                self.program.convolution(here, x, *last, adds=True)
            self.program.scale_shift_relu(x, out, *scale_and_shift(network.bn))
            self.program.finish()
        self.fc = network.fc

    @staticmethod
    def fits(network: WideResNet) -> bool:
        """Whether its sizes are ones for our kernels, and these are to be had."""
        convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
        sizes = all(conv.out_channels % 16 == 0 and conv.kernel_size[0] in (1, 3) for conv in convolutions)
        return sizes and available("fp32")

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """Penultimate features: (N, C, H, W) -> (N, 64k), float32."""
        return self.program(x)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.features(x), self.fc.weight, self.fc.bias)


def _blocks(network: WideResNet) -> list[ResidualBlock]:
    groups = (network.group1, network.group2, network.group3)
    return [block for group in groups for block in group if isinstance(block, ResidualBlock)]


def _branch(block: ResidualBlock) -> list[tuple[Tensor, Tensor | None, int]]:
    """A block's convolutions, folded with the BN after each but the last."""
    inner = [_folded(getattr(block, f"conv{j}"), getattr(block, f"bn{j + 1}")) for j in range(1, block.depth)]
    keep = 1.0 if block.path.per == "sample" else 1 - block.path.drop  # how evaluation scales the branch
    weight, bias, stride = _folded(getattr(block, f"conv{block.depth}"))
    return [*inner, (weight * keep, bias, stride)]


def _folded(conv: nn.Module, bn: nn.Module | None = None) -> tuple[Tensor, Tensor | None, int]:
    """A convolution with the BN after it: the weight, the bias, and the stride."""
    assert isinstance(conv, nn.Conv2d)
    weight, stride = conv.weight.detach(), conv.stride[0]
    if bn is None:
        return weight, None, stride
    assert isinstance(bn, nn.BatchNorm2d)
    scale, shift = scale_and_shift(bn)
    return weight * scale[:, None, None, None], shift, stride


class _Rounded(nn.Module):
    """Any network, under bf16 autocast and in channels_last layout."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last))
        return logits.float()

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            found: Tensor = self.network.features(x.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return found.float()


def fastest(network: nn.Module, name: str, image_size: int) -> tuple[nn.Module, str]:
    """The network as it answers soonest on its device, and in a word how: "as it is", "bf16", "folded", "folded bf16",
    "native".

    What changes the logits of noise by more than 2% is left out. The others are timed, one image and 64 at a time, the
    first time that a network of this name is prepared here; the choice is kept in the cache.
    """
    device = next(network.parameters()).device
    candidates: dict[str, nn.Module] = {"as it is": network}
    if multiplies_bf16(device):
        candidates["bf16"] = _Rounded(copy.deepcopy(network).to(memory_format=torch.channels_last))
    if isinstance(network, WideResNet) and device.type == "cpu" and torch.backends.mkldnn.is_available():
        candidates["folded"] = FoldedWRN(network, torch.float32)
        if NativeWRN.fits(network):
            candidates["native"] = NativeWRN(network)
        if multiplies_bf16(device):
            candidates["folded bf16"] = FoldedWRN(network)
    noise = torch.randn(64, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(device)
    with torch.inference_mode():
        exact = network(noise[:8])
        near = 0.02 * torch.linalg.vector_norm(exact)
        good = {
            how: candidate
            for how, candidate in candidates.items()
            if candidate is network or torch.linalg.vector_norm(candidate(noise[:8]) - exact) <= near
        }
    computes = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    machine = [computes, torch.get_num_threads(), torch.__version__, torch.cpu.get_capabilities()]
    facts = [name, image_size, sorted(good), *machine, code()]
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    kept = cache_dir() / "inference" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError):
        how = json.loads(kept.read_text(encoding="utf-8"))["how"]
        return good[how], how
    with torch.inference_mode():
        seconds = {how: _seconds(candidate, noise[:1]) * _seconds(candidate, noise) for how, candidate in good.items()}
    how = min(seconds, key=seconds.__getitem__)
    with suppress(OSError):  # a cache that cannot be written costs the time again
        write_json(kept, {"how": how, "network": name})
    return good[how], how


def _seconds(network: nn.Module, x: Tensor) -> float:
    found = []
    for _ in range(7):
        clock = time.perf_counter()
        network(x)[0, 0].item()  # waits for a GPU too
        found.append(time.perf_counter() - clock)
    return sorted(found)[3]

"""A residual network's layers for inference: each BN folded into the convolution before it, where there is one.

An original block, conv-BN-ReLU-conv-BN plus shortcut and ReLU, becomes its convolutions alone, with biases. In a
pre-activation block BN-ReLU-conv-BN-ReLU-conv the inner BN is folded; the first one follows a sum, and stays a pass
over the activations. Dropout vanishes; stochastic depth's scale of the branch is folded into the last convolution.
"""

from collections.abc import Generator, Iterator
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wrn.models.blocks import BasicBlock, OptionA
from wrn.models.imagenet import Bottleneck, ImageNetPreResNet, ImageNetResNet
from wrn.models.stochastic_depth import Residual
from wrn.models.thin import PreActResNet, ThinResNet
from wrn.models.wide_resnet import WideResNet
from wrn.native.network import INPUT, Convolution, Layer, MaxPool, ScaleShiftRelu
from wrn.native.operations import scale_and_shift

_Weights = tuple[Tensor, Tensor | None, int]
"""A convolution's weight, its bias if it has one, its stride."""


def foldable(network: nn.Module) -> bool:
    """Whether `layers_of` knows its layers: of residual networks, but not averaging shortcuts (stochastic-depth-n)."""
    known = isinstance(network, WideResNet | PreActResNet | ThinResNet | ImageNetResNet | ImageNetPreResNet)
    return known and not any(isinstance(part, OptionA) and part.averaged for part in network.modules())


def layers_of(network: nn.Module) -> Iterator[Layer]:
    """All layers of a `foldable` network but its classifier, in the order they run."""
    bn = getattr(network, "bn1", None)
    yield Convolution(INPUT, 0, *_folded(network.conv1, bn), relu=bn is not None)
    x = 0
    if isinstance(network, ImageNetResNet | ImageNetPreResNet):
        yield MaxPool(0, 1)
        x = 1
    for block in network.modules():
        if isinstance(block, Residual):
            x = yield from _layers_of_block(block, x)
    if (bn := getattr(network, "bn", None)) is not None:  # of pre-activation, after the last sum
        yield ScaleShiftRelu(x, (x + 1) % 3, *scale_and_shift(bn))


def _layers_of_block(block: Residual, x: int) -> Generator[Layer, None, int]:
    """Of a block whose input is the map x, which it may write over; returns the map of its sum."""
    a, b = (x + 1) % 3, (x + 2) % 3
    original = isinstance(block, BasicBlock | Bottleneck)
    *inner, last = _branch(block, original)
    shortcut = _shortcut(block)
    if not original and not isinstance(block.bn1, nn.Identity):
        assert isinstance(block.bn1, nn.BatchNorm2d)
        yield ScaleShiftRelu(x, a, *scale_and_shift(block.bn1))
        if shortcut is not None:  # from the activated map; x itself has had its use
            yield Convolution(a, x, *shortcut)
        here, rooms, total = a, (b, a), x
    elif shortcut is not None:
        yield Convolution(x, b, *shortcut)
        here, rooms, total = x, (a, x), b
    else:
        here, rooms, total = x, (a, b), x
    for each, room in zip(inner, cycle(rooms), strict=False):
        yield Convolution(here, room, *each, relu=True)
        here = room
    yield Convolution(here, total, *last, adds=True, relu=original)
    return total


def _branch(block: Residual, original: bool) -> list[_Weights]:
    """A block's convolutions, folded with the BN after each; the last one scaled as evaluation scales the branch."""
    convolutions = [part for name, part in block.named_children() if name.startswith("conv")]
    following = [part for name, part in block.named_children() if name.startswith("bn")]
    found = [
        _folded(*both) for both in zip(convolutions, following if original else [*following[1:], None], strict=True)
    ]
    keep = 1.0 if block.path.per == "sample" else 1 - block.path.drop
    weight, bias, stride = found.pop()
    return [*found, (weight * keep, None if bias is None else bias * keep, stride)]


def _shortcut(block: Residual) -> _Weights | None:
    """The shortcut's convolution; None where it is the identity."""
    shortcut = getattr(block, "downsample" if isinstance(block, BasicBlock | Bottleneck) else "shortcut", None)
    if isinstance(shortcut, OptionA):  # a 1x1 convolution with the identity does the same
        first = next(part for part in block.modules() if isinstance(part, nn.Conv2d))
        weight = torch.eye(first.in_channels + shortcut.new_channels, first.in_channels, device=first.weight.device)
        return weight[:, :, None, None], None, shortcut.stride
    if isinstance(shortcut, nn.Sequential):
        return _folded(*shortcut)
    return None if shortcut is None else _folded(shortcut)


def _folded(conv: object, bn: object = None) -> _Weights:
    """A convolution with the BN after it."""
    assert isinstance(conv, nn.Conv2d)
    weight, bias = conv.weight, conv.bias
    if bn is not None:
        assert isinstance(bn, nn.BatchNorm2d)
        assert bn.running_mean is not None and bn.running_var is not None
        weight, bias = fuse_conv_bn_weights(weight, bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    return weight.detach(), None if bias is None else bias.detach(), conv.stride[0]

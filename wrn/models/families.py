"""How the names of networks read, family by family, each to a `Spec`. No torch.

A family's function gives the spec of a name, None for a name of another family, or raises ValueError for a name of its
own that makes no sense.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from wrn.errors import UsageError

DepthRule = Literal["true", "nominal"]


@dataclass(frozen=True)
class Spec:
    """What a name stands for: which class builds it, from what, and what it takes."""

    name: str  # the one we print
    builder: str  # "module:class", imported when it is built
    arguments: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "paper"  # the recipe of its own paper
    classes: int = 10  # what it is described with
    image_size: int = 32  # the side of image it was made for
    smallest: int = 4  # the smallest side it can take: less would leave no pixel
    one_size: bool = False  # whether it is built for one image size
    dropout: bool = False  # whether it has any
    batch_norm: bool = True
    linear: bool = True  # whether its classifier is a linear layer, not a convolution
    drop_path: float | None = None  # stochastic depth unless told otherwise; None: it has no residual blocks


# WRN-n-k with blocks B(M)

_WRN = re.compile(r"wrn-(?P<depth>\d+)-(?P<widen>\d+(?:\.\d+)?)(?:-b(?P<kernels>\d+|\(\d(?:,\d)*\)))?")


def wide_resnet_name(depth: int, widen_factor: float, kernels: tuple[int, ...]) -> str:
    """The name we print: `wrn-28-10`, `wrn-40-2-b313` (safe in a shell)."""
    suffix = "" if kernels == (3, 3) else "-b" + "".join(map(str, kernels))
    return f"wrn-{depth}-{number(widen_factor)}{suffix}"


def blocks_per_group(depth: int, convs_per_block: int, rule: DepthRule) -> int | None:
    """N for a depth n, or None where it fits none: n = 3lN + 4 ("true"), n = 6N + 4 whatever l ("nominal", Table 2)."""
    convs = 3 * convs_per_block if rule == "true" else 6
    blocks, rest = divmod(depth - 4, convs)
    return blocks if rest == 0 and blocks >= 1 else None


def parameter_count(
    blocks: int, widen_factor: float, kernels: tuple[int, ...], num_classes: int = 10, in_channels: int = 3
) -> int:
    """Trainable parameters by the closed formula of the architecture, to tell networks apart by name."""
    widths = [16, *(int(base * widen_factor) for base in (16, 32, 64))]
    first, area, length = kernels[0] ** 2, sum(m * m for m in kernels), len(kernels)
    total = 9 * in_channels * 16 + 2 * widths[3] + (widths[3] + 1) * num_classes
    for i, o in pairwise(widths):
        total += i * o * first + o * o * (area - first) + (i * o if i != o else 0) + 2 * i + 2 * o * (length - 1)
        total += (blocks - 1) * (o * o * area + 2 * o * length)
    return total


def wide_resnet(name: str, depth_rule: DepthRule | None) -> Spec | None:
    """wrn-28-10, wrn-40-2-b313."""
    match = _WRN.fullmatch(name)
    if match is None:
        return None
    depth, widen_factor = int(match["depth"]), float(match["widen"])
    kernels = digits_of(match["kernels"] or "33")
    if not set(kernels) <= {1, 3} or len(kernels) > 9:
        what = "a block is made of 1x1 and 3x3 convolutions"
        raise UsageError(f"model {name[:100]!r}: {what}; write b followed by one to nine 1s and 3s")
    if int(16 * widen_factor) < 1:
        raise UsageError(f"model {name!r}: widen factor {widen_factor:g} leaves no channels; use at least 0.0625")
    blocks = _choose_blocks(name, depth, widen_factor, kernels, depth_rule)
    return Spec(
        wide_resnet_name(depth, widen_factor, kernels),
        "wrn.models.wide_resnet:WideResNet",
        {"blocks_per_group": blocks, "widen_factor": widen_factor, "kernels": kernels},
        dropout=len(kernels) > 1,  # it lies between a block's convolutions
        drop_path=0.0,
    )


def _choose_blocks(
    name: str, depth: int, widen_factor: float, kernels: tuple[int, ...], depth_rule: DepthRule | None
) -> int:
    length = len(kernels)
    true, nominal = blocks_per_group(depth, length, "true"), blocks_per_group(depth, length, "nominal")
    if depth_rule is None and true and nominal and true != nominal:
        counts = [f"N={n} ({parameter_count(n, widen_factor, kernels):,} parameters)" for n in (true, nominal)]
        raise UsageError(
            f"model {name!r}: depth {depth} means {counts[0]} counted truly (n = 3lN + 4) and {counts[1]} counted "
            "nominally as in Table 2 (n = 6N + 4); choose with --depth-rule true|nominal (depth_rule= in Python)"
        )
    blocks = nominal if depth_rule == "nominal" else true
    return blocks or _no_such_depth(name, depth, 6 if depth_rule == "nominal" else 3 * length, 4)


def _no_such_depth(name: str, depth: int, step: int, rest: int) -> int:
    """Raise the error for a depth that is not step x N + rest."""
    below = max(1, (depth - rest) // step)
    near = " or ".join(str(step * n + rest) for n in ((below, below + 1) if depth > step + rest else (1,)))
    of_imagenet = {18: "imagenet", 50: "bottleneck", 101: "bottleneck", 152: "bottleneck"}.get(depth)
    other = (
        f"; for ImageNet write {name}-{of_imagenet}"
        if of_imagenet and name.startswith("wrn-") and name.count("-") == 2
        else ""
    )
    raise UsageError(
        f"model {name!r}: depth {depth} is not {step}N + {rest} for any N >= 1; the nearest is {near}{other}"
    )


# Thin networks for small images

_THIN = re.compile(
    r"(?P<family>pre-resnet|resnet|stochastic-depth)-(?P<depth>\d+)(?P<block>-basic|-bottleneck)?(?P<cifar>-cifar)?"
)
_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
_DEPTHS = {"resnet": (18, 34, 50, 101, 152), "pre-resnet": (50, 101, 152, 200)}
_SHORT = {"resnet": (110, 1202), "pre-resnet": (110, 164, 1001)}  # known by these names without -cifar


def thin(name: str, _: DepthRule | None) -> Spec | None:
    """resnet-110, pre-resnet-164, pre-resnet-56-basic-cifar."""
    match = _THIN.fullmatch(name)
    if match is None or match["family"] == "stochastic-depth":
        return None
    family, depth = match["family"], int(match["depth"])
    if not match["cifar"] and depth not in _SHORT[family]:
        if match["block"]:
            return None
        listed = ", ".join(map(str, _DEPTHS[family]))
        small = f"write {name}-cifar"
        try:
            thin(f"{name}-cifar", None)
        except UsageError as error:  # that is no name either
            small = str(error).partition(": ")[2]
        raise UsageError(f"model {name!r}: {family} for ImageNet has {listed} layers; for small images: {small}")
    if family == "resnet":
        if match["block"]:
            raise UsageError(f"model {name!r}: the original thin ResNets have basic blocks alone; leave the suffix out")
        arguments = {"blocks_per_group": _divided(name, depth, 6)}
        builder, recipe = "wrn.models.thin:ThinResNet", "resnet-110" if depth == 110 else "resnet"
    else:
        arguments = _pre_activation(name, depth, match["block"])
        builder, recipe = "wrn.models.thin:PreActResNet", "pre-resnet"
    usual = family == "resnet" or arguments["bottleneck"] == (depth in (164, 1001))
    suffix = "" if usual and depth in _SHORT[family] else "-cifar"
    if family == "pre-resnet" and depth % 18 == 2 and suffix:  # 6N + 2 and 9N + 2
        suffix = ("-bottleneck" if arguments["bottleneck"] else "-basic") + suffix
    return Spec(f"{family}-{depth}{suffix}", builder, arguments, recipe=recipe, drop_path=0.0)


def _pre_activation(name: str, depth: int, block: str | None) -> dict[str, Any]:
    basic, bottleneck = (depth - 2) % 6 == 0, (depth - 2) % 9 == 0
    if block is None and depth in _SHORT["pre-resnet"]:
        block = "-basic" if depth == 110 else "-bottleneck"
    if block is None and basic and bottleneck:
        raise UsageError(
            f"model {name!r}: depth {depth} fits basic blocks (6N + 2) and bottlenecks (9N + 2); write "
            f"pre-resnet-{depth}-basic-cifar or pre-resnet-{depth}-bottleneck-cifar"
        )
    if block is None and not basic and not bottleneck:
        raise UsageError(f"model {name!r}: depth {depth} is neither 6N + 2 (basic blocks) nor 9N + 2 (bottlenecks)")
    chosen = block == "-bottleneck" or (block is None and bottleneck)
    return {"blocks_per_group": _divided(name, depth, 9 if chosen else 6), "bottleneck": chosen}


def stochastic_depth(name: str, _: DepthRule | None) -> Spec | None:
    """stochastic-depth-110."""
    match = _THIN.fullmatch(name)
    if match is None or match["family"] != "stochastic-depth" or match["block"] or match["cifar"]:
        return None
    depth = int(match["depth"])
    return Spec(
        f"stochastic-depth-{depth}",
        "wrn.models.thin:ThinResNet",
        {"blocks_per_group": _divided(name, depth, 6), "bias": True, "averaged": True},
        recipe="stochastic-depth",
        drop_path=0.5,
    )


def _divided(name: str, depth: int, step: int) -> int:
    blocks, rest = divmod(depth - 2, step)
    return blocks if rest == 0 and blocks >= 1 else _no_such_depth(name, depth, step, 2)


# ImageNet networks

_WRN_IMAGENET = re.compile(r"wrn-(?P<depth>18|34)-(?P<widen>\d+(?:\.\d+)?)-imagenet")
_WRN_BOTTLENECK = re.compile(r"wrn-(?P<depth>50|101|152)-(?P<widen>\d+(?:\.\d+)?)-bottleneck")


def imagenet(name: str, _: DepthRule | None) -> Spec | None:
    """wrn-18-1.5-imagenet, wrn-50-2-bottleneck, resnet-50, pre-resnet-200."""
    wide = _WRN_IMAGENET.fullmatch(name) or _WRN_BOTTLENECK.fullmatch(name)
    plain = _THIN.fullmatch(name)
    if wide is not None:
        depth, widen_factor = int(wide["depth"]), float(wide["widen"])
        printed = f"wrn-{depth}-{number(widen_factor)}-{'imagenet' if depth < 50 else 'bottleneck'}"
        recipe = "paper"
    elif plain is not None and int(plain["depth"]) in _DEPTHS.get(plain["family"], ()) and name[-1].isdigit():
        depth, widen_factor, recipe = int(plain["depth"]), 1.0, "fb-resnet"
        printed = f"{plain['family']}-{depth}"
    else:
        return None
    if int(64 * widen_factor) < 1:
        raise UsageError(f"model {name!r}: widen factor {widen_factor:g} leaves no channels; use at least 0.016")
    arguments: dict[str, Any] = {"blocks": _BLOCKS[depth]}
    if not name.startswith("pre-"):
        arguments |= {"widen_factor": widen_factor, "bottleneck": depth >= 50}
    return Spec(
        printed,
        "wrn.models.imagenet:" + ("ImageNetPreResNet" if name.startswith("pre-") else "ImageNetResNet"),
        arguments,
        recipe=recipe,
        classes=1000,
        image_size=224,
        smallest=17,  # with less, the last group would halve single pixels, whose bf16 gradients oneDNN gets wrong
        drop_path=0.0,
    )


# The other rows of Table 5

_COMPARATORS = "wrn.models.comparators."
FIXED: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("nin", _COMPARATORS + "nin:NIN", recipe="nin", dropout=True, batch_norm=False, linear=False),
        Spec("dsn", _COMPARATORS + "dsn:DSN", recipe="dsn", dropout=True, batch_norm=False, one_size=True),
        Spec("fitnet", _COMPARATORS + "fitnet:FitNet", recipe="fitnet", batch_norm=False),
        Spec("highway", _COMPARATORS + "highway:Highway", recipe="highway", dropout=True, batch_norm=False),
        Spec(
            "elu", _COMPARATORS + "elu:ELUNet", recipe="elu", dropout=True, smallest=1, batch_norm=False, linear=False
        ),
        Spec("vgg", _COMPARATORS + "vgg:VGG", recipe="vgg", smallest=1),
    )
}


def fixed(name: str, _: DepthRule | None) -> Spec | None:
    """A network of one shape alone."""
    return FIXED.get(name)


def digits_of(text: str) -> tuple[int, ...]:
    """The digits of a block's name: B(3,1,3) -> 3, 1, 3."""
    return tuple(int(character) for character in text if character.isdigit())


def number(value: float) -> str:
    """A widen factor as names have it: 10, 1.5."""
    return str(float(value)).removesuffix(".0")

"""ImageNet's transforms of a decoded picture, in compiled code (`pictures.cpp`).

`wrn.data.imagenet_transforms` says what they are, and has them in torch's operations too: slower, to the same bits.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from wrn.native import library
from wrn.native.library import numbers, pointer

_CHANGES = ("brightness", "contrast", "saturation")  # as `pictures.cpp` counts them


def available() -> bool:
    """Whether there is compiled code."""
    return library.available("pictures")


def resample(
    pixels: npt.NDArray[np.uint8], resized: tuple[int, int], top: int, left: int, mirrored: bool, square: Tensor
) -> None:
    """Fill float32 (size, size, 3) with what lies from (top, left) on in pixels (H, W, 3) once they are `resized`.

    By torch7's bicubic.
    """
    pixels = np.ascontiguousarray(pixels)
    sizes = numbers(*pixels.shape[:2], *resized, top, left, len(square), mirrored)
    library.library("pictures").picture_resample(ctypes.c_void_p(pixels.ctypes.data), *sizes, pointer(square))


def recolour(square: Tensor, changes: Sequence[tuple[str, float]], light: Sequence[float]) -> None:
    """Change the colours of a contiguous float32 (H, W, 3): each change by its factor, then light is added."""
    which = numbers(*(_CHANGES.index(name) for name, _ in changes))
    factors = [factor for _, factor in changes]
    library.library("pictures").picture_colours(
        pointer(square), *numbers(square.shape[0] * square.shape[1]), (ctypes.c_int64 * len(which))(*which),
        _floats(factors), _floats([1 - factor for factor in factors]), *numbers(len(which)), _floats(light),
    )  # fmt: skip


def _floats(values: Sequence[float]) -> "ctypes.Array[ctypes.c_float]":
    return (ctypes.c_float * len(values))(*values)

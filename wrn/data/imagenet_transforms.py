"""ImageNet's transforms as the paper used them (fb.resnet.torch): one RGB picture to (3, size, size).

torchvision has none of them so: it differs in the crop's aspect, torch7's bicubic, colours that are not clipped, .299
for red's part of grey, and the centre of an odd margin (up; torchvision: to even). Pixels are float32 in 0..255, not
clipped and not normalised. As there, EXIF's orientation is ignored: some of ImageNet's files are turned. Every draw is
from the generator given, as many for each picture.

A picture is first given a `View`, which then is computed by compiled code of our own (`wrn.native.pictures`) or, where
there is none, by the functions here, to the same bits.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from wrn.data.pictures import rgb
from wrn.native import pictures
from wrn.native.library import floats

TRIES = 10
AREA = (0.08, 1.0)  # of the picture
ASPECT = (3 / 4, 4 / 3)
JITTER = 0.4
GREY = (0.299, 0.587, 0.114)
LIGHTING = 0.1  # standard deviation of each component's factor
EIGENVALUES = (0.2175, 0.0188, 0.0045)  # of ImageNet's colours in 0..1
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))  # columns

Box = tuple[int, int, int, int]  # left, top, right, bottom, as Pillow's
Taps = tuple[Tensor, Tensor]  # for each output coordinate its four neighbours: int64 (4, N), weights float64 (4, N)


@dataclass(frozen=True)
class View:
    """What the network sees of a picture: the square of `size` from (top, left) on, once `box` is `resized`."""

    box: Box
    resized: tuple[int, int]  # to that height and width
    top: int
    left: int
    size: int
    changes: tuple[tuple[str, float], ...] = ()  # of colours, in this order, each by its factor
    light: tuple[float, ...] = (0.0, 0.0, 0.0)  # added to each pixel's red, green and blue
    mirrored: bool = False


def training(image: Image.Image, size: int, generator: Generator) -> Tensor:
    """A random crop, jittered in colour, lit and mirrored at random: float32 (3, size, size), channels_last."""
    return _seen(image, training_view(*image.size, size, generator))


def validation(image: Image.Image, size: int) -> Tensor:
    """Shorter side to 256 / 224 of `size`, the centre of it: float32 (3, size, size), channels_last."""
    return _seen(image, validation_view(*image.size, size))


def training_view(width: int, height: int, size: int, generator: Generator) -> View:
    """A random view of a picture; of its centre where no crop fits."""
    box = draw_crop(width, height, generator)
    view = View(box, (size, size), 0, 0, size) if box else centre(width, height, size, size)
    changes, light = draw_changes(generator), draw_light(generator)
    mirrored = bool(torch.rand((), generator=generator, dtype=torch.float32) < 0.5)
    return replace(view, changes=changes, light=light, mirrored=mirrored)


def validation_view(width: int, height: int, size: int) -> View:
    """The centre, with a margin."""
    return centre(width, height, round(size * 256 / 224), size)


def centre(width: int, height: int, shorter: int, size: int) -> View:
    """The centre of a picture whose shorter side is resized to `shorter`."""
    resized = height, width
    if min(width, height) != shorter:  # the longer side is cut to whole pixels
        resized = (
            (int(height / width * shorter), shorter) if width < height else (shorter, int(width / height * shorter))
        )
    top, left = ((side - size + 1) // 2 for side in resized)
    return View((0, 0, width, height), resized, top, left, size)


def see(image: Image.Image, view: View, square: Tensor) -> None:
    """Fill a contiguous float32 (size, size, 3) with the view of a picture."""
    image = rgb(image)
    part = np.asarray(image if view.box == (0, 0, *image.size) else image.crop(view.box))
    if pictures.available():
        pictures.resample(part, view.resized, view.top, view.left, view.mirrored, square)
        pictures.recolour(square, view.changes, view.light)
    else:
        square.copy_(by_torch(torch.tensor(part).permute(2, 0, 1), view).permute(1, 2, 0))


def by_torch(pixels: Tensor, view: View) -> Tensor:
    """The same by torch's operations, of the part of a picture in the view's box (3, H, W): (3, size, size)."""
    rows, columns = (slice(first, first + view.size) for first in (view.top, view.left))
    pixels = bicubic(pixels, *view.resized, rows, columns)
    for name, factor in view.changes:
        pixels = CHANGES[name](pixels, factor)
    pixels = pixels + torch.tensor(view.light, dtype=pixels.dtype)[:, None, None]
    return pixels.flip(2) if view.mirrored else pixels


def _seen(image: Image.Image, view: View) -> Tensor:
    square = floats(view.size, view.size, 3)
    see(image, view, square)
    return square.permute(2, 0, 1)


def draw_crop(width: int, height: int, generator: Generator) -> Box | None:
    """The first of 10 random boxes that fits into the picture, or None. 50 draws, however many are needed."""
    draws = torch.rand(TRIES, 5, generator=generator, dtype=torch.float64).tolist()
    return next((box for numbers in draws if (box := crop_box(width, height, numbers))), None)


def crop_box(width: int, height: int, draws: Sequence[float]) -> Box | None:
    """The box that five numbers in [0, 1) stand for (area, aspect, swapped below .5, top, left), None if it is too big.

    The original multiplies the width and divides the height by its aspect ratio, so that width / height is the square
    of it: 9/16 to 16/9, where torchvision's is 3/4 to 4/3 and log-uniform.
    """
    side = (width * height * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])) ** 0.5
    aspect = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * draws[1]
    across, down = round(side * aspect), round(side / aspect)
    if draws[2] < 0.5:
        across, down = down, across
    if not (0 < across <= width and 0 < down <= height):
        return None
    top, left = int(draws[3] * (height - down + 0.99)), int(draws[4] * (width - across + 0.99))
    return left, top, left + across, top + down


def bicubic(pixels: Tensor, height: int, width: int, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
    """torch7's bicubic: (C, H, W) to these `rows` and `columns` of (C, height, width).

    Not antialiased, rounded or clipped. float64 stays float64. Source pixels that nothing looks at are not touched.
    """
    cut = []
    wanted = taps(pixels.shape[1], height, rows), taps(pixels.shape[2], width, columns)
    for axis, (index, weights) in enumerate(wanted, start=1):
        low, high = int(index.min()), int(index.max())
        pixels = pixels.narrow(axis, low, high - low + 1)
        cut.append((index - low, weights))
    pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32), memory_format=torch.contiguous_format)
    for index, weights in cut:  # the axis that is gathered is the second: whole rows are copied, twice as fast
        weights = weights.to(pixels.dtype)[:, :, None]
        total = pixels[:, index[0]] * weights[0]
        for neighbour, weight in zip(index[1:], weights[1:], strict=True):
            total += pixels[:, neighbour] * weight  # addcmul would not round the product
        pixels = total.transpose(1, 2).contiguous()
    return pixels


def taps(source: int, target: int, part: slice = slice(None)) -> Taps:
    """Where the output coordinates in `part` look in a row of `source` pixels, and with which weights.

    As scaleCubic_rowcol in torch/image: the corners are aligned, the cubic is Catmull-Rom's, and past an edge the row
    goes on in a straight line.
    """
    scale = torch.tensor(source - 1, dtype=torch.float32) / max(target - 1, 1)  # positions are single precision there
    position = torch.arange(target) * scale
    position[-1] = source - 1  # also where it is the only one
    position = position[part]
    first = position.long()
    x = (position - first).double()
    before, left = -x + 2 * x**2 - x**3, 2 - 5 * x**2 + 3 * x**3
    right, after = x + 4 * x**2 - 3 * x**3, -(x**2) + x**3
    out = torch.where(first == 0, before, 0)  # p[-1] = 2 p[0] - p[1]
    before, left, right = before - out, left + 2 * out, right - out
    out = torch.where(first + 2 >= source, after, 0)  # p[n] = 2 p[n - 1] - p[n - 2]
    left, right, after = left - out, right + 2 * out, after - out
    index = first + torch.arange(-1, 3)[:, None]
    return index.clamp(0, source - 1), torch.stack([before, left, right, after]) / 2


def draw_changes(generator: Generator) -> tuple[tuple[str, float], ...]:
    """Brightness, contrast and saturation, each by a factor U(.6, 1.4), in random order."""
    *factors, order = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    drawn = [(name, 1 + JITTER * (2 * factor - 1)) for name, factor in zip(CHANGES, factors, strict=True)]
    return list(permutations(drawn))[int(order * 6)]


def brightness(pixels: Tensor, factor: float) -> Tensor:
    """Mixed with black."""
    return pixels * factor


def contrast(pixels: Tensor, factor: float) -> Tensor:
    """Mixed with the mean of its grey."""
    return pixels * factor + _grey(pixels).mean(dtype=torch.float64).to(pixels.dtype) * (1 - factor)


def saturation(pixels: Tensor, factor: float) -> Tensor:
    """Mixed with its grey."""
    return pixels * factor + _grey(pixels) * (1 - factor)


CHANGES = {"brightness": brightness, "contrast": contrast, "saturation": saturation}


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = pixels
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def draw_light(generator: Generator) -> tuple[float, ...]:
    """One colour for all pixels, along the principal components of ImageNet's colours, in units of 0..255."""
    factors = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
    strengths = [255 * LIGHTING * value * factor for value, factor in zip(EIGENVALUES, factors, strict=True)]
    return tuple(sum(map(operator.mul, row, strengths), 0.0) for row in EIGENVECTORS)

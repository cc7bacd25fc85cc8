"""ImageNet's transforms as the paper used them (fb.resnet.torch): one RGB picture to (3, size, size).

What torchvision computes differently is our own here: the crop's aspect, torch7's bicubic, colours that are not clipped
and .299 for red's part of grey, and the centre of an odd margin (up; torchvision: to even). Pixels are float32 in
0..255, not clipped and not normalised. As there, EXIF's orientation is ignored: some of ImageNet's files are turned.
Every draw is from the generator given, as many for each picture.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Generator, Tensor

from wrn.data.pictures import rgb
from wrn.errors import Error

try:
    from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped,unused-ignore]
except (ImportError, RuntimeError) as error:  # RuntimeError: it was built for another torch
    raise Error(
        f"ImageNet's transforms need torchvision: it cannot be imported ({error}); pip install torchvision, in "
        "the version that belongs to this torch"
    ) from error

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


def training(image: Image.Image, size: int, generator: Generator) -> Tensor:
    """A random crop, jittered in colour, lit and mirrored at random: float32 (3, size, size)."""
    box = draw_crop(image.width, image.height, generator)
    image = rgb(image)
    pixels = bicubic(F.pil_to_tensor(image.crop(box)), size, size) if box else centre(image, size, size)
    pixels = lighting(colour_jitter(pixels, generator), generator)
    return F.horizontal_flip(pixels) if torch.rand((), generator=generator) < 0.5 else pixels


def validation(image: Image.Image, size: int) -> Tensor:
    """Shorter side to 256 / 224 of `size`, the centre of it: float32 (3, size, size)."""
    return centre(rgb(image), round(size * 256 / 224), size)


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


def centre(image: Image.Image, shorter: int, size: int) -> Tensor:
    """The centre (3, size, size) of an RGB picture whose shorter side is resized to `shorter`."""
    width, height = image.size
    if min(width, height) != shorter:  # the longer side is cut to whole pixels
        width, height = (
            (shorter, int(height / width * shorter)) if width < height else (int(width / height * shorter), shorter)
        )
    left, top = (width - size + 1) // 2, (height - size + 1) // 2
    rows = taps(image.height, height, slice(top, top + size))
    columns = taps(image.width, width, slice(left, left + size))
    return _resample(F.pil_to_tensor(image), rows, columns)


def bicubic(pixels: Tensor, height: int, width: int) -> Tensor:
    """torch7's bicubic: (C, H, W) to (C, height, width), not antialiased, rounded or clipped. float64 stays float64."""
    return _resample(pixels, taps(pixels.shape[1], height), taps(pixels.shape[2], width))


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


def _resample(pixels: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """(C, H, W) to (C, output rows, output columns); source pixels that nothing looks at are not touched."""
    cut = []
    for axis, (index, weights) in enumerate((rows, columns), start=1):
        low, high = int(index.min()), int(index.max())
        pixels = pixels.narrow(axis, low, high - low + 1)
        cut.append((index - low, weights))
    pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32), memory_format=torch.contiguous_format)
    for index, weights in cut:  # the axis that is gathered is the second: whole rows are copied, twice as fast
        weights = weights.to(pixels.dtype)[:, :, None]
        total = pixels[:, index[0]] * weights[0]
        for neighbour, weight in zip(index[1:], weights[1:], strict=True):
            total.addcmul_(pixels[:, neighbour], weight)
        pixels = total.transpose(1, 2).contiguous()
    return pixels


def colour_jitter(pixels: Tensor, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation, each by a factor U(.6, 1.4), in random order."""
    factors = (1 + torch.empty(3).uniform_(-JITTER, JITTER, generator=generator)).tolist()
    changes = (brightness, contrast, saturation)
    for which in torch.randperm(3, generator=generator).tolist():
        pixels = changes[which](pixels, factors[which])
    return pixels


def brightness(pixels: Tensor, factor: float) -> Tensor:
    """Mixed with black."""
    return pixels * factor


def contrast(pixels: Tensor, factor: float) -> Tensor:
    """Mixed with the mean of its grey."""
    return torch.lerp(_grey(pixels).mean(), pixels, factor)


def saturation(pixels: Tensor, factor: float) -> Tensor:
    """Mixed with its grey."""
    return torch.lerp(_grey(pixels), pixels, factor)


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = pixels
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def lighting(pixels: Tensor, generator: Generator) -> Tensor:
    """One colour added everywhere, along the principal components of ImageNet's colours (in units of 0..255)."""
    factors = torch.randn(3, generator=generator) * LIGHTING
    colour = torch.tensor(EIGENVECTORS) @ (torch.tensor(EIGENVALUES) * factors)
    return pixels + 255 * colour[:, None, None]

"""Pictures to uint8 arrays: any size and mode to RGB squares. No torch."""

import contextlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from wrn.errors import Error

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 89_478_485  # Pillow's own limit, beyond which it only warns: a quarter of a GiB decoded
MOST_BYTES = 1 << 26  # of a file in an archive, which comes into memory as a whole
_LONGEST = 1000  # sides to one
T = TypeVar("T")


def decode(source: bytes | Path, image_size: int) -> npt.NDArray[np.uint8]:
    """The picture as RGB (image_size, image_size, 3). Raises wrn.Error if it cannot be read to its last byte."""
    return opened(source, lambda image: to_square(image, image_size))


def opened(source: bytes | Path, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the picture. Raises wrn.Error if it cannot be read to its last byte."""
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise Error("is no file")  # a pipe might keep us waiting for ever
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many; make it smaller")
            if max(image.size) > _LONGEST * min(image.size):  # its shorter side is what is brought to size
                raise ValueError(f"{image.width} x {image.height} pixels are a line; crop it")
            image.load()
            return use(image)
    except UnidentifiedImageError:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        raise Error(f"is no picture ({', '.join(FORMATS)} are read)" if size else "is empty") from None
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise Error(f"cannot be decoded ({error})") from error


def to_square(image: Image.Image, image_size: int) -> npt.NDArray[np.uint8]:
    """RGB, upright, shorter side resized to `image_size`, centre cropped; a picture of that size stays untouched."""
    with contextlib.suppress(Exception):  # damaged EXIF data is no reason to refuse a good picture
        image = ImageOps.exif_transpose(image)
    image = rgb(image)
    width, height = image.size
    if min(width, height) != image_size:
        scale = image_size / min(width, height)
        size = (max(image_size, round(width * scale)), max(image_size, round(height * scale)))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return np.asarray(image.crop((left, top, left + image_size, top + image_size)))


def rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB, as it lies: EXIF's orientation is not looked at."""
    if image.mode == "F":
        raise ValueError("its pixels are fractions of an unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")

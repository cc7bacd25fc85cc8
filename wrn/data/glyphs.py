"""`glyphs-10`, `glyphs-100`: synthetic 32 x 32 pictures of characters in the spirit of SVHN, made here.

A character in one of matplotlib's fonts, in its street: neighbours left and right that are not the answer, a textured,
unevenly lit background, any colours, size, turn, slant, blur and noise. 50,000 to train on and 10,000 to test, each
class equally often. The same bits come from the same Pillow and fonts on every machine: nothing is computed with
operations that IEEE 754 does not round exactly.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, features

from wrn.data.arrays import Arrays, Decoded, Progress, Request
from wrn.randomness import Draws, Floats

DIGITS = "0123456789"
# What the fonts share and a reader can tell apart without its line: no o beside 0, no l beside I, no x beside X
CHARACTERS = (
    DIGITS
    + "ABCDEFGHJKLMNPQRSTUVWXYZ"
    + "abdefghijkmnqrty"
    + "ΓΔΘΛΞΠΣΦΨΩ"
    + "αβγδεζηθλμξπσφψω"
    + "БДЖИЦЧШЩЪЫЭЮЯ"
    + "&@%#$?+=*£§"
)
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
SIZE, TRAIN, TEST = 32, 50_000, 10_000
_CHUNK = 500  # images that share one generator
_POINTS, _CELL = 26, 48  # a character is drawn once at this size in the middle of such a square, then resampled


class Glyphs:
    """See the module. `classes`: 10 or 100."""

    remarks = ()
    origin = None
    image_size = SIZE

    def __init__(self, classes: int) -> None:
        self.characters = {10: DIGITS, 100: CHARACTERS}[classes]

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "reader": "glyphs",
            "version": 1,
            "characters": self.characters,
            "pillow": features.version("pil"),
            "freetype": features.version("freetype2"),
            "fonts": _fonts_hash(),
        }

    def decode(self, workers: int, progress: Progress) -> Decoded:
        atlas = Atlas.drawn(self.characters)
        count = len(self.characters)
        images = np.empty((TRAIN + TEST, SIZE, SIZE, 3), np.uint8)
        # Each class equally often, in an order of its own in each split
        labels = np.concatenate(
            [Draws("glyphs", "labels", count, n).shuffled(np.arange(n) % count) for n in (TRAIN, TEST)]
        )

        def fill(start: int) -> None:
            part = slice(start, start + _CHUNK)
            images[part] = draw(atlas, labels[part], Draws("glyphs", count, start))

        starts = range(0, len(images), _CHUNK)
        with ThreadPoolExecutor(workers) as pool:  # NumPy lets go of the interpreter while it computes
            for done, _ in enumerate(pool.map(fill, starts), 1):
                progress(f"drawing glyphs-{count}", done * _CHUNK, len(images))
        train, test = slice(0, TRAIN), slice(TRAIN, None)
        return Decoded(Arrays(images[train], labels[train]), Arrays(images[test], labels[test]), tuple(self.characters))


@dataclass(frozen=True)
class Atlas:
    """Every character in every font: opacity 0..1 float32 (fonts x characters, cell, cell), and its width in pixels."""

    masks: Floats
    widths: Floats
    characters: int

    @staticmethod
    def drawn(characters: str) -> "Atlas":
        masks, widths = [], []
        for path in _font_paths():
            font = ImageFont.truetype(path, _POINTS, layout_engine=ImageFont.Layout.BASIC)
            for character in characters:
                left, top, right, bottom = font.getbbox(character)
                cell = Image.new("L", (_CELL, _CELL))
                corner = (_CELL - (right - left)) // 2 - left, (_CELL - (bottom - top)) // 2 - top
                ImageDraw.Draw(cell).text(corner, character, fill=255, font=font)
                masks.append(np.asarray(cell, np.float32) / np.float32(255))
                widths.append(right - left)
        return Atlas(np.stack(masks), np.array(widths, np.float32), len(characters))

    def sample(self, which: npt.NDArray[np.int64], y: Floats, x: Floats) -> Floats:
        """Opacity of characters (N,) at positions (N, H, W) in pixels of their cells, bilinear, 0 outside."""
        y, x = np.clip(y, 0, _CELL - 1.001), np.clip(x, 0, _CELL - 1.001)  # the rim of a cell is empty
        row, column = y.astype(np.int32), x.astype(np.int32)
        y, x = y - row, x - column
        flat = self.masks.reshape(-1)
        at = (which * _CELL**2).astype(np.int32)[:, None, None] + row * _CELL + column
        above = flat[at] * (1 - x) + flat[at + 1] * x
        below = flat[at + _CELL] * (1 - x) + flat[at + _CELL + 1] * x
        return above * (1 - y) + below * y


def draw(atlas: Atlas, labels: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.uint8]:
    """Pictures (N, 32, 32, 3) of the characters `labels` (N,)."""
    n = len(labels)
    per_image = (n, 1, 1)
    axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
    down, right = axis[None, :, None], axis[None, None, :]  # from the picture's middle

    # Colours: the character stands out from its ground by so much, in brightness, at least
    ground = draws.uniform(45, 210, n, 1, 1, 1)
    contrast = draws.uniform(22, 100, n, 1, 1, 1)
    up = np.where(ground + contrast > 235, -1, np.where(ground - contrast < 20, 1, draws.below(2, n, 1, 1, 1) * 2 - 1))
    ink = ground + contrast * up.astype(np.float32) + draws.uniform(-22, 22, n, 1, 1, 3)
    ground = ground + draws.uniform(-30, 30, n, 1, 1, 3)

    picture = ground + _texture(draws, n)

    # One turn, slant and size for the whole word, as on a sign. Turns by t = tan(angle / 2) need no sine
    t = draws.uniform(-0.2, 0.2, *per_image)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    slant = draws.uniform(-0.3, 0.3, *per_image)
    tall = draws.uniform(0.42, 1.0, *per_image)
    wide = tall * draws.uniform(0.75, 1.15, *per_image)
    down, right = down - draws.uniform(-3.5, 3.5, *per_image), right - draws.uniform(-3.5, 3.5, *per_image)
    v = (cosine * down - sine * right) / tall
    u = (cosine * right + sine * down) / wide + slant * v

    font = draws.below(len(FONTS), n)
    middle = font * atlas.characters + labels
    gap = draws.uniform(1, 5, n)
    for side in (-1, 1):
        other = font * atlas.characters + draws.below(atlas.characters, n)
        distance = (atlas.widths[middle] + atlas.widths[other]) / 2 + gap
        there = draws.uniform(0, 1, *per_image) < 0.8
        opacity = atlas.sample(other, v + _CELL / 2, u + (_CELL / 2 - side * distance)[:, None, None]) * there
        picture = picture + opacity[..., None] * (ink - picture)
    opacity = atlas.sample(middle, v + _CELL / 2, u + _CELL / 2)
    picture = picture + opacity[..., None] * (ink - picture)

    for _ in range(2):
        picture = _blurred(picture, draws.uniform(0, 0.33, n, 1, 1, 1))
    light = 1 + draws.uniform(-0.012, 0.012, *per_image) * down + draws.uniform(-0.012, 0.012, *per_image) * right
    picture = picture * light[..., None]
    picture = picture + draws.noise(n, SIZE, SIZE, 3) * draws.uniform(2, 20, n, 1, 1, 1)
    return np.clip(picture + np.float32(0.5), 0, 255).astype(np.uint8)


def _texture(draws: Draws, n: int) -> Floats:
    """Smooth random patches of two sizes, (N, 32, 32, 3)."""
    texture = np.zeros((n, SIZE, SIZE, 3), np.float32)
    for cells in (3, 8):
        grid = draws.uniform(-1, 1, n, cells + 1, cells + 1, 3) * draws.uniform(0, 34, n, 1, 1, 1)
        place = np.arange(SIZE, dtype=np.float32) * np.float32(cells / SIZE)
        low = place.astype(np.int64)
        share = place - low.astype(np.float32)
        rows = grid[:, low] * (1 - share)[:, None, None] + grid[:, low + 1] * share[:, None, None]
        texture += rows[:, :, low] * (1 - share)[:, None] + rows[:, :, low + 1] * share[:, None]
    return texture


def _blurred(picture: Floats, share: Floats) -> Floats:
    """Each pixel gives `share` (N, 1, 1, 1) of itself to each neighbour, along rows and then along columns."""
    for axis in (1, 2):
        size = picture.shape[axis]
        before = picture.take(np.maximum(np.arange(size) - 1, 0), axis)
        after = picture.take(np.minimum(np.arange(size) + 1, size - 1), axis)
        picture = picture + share * ((before - picture) + (after - picture))
    return picture


def _font_paths() -> list[Path]:
    import matplotlib

    return [Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf" for name in FONTS]


@cache
def _fonts_hash() -> str:
    digest = hashlib.sha256()
    for path in _font_paths():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read(data: str, request: Request) -> Glyphs:  # noqa: ARG001  there is nothing to ask for
    """The source of `glyphs-10` or `glyphs-100`."""
    return Glyphs(int(data.partition("-")[2]))

"""`wrn data show`: samples of a data set, as pictures and as the network sees them, to look for mistakes in."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from wrn.data.batching import Dataset
from wrn.data.catalog import label
from wrn.files import write_whole
from wrn.randomness import Draws
from wrn.recipes import Recipe

_DRAWS = 5  # augmentations of each image
_CELL, _GAP, _NAMES, _HEAD = 96, 6, 120, 60  # pixels; the names' column and the heading's rows


def contact_sheet(data: Dataset, recipe: Recipe, path: Path, *, rows: int = 10, seed: int = 0) -> None:
    """Write a PNG: for each of `rows` training images its pixels, those preprocessed, and a few augmentations of it.

    What the network sees has no colours of its own: 1% and 99% of the values shown become black and white.
    """
    places = _chosen(data, rows, seed)
    pixels, views = data.train.views(places, recipe, seed=seed, draws=_DRAWS)
    columns = [pixels / 255, *_in_colours(views)]
    headings = ["pixels", recipe.preprocess, *[f"augment {number}" for number in range(1, _DRAWS + 1)]]
    if recipe.augment == "none":
        columns, headings = columns[:2], headings[:2]

    width = _NAMES + len(columns) * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(places) * (_CELL + _GAP)), "white")
    pen, small, font = ImageDraw.Draw(sheet), _font(11), _font(14)
    pen.text((_GAP, 4), label(recipe.data), "black", font)
    pen.text((_GAP, 23), f"preprocess {recipe.preprocess}, augment {recipe.augment}, seed {seed}", "dimgray", small)
    for column, heading in enumerate(headings):
        pen.text((_NAMES + column * (_CELL + _GAP), _HEAD - 16), heading, "dimgray", small)
    for row, place in enumerate(places.tolist()):
        top = _HEAD + row * (_CELL + _GAP)
        name = data.classes[int(data.train.labels[place])]
        pen.text((_GAP, top + _CELL // 2 - 14), name[:15], "black", font)
        pen.text((_GAP, top + _CELL // 2 + 4), f"number {place:,}", "dimgray", small)
        for column, images in enumerate(columns):
            sheet.paste(_picture(images[row]), (_NAMES + column * (_CELL + _GAP), top))
    write_whole(path, lambda temporary: sheet.save(temporary, "PNG"))


def _font(points: int) -> ImageFont.FreeTypeFont:
    """One that has the characters of all classes."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", points)


def _chosen(data: Dataset, rows: int, seed: int) -> Tensor:
    """Places of training images, of as many different classes as there are rows for."""
    labels = data.train.labels.cpu().numpy()
    order = Draws("show", seed).shuffled(torch.arange(len(labels)).numpy())
    classes = sorted(set(labels.tolist()), key=lambda index: int(Draws("show", seed, index).bits(1)[0]))
    found: list[int] = []
    while len(found) < min(rows, len(labels)):
        for index in classes[: rows - len(found)]:
            found += next(([int(place)] for place in order if labels[place] == index and place not in found), [])
    return torch.tensor(sorted(found, key=lambda place: (int(labels[place]), place)))


def _in_colours(views: list[Tensor]) -> list[Tensor]:
    """Preprocessed images (N, 3, H, W) brought to 0..1, all of them by the same rule."""
    low, high = torch.quantile(torch.cat(views).flatten()[:: max(1, len(views[0]))], torch.tensor([0.01, 0.99]))
    return [(view - low) / (high - low) for view in views]


def _picture(image: Tensor) -> Image.Image:
    """(3, H, W) in 0..1 as a square of the sheet."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    resample = Image.Resampling.NEAREST if _CELL % image.shape[-1] == 0 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize((_CELL, _CELL), resample)

"""`digits`: scikit-learn's bundled 1,797 scans of handwritten digits, 8 x 8 in 17 greys (UCI, Alpaydin & Kaynak).

The split is fixed: of each class, in the order of the file, every fifth scan is for testing (355), the rest for
training (1,442). Scans are resized to the image size and their grey repeated to three channels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
from PIL import Image

from wrn.data.arrays import Arrays, Decoded, Progress, Request, room_for


class Digits:
    """See the module."""

    remarks = ()
    origin = None

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    @property
    def key(self) -> Mapping[str, Any]:
        return {"reader": "digits", "version": 2, "image_size": self.image_size, "pillow": PIL.__version__}

    def decode(self, workers: int, progress: Progress) -> Decoded:  # noqa: ARG002  too few to share out
        from sklearn.datasets import load_digits

        scans = load_digits()
        images = room_for("digits", len(scans.images), self.image_size)
        for number, scan in enumerate(scans.images):
            images[number] = self._resize(scan)
        labels = scans.target.astype(np.int64)
        place = np.zeros(len(labels), dtype=np.int64)  # a scan's place among those of its class
        for label in range(10):
            place[labels == label] = np.arange((labels == label).sum())
        test = place % 5 == 4
        progress("digits", len(labels), len(labels))
        names = tuple(str(digit) for digit in range(10))
        return Decoded(Arrays(images[~test], labels[~test]), Arrays(images[test], labels[test]), names)

    def _resize(self, scan: np.ndarray) -> np.ndarray:
        grey = Image.fromarray((scan * (255 / 16)).round().astype(np.uint8))
        resized = grey.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return np.asarray(resized.convert("RGB"))


def read(data: str, request: Request) -> Digits:  # noqa: ARG001
    """The source of `digits`."""
    return Digits(request.image_size)

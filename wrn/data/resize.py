"""A set of small images at another size than its own. No torch."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL
from PIL import Image

from wrn.data import pictures
from wrn.data.arrays import Arrays, Decoded, Progress, room_for


class Resized:
    """The images of a decoded set at `image_size`, by bicubic interpolation; a source like a reader's."""

    remarks = ()
    origin = None

    def __init__(self, name: str, native: Decoded, image_size: int) -> None:
        self.name, self.native, self.image_size = name, native, image_size

    @property
    def key(self) -> Mapping[str, Any]:
        return {"of": self.native.fingerprint, "version": 1, "image_size": self.image_size, "pillow": PIL.__version__}

    def decode(self, workers: int, progress: Progress) -> Decoded:
        return Decoded(
            self._resized(self.native.train, workers, progress),
            self._resized(self.native.test, workers, progress),
            self.native.classes,
        )

    def _resized(self, split: Arrays, workers: int, progress: Progress) -> Arrays:
        images = room_for(self.name, len(split.images), self.image_size)

        def resize(index: int) -> None:
            images[index] = pictures.to_square(Image.fromarray(split.images[index]), self.image_size)

        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(images), 1024):
                part = range(start, min(start + 1024, len(images)))
                list(pool.map(resize, part))
                progress(f"resizing {self.name} to {self.image_size} x {self.image_size}", part.stop, len(images))
        return Arrays(np.asarray(images), split.labels)

"""Random draws that depend on names, not on history: each (seed, epoch, step, purpose) has its own key."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def key(*parts: int | str) -> int:
    """A number in [0, 2^63) that stands for `parts`, the same on every machine: the seed of one draw."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Draws:
    """Random arrays that follow from a name alone, the same on every machine and in every version of NumPy.

    They are made of Philox's raw bits, which NumPy promises not to change, and of operations that IEEE 754 rounds
    exactly.
    """

    def __init__(self, *name: int | str) -> None:
        self._philox = np.random.Philox(key=key(*name))

    def bits(self, *shape: int) -> npt.NDArray[np.uint64]:
        return np.asarray(self._philox.random_raw(int(np.prod(shape))), np.uint64).reshape(shape)

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        share = (self.bits(*shape) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return share * np.float32(high - low) + np.float32(low)

    def below(self, limit: int, *shape: int) -> npt.NDArray[np.int64]:
        """Integers 0 .. limit - 1, for limits below 2^32."""
        return ((self.bits(*shape) >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)

    def noise(self, *shape: int) -> Floats:
        """Nearly normal, mean 0 and variance 1: sums of four bytes."""
        count = int(np.prod(shape))
        sums = self.bits((count + 1) // 2).view(np.uint8).reshape(-1, 4).sum(1, dtype=np.float32)[:count]
        return ((sums - np.float32(510)) * np.float32(1 / 147.8)).reshape(shape)

    def shuffled(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values[np.argsort(self.bits(len(values)), kind="stable")]

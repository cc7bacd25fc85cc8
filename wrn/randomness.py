"""Random draws that depend on names, not on history: each (seed, epoch, step, purpose) has its own key."""

import hashlib


def key(*parts: int | str) -> int:
    """A number in [0, 2^63) that stands for `parts`, the same on every machine: the seed of one draw."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

"""Names of networks: "wrn-40-2-b(3,1,3)" <-> a spec; and the networks the paper names. No torch."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from wrn.errors import UsageError, unknown
from wrn.paper import rows

DepthRule = Literal["true", "nominal"]

_WRN = re.compile(r"wrn-(?P<depth>\d+)-(?P<widen>\d+(?:\.\d+)?)(?:-b(?P<kernels>\d+|\(\d(?:,\d)*\)))?")
_FAMILY = "wrn-<depth>-<widen factor>[-b<kernels>], such as wrn-28-10 or wrn-40-2-b313"


@dataclass(frozen=True)
class WideResNetSpec:
    """WRN-n-k with blocks B(M) as a name says it, and the N that follows."""

    depth: int  # the paper's n
    widen_factor: float  # the paper's k
    kernels: tuple[int, ...]  # the paper's M
    blocks_per_group: int  # the paper's N

    @property
    def name(self) -> str:
        """The name we print: `wrn-28-10`, `wrn-40-2-b313` (safe in a shell)."""
        suffix = "" if self.kernels == (3, 3) else "-b" + "".join(map(str, self.kernels))
        return f"wrn-{self.depth}-{str(float(self.widen_factor)).removesuffix('.0')}{suffix}"


def blocks_per_group(depth: int, convs_per_block: int, rule: DepthRule) -> int | None:
    """N for a depth n, or None where it fits none: n = 3lN + 4 ("true"), n = 6N + 4 whatever l ("nominal", Table 2)."""
    convs = 3 * convs_per_block if rule == "true" else 6
    blocks, rest = divmod(depth - 4, convs)
    return blocks if rest == 0 and blocks >= 1 else None


def parameter_count(
    blocks: int, widen_factor: float, kernels: tuple[int, ...], num_classes: int = 10, in_channels: int = 3
) -> int:
    """Trainable parameters by the closed formula of the architecture (SPEC 1.6), to tell networks apart by name."""
    widths = [16, *(int(base * widen_factor) for base in (16, 32, 64))]
    first, area, length = kernels[0] ** 2, sum(m * m for m in kernels), len(kernels)
    total = 9 * in_channels * 16 + 2 * widths[3] + (widths[3] + 1) * num_classes
    for i, o in pairwise(widths):
        total += i * o * first + o * o * (area - first) + (i * o if i != o else 0) + 2 * i + 2 * o * (length - 1)
        total += (blocks - 1) * (o * o * area + 2 * o * length)
    return total


def parse(name: str, depth_rule: DepthRule | None = None) -> WideResNetSpec:
    """Read a network's name: `wrn-28-10`, `WRN-28-10`, `wrn_28_10`, `wrn-40-2-b(3,1,3)`.

    Raises ValueError for a name of no network, a depth that fits no N, and a name that the two depth rules
    read as two different networks while `depth_rule` does not choose.
    """
    match = _WRN.fullmatch(name.strip().lower().replace("_", "-").replace(" ", ""))
    if match is None:
        raise unknown("model", name, MODELS, hint=f"; a name reads {_FAMILY}")
    depth, widen_factor = int(match["depth"]), float(match["widen"])
    kernels = _digits(match["kernels"] or "33")
    if not set(kernels) <= {1, 3}:
        raise UsageError(f"model {name!r}: a block is made of 1x1 and 3x3 convolutions; write b followed by 1s and 3s")
    if int(16 * widen_factor) < 1:
        raise UsageError(f"model {name!r}: widen factor {widen_factor:g} leaves no channels; use at least 0.0625")
    blocks = _choose_blocks(name, depth, widen_factor, kernels, depth_rule)
    return WideResNetSpec(depth, widen_factor, kernels, blocks)


def _choose_blocks(
    name: str, depth: int, widen_factor: float, kernels: tuple[int, ...], depth_rule: DepthRule | None
) -> int:
    length = len(kernels)
    true, nominal = blocks_per_group(depth, length, "true"), blocks_per_group(depth, length, "nominal")
    if depth_rule not in (None, "true", "nominal"):
        raise unknown("depth rule", str(depth_rule), ["true", "nominal"])
    if depth_rule is None and true and nominal and true != nominal:
        counts = [f"N={n} ({parameter_count(n, widen_factor, kernels):,} parameters)" for n in (true, nominal)]
        raise UsageError(
            f"model {name!r}: depth {depth} means {counts[0]} counted truly (n = 3lN + 4) and {counts[1]} counted "
            "nominally as in Table 2 (n = 6N + 4); choose with --depth-rule true|nominal (depth_rule= in Python)"
        )
    blocks = nominal if depth_rule == "nominal" else true
    if blocks is None:
        step = 6 if depth_rule == "nominal" else 3 * length
        below = max(1, (depth - 4) // step)
        near = " or ".join(str(step * n + 4) for n in ((below, below + 1) if depth > step + 4 else (1,)))
        raise UsageError(f"model {name!r}: depth {depth} is not {step}N + 4 for any N >= 1; the nearest is {near}")
    return blocks


def _networks_of_the_paper() -> dict[str, str]:
    tables: dict[str, list[str]] = {}
    for table in ("table2", "table3", "table4", "table6", "table9"):
        for row in rows(table):
            if row.get("N"):
                rule: DepthRule = "nominal" if table == "table2" else "true"
                name = WideResNetSpec(row["depth"], row["k"], _digits(row["block"]), row["N"]).name
                ambiguous = blocks_per_group(row["depth"], row["l"], "true") != blocks_per_group(
                    row["depth"], row["l"], "nominal"
                )
                source = f"Table {table[5:]}" + (f" (--depth-rule {rule})" if ambiguous else "")
                if source not in tables.setdefault(name, []):
                    tables[name].append(source)
    return {name: ", ".join(sources) for name, sources in sorted(tables.items())}


def _digits(text: str) -> tuple[int, ...]:
    return tuple(int(character) for character in text if character.isdigit())


MODELS: dict[str, str] = _networks_of_the_paper()
"""The networks of the paper by name, and where in it they stand. Any other depth, width and block has a name too."""

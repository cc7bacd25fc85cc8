"""What a benchmark found, as a Markdown table."""

from collections.abc import Mapping
from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """A line on the machine, then a table with a column for whatever any row has."""
    about = found["machine"]
    lines = [f"{about['device']}, {about['threads']} threads, torch {about['torch']}"]
    if "execution" in found:
        lines[0] += f"; {found['execution']}"
    if "peaks" in found:
        lines.append(f"At most: {in_words(found['peaks'])}")
    columns = list(dict.fromkeys(name for row in found["rows"] for name in row))
    lines += ["", "| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in found["rows"]]
    return "\n".join(lines)


def in_words(peaks: Mapping[str, float]) -> str:
    """`matrix products of bf16 2.2 TFLOP/s, of fp32 0.36 TFLOP/s, copying 24 GB/s`."""
    kinds = ("bf16", "tf32", "fp32")
    products = [
        f"of {kind} {rate} TFLOP/s" for kind in kinds if (rate := peaks.get(f"matmul_{kind}_tflops")) is not None
    ]
    return f"matrix products {', '.join(products)}, copying {peaks['copy_gb_per_s']} GB/s"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return "" if value is None else str(value)

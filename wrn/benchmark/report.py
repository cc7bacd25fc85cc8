"""What a benchmark found, as a Markdown table."""

from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """A line on the machine, then a table with a column for whatever any row has."""
    about = found["machine"]
    lines = [f"{about['device']}, {about['threads']} threads, torch {about['torch']}"]
    if "execution" in found:
        lines[0] += f"; {found['execution']}"
    if "peaks" in found:
        peaks = found["peaks"]
        lines.append(
            f"At most: bf16 matrix products {peaks['matmul_bf16_tflops']} TFLOP/s, fp32 "
            f"{peaks['matmul_fp32_tflops']} TFLOP/s, copying {peaks['copy_gb_per_s']} GB/s"
        )
    columns = list(dict.fromkeys(name for row in found["rows"] for name in row))
    lines += ["", "| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in found["rows"]]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return "" if value is None else str(value)

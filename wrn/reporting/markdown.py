"""Findings as Markdown, for the terminal and for pages of the repository. No torch."""

from wrn.reporting import tables
from wrn.reporting.findings import Finding
from wrn.reporting.tables import Table


def section(finding: Finding, pictures: str = "") -> str:
    """Title, table, pictures, claims, notes."""
    parts = [f"## {tables.title(finding)}"]
    if finding.rows:
        parts.append(table(tables.errors(finding)))
    if finding.times_on:
        parts.append(f"Times: forward and backward of {_batch(finding)}, on {finding.times_on}.")
    if pictures:
        parts.append(pictures.strip())
    if finding.claims:
        parts.append(table(tables.claims(finding)))
    return "\n\n".join([*parts, *finding.notes])


def table(found: Table) -> str:
    """A pipe table, its columns aligned for those who read it as it is."""
    lines = [tuple(map(_cell, found.head)), *(tuple(_cell(field.words) for field in row) for row in found.rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(found.head))]
    head, *rows = [" | ".join(map(str.ljust, line, widths)) for line in lines]
    rule = "|".join("-" * (width + 2) for width in widths)
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in rows)])


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def _batch(finding: Finding) -> str:
    times = finding.choice.of.times
    assert times is not None
    return f"{times.batch_size} images of {times.image_size}x{times.image_size}"

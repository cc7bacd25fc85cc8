"""Findings as tables of words, for Markdown and HTML alike. No torch."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from wrn.experiments.parts import Column, Row
from wrn.paper import experiment as of_the_paper
from wrn.reporting.findings import CellFinding, Finding, ratio_of_the_paper
from wrn.runs import Run


@dataclass(frozen=True)
class Text:
    """One field of a table. `kind` says what it tells: "good", "bad", "open", "missing", or nothing of that."""

    words: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A head and rows of as many fields."""

    head: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]


def errors(finding: Finding) -> Table:
    """Networks against data sets: ours as median (least to most; n), the paper's, and how they compare."""
    head = ["network", "parameters"]
    for column in finding.columns:
        head += [f"{column.title}, ours", *(["paper"] if _printed(finding) else [])]
        if finding.choice.of.base:
            head.append("mean difference to the first row, by seed")
        elif _compared(finding):
            head.append("verdict")
    if finding.choice.of.times is not None:
        head += ["time, ours", "ratio", "paper's ratio"]
    return Table(tuple(head), tuple(tuple(_row(finding, row)) for row in finding.rows))


def _printed(finding: Finding) -> bool:
    """Whether the paper has such a table."""
    return of_the_paper(finding.choice.experiment) is not None


def _compared(finding: Finding) -> bool:
    return finding.choice.faithful and _printed(finding)


def _row(finding: Finding, row: Row) -> list[Text]:
    fields = [Text(row.key), Text(_parameters(finding, row))]
    for column in finding.columns:
        cell = finding.cell(row, column)
        extra = bool(finding.choice.of.base) or _compared(finding)
        if cell is None:
            fields += [Text("")] * (1 + _printed(finding) + extra)
            continue
        fields.append(_ours(cell))
        if _printed(finding):
            fields.append(Text("" if cell.paper is None else f"{cell.paper:.2f}"))
        if finding.choice.of.base:
            fields.append(_to_base(cell))
        elif extra:
            kind = {True: "good", False: "bad", None: "open"}[cell.reproduced] if cell.verdict else ""
            fields.append(Text(cell.verdict, kind))
    if finding.choice.of.times is not None:
        fields += _time(finding, row)
    return fields


def _time(finding: Finding, row: Row) -> list[Text]:
    paper = ratio_of_the_paper(finding.choice, row)
    printed = Text("" if paper is None else f"{paper:.2f}")
    found = next((each for each in finding.times if each.row == row), None)
    if found is None:
        return [Text("not run", "missing"), Text(""), printed]
    return [Text(f"{found.ms:.1f} ms"), Text(f"{found.ratio:.2f}"), printed]


def _parameters(finding: Finding, row: Row) -> str:
    """As the run counted them, else as paper.json has them for the first column, else with 10 classes."""
    if row.cannot:
        return row.cannot
    for column in finding.columns:
        cell = finding.cell(row, column)
        for job, state in () if cell is None else zip(cell.cell.jobs, cell.states, strict=True):
            if state == "finished":
                return f"{Run(job.path).result.get('parameters', 0):,}"
    if not finding.choice.faithful:
        return ""
    known = of_the_paper(finding.choice.experiment)
    counts = None if known is None or row.paper is None else known["rows"][row.paper].get("params_computed")
    if isinstance(counts, dict):
        counts = counts.get("c100" if row.only == ("cifar100",) else "c10")
    return f"{counts or _sizes()[row.model]['params']:,}" if counts or row.model in _sizes() else ""


@cache
def _sizes() -> dict[str, dict[str, int]]:
    """Of the networks in `wrn list models`."""
    return json.loads(files("wrn.models").joinpath("sizes.json").read_text(encoding="utf-8"))


def _ours(cell: CellFinding) -> Text:
    found, others = cell.median, cell.others
    if found is None:
        return Text(others, "bad" if others.startswith("failed") else "missing")
    values = list(cell.values.values())
    words = f"{found.value:.2f}"
    if len(values) > 1:
        words += f" ({min(values):.2f} to {max(values):.2f}; n = {len(values)})"
    if len(values) > 2:
        words += f", {found.confidence:.0%} [{found.low:.2f}, {found.high:.2f}]"
    return Text(f"{words}; {others}" if others else words)


def _to_base(cell: CellFinding) -> Text:
    difference = cell.to_base
    if difference is None:
        return Text("")
    if difference.n == 1:
        return Text(f"{-difference.value:+.2f} (n = 1)", "open")
    kind = "open" if difference.low <= 0 <= difference.high else "bad" if difference.value < 0 else "good"
    value, low, high = (0.0 - each for each in (difference.value, difference.high, difference.low))
    return Text(f"{value:+.2f} [{low:+.2f}, {high:+.2f}], n = {difference.n}", kind)


def claims(finding: Finding) -> Table:
    """What the paper says, whether ours and its own numbers bear it out, and our figures."""
    kinds = {"held": "good", "not held": "bad", "not run": "missing"}
    rows = []
    for claim in finding.claims:
        kind = kinds.get(claim.verdict.partition(" (")[0], "open")
        rows.append(
            (Text(claim.text), Text(claim.verdict, kind), Text(claim.of_the_paper), Text("; ".join(claim.figures)))
        )
    return Table(("claim", "in ours", "in the paper's numbers", "difference of errors, paired by seed"), tuple(rows))


def title(finding: Finding) -> str:
    """`Table 4: Width and depth, on digits`, `Figure 2: …`."""
    name = finding.choice.experiment
    for short, long in (("table", "Table "), ("fig", "Figure ")):
        name = name.replace(short, long) if name.startswith(short) else name
    version = "" if len(finding.choice.of.versions) == 1 else f" (paper's numbers: {finding.choice.version})"
    return f"{name[0].upper()}{name[1:]}: {finding.choice.of.title}{_on(finding.columns, finding)}{version}"


def _on(columns: tuple[Column, ...], finding: Finding) -> str:
    return f", on {columns[0].title}" if finding.choice.data is not None and columns else ""

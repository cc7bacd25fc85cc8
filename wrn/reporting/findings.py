"""What the runs of an experiment came to: cells, claims and times, from run folders alone. No torch."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wrn.errors import Error
from wrn.experiments.parts import Claim, Column, Rise, Row
from wrn.files import read_json
from wrn.paper import experiment as of_the_paper
from wrn.reporting.statistics import Interval, above_zero, mean, median, paired, within
from wrn.reproduction import plan
from wrn.reproduction.plan import Cell, Choice
from wrn.runs import Run

LAST_OR_BEST = (
    "Ours are the last epoch's errors. The paper does not say whether it prints the last or the best: the authors' one "
    "public log of WRN-40-4 ends at 5.11 and has 4.92 at best, where Table 4 prints 4.97."
)


@dataclass(frozen=True)
class CellFinding:
    """One network on one data set: the finished runs' values by seed, and what became of the others."""

    cell: Cell
    states: tuple[str, ...]
    values: Mapping[int, float]
    paper: float | None
    reproduced: bool | None
    comparable: bool
    to_base: Interval | None = None  # by how much the base row is higher

    @property
    def median(self) -> Interval | None:
        return median(list(self.values.values())) if self.values else None

    @property
    def others(self) -> str:
        """The runs that are not finished: `failed`, `2 running; 1 missing`; "not run" if none is."""
        counts = Counter(state.partition(":")[0] for state in self.states if state != "finished")
        if set(counts) == {"missing"} and not self.values:
            return "not run"
        told = [state if len(self.states) == 1 else f"{count} {state}" for state, count in counts.items()]
        return "; ".join(told)

    @property
    def failures(self) -> list[str]:
        """Which runs failed and why, one reason once."""
        reasons = dict.fromkeys(state for state in self.states if state.startswith("failed"))
        return [f"{self.cell.row.key} on {self.cell.column.title} {reason}" for reason in reasons]

    @property
    def verdict(self) -> str:
        """Against the paper's number, with the tolerance; empty where there is nothing to compare."""
        if self.paper is None or not self.comparable or not self.values:
            return ""
        word = {True: "reproduced", False: "not reproduced", None: "undecided"}[self.reproduced]
        few = f", {len(self.values)} run{'s' * (len(self.values) > 1)}" if len(self.values) < 3 else ""
        return f"{word} (±{self.cell.column.tolerance:g}{few})"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; errors in percent, `what` as `result.json` calls them."""
        return {
            "row": self.cell.row.key,
            "data": self.cell.column.data,
            "what": self.cell.column.result,
            "by_seed": dict(self.values),
            "median": self.median and asdict(self.median),
            "unfinished": self.others,
            "paper": self.paper,
            "tolerance": self.cell.column.tolerance,
            "verdict": self.verdict,
            "base_minus_this": self.to_base and asdict(self.to_base),
        }


@dataclass(frozen=True)
class ClaimFinding:
    """A claim, whether our runs bear it out, whether the paper's own numbers do, and the figures."""

    text: str
    verdict: str
    of_the_paper: str
    figures: tuple[str, ...] = ()


@dataclass(frozen=True)
class TimeFinding:
    """What a row took, also as ratio to the reference row, ours and the paper's."""

    row: Row
    ms: float
    least: float  # of the rounds, as ratio to the reference row's median, and the most
    most: float
    ratio: float
    paper_ratio: float | None


@dataclass(frozen=True)
class Finding:
    """All of an experiment."""

    choice: Choice
    columns: tuple[Column, ...]
    cells: tuple[CellFinding, ...]
    claims: tuple[ClaimFinding, ...]
    times: tuple[TimeFinding, ...] = ()
    times_on: str = ""
    notes: tuple[str, ...] = ()
    drawing: Any = field(default=None)  # of Figure 1: what the modules told

    def cell(self, row: Row, column: Column) -> CellFinding | None:
        return next((each for each in self.cells if (each.cell.row, each.cell.column) == (row, column)), None)

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.choice.of.rows if not self.choice.rows or row.key in self.choice.rows]

    def to_dict(self) -> dict[str, Any]:
        """What was asked and what came of it, for JSON: errors and their intervals in percent, times in ms."""
        return {
            **self.choice.to_dict(),
            "title": self.choice.of.title,
            "faithful": self.choice.faithful,
            "cells": [each.to_dict() for each in self.cells],
            "claims": [asdict(each) for each in self.claims],
            "times": [{**asdict(each), "row": each.row.key} for each in self.times],
            "times_on": self.times_on,
            "notes": list(self.notes),
        }


def find(choice: Choice, out: str | Path, failures: Mapping[str, str] | None = None) -> Finding:
    """Read the runs of what was asked, below the folder `out`. Raises wrn.Error for damaged files."""
    found = [_cell(choice, cell, failures or {}) for cell in plan.cells(choice, out)]
    if choice.of.base is not None:
        bases = {each.cell.column: each.values for each in found if each.cell.row.key == choice.of.base}
        found = [
            replace(each, to_base=paired(bases.get(each.cell.column, {}), each.values))
            if each.cell.row.key != choice.of.base
            else each
            for each in found
        ]
    columns = plan.columns(choice)
    times, times_on = _times(choice, Path(out))
    return Finding(
        choice,
        columns,
        tuple(found),
        tuple(_claim(choice, claim, found, times) for claim in choice.of.claims),
        times,
        times_on,
        (*(reason for each in found for reason in each.failures), *_notes(choice, found)),
        _drawing(choice, Path(out)),
    )


def _cell(choice: Choice, cell: Cell, failures: Mapping[str, str]) -> CellFinding:
    states = tuple(plan.state(job, failures) for job in cell.jobs)
    values = {
        job.seed: value
        for job, state in zip(cell.jobs, states, strict=True)
        if state == "finished" and (value := Run(job.path).result.get(cell.column.result)) is not None
    }
    theirs = plan.paper_value(choice, cell.row, cell.column)
    single = plan.runs_of_the_paper(choice, cell.column) == 1
    alike = None
    if values and theirs is not None:
        alike = within(median(list(values.values())), theirs, cell.column.tolerance, single)
    return CellFinding(cell, states, values, theirs, alike, choice.faithful)


def _claim(
    choice: Choice, claim: Claim | Rise, cells: list[CellFinding], times: tuple[TimeFinding, ...]
) -> ClaimFinding:
    printed = of_the_paper(choice.experiment) is not None
    if isinstance(claim, Rise):
        return _rise(claim, cells, printed and plan.runs_of_the_paper(choice) == 1)
    if claim.columns == ("time",):
        return _faster(choice, claim, times)
    concerned = [each for each in plan.columns(choice) if choice.data or not claim.columns or each.key in claim.columns]
    single = {each: printed and plan.runs_of_the_paper(choice, each) == 1 for each in concerned}
    decided: list[bool | None] = []
    figures: list[str] = []
    for column in concerned:
        values = {each.cell.row.key: each.values for each in cells if each.cell.column == column}
        for worse, better in claim.pairs:
            difference = paired(values.get(worse, {}), values.get(better, {}))
            if difference is None:
                decided.append(None)
                continue
            decided.append(above_zero(difference, single[column]))
            figures.append(f"{worse} - {better} on {column.title}: {_difference(difference)}")
    elsewhere = f" (here on {plan.columns(choice)[0].title})" if choice.data is not None and claim.columns else ""
    verdict, theirs = _together(decided, figures, any(single.values())), _in_the_paper(choice, claim)
    return ClaimFinding(claim.text + elsewhere, verdict, theirs, tuple(figures))


def _in_the_paper(choice: Choice, claim: Claim) -> str:
    """Whether the paper's own numbers bear the claim out."""
    rows = {row.key: row for row in choice.of.rows}
    signs = []
    for column in choice.of.columns:
        if claim.columns and column.key not in claim.columns:
            continue
        for worse, better in claim.pairs:
            high, low = (_paper_number(choice, rows[key], column) for key in (worse, better))
            if high is not None and low is not None:
                signs.append(high > low)
    return "" if not signs else "held" if all(signs) else f"not held ({signs.count(False)} of {len(signs)} pairs)"


def _paper_number(choice: Choice, row: Row, column: Column) -> float | None:
    if row.only and column.key not in row.only:
        return None
    faithful = Choice(experiment=choice.experiment, version=choice.version)
    return plan.paper_value(faithful, row, column)


def _faster(choice: Choice, claim: Claim, times: tuple[TimeFinding, ...]) -> ClaimFinding:
    ours = {each.row.key: each for each in times}
    rows = {row.key: row for row in choice.of.rows}
    pairs = [(ours[slow], ours[fast]) for slow, fast in claim.pairs if slow in ours and fast in ours]
    # Rounds alternate, so that the slowest of one against the fastest of the other is a fair test
    decided = [True if slow.least > fast.most else False if slow.most < fast.least else None for slow, fast in pairs]
    theirs = [(plan.paper_time(choice, rows[slow]), plan.paper_time(choice, rows[fast])) for slow, fast in claim.pairs]
    known = [slow > fast for slow, fast in theirs if slow is not None and fast is not None]
    figures = tuple(f"{slow.row.key} : {fast.row.key} = {slow.ratio / fast.ratio:.2f}" for slow, fast in pairs)
    missing: list[bool | None] = [None] * (len(claim.pairs) - len(pairs))
    verdict = _together([*decided, *missing], list(figures), False)
    return ClaimFinding(claim.text, verdict, "held" if known and all(known) else "not held" if known else "", figures)


def _rise(claim: Rise, cells: list[CellFinding], single: bool) -> ClaimFinding:
    decided: list[bool | None] = []
    figures = []
    for each in cells:
        if each.cell.row.key not in claim.rows:
            continue
        begun = [job for job in each.cell.jobs if (job.path / "recipe.json").exists()]
        rises = [found for job in begun if (found := rise(metrics_of(Run(job.path)))) is not None]
        if not rises:
            decided.append(None)
            continue
        decided.append(above_zero(mean(rises), single))
        figures.append(f"{each.cell.row.key} on {each.cell.column.title}: {_difference(mean(rises))}")
    return ClaimFinding(claim.text, _together(decided, figures, single), "", tuple(figures))


def metrics_of(run: Run) -> list[dict[str, Any]]:
    """A line an epoch; none where they cannot be read, without which all else can still be told."""
    with suppress(Error):
        return run.metrics
    return []


def rise(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """By how much the test error rises in the second stage of the rate, from its first quarter's mean to its last's.

    Of the lines of `metrics.jsonl`; None if the stage is not over, or too short.
    """
    stages = sorted({line["lr"] for line in lines}, reverse=True)
    if len(stages) < 3:  # until the second drop
        return None
    errors = [line["test_error"] for line in lines if line["lr"] == stages[1]]
    quarter = len(errors) // 4
    if not quarter or None in errors:
        return None
    return statistics.mean(errors[-quarter:]) - statistics.mean(errors[:quarter])


def _together(decided: list[bool | None], figures: list[str], single: bool) -> str:
    if not figures:
        return "not run"
    one = " (from one run each, as the paper's)" if single and any("n = 1" in each for each in figures) else ""
    if any(each is False for each in decided):
        return f"not held{one}"
    if all(decided):
        return f"held{one}"
    missing = len(decided) - len(figures)
    return f"not decided ({missing} of {len(decided)} comparisons missing)" if missing else "not decided"


def _difference(interval: Interval) -> str:
    if math.isinf(interval.low):
        return f"{interval.value:+.2f}, n = 1"
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}], n = {interval.n}"


def _times(choice: Choice, out: Path) -> tuple[tuple[TimeFinding, ...], str]:
    path, times = plan.times_path(choice, out), choice.of.times
    if times is None or not path.exists():
        return (), ""
    found = read_json(path, "rows", "machine", "execution")
    try:
        measured = {row["model"]: row for row in found["rows"]}
        rows = []
        for row in choice.of.rows:
            if row.model in measured:
                ms, ratio = measured[row.model]["ms"], measured[row.model][f"ratio to {times.to}"]
                least, most = (ratio * measured[row.model][name] / ms for name in ("ms_min", "ms_max"))
                rows.append(TimeFinding(row, ms, least, most, ratio, ratio_of_the_paper(choice, row)))
        about = found["machine"]
        words = f"{about['device']}, {about['threads']} threads, torch {about['torch']}; {found['execution']}"
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise Error(f"{path}: damaged ({error!r}); remove it, and run wrn reproduce again") from error
    return tuple(rows), words


def _drawing(choice: Choice, out: Path) -> Any:
    path = out / "drawings" / f"{choice.experiment}.json"
    return read_json(path, "panels")["panels"] if path.exists() else None


def ratio_of_the_paper(choice: Choice, row: Row) -> float | None:
    """The time that the paper prints, as ratio to the reference row's."""
    if choice.of.times is None:
        return None
    time, to = plan.paper_time(choice, row), plan.paper_time(choice, _named(choice, choice.of.times.to))
    return None if time is None or to is None else time / to


def _named(choice: Choice, key: str) -> Row:
    return next(row for row in choice.of.rows if row.key == key)


def _notes(choice: Choice, found: list[CellFinding]) -> tuple[str, ...]:
    notes = []
    if found and not choice.faithful:
        asked = ", ".join(
            [*([f"on {found[0].cell.column.title}"] if choice.data else []), *map(_field, choice.fields.items())]
        )
        others = of_the_paper(choice.experiment)
        notes.append(
            f"Not the paper's experiment: {asked}. Its numbers stand beside ours for the pattern alone."
            if others is not None
            else f"Scaled: {asked}."
        )
    results = [(each, Run(job.path).result) for each in found for job in each.cell.jobs if job.seed in each.values]
    origins = {(each.cell.column.title, where): None for each, result in results if (where := result.get("data_from"))}
    notes += [f"{data}: from {where}, not from the published files." for data, where in origins]
    if choice.precision != "fp32":
        notes.append(f"Trained in {choice.precision}; errors are evaluated in fp32.")
    if choice.fields.get("val"):
        notes.append("Ours are the errors of the epoch that the validation split chose.")
    elif any(each.values for each in found) and of_the_paper(choice.experiment) is not None:
        notes.append(LAST_OR_BEST)
    if any(row.precision for row in choice.of.rows):
        notes.append("This table mixes two precisions, since it asks about their difference.")
    return tuple(notes)


def _field(item: tuple[str, Any]) -> str:
    value = item[1]
    return f"{item[0]} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"

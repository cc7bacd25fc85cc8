"""Which runs make up a table: an experiment's rows and columns, times seeds, as recipes and run folders. No torch."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wrn.data.catalog import label
from wrn.errors import Error, UsageError, unknown
from wrn.experiments.catalog import EXPERIMENTS
from wrn.experiments.parts import Column, Experiment, Row
from wrn.files import read_json, write_json
from wrn.paper import experiment as of_the_paper
from wrn.recipes import RECIPES, Recipe, recipe
from wrn.runs import Run, default_path


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was asked of an experiment. Kept beside the runs, so that a report finds them again."""

    experiment: str
    version: str = "v4"  # of the paper
    seeds: int = 1
    data: str | None = None  # the same table on this data set
    rows: tuple[str, ...] = ()  # none: all
    fields: Mapping[str, Any] = field(default_factory=dict)  # of every recipe
    precision: str = "fp32"

    @property
    def of(self) -> Experiment:
        return EXPERIMENTS[self.experiment]

    @property
    def name(self) -> str:
        """What its files are called: `table4`, or `table4-1a2b3c4d` where something else was asked than the paper has.

        Without the seeds and rows: what is asked for later in the same way joins the same table.
        """
        asked = {"version": self.version, "data": self.data, "fields": dict(self.fields), "precision": self.precision}
        usual: dict[str, Any] = {"version": "v4", "data": None, "fields": {}, "precision": "fp32"}
        if asked == usual:
            return self.experiment
        return f"{self.experiment}-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]}"

    @property
    def faithful(self) -> bool:
        """Whether its runs may be compared with the paper's numbers."""
        return self.data is None and not self.fields

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Choice":
        """Of a `to_dict`. Raises ValueError for what is none."""
        try:
            found = cls(**{**fields, "rows": tuple(fields["rows"])})
            _check(found)
        except (KeyError, TypeError) as error:
            raise UsageError(f"not a plan of this version: {error}; run wrn reproduce again") from error
        return found


def choose(
    experiment: str,
    version: str = "v4",
    seeds: int | None = None,
    data: str | None = None,
    rows: tuple[str, ...] = (),
    precision: str = "fp32",
    fields: Mapping[str, Any] | None = None,
) -> Choice:
    """What is asked of an experiment. `seeds`: how many; None: as many as the paper had.

    Raises ValueError for unknown ids, versions and rows.
    """
    found = Choice(
        experiment=experiment, version=version, data=data, rows=tuple(rows), fields=dict(fields or {}),
        precision=precision, seeds=1 if seeds is None else seeds,
    )  # fmt: skip
    _check(found)
    return found if seeds is not None else replace(found, seeds=found.of.seeds or runs_of_the_paper(found))


def _check(choice: Choice) -> None:
    if choice.experiment not in EXPERIMENTS:
        raise unknown("experiment", choice.experiment, EXPERIMENTS)
    if choice.version not in ("v1", "bmvc", "v4"):
        raise unknown("version of the paper", choice.version, ("v1", "bmvc", "v4"))
    if choice.version not in choice.of.versions:
        raise UsageError(
            f"--paper-version {choice.version}: has no {choice.experiment}; take {' or '.join(choice.of.versions)}"
        )
    if type(choice.seeds) is not int or not 1 <= choice.seeds <= 1000:
        raise UsageError(f"--seeds {choice.seeds}: must be a whole number, at least 1 and at most 1,000")
    keys = [row.key for row in choice.of.rows]
    for name in choice.rows:
        if name not in keys:
            raise unknown("row", name, keys)
    for row in choice.of.rows:
        own = {*row.fields, *(name for fields in row.on.values() for name in fields)} & {*choice.fields}
        if row.precision is not None and choice.precision != "fp32":
            own = {"precision"}
        if own:
            raise UsageError(f"{min(own)}: is what rows of {choice.experiment} differ by; leave it out")


@dataclass(frozen=True)
class Job:
    """One run: what to train, and where it lies."""

    recipe: Recipe
    seed: int
    precision: str
    path: Path
    name: str  # the path below the folder of all runs
    after: "Job | None" = None  # the teacher's

    @property
    def title(self) -> str:
        return f"{self.recipe.model} on {label(self.recipe.data)}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """A row in a column: its runs, one a seed; without any if it cannot be run."""

    row: Row
    column: Column
    jobs: tuple[Job, ...]


def columns(choice: Choice) -> tuple[Column, ...]:
    """The columns: the paper's, or the one of another data set."""
    if choice.data is None:
        return choice.of.columns
    return (Column("data", label(choice.data), choice.data, 0.0),) if choice.of.columns else ()


def cells(choice: Choice, out: str | Path) -> list[Cell]:
    """Every cell of the table with the runs that it needs, below the folder `out`. Raises ValueError for bad fields."""
    return [
        Cell(row, column, tuple(_job(choice, row, column, seed, out) for seed in range(choice.seeds)))
        for row in choice.of.rows
        if not choice.rows or row.key in choice.rows
        for column in columns(choice)
        if not row.cannot and (choice.data is not None or not row.only or column.key in row.only)
    ]


def jobs(cells: list[Cell]) -> list[Job]:
    """Each run once, teachers before those who learn from them; of all rows first the first seed, then the next."""
    found: dict[Path, Job] = {}
    for job in sorted((job for cell in cells for job in cell.jobs), key=lambda job: job.seed):
        for each in (job.after, job):
            if each is not None:
                found.setdefault(each.path, each)
    return list(found.values())


def _job(choice: Choice, row: Row, column: Column, seed: int, out: str | Path) -> Job:
    precision = row.precision or choice.precision
    # What a version of the paper did with CIFAR; other networks' own recipes say themselves how they treat their data
    ours = row.recipe in RECIPES and RECIPES[row.recipe].of_the_paper and column.data.startswith("cifar")
    fields: dict[str, Any] = dict(choice.of.versions[choice.version]) if ours else {}
    fields |= {**row.fields, **row.on.get(column.data, {}), **choice.fields}
    teacher = None
    if row.teacher is not None:
        known = recipe(row.model, data=column.data, recipe=row.recipe, **fields)
        like = {name: getattr(known, name) for name in ("preprocess", "labels", "val", "image_size")}
        wanted = recipe(row.teacher, data=column.data, recipe="authors", **{**choice.fields, **like})
        teacher = placed(wanted, seed, precision, out)
        fields["teacher"] = str(teacher.path)
    made = recipe(row.model, data=column.data, recipe=row.recipe, **fields)
    return placed(made, seed, precision, out, teacher)


def placed(recipe: Recipe, seed: int, precision: str, out: str | Path, after: Job | None = None) -> Job:
    """Where `wrn train` would put it; runs in bf16 beside those in fp32."""
    # A teacher counts by its place among the runs, so that the folder of all may be called anything
    named = recipe if after is None else replace(recipe, teacher=after.name)
    path = default_path(named, seed, out)
    path = path if precision == "fp32" else path.with_name(f"{path.name}-{precision}")
    return Job(recipe, seed, precision, path, path.relative_to(out).as_posix(), after)


def runs_of_the_paper(choice: Choice, column: Column | None = None) -> int:
    """How many runs the paper took the median of, in the version asked for; without a column in its first."""
    known = of_the_paper(choice.experiment)
    runs = 1 if known is None else known.get("runs", 1)
    runs = runs.get(choice.version, 1) if isinstance(runs, dict) else runs
    parts = str(runs).split(", ")  # "5" or "5 on CIFAR, 1 on SVHN"
    of_column = [part for part in parts if column and column.title.startswith(part.partition(" on ")[2] or " ")]
    return int((of_column or parts)[0].split()[0])


def paper_value(choice: Choice, row: Row, column: Column) -> float | None:
    """What the paper prints there, in the version asked for; on data that it has no column of, in its first column."""
    if row.paper is None or (known := of_the_paper(choice.experiment)) is None:
        return None
    if choice.data is not None:
        column = next((each for each in choice.of.columns if each.data == choice.data), choice.of.columns[0])
    value: float | None = known["rows"][row.paper].get("values", {}).get(choice.version, {}).get(column.key)
    return value


def paper_time(choice: Choice, row: Row) -> float | None:
    """What the paper prints of time in that row."""
    known, times = of_the_paper(choice.experiment), choice.of.times
    return None if row.paper is None or known is None or times is None else known["rows"][row.paper].get(times.key)


def save(choice: Choice, out: str | Path, tried: Sequence[Job] = (), failures: Mapping[str, str] | None = None) -> None:
    """Note what was asked for, and of the runs that were tried which failed and why, by their names."""
    path = plan_path(choice, out)
    before, known = _read(path) if path.exists() else (None, {})
    if before is not None:  # what was asked before stays part of the table
        rows = () if not (before.rows and choice.rows) else tuple(dict.fromkeys([*before.rows, *choice.rows]))
        choice = replace(choice, seeds=max(before.seeds, choice.seeds), rows=rows)
    names = {job.name for job in tried}
    known = {name: why for name, why in known.items() if name not in names}
    write_json(path, {"choice": choice.to_dict(), "failures": known | dict(failures or {})})


def load(choice: Choice, out: str | Path) -> tuple[Choice, dict[str, str]]:
    """What `save` kept: all that was asked for so far, and what failed."""
    return _read(plan_path(choice, out))


def times_path(choice: Choice, out: str | Path) -> Path:
    """Where the times of its networks are kept, which are the same on all data."""
    return Path(out) / "times" / f"{choice.experiment}-{choice.precision}.json"


def plan_path(choice: Choice, out: str | Path) -> Path:
    return Path(out) / "plans" / f"{choice.name}.json"


def saved(out: str | Path) -> list[tuple[Choice, dict[str, str]]]:
    """All plans in a folder with what failed, in the order of the experiments. Raises wrn.Error for a damaged one."""
    found = [_read(path) for path in sorted((Path(out) / "plans").glob("*.json"))]
    return sorted(found, key=lambda each: list(EXPERIMENTS).index(each[0].experiment))


def _read(path: Path) -> tuple[Choice, dict[str, str]]:
    content = read_json(path, "choice", "failures")
    try:
        return Choice.from_dict(content["choice"]), dict(content["failures"])
    except (ValueError, TypeError) as error:
        raise Error(f"{path}: damaged ({error}); remove it and run wrn reproduce again") from error


def state(job: Job, failures: Mapping[str, str]) -> str:
    """Of a run, in words: finished, running, failed: WHY, stopped after epoch E of N, or missing."""
    run = Run(job.path)
    if not (job.path / "recipe.json").exists():
        return f"failed: {failures[job.name]}" if job.name in failures else "missing"
    if run.finished:
        try:
            alike = _computed_as(run.result, job.precision)
        except Error as error:
            return f"failed: {error}"
        return "finished" if alike else "failed: its folder holds a run in other arithmetic; choose another --out"
    if run.held_by() is not None:
        return "running"
    if job.name in failures:
        return f"failed: {failures[job.name]}"
    try:
        return f"stopped after epoch {len(run.metrics)} of {job.recipe.epochs}"
    except Error as error:
        return f"failed: {error}"


def _computed_as(result: Mapping[str, Any], precision: str) -> bool:
    """Whether a run may stand in a table of that precision, which in fp32 has torch's own arithmetic alone."""
    return result.get("precision") == precision and not (precision == "fp32" and result.get("native"))

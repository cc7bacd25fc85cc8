"""`wrn reproduce`: plan, run what is missing, measure times, show the table."""

from collections.abc import Callable
from pathlib import Path

from wrn.display import duration
from wrn.files import read_json, write_json
from wrn.reporting.findings import find
from wrn.reporting.markdown import section, table
from wrn.reporting.tables import Table, Text
from wrn.reproduction import plan
from wrn.reproduction.plan import Cell, Choice, Job
from wrn.reproduction.schedule import How, run_all

Say = Callable[[str], None]


def reproduce(choice: Choice, out: str | Path, at_once: int, how: How, say: Say) -> bool:
    """Say the plan, run what is not finished, and say the table; returns whether all runs succeeded.

    Finished runs stand, interrupted ones continue, a failing one leaves the others alone. Raises ValueError for what
    makes no sense, Interrupted on a signal, once the runs have saved.
    """
    jobs = plan.jobs(plan.cells(choice, out))
    plan.save(choice, out)
    failed: dict[str, str] = {}
    if jobs:
        show_plan(choice, out, at_once, how, say)
        try:
            run_all(jobs, at_once, how, say, failed)
        finally:
            plan.save(choice, out, jobs, failed)
    if choice.of.times is not None:
        _measure(choice, Path(out), how, say)
    if choice.experiment == "fig1":
        from wrn.reproduction.drawing import blocks

        write_json(Path(out) / "drawings" / "fig1.json", {"panels": blocks()})
    asked, known = plan.load(choice, out)
    say("")
    say(section(find(asked, out, known)))
    return not failed


def _measure(choice: Choice, out: Path, how: How, say: Say) -> None:
    """Time the rows' networks, in turns; rows measured before, on the same machine in the same way, stay."""
    from wrn.benchmark.passes import bench_times

    say("timing forward and backward passes, in turns")
    path = plan.times_path(choice, out)
    found = bench_times(choice.experiment, device=how.device, precision=choice.precision, only=choice.rows)
    before = read_json(path, "rows", "machine", "execution") if path.exists() else {"rows": []}
    if all(before.get(name) == found[name] for name in ("machine", "execution")):
        models = {row["model"] for row in found["rows"]}
        found["rows"] += [row for row in before["rows"] if row["model"] not in models]
    write_json(path, found)


def show_plan(choice: Choice, out: str | Path, at_once: int, how: How, say: Say) -> None:
    """Say what would run, how long that would take and how much it would leave on the disk."""
    cells = plan.cells(choice, out)
    jobs = plan.jobs(cells)
    waiting = [job for job in jobs if plan.state(job, {}) != "finished"]
    if waiting:
        _show_runs(cells, jobs, waiting, at_once, how, say)
    else:
        say(f"all {len(jobs)} runs are finished" if jobs else "nothing to train")
    if choice.of.times is not None:
        say("then the times of forward and backward passes: minutes")


def _show_runs(cells: list[Cell], jobs: list[Job], waiting: list[Job], at_once: int, how: How, say: Say) -> None:
    from wrn.reproduction.estimate import estimate

    say("timing a step of each network, to tell how long it takes")
    costs = estimate(waiting, how.device)

    def row(title: str, column: str, of: list[Job]) -> tuple[Text, ...]:
        left, recipe = [job for job in of if job in waiting], of[0].recipe
        each = parameters = ""
        if left:
            seconds = costs[left[0].name].seconds
            each = "?" if seconds is None else duration(seconds)
            parameters = f"{costs[left[0].name].parameters:,}"
        finished = str(len(of) - len(left))
        told = (title, column, parameters, recipe.recipe, str(recipe.epochs), str(len(of)), finished, each)
        return tuple(map(Text, told))

    rows = [row(cell.row.key, cell.column.title, list(cell.jobs)) for cell in cells if _first_of_its_data(cell, cells)]
    teachers = [job for job in jobs if job not in {each for cell in cells for each in cell.jobs}]
    rows += [
        row(f"{recipe.model} (teacher)", recipe.data, [job for job in teachers if job.recipe == recipe])
        for recipe in dict.fromkeys(job.recipe for job in teachers)
    ]
    head = ("network", "data", "parameters", "recipe", "epochs", "runs", "finished", "time a run")
    say(table(Table(head, tuple(rows))))
    times = [costs[job.name].seconds for job in waiting]
    total = "?" if None in times else duration(sum(filter(None, times)))
    disk = sum(costs[job.name].bytes for job in waiting) / 1e9
    say(
        f"\n{len(waiting)} of {len(jobs)} runs to do, {at_once} at a time: about {total} on this machine, {disk:.1f} GB"
    )


def _first_of_its_data(cell: Cell, cells: list[Cell]) -> bool:
    """Two columns may show two numbers of one run."""
    same = [each for each in cells if each.row == cell.row and each.column.data == cell.column.data]
    return same[0] == cell

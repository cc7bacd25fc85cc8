"""`wrn report`: everything that a folder of runs holds, as Markdown or as one page of HTML. No torch."""

import base64
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wrn.errors import Error, MissingError, UsageError
from wrn.experiments.catalog import EXPERIMENTS
from wrn.files import write_text
from wrn.paper import experiment as of_the_paper
from wrn.recipes import recipe
from wrn.reporting import authors_log, figures, markdown, tables
from wrn.reporting.authors_log import AuthorsLog
from wrn.reporting.benchmarks import benchmarks, by_machine
from wrn.reporting.findings import LAST_OR_BEST, Finding, find, metrics_of
from wrn.reporting.tables import Table, Text
from wrn.reproduction import plan
from wrn.runs import Run


@dataclass(frozen=True)
class Section:
    """One table or figure of the page; pictures are (title, SVG)."""

    anchor: str
    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...]


def markdown_page(runs: str | Path, version: str = "v4", logs: Sequence[str | Path] = ()) -> str:
    """What the folder's runs came to; experiments of which nothing was run are named at the end."""
    return _markdown(runs, version, logs, lambda *_: "")


def markdown_file(runs: str | Path, out: Path, version: str = "v4", logs: Sequence[str | Path] = ()) -> None:
    """The same as a file, with its pictures in a folder beside it, `<name>-figures`."""

    def pictures(name: str, drawn: Iterable[tuple[str, str]]) -> str:
        told = []
        for number, (title, svg) in enumerate(drawn, 1):
            path = out.with_name(f"{out.stem}-figures") / f"{name}-{number}.svg"
            write_text(path, svg)
            told.append(f"![{title}]({quote(path.relative_to(out.parent).as_posix())})\n\n")
        return "".join(told)

    head = f"# Results\n\nMade by `wrn report {Path(runs).as_posix()} --out {out.name}`; not edited.\n\n"
    write_text(out, head + _markdown(runs, version, logs, pictures) + "\n")


Pictures = Callable[[str, Iterable[tuple[str, str]]], str]
"""Of a name and pictures, (title, SVG), the Markdown that shows them."""


def _markdown(runs: str | Path, version: str, logs: Sequence[str | Path], pictures: Pictures) -> str:
    found = _findings(runs, version)
    parts = [
        markdown.section(finding, pictures(finding.choice.name, _pictures(finding)))
        for finding in found
        if _has_anything(finding)
    ]
    for each in benchmarks(Path(runs)):
        shown = pictures(f"bench-{each.name}", each.pictures).strip()
        tables_ = [markdown.table(table) for table in each.tables]
        parts.append("\n\n".join([f"## Speed: {each.machine}", *tables_, *([shown] if shown else []), *each.notes]))
    if others := _other_runs(Path(runs), found):
        parts.append("## Other runs\n\n" + markdown.table(others))
    if missing := [finding.choice.experiment for finding in found if not _has_anything(finding)]:
        parts.append(f"Not run: {', '.join(missing)}.")
    parts.append("## The authors' logs\n\n" + markdown.table(_of_logs(authors_log.known(logs))))
    return "\n\n".join(parts)


def facts(runs: str | Path, version: str = "v4", logs: Sequence[str | Path] = ()) -> dict[str, Any]:
    """What the pages tell, as numbers for JSON: experiments, benchmarks, all runs, the authors' logs."""
    return {
        "experiments": [finding.to_dict() for finding in _findings(runs, version) if _has_anything(finding)],
        "benchmarks": [{"name": name, **each} for name, found in by_machine(Path(runs)) for each in found],
        "runs": [_told(path, Path(runs)) for path in _run_folders(Path(runs))],
        "authors_logs": [asdict(log) for log in authors_log.known(logs)],
    }


def html_page(runs: str | Path, out: Path, version: str = "v4", logs: Sequence[str | Path] = ()) -> None:
    """Write one page that needs nothing else. Raises MissingError if there is no such folder of runs."""
    from jinja2 import Environment

    sections = [_section(finding) for finding in _findings(runs, version)]
    sections.append(_logs_section(authors_log.known(logs), Path(runs)))
    sections += [
        Section(f"bench-{each.name}", f"Speed: {each.machine}", each.tables, each.notes, each.pictures)
        for each in benchmarks(Path(runs))
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("page.html.j2").read_text(encoding="utf-8"))
    write_text(out, template.render(sections=sections, runs=_all_runs(Path(runs), out), picture=_as_data))


def _findings(runs: str | Path, version: str) -> list[Finding]:
    """Of every plan, and of every experiment of the paper without one."""
    if not Path(runs).is_dir():
        raise MissingError(f"{runs}: no such folder of runs; give the --out of wrn reproduce")
    planned = plan.saved(runs)
    found = [find(choice, runs, failures) for choice, failures in planned]
    for name, known in EXPERIMENTS.items():
        if of_the_paper(name) is not None and not any(choice.experiment == name for choice, _ in planned):
            found.append(find(plan.choose(name, version if version in known.versions else "v4"), runs))
    return sorted(found, key=lambda each: list(EXPERIMENTS).index(each.choice.experiment))


def _has_anything(finding: Finding) -> bool:
    return bool(finding.times or finding.drawing) or any(set(cell.states) != {"missing"} for cell in finding.cells)


def _section(finding: Finding) -> Section:
    found = []
    if finding.rows:
        found.append(tables.errors(finding))
    if finding.claims:
        found.append(tables.claims(finding))
    notes = list(finding.notes)
    if finding.times_on:
        notes.append(f"Times: {finding.times_on}.")
    if not _has_anything(finding):
        notes.insert(0, "Not run.")
    return Section(finding.choice.name, tables.title(finding), tuple(found), tuple(notes), tuple(_pictures(finding)))


def _pictures(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.drawing:
        yield "The blocks, drawn from the modules", figures.blocks(finding.drawing)
    if finding.times:
        times, choice = finding.times, finding.choice
        assert choice.of.times is not None
        ours = {each.row.key: each.ratio for each in times}
        paper = {each.row.key: each.paper_ratio for each in times if each.paper_ratio is not None}
        yield "Times", figures.bars(ours, paper, choice.of.title, choice.of.times.to)
    if finding.choice.of.curves:
        for column in finding.columns:
            lines = {}
            for cell in finding.cells:
                finished = [job for job, state in zip(cell.cell.jobs, cell.states, strict=True) if state == "finished"]
                if cell.cell.column == column and finished and (metrics := metrics_of(Run(finished[0].path))):
                    lines[f"{cell.cell.row.key}, seed {finished[0].seed}"] = metrics
            if lines:
                yield f"Curves on {column.title}", figures.curves(lines, column.title)


def _logs_section(logs: Sequence[AuthorsLog], runs: Path) -> Section:
    """The authors' own runs, and ours of the same network and recipe where there are some."""
    pictures = []
    for log in logs:
        lines: dict[str, Sequence[dict[str, Any]]] = {f"the authors' {log.title}": log.epochs}
        for path in _run_folders(runs):
            with suppress(Error):  # what cannot be read is told in the list of all runs
                if Run(path).finished and _is_the_same(Run(path), log):
                    lines[f"ours, {path.name}"] = Run(path).metrics
        pictures.append((log.title, figures.curves(lines, log.title)))
    return Section("authors-logs", "The authors' logs", (_of_logs(logs),), (LAST_OR_BEST,), tuple(pictures))


def _is_the_same(run: Run, log: AuthorsLog) -> bool:
    """The network and the data of the log, with the authors' recipe and nothing else."""
    name, _, told = log.title.lower().replace("pre-act resnet", "pre-resnet").partition(" on ")
    data, _, how = told.replace("cifar-", "cifar").replace(", ", "_").partition("_")
    preprocess = {"whitened": "zca", "gcn+zca": "zca", "original": "meanstd"}.get(how)
    try:
        return run.recipe == recipe(name, data=data, recipe="authors", preprocess=preprocess)
    except UsageError:  # a log of a network, or of data, that is not ours
        return False


def _of_logs(logs: Sequence[AuthorsLog]) -> Table:
    rows = [
        (Text(log.title), Text(str(len(log.epochs))), Text(f"{log.last:.2f}"),
         Text(f"{log.best['test_error']:.2f} at epoch {log.best['epoch']}"))
        for log in logs
    ]  # fmt: skip
    return Table(("run", "epochs", "last test error", "best"), tuple(rows))


def _run_folders(runs: Path) -> list[Path]:
    return sorted(path.parent for path in runs.rglob("recipe.json"))


def _other_runs(runs: Path, found: Sequence[Finding]) -> Table | None:
    """The runs that no experiment's table is made of."""
    jobs = [job for finding in found for cell in finding.cells for job in cell.cell.jobs]
    tabled = {job.path for job in jobs} | {job.after.path for job in jobs if job.after is not None}
    others = [_told(path, runs) for path in _run_folders(runs) if path not in tabled]
    names = {"name": "run", "what": "trained", "recipe": "recipe", "how": "computed", "state": "test error, %"}
    rows = tuple(tuple(Text(told.get(name, "")) for name in names) for told in others)
    return Table(tuple(names.values()), rows) if rows else None


def _all_runs(runs: Path, out: Path) -> list[dict[str, Any]]:
    """Every run with links, relative to the page, to what it was."""
    found = []
    for path in _run_folders(runs):
        told = _told(path, runs)
        link = quote(Path(os.path.relpath(path, out.parent)).as_posix())
        names = {"recipe.json": "recipe", "env.json": "environment"}
        told["links"] = {words: f"{link}/{name}" for name, words in names.items() if (path / name).exists()}
        found.append(told)
    return found


def _told(path: Path, runs: Path) -> dict[str, Any]:
    """A run's name among all, what it was and what came of it; one that cannot be read says why."""
    told: dict[str, Any] = {"name": path.relative_to(runs).as_posix(), "finished": False, "test_error": None}
    try:
        return told | _read(path)
    except (Error, OSError) as error:
        return told | {"state": str(error)}


def _read(path: Path) -> dict[str, Any]:
    run = Run(path)
    made, environment = run.recipe, run.env if (path / "env.json").exists() else {}
    execution, versions = environment.get("execution", {}), environment.get("versions", {})
    changes = ", ".join(f"{name} {change['here']}" for name, change in made.deviations().items())
    if run.finished:
        state = f"{run.result['test_error']:.2f}"
    else:
        state = "running" if run.held_by() else f"stopped after epoch {len(run.metrics)} of {made.epochs}"
    inexact = run.finished and run.result.get("bit_exact") is False
    words = [f"{execution.get('device', '')} {execution.get('precision', '')}"]
    words += ["native"] if execution.get("native") and execution.get("precision") == "fp32" else []  # not torch's own
    words += ["not bit-exact"] if inexact else []
    return {
        "what": f"{made.model} on {made.data}, seed {run.seed}",
        "recipe": f"{made.recipe}{' but ' + changes if changes else ''}",
        "how": ", ".join(words).strip(),
        "versions": versions.get("torch", ""),
        "state": state,
        "finished": run.finished,
        "test_error": run.result["test_error"] if run.finished else None,
    }


def _as_data(svg: str) -> str:
    """A picture as an address of its own, so that the names within one SVG do not meet those of another."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()

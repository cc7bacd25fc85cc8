"""`wrn reproduce`, `tune` and `report`: parse, call, print. No torch until something is run."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from wrn import recipes
from wrn.display import say, tell
from wrn.errors import Error, UsageError
from wrn.files import as_json
from wrn.options import Device, Json, RecipeFlags, Root, Workers, fields_of, option, words_of

Arithmetic = Annotated[Literal["fp32", "tf32", "bf16"], arg(help="arithmetic of training", metavar="fp32|tf32|bf16")]
Version = Annotated[
    Literal["v1", "bmvc", "v4"], arg(help="version of the paper: its numbers and preprocessing", metavar="v1|bmvc|v4")
]


def reproduce(
    experiment: Annotated[Positional[str], option("such as table4, fig2 or quirks; see `wrn list experiments`", "ID")],
    flags: Annotated[RecipeFlags, arg(name="recipe")] = RecipeFlags(),  # type: ignore[valid-type]  # noqa: B008
    *,
    data: Annotated[str | None, option("the same table on this data set", "DATA")] = None,
    rows: Annotated[tuple[str, ...], option("only these networks (default: all)", "NAME [NAME ...]")] = (),
    seeds: Annotated[int | None, option("runs of each network (default: as many as the paper)", "INT")] = None,
    paper_version: Version = "v4",
    jobs: Annotated[int, arg(help="runs at a time; the cores are shared out")] = 1,
    dry_run: Annotated[bool, option("show the plan, with an estimate of time and disk, and stop")] = False,
    precision: Arithmetic = "fp32",
    device: Device = None,
    workers: Workers = None,
    root: Root = None,
    out: Annotated[str, arg(help="the folder of all runs", metavar="FOLDER")] = "runs",
) -> None:
    """Run whatever a table or figure of the paper still lacks, and show the results beside the paper's numbers."""
    from wrn.reproduction import plan
    from wrn.reproduction.reproduce import reproduce as run_reproduction
    from wrn.reproduction.reproduce import show_plan
    from wrn.reproduction.schedule import How, threads_each

    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: must be at least 1")
    choice = plan.choose(experiment, paper_version, seeds, data, rows, precision, fields_of(flags))
    how = How(device, workers, root, threads_each(jobs))
    if dry_run:
        show_plan(choice, out, jobs, how, print)
    elif not run_reproduction(choice, out, jobs, how, tell):
        raise Error(f"{experiment}: some runs failed; the table says why, and the same command tries them again")


def tune(
    what: Annotated[Positional[Literal["dropout"]], option("what to choose", "dropout")],
    model: Annotated[Positional[str], option("such as wrn-16-4", "MODEL")],
    flags: Annotated[RecipeFlags, arg(name="recipe")] = RecipeFlags(),  # type: ignore[valid-type]  # noqa: B008
    *,
    data: Annotated[str, arg(help="such as svhn or folder:PATH", metavar="DATA")],
    recipe: Annotated[str, arg(help="see `wrn list recipes`", metavar="NAME")] = "authors",
    trials: Annotated[int, arg(help="runs in all, earlier ones included")] = 10,
    seed: Annotated[int, arg(help="seed of every run and of the search")] = 0,
    precision: Arithmetic = "fp32",
    device: Device = None,
    workers: Workers = None,
    root: Root = None,
    out: Annotated[str, arg(help="the folder of all runs", metavar="FOLDER")] = "runs",
    json: Json = False,
) -> None:
    """Choose the dropout on a validation split (--val), as the paper says it did."""
    from wrn.reproduction.schedule import How
    from wrn.reproduction.tune import in_a_table, tune_dropout

    if trials < 1:
        raise UsageError(f"--trials {trials}: must be at least 1")
    fields = {"recipe": recipe, **fields_of(flags)}
    how = How(device, workers, root)
    ranked = tune_dropout(model, data, fields, trials, seed, precision, out, how, say if json else tell)
    found = ranked[0].dropout
    # Without the validation split: what it held out is trained on again
    own_val = recipes.recipe(model, data=data, recipe=recipe).val
    same = {"data": data, **fields, "val": 0 if own_val else None, "dropout": found, "seed": seed or None}
    same |= {"precision": precision, "device": device, "root": root}
    words = words_of({name: value for name, value in same.items() if value is not None})
    command = f"wrn train {shlex.join([model, *words])}"
    if json:
        print(as_json({what: found, "trials": [each._asdict() for each in ranked], "command": command}))
    else:
        print(f"{in_a_table(ranked)}\n{what} {found:g} has the lowest validation error; {command}")


def report(
    runs: Annotated[Positional[str], option("the folder of all runs (default: runs)", "[RUNS]")] = "runs",
    *,
    out: Annotated[
        str | None, option("write one HTML page, or Markdown and its pictures (default: print Markdown)", "FILE")
    ] = None,
    paper_version: Annotated[
        Literal["v1", "bmvc", "v4"], arg(help="version of the paper for tables not run yet", metavar="v1|bmvc|v4")
    ] = "v4",
    log: Annotated[tuple[str, ...], option("logs of the authors' Lua code, drawn beside ours", "FILE [FILE ...]")] = (),
    json: Json = False,
) -> None:
    """Show every table and figure from the run folders, beside the paper's numbers."""
    from wrn.reporting.report import facts, html_page, markdown_file, markdown_page

    if json:
        if out is not None:
            raise UsageError("--json --out: JSON is printed; leave one of the two out")
        print(as_json(facts(runs, paper_version, log)))
        return
    if out is None:
        print(markdown_page(runs, paper_version, log))
        return
    write = {".html": html_page, ".md": markdown_file}.get(Path(out).suffix)
    if write is None:
        raise UsageError(f"--out {out}: names neither a page (.html) nor Markdown (.md)")
    write(runs, Path(out), paper_version, log)
    print(f"{out}: written")

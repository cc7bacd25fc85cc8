"""The `wrn` command: one function a subcommand; parse, call, print. No torch until a subcommand needs it."""

import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from wrn.benchmark.commands import BENCH_COMMANDS, bench
from wrn.display import have_streams, leave_quietly
from wrn.errors import Error, UsageError, unknown
from wrn.files import as_json
from wrn.hardware import out_of_memory
from wrn.options import (
    Aug,
    DataName,
    Device,
    ImageSize,
    Json,
    Native,
    Optimize,
    Precision,
    Prep,
    RecipeFlags,
    Root,
    RunPath,
    ValFraction,
    Workers,
    choice,
    fields_of,
    option,
    truth,
    words_of,
)
from wrn.recipes import must_name_a_network, recipe
from wrn.reproduction.commands import report, reproduce, tune


def train(
    model: Annotated[Positional[str | None], option("such as wrn-28-10; see `wrn list models`", "[MODEL]")] = None,
    flags: Annotated[RecipeFlags, arg(name="recipe")] = RecipeFlags(),  # type: ignore[valid-type]  # noqa: B008
    *,
    data: Annotated[str | None, option("such as cifar10 or folder:PATH; see `wrn data list`", "DATA")] = None,
    recipe_: Annotated[
        str, arg(name="recipe", metavar="NAME", help="see `wrn list recipes`; own: that of the network's own paper")
    ] = "paper",
    seed: Annotated[int, arg(help="seed of all random draws")] = 0,
    device: Device = None,
    precision: Precision = None,
    compile: Annotated[bool, option("compile the network first (needs a C++ compiler)")] = False,
    native: Native = None,
    memory: Annotated[
        Literal["normal", "low", "lowest"] | None,
        choice("normal", "low", "lowest"),
        option("save memory: recompute BN-ReLU (low) or whole blocks (lowest)"),
    ] = None,
    workers: Workers = None,
    root: Root = None,
    keep_every: Annotated[int | None, option("keep every EPOCHS-th epoch's checkpoint for good", "EPOCHS")] = None,
    checkpoint_every: Annotated[
        str | None, option("also save this often within epochs (default: only after each)", "90s|10m|2h")
    ] = None,
    graphs: Annotated[bool, option("on CUDA: record a step once as a CUDA graph, and replay it")] = False,
    deterministic: Annotated[bool, option("bit-reproducible on CUDA too, but slower")] = False,
    out: Annotated[str | None, option("the run folder (default: runs/DATA/MODEL-HASH/seedSEED)", "FOLDER")] = None,
    fresh: Annotated[bool, option("start over where a run was begun")] = False,
) -> None:
    """Train a network, or resume a run; without arguments, train a small one on real digits."""
    if (model is None) != (data is None):
        must_name_a_network(model or "")
        missing, example = ("--data", "--data digits") if data is None else ("model", "wrn-16-4")
        raise UsageError(f"wrn train: no {missing} named; add {example}, or name neither to train on digits")
    named = {"model": "wrn-16-1", "data": "digits"} if model is None else {"model": model, "data": data}
    what = recipe(**named, recipe=recipe_, **fields_of(flags))
    from wrn.training.session import train as run_training

    run_training(
        what,
        out,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile or None,
        native=truth(native),
        memory=memory,
        workers=workers,
        root=root,
        keep_every=keep_every,
        checkpoint_every=checkpoint_every,
        deterministic=deterministic or None,
        graphs=graphs or None,
        fresh=fresh,
    )


def evaluate(
    run: RunPath,
    *,
    data: Annotated[str | None, option("another data set with the same classes (default: the run's)", "DATA")] = None,
    device: Device = None,
    optimize: Optimize = False,
    json: Json = False,
) -> None:
    """Test a finished run in fp32, on its own data set or another one."""
    from wrn.prediction import evaluate_run

    facts = evaluate_run(run, data, device, optimize)
    if json:
        print(as_json(facts))
    else:
        print(
            f"test error {facts['test_error']:.2f}% ({facts['wrong']} of {facts['images']} images of {facts['data']}), "
            f"loss {facts['test_loss']:.4f}, {facts['precision']}"
        )
        if facts["changed_since"]:
            print("the data set is not the one that the network was trained on: its pictures have changed since")


def predict(
    run: RunPath,
    images: Annotated[Positional[tuple[str, ...]], option("picture files, or folders of them", "IMAGE [IMAGE ...]")],
    *,
    top: Annotated[int, arg(help="how many classes to show")] = 5,
    device: Device = None,
    optimize: Optimize = False,
    json: Json = False,
) -> None:
    """Classify picture files with a finished run: the likeliest classes with their probabilities."""
    from wrn.prediction import must_be_pictures, top_classes

    if not images:
        raise UsageError("wrn predict: no pictures named; add files or folders after the run")
    found = top_classes(run, images, top, device, optimize)
    answered = [line for line in found if "classes" in line]
    if json:
        print(as_json(found))
    elif answered:
        table = _table("image", *(f"{place}." for place in range(1, len(answered[0]["classes"]) + 1)))
        for line in answered:
            table.add_row(line["image"], *(f"{each['class']} {each['probability']:.1%}" for each in line["classes"]))
        _print(table)
    must_be_pictures(found)


def list_(
    what: Annotated[
        Positional[Literal["models", "data", "recipes", "experiments"] | None],
        choice("models", "data", "recipes", "experiments"),
        option("what to list (default: all)"),
    ] = None,
    *,
    json: Json = False,
) -> None:
    """List the networks, the data sets, the recipes and how they differ, or what can be reproduced."""
    from wrn.listing import data_sets, experiments, models, recipes

    listings = {"models": models, "data": data_sets, "recipes": recipes, "experiments": experiments}
    chosen = [what] if what else list(listings)
    if json:
        print(as_json({name: listings[name]() for name in chosen}))
        return
    for name in chosen:
        rows = listings[name]()
        table = _table(*(key.replace("_", " ") for key in rows[0]), title=name if len(chosen) > 1 else None)
        for row in rows:
            table.add_row(*("" if value is None else _in_words(value) for value in row.values()))
        _print(table)


def info(
    model: Annotated[Positional[str | None], option("such as wrn-28-10", "[MODEL]")] = None,
    *,
    data: Annotated[str | None, option("show this data set, as `wrn data info` does", "DATA")] = None,
    num_classes: Annotated[
        int | None, option("number of classes (default: 10; ImageNet networks: 1000)", "INT")
    ] = None,
    image_size: Annotated[int | None, option("side of the images (default: 32; ImageNet networks: 224)", "INT")] = None,
    in_channels: Annotated[int, arg(help="channels of the images")] = 3,
    depth_rule: Annotated[
        Literal["true", "nominal"] | None,
        choice("true", "nominal"),
        option("depth n is 3lN + 4, or 6N + 4 whatever l (as in Table 2)"),
    ] = None,
    json: Json = False,
) -> None:
    """Show a network's parameters, multiply-accumulates, layers and activation memory, by group; or a data set."""
    if (model is None) == (data is None):
        raise UsageError("wrn info: name a network or a data set; wrn info wrn-28-10, or wrn info --data cifar10")
    if data is not None:
        data_info(data, image_size=image_size, json=json)
        return
    assert model is not None
    from wrn.models.complexity import Complexity, Part, describe

    found = describe(
        model, num_classes=num_classes, image_size=image_size, in_channels=in_channels, depth_rule=depth_rule
    )
    if json:
        print(as_json(found.to_dict()))
        return
    table = _table("part", "output", "parameters", "MACs", "conv layers", "activations", title=found.model)
    rows: list[Part | Complexity] = [*found.parts, found]
    for row in rows:
        name, output = (row.name, row.output) if isinstance(row, Part) else ("total", row.input)
        counts = (f"{row.params:,}", f"{row.macs:,}", str(row.conv_layers), f"{row.activation_bytes / 2**20:.2f} MiB")
        shape = "x".join(map(str, output)) + (" in" if name == "total" else "")
        table.add_row(name, shape, *counts, style="bold" if name == "total" else None)
    _print(table)
    print("MACs and activations (fp32, kept for the backward pass) are for one image.")


def data_list(*, json: Json = False) -> None:
    """List the data sets, and what the paper's recipe does with them."""
    list_("data", json=json)


def data_info(
    data: DataName, *, image_size: ImageSize = None, val_fraction: ValFraction = None, json: Json = False
) -> None:
    """Show a data set: sizes, classes, constants, preprocessing, augmentation, and where it lies."""
    from wrn.listing import data_set

    found = data_set(data, image_size=image_size, val_fraction=val_fraction)
    if json:
        print(as_json(found))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in found.items():
        if value is not None and not name.endswith("_is"):
            table.add_row(name.replace("_", " "), _in_words(value, found.get(f"{name}_is")))
    _print(table)


def data_prepare(
    data: DataName,
    *,
    root: Root = None,
    url: Annotated[
        tuple[str, ...], option("download from here; one for each file (svhn: train, test, extra)", "URL [URL ...]")
    ] = (),
    sha256: Annotated[tuple[str, ...], option("the SHA-256 of each --url", "HEX [HEX ...]")] = (),
    image_size: ImageSize = None,
    val_fraction: ValFraction = None,
    preprocess: Prep = None,
    workers: Workers = None,
) -> None:
    """Get a data set, check it and cache it, once; `wrn train` does the same when it needs to."""
    from wrn.data.loader import dataset
    from wrn.display import Log

    fields: dict[str, Any] = {"image_size": image_size, "val_fraction": val_fraction, "preprocess": preprocess}
    found = dataset(data, root=root, url=url, sha256=sha256, workers=workers, log=Log(), **fields)
    given = words_of({name: value for name, value in ({"data": data} | fields).items() if value is not None})
    given += ["--root", root] if root is not None else []
    print(
        f"{data}: {len(found.train):,} + {len(found.test):,} images, {len(found.classes)} classes, ready; "
        f"wrn train wrn-16-4 {shlex.join(given)}"
    )


def data_show(
    data: DataName,
    *,
    out: Annotated[str | None, option("the PNG to write (default: NAME.png)", "FILE")] = None,
    preprocess: Prep = None,
    augment: Aug = None,
    image_size: ImageSize = None,
    val_fraction: ValFraction = None,
    rows: Annotated[int, arg(help="how many images")] = 10,
    seed: Annotated[int, arg(help="which images and draws")] = 0,
    root: Root = None,
    workers: Workers = None,
) -> None:
    """Write a contact sheet: samples before and after preprocessing and augmentation."""
    if rows < 1:
        raise UsageError(f"--rows {rows}: must be at least 1")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the sheet is a PNG; give a name such as sheet.png")
    fields: dict[str, Any] = {
        "preprocess": preprocess,
        "augment": augment,
        "image_size": image_size,
        "val_fraction": val_fraction,
    }
    what = recipe("wrn-16-1", data=data, **fields)
    from wrn.contact_sheet import contact_sheet
    from wrn.data.catalog import label
    from wrn.data.loader import dataset
    from wrn.display import Log

    path = Path(out or f"{label(data)}.png")
    if out is None and path.exists():
        raise UsageError(f"{path}: is there already; add --out {path} to replace it, or name another file")
    contact_sheet(dataset(what, root=root, workers=workers, log=Log()), what, path, rows=rows, seed=seed)
    print(f"{path}: {rows} images of {data}")


def data_() -> None:
    """List, prepare and show data sets: `wrn data --help`."""


def _in_words(value: Any, meaning: str | None = None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items()) or "the paper's, for CIFAR"
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - 100:,} more" if len(value) > 100 else ""
        return " ".join(_in_words(each) for each in value[:100]) + more if value else "none"
    text = f"{value:,}" if type(value) is int else str(value)
    return f"{text}: {meaning}" if meaning and meaning != text else text


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if number == 0 else None)  # type: ignore[arg-type]
    return table


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=160)
    console.print(table)


COMMANDS = {
    "train": train, "eval": evaluate, "predict": predict, "reproduce": reproduce, "report": report, "tune": tune,
    "list": list_, "info": info, "data": data_, "bench": bench,
}  # fmt: skip
DATA_COMMANDS = {"list": data_list, "prepare": data_prepare, "info": data_info, "show": data_show}
_WRN = (
    "Wide Residual Networks: train, test, use, compare. `wrn train` alone trains on real digits. "
    "`--debug` shows a failure's traceback."
)
_NO_OPTIONS = {  # of `wrn train`, which others have
    "--resume": "not needed; the same command continues a run",
    "--model": "name the network first: wrn train wrn-16-4 --data cifar10",
}
GROUPS = {"data": DATA_COMMANDS, "bench": BENCH_COMMANDS}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 wrong usage, 130/143 interrupted."""
    have_streams()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    warnings.filterwarnings("ignore", module="PIL")  # about pictures that we then refuse with one line
    try:
        if strange := [word for word in words if any("\ud800" <= letter <= "\udfff" for letter in word)]:
            raise UsageError(f"{strange[0]!r}: is not UTF-8; rename the file or folder")
        if words[0] == "--version":
            from wrn import __version__

            print(f"wrn {__version__}", flush=True)
            return 0
        if words[0] == "train" and (strange := [word for word in words if word in _NO_OPTIONS]):
            raise UsageError(f"{strange[0]}: {_NO_OPTIONS[strange[0]]}")
        commands, program = COMMANDS, "wrn"
        if words[0] in GROUPS:
            commands, program, words = GROUPS[words[0]], f"wrn {words[0]}", words[1:] or ["--help"]
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
        if words[0] in commands:
            tyro.cli(commands[words[0]], prog=f"{program} {words[0]}", args=words[1:], config=config)  # type: ignore[call-overload]
        elif words[0].startswith("-"):
            tyro.extras.subcommand_cli_from_dict(
                commands,  # type: ignore[arg-type]
                prog=program,
                description=_WRN if commands is COMMANDS else COMMANDS[program.removeprefix("wrn ")].__doc__,
                args=words,
                config=config,
            )
        else:
            raise unknown("command", f"{program} {words[0]}".removeprefix("wrn "), commands)
        sys.stdout.flush()  # what cannot be printed is a failure too, but where nobody reads any more
    except (Error, OSError, KeyboardInterrupt, MemoryError, RuntimeError) as error:
        lack = out_of_memory(error)
        if isinstance(error, RuntimeError) and lack is None:
            raise
        if debug:
            traceback.print_exc()
        return _failed(lack or error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        leave_quietly()
    return 0


def _failed(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone
        sys.stderr.close()
        return 1
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "exit_code", 130)
    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, Error):
        what, why = error.filename or "input/output", error.strerror or error
        text = f"{what}: {why}; check the path, its permissions and the free space"
    print(f"wrn: error: {' '.join(text.split())}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1

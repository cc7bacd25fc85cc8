"""What `wrn bench … --out RUNS/bench/MACHINE/NAME.json` kept, as tables and bars. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrn.benchmark.report import in_words
from wrn.errors import Error
from wrn.files import read_json
from wrn.reporting import figures
from wrn.reporting.tables import Table, Text

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Benchmarks:
    """The figures of one machine: its folder's name, what it is, tables, and pictures by their titles."""

    name: str
    machine: str
    tables: tuple[Table, ...]
    pictures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def benchmarks(runs: Path) -> Iterator[Benchmarks]:
    """Machine by machine. Raises wrn.Error for a file that is none of a benchmark."""
    for name, found in by_machine(runs):
        tables, pictures = [], []
        for what, draw in _TABLES.items():
            if rows := [row for each in found if each["what"] == what for row in each["rows"]]:
                try:
                    tables.append(draw(rows))
                    if what == "train":
                        pictures.append(("Training, images/s", figures.rates(rows, "Training")))
                except (KeyError, TypeError) as error:
                    where = runs / "bench" / name
                    raise Error(f"{where}: no figures of wrn bench {what} ({error}); make them again") from error
        about = found[0]["machine"]
        machine = f"{about['device']}, {about['threads']} threads, torch {about['torch']}"
        if name != ".":  # machines of one name may differ
            machine += f" ({name})"
        short = "machine" if name == "." else name.replace("/", "-")
        yield Benchmarks(short, machine, tuple(tables), tuple(pictures), tuple(_notes(found)))


def by_machine(runs: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The names of machines' folders below `bench`, and what benchmarks wrote there. Raises wrn.Error for damage."""
    root = runs / "bench"
    for folder in sorted({path.parent for path in root.rglob("*.json")}):
        found = [read_json(path, "what", "machine", "rows") for path in sorted(folder.glob("*.json"))]
        yield folder.relative_to(root).as_posix(), found


def _notes(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    ways = dict.fromkeys(f"{each['what']}: {each['execution']}" for each in found if "execution" in each)
    if ways:
        yield f"Settings of wrn: {'; '.join(ways)}."
    for each in found:
        if each["what"] == "train" and (peaks := each.get("peaks")):
            yield f"Peak rates of this machine, measured in the same run: {in_words(peaks)}."
            return


def _train(rows: Rows) -> Table:
    """A contestant a line; how many times as long it takes as ours, the first of its network and batch."""
    shares = ("share of matmul peak", "share of bare convolutions")
    head = ("training", "by", "ms (min to max)", "images/s", "time relative to ours", *shares)
    return Table(head, tuple(_timed(rows, "share_of_matmul_peak", "share_of_bare_convolutions")))


def _infer(rows: Rows) -> Table:
    head = ("inference", "by", "ms (min to max)", "images/s", "time relative to ours", "share of matmul peak", "how")
    return Table(head, tuple(_timed(rows, "share_of_matmul_peak", "how")))


def _timed(rows: Rows, *more: str) -> Iterator[tuple[Text, ...]]:
    ours: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["contestant"] != "wrn"):  # rather than one of ours of special settings
        ours.setdefault((row["model"], row["batch_size"]), row)
    for row in rows:
        first = ours[row["model"], row["batch_size"]]
        ratio = "" if row is first else f"{row['ms'] / first['ms']:.2f}"
        spread = f"{row['ms']:,.1f} ({row['ms_min']:,.1f} to {row['ms_max']:,.1f})"
        told = (_what(row), row["contestant"], spread, f"{row['images_per_second']:,.1f}", ratio)
        yield tuple(map(Text, (*told, *(str(row.get(name, "")) for name in more))))


def _memory(rows: Rows) -> Table:
    usual = {(row["model"], row["batch_size"]): row["mib"] for row in rows if row["contestant"] == "usual loop, fp32"}
    told = [
        (
            _what(row),
            row["contestant"],
            f"{row['mib']:,.0f}",
            f"{row['arrays_mib']:,.0f}" if "arrays_mib" in row else "",
            f"{row['mib'] / usual[row['model'], row['batch_size']]:.2f}",
        )
        for row in rows
    ]
    head = ("memory of a step", "by", "peak MiB", "of which large arrays", "relative to usual fp32 loop")
    return Table(head, tuple(tuple(map(Text, each)) for each in told))


def _data(rows: Rows) -> Table:
    head = ("data pipeline", "ms a step", "ms on one fixed batch", "ms to make a batch", "share of the step")
    names = ("ms_loaded", "ms_fixed", "ms_making")
    told = [(_what(row), *(f"{row[name]:,.2f}" for name in names), f"{row['share']:.2%}") for row in rows]
    return Table(head, tuple(tuple(map(Text, each)) for each in told))


def _stream(rows: Rows) -> Table:
    told = [
        (
            f"{row['transform']} ({row['workers']})",
            row["contestant"],
            f"{row['images_per_second']:,.0f} ({row['least']:,.0f} to {row['most']:,.0f})",
            f"{row['times torchvision']:.2f}" if "times torchvision" in row else "",
        )
        for row in rows
    ]
    head = ("pictures from files (workers)", "by", "images/s (min to max)", "relative to torchvision")
    return Table(head, tuple(tuple(map(Text, each)) for each in told))


def _startup(rows: Rows) -> Table:
    ratios = [next((f"{v:.2f}" for k, v in row.items() if k.startswith("ratio")), "") for row in rows]
    told = [
        (row["command"], f"{row['seconds']:.2f} ({row['least']:.2f} to {row['most']:.2f})", ratio)
        for row, ratio in zip(rows, ratios, strict=True)
    ]
    head = ("start-up", "seconds (min to max)", "relative to usual loop")
    return Table(head, tuple(tuple(map(Text, each)) for each in told))


def _what(row: Mapping[str, Any]) -> str:
    return f"{row['model']} ({row['batch_size']})"


_TABLES = {"train": _train, "infer": _infer, "memory": _memory, "data": _data, "stream": _stream, "startup": _startup}

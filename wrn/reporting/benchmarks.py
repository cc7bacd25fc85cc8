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
            if same := [each for each in found if each["what"] == what]:
                try:
                    rows = _together(same)
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


def _together(found: Sequence[Mapping[str, Any]]) -> Rows:
    """The rows of several files, with which file (`file`), how it was computed (`execution`), and of what (`of`).

    `of` is a network and its batch, with what else tells the files apart in which ours is of that network and batch.
    """
    rows = [
        {**row, "file": number, "execution": set(filter(None, each.get("execution", "").split(", ")))}
        for number, each in enumerate(found)
        for row in each["rows"]
    ]
    for row in rows:
        if "model" in row:
            ways = [other["execution"] for other in rows if _is_ours(other, row)]
            common = set.intersection(*ways) if len(ways) > 1 else row["execution"]
            own = sorted(row["execution"] - common)
            row["of"] = f"{row['model']} ({', '.join([str(row['batch_size']), *own])})"
    return rows


def _is_ours(row: Mapping[str, Any], like: Mapping[str, Any]) -> bool:
    """Whether it is plain wrn's, of the same network and batch."""
    return row.get("contestant") == "wrn" and (row["model"], row["batch_size"]) == (like["model"], like["batch_size"])


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
    """A contestant a line, and how many times as long it takes as ours."""
    shares = ("share of matmul peak", "share of bare convolutions")
    head = ("training", "by", "ms (min to max)", "images/s", "time relative to ours", *shares)
    return Table(head, tuple(_timed(rows, "share_of_matmul_peak", "share_of_bare_convolutions")))


def _infer(rows: Rows) -> Table:
    head = ("inference", "by", "ms (min to max)", "images/s", "time relative to ours", "share of matmul peak", "how")
    return Table(head, tuple(_timed(rows, "share_of_matmul_peak", "how")))


def _timed(rows: Rows, *more: str) -> Iterator[tuple[Text, ...]]:
    for row in rows:
        ours = _reference(row, rows)
        ratio = "" if row is ours else f"{row['ms'] / ours['ms']:.2f}"
        spread = f"{row['ms']:,.1f} ({row['ms_min']:,.1f} to {row['ms_max']:,.1f})"
        told = (row["of"], row["contestant"], spread, f"{row['images_per_second']:,.1f}", ratio)
        yield tuple(map(Text, (*told, *(str(row.get(name, "")) for name in more))))


def _reference(row: Mapping[str, Any], rows: Rows) -> Mapping[str, Any]:
    """Ours of the same run; where that has special settings alone, of one without these, else the first of the run."""
    same = [other for other in rows if other["file"] == row["file"] and other["of"] == row["of"]]
    plain = [other for other in rows if _is_ours(other, row) and other["execution"] <= row["execution"]]
    return next((other for other in same if other["contestant"] == "wrn"), (plain or same)[0])


def _memory(rows: Rows) -> Table:
    usual = {row["of"]: row["mib"] for row in rows if row["contestant"] == "usual loop, fp32"}
    told = [
        (
            row["of"],
            row["contestant"],
            f"{row['mib']:,.0f}",
            f"{row['arrays_mib']:,.0f}" if "arrays_mib" in row else "",
            f"{row['mib'] / usual[row['of']]:.2f}" if row["of"] in usual else "",
        )
        for row in rows
    ]
    head = ("memory of a step", "by", "peak MiB", "of which large arrays", "relative to usual fp32 loop")
    return Table(head, tuple(tuple(map(Text, each)) for each in told))


def _data(rows: Rows) -> Table:
    head = ("data pipeline", "ms a step", "ms on one fixed batch", "ms to make a batch", "share of the step")
    names = ("ms_loaded", "ms_fixed", "ms_making")
    told = [(row["of"], *(f"{row[name]:,.2f}" for name in names), f"{row['share']:.2%}") for row in rows]
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


_TABLES = {"train": _train, "infer": _infer, "memory": _memory, "data": _data, "stream": _stream, "startup": _startup}

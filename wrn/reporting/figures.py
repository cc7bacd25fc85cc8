"""The paper's figures as SVG: training curves, bars of time, blocks. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import pairwise
from typing import Any

COLORS = ("#c23b22", "#1f5fa8", "#2b8a3e", "#9c5fb5", "#b8860b", "#00808a")


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> str:
    """Figure 2's and 3's way: training loss dashed (left, logarithmic), test error solid (right, percent).

    `runs`: names to their lines, with epoch, train_loss and test_error, or val_error where that is null. One alone also
    shows where its lr dropped.
    """
    alone = len(runs) == 1
    with _figure(7.2, 4.2) as (figure, page):
        from matplotlib.ticker import MaxNLocator

        loss_axis = figure.add_subplot()
        error_axis = loss_axis.twinx()
        highest, handles, judges = 0.0, [], set()
        for color, (name, lines) in zip(_colors(len(runs)), runs.items(), strict=True):
            epochs, losses = ([line[what] for line in lines] for what in ("epoch", "train_loss"))
            judge, word = ("val", "validation") if lines[0]["test_error"] is None else ("test", "test")
            errors = [line[f"{judge}_error"] for line in lines]
            marker = "." if len(epochs) < 30 else ""
            loss_axis.plot(epochs, losses, "--", color=COLORS[1] if alone else color, marker=marker, linewidth=1)
            (drawn,) = error_axis.plot(
                epochs, errors, color=color, marker=marker, linewidth=1.4, label=f"{name}: {errors[-1]:.2f}%"
            )
            handles.append(drawn)
            judges.add(word)
            # The first epochs' errors would press all others together, as the paper's own axis knows
            highest = max(highest, *errors[len(errors) // 10 :])
            drops = [after["epoch"] for before, after in pairwise(lines) if before.get("lr") != after.get("lr")]
            for epoch in drops if alone and 2 * len(drops) < len(epochs) else []:  # not of a rate that always changes
                loss_axis.axvline(epoch, color="0.7", linewidth=0.8, linestyle=":")
        if all(line["train_loss"] > 0 for lines in runs.values() for line in lines):
            loss_axis.set_yscale("log")
            loss_axis.yaxis.set_major_formatter("{x:g}")
            lowest, top = loss_axis.get_ylim()
            if top < 10 * lowest:  # too few powers of ten to read the axis by
                loss_axis.yaxis.set_minor_formatter("{x:g}")
        loss_axis.set(xlabel="epoch", ylabel="training loss (dashed)", title=title)
        judged = " or ".join(sorted(judges))
        error_axis.set(ylabel=f"{judged} error, % (solid)", ylim=(0, min(100.0, 1.05 * highest + 0.1)))
        error_axis.grid(alpha=0.25)
        loss_axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        error_axis.legend(handles=handles, loc="upper right", frameon=False, fontsize=9)
    return page.getvalue()


def bars(ours: Mapping[str, float], paper: Mapping[str, float], title: str, to: str) -> str:
    """Figure 4's way: times as ratios to the network `to`, ours beside the paper's."""
    with _figure(7.2, 1.2 + 0.55 * len(ours)) as (figure, page):
        axis = figure.add_subplot()
        places = range(len(ours))
        for shift, color, name, values in ((-0.2, COLORS[1], "ours", ours), (0.2, "#b0b0b0", "the paper's", paper)):
            widths = [values.get(model, 0.0) for model in ours]
            drawn = axis.barh([place + shift for place in places], widths, 0.38, color=color, label=name)
            axis.bar_label(drawn, [f"{width:.2f}" if width else "" for width in widths], padding=3, fontsize=9)
        axis.set_yticks(list(places), list(ours))
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set(xlabel=f"time as ratio to {to}", title=title)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        axis.spines["right"].set_visible(False)
    return page.getvalue()


def rates(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """A benchmark's images/s, by what its rows are `of`, contestant beside contestant."""
    models = list(dict.fromkeys(row["of"] for row in rows))
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    with _figure(7.2, 1.6 + 0.28 * len(rows)) as (figure, page):
        axis = figure.add_subplot()
        height = 0.8 / len(names)
        for place, (color, name) in enumerate(zip(_colors(len(names)), names, strict=True)):
            found = {row["of"]: row["images_per_second"] for row in rows if row["contestant"] == name}
            widths = [found.get(model, 0.0) for model in models]
            at = [number - 0.4 + height * (place + 0.5) for number in range(len(models))]
            drawn = axis.barh(at, widths, 0.92 * height, color=color, label=name)
            texts = [f"{width:,.{int(width < 10)}f}" if width else "" for width in widths]
            axis.bar_label(drawn, texts, padding=3, fontsize=8)
        axis.set_yticks(range(len(models)), models)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set(xlabel="images/s", title=title)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        axis.spines["right"].set_visible(False)
    return page.getvalue()


def blocks(panels: Sequence[Mapping[str, Any]]) -> str:
    """Figure 1: each panel's layers from top to bottom, and the shortcut beside them."""
    with _figure(8.6, 4.2) as (figure, page):
        from matplotlib.patches import FancyBboxPatch

        axis = figure.add_subplot()
        axis.set_axis_off()
        heights = [sum(_box(layer)[1] + 0.22 for layer in panel["layers"]) for panel in panels]
        for number, panel in enumerate(panels):
            x, y, wide = 3.6 * number, 0.0, 2.4 if panel["name"].startswith("wide") or "-wide" in panel["name"] else 1.7
            for layer in panel["layers"]:
                words, height, color = _box(layer)
                y -= height + 0.22
                corner, style = (x - wide / 2, y), "round,pad=0.02"
                axis.add_patch(FancyBboxPatch(corner, wide, height, style, facecolor=color, edgecolor="0.3"))
                axis.text(x, y + height / 2, words, ha="center", va="center", fontsize=8 if height > 0.4 else 6.5)
            side, plus = x + wide / 2 + 0.3, y - 0.6
            axis.plot([x, x], [0.45, -0.2], color="0.3", linewidth=1, zorder=0)
            axis.plot([x, side, side], [0.25, 0.25, plus], color="0.3", linewidth=1, zorder=0)
            arrow = {"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0}
            axis.annotate("", (x + 0.12, plus), (side, plus), arrowprops=arrow)
            axis.annotate("", (x, plus + 0.12), (x, y), arrowprops=arrow)
            axis.text(x, plus, "+", ha="center", va="center", fontsize=12)
            title = f"({'abcd'[number % 4]}) {panel['name']}\n{panel['model']}"
            axis.text(x, -max(heights) - 1.1, title, ha="center", va="top", fontsize=8.5)
        axis.set_xlim(-1.6, 3.6 * (len(panels) - 1) + 1.9)
        axis.set_ylim(-max(heights) - 1.9, 0.6)
    return page.getvalue()


def _box(layer: Mapping[str, Any]) -> tuple[str, float, str]:
    if layer["kind"] == "conv":
        return f"conv {layer['size']}x{layer['size']}, {layer['width']}", 0.7, "#dce8f5"
    if layer["kind"] == "dropout":
        return f"dropout {layer['p']:g}", 0.5, "#f8dcd6"
    return "BN, ReLU", 0.32, "#f1efe6"


def _colors(count: int) -> list[str]:
    return [COLORS[place % len(COLORS)] for place in range(count)]


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, StringIO]]:
    """A figure to draw in, which is on the page afterwards."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "wrn", "svg.fonttype": "none", "axes.spines.top": False}):
        from matplotlib.figure import Figure

        figure, page = Figure(figsize=(width, height), layout="constrained"), StringIO()
        yield figure, page
        figure.savefig(page, format="svg", metadata={"Date": None})

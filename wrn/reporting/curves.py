"""Training curves in the manner of the paper's Figure 2. No torch."""

from io import StringIO
from itertools import pairwise
from typing import Any


def curves_svg(metrics: list[dict[str, Any]], title: str) -> str:
    """An SVG: training loss dashed (left axis, logarithmic), error solid (right axis, percent), against epochs.

    The error is that on the test split or, where there is one, on the validation split.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "wrn", "svg.fonttype": "none", "axes.spines.top": False}):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(6.4, 4.0))
        loss_axis = figure.add_axes((0.12, 0.13, 0.76, 0.78))
        error_axis = loss_axis.twinx()
        epochs = [line["epoch"] for line in metrics]
        marker = "." if len(epochs) < 30 else ""
        loss = [line["train_loss"] for line in metrics]
        judge = "val" if metrics[0].get("val_error") is not None else "test"
        what = {"val": "validation error", "test": "test error"}[judge]
        error = [line[f"{judge}_error"] for line in metrics]
        dashed = loss_axis.plot(epochs, loss, "--", color="tab:blue", marker=marker, label="training loss")
        solid = error_axis.plot(epochs, error, "-", color="tab:red", marker=marker, label=what)
        if min(loss) > 0:
            loss_axis.set_yscale("log")
            loss_axis.yaxis.set_major_formatter("{x:g}")
            if max(loss) < 10 * min(loss):  # too few powers of ten to read the axis by
                loss_axis.yaxis.set_minor_formatter("{x:g}")
        loss_axis.set(xlabel="epoch", ylabel="training loss (dashed)", title=title)
        error_axis.set(ylabel=f"{what}, % (solid)", ylim=(0, min(100.0, 1.08 * max(error) + 0.1)))
        error_axis.grid(alpha=0.3)
        loss_axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        drops = [b["epoch"] for a, b in pairwise(metrics) if a["lr"] != b["lr"]]
        for epoch in drops if 2 * len(drops) < len(epochs) else []:  # not of a rate that changes all the time
            loss_axis.axvline(epoch, color="0.7", linewidth=0.8, linestyle=":")
        error_axis.legend(handles=[*dashed, *solid], loc="upper right", frameon=False)
        page = StringIO()
        figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()

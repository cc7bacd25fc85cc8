"""The experiments against the paper: its rows, its counts, its numbers, and what it claims of them."""

import pytest
import torch

import wrn
from wrn.experiments.catalog import EXPERIMENTS
from wrn.experiments.parts import Claim
from wrn.models.names import parse
from wrn.paper import experiment as of_the_paper
from wrn.reporting.findings import _in_the_paper
from wrn.reproduction import plan

OF_THE_PAPER = [name for name in EXPERIMENTS if of_the_paper(name) is not None]
ROWS = [(name, row) for name in OF_THE_PAPER for row in EXPERIMENTS[name].rows if row.paper is not None]


def test_every_table_and_figure_is_there():
    assert {*OF_THE_PAPER} == {f"table{n}" for n in range(2, 10)} | {f"fig{n}" for n in range(1, 5)}


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_every_row_of_the_paper_is_there_once(name):
    ours = [row.paper for row in EXPERIMENTS[name].rows]
    theirs = range(len(of_the_paper(name)["rows"]))
    left_out = {"fig1": {0, 1, 2, 3}, "fig3": {2}}.get(name, set())  # drawn, not trained; the figure's WRN-16-4 twice
    assert sorted(ours) == sorted(set(theirs) - left_out)


def counted():
    """What the paper's rows come to in parameters, (table, row, classes, count); some figures' rows have no count."""
    for name, row in ROWS:
        counts = of_the_paper(name)["rows"][row.paper].get("params_computed") or {}
        counts = {"c10": counts} if isinstance(counts, int) else counts
        for key, classes in (("c10", 10), ("c100", 100)):
            if key in counts and not row.cannot:
                imagenet = name in ("table7", "table8") or row.only == ("top1", "top5")
                yield pytest.param(row, 1000 if imagenet else classes, counts[key], id=f"{name}-{row.key}-{key}")


@pytest.mark.parametrize(("row", "classes", "count"), list(counted()))
def test_counts_are_the_papers(row, classes, count):
    with torch.device("meta"):
        network = wrn.create_model(row.model, num_classes=classes, depth_rule=row.fields.get("depth_rule"))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}-{row.key}" for name, row in ROWS])
def test_the_network_is_the_one_that_is_printed(name, row):
    theirs = of_the_paper(name)["rows"][row.paper]
    if theirs.get("k") and theirs.get("depth") and row.model.startswith("wrn-") and "bottleneck" not in row.model:
        numbers = row.model.split("-")
        assert (int(numbers[1]), float(numbers[2])) == (theirs["depth"], theirs["k"])
    assert ("dropout" in row.key) == bool(theirs.get("dropout"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_claims_are_about_rows_there_are(name):
    known = EXPERIMENTS[name]
    keys = [row.key for row in known.rows]
    assert len(set(keys)) == len(keys)
    for claim in known.claims:
        named = {key for pair in claim.pairs for key in pair} if isinstance(claim, Claim) else set(claim.rows)
        assert named <= {*keys}, claim.text
    for row in known.rows:
        assert not row.model or parse(row.model, row.fields.get("depth_rule")).name == row.model


def test_the_papers_own_numbers_contradict_it_where_is_known():
    """Widening at depth 22 on CIFAR-10; dropout in 28-10 in the first version."""
    table4 = {claim.text: _in_the_paper(plan.choose("table4"), claim) for claim in EXPERIMENTS["table4"].claims}
    assert table4.pop("widening helps at depth 22") == "not held (1 of 2 pairs)"
    assert set(table4.values()) == {"held"}
    (wide,) = (claim for claim in EXPERIMENTS["table6"].claims if claim.text == "dropout helps WRN-28-10")
    assert _in_the_paper(plan.choose("table6", "v4"), wide) == "held"
    assert _in_the_paper(plan.choose("table6", "v1"), wide) == "not held (1 of 2 pairs)"
    for name in ("table2", "table3"):
        for claim in EXPERIMENTS[name].claims[:2]:
            assert _in_the_paper(plan.choose(name), claim) == "held"


@pytest.mark.parametrize(
    ("name", "row", "column", "version", "number"),
    [
        ("table5", "wrn-28-10", "cifar10", "v4", 4.00),
        ("table5", "wrn-28-10", "cifar10", "v1", 4.17),
        ("table5", "wrn-40-4", "cifar100", "v4", 21.18),
        ("table6", "wrn-52-1 dropout", "cifar100", "v1", 28.23),
        ("table6", "wrn-16-4 dropout", "svhn", "v4", 1.64),
        ("table7", "wrn-34-2-imagenet", "top5", "v4", 7.0),
        ("table9", "wrn-40-10 dropout, CIFAR-100", "cifar100", "v4", 18.3),
    ],
)
def test_the_papers_number_stands_beside_ours(name, row, column, version, number):
    choice = plan.choose(name, version)
    (cell,) = (each for each in plan.cells(choice, "runs") if (each.row.key, each.column.key) == (row, column))
    assert plan.paper_value(choice, cell.row, cell.column) == number


@pytest.mark.parametrize(
    ("name", "row", "data", "number"),
    [
        ("table4", "wrn-28-10", "cifar100", 20.50),
        ("table4", "wrn-28-10", "digits", 4.17),
        ("table6", "wrn-16-4", "svhn", 1.85),
    ],
)
def test_on_other_data_it_is_that_of_its_column_or_the_first(name, row, data, number):
    choice = plan.choose(name, data=data)
    (cell,) = (each for each in plan.cells(choice, "runs") if each.row.key == row)
    assert plan.paper_value(choice, cell.row, cell.column) == number


def test_a_version_whose_numbers_are_unknown_has_none_of_the_last():
    """Figure 2's are those of the last version; in the first WRN-28-10 had another error."""
    choice = plan.choose("fig2", "v1")
    assert {plan.paper_value(choice, each.row, each.column) for each in plan.cells(choice, "runs")} == {None}


def test_the_blocks_are_figure_ones():
    from wrn.reproduction.drawing import blocks

    drawn = {panel["name"]: [layer for layer in panel["layers"] if layer["kind"] != "bn-relu"] for panel in blocks()}
    assert list(drawn) == [row["name"] for row in of_the_paper("fig1")["rows"]]
    sizes = {name: [layer.get("size", "dropout") for layer in layers] for name, layers in drawn.items()}
    assert sizes == {
        "basic": [3, 3],
        "bottleneck": [1, 3, 1],
        "basic-wide": [3, 3],
        "wide-dropout": [3, "dropout", 3],
    }
    assert drawn["basic-wide"][0]["width"] == 4 * drawn["basic"][0]["width"]
    assert torch.is_grad_enabled()

"""Networks' names, and what each means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wrn
from wrn.models.families import parameter_count
from wrn.models.names import MODELS, parse


@pytest.mark.parametrize("name", ["wrn-28-10", "WRN-28-10", "wrn_28_10", "wrn-28-10-b33", "wrn-28-10-b(3,3)"])
def test_spellings_of_one_network(name):
    assert parse(name).name == "wrn-28-10"


def test_blocks_and_depth_rules():
    assert parse("wrn-40-2-b(3,1,3)", "true").arguments["blocks_per_group"] == 4
    assert parse("wrn-40-2-b313", "nominal").arguments["blocks_per_group"] == 6
    assert parse("wrn-40-2-b313", "nominal").name == "wrn-40-2-b313"
    assert parse("wrn-28-0.5").arguments["widen_factor"] == 0.5
    assert parse("wrn-13-2-b313").arguments["blocks_per_group"] == 1  # only the true rule fits: nothing to choose


def test_ambiguous_depth_shows_both_readings():
    with pytest.raises(ValueError, match=r"N=2 \(735,578 parameters\).*N=3 \(1,145,498 parameters\).*--depth-rule"):
        wrn.create_model("wrn-22-2-b313", num_classes=10)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrn-29-10", "nearest is 28 or 34"),
        ("wrn-4-10", "nearest is 10"),
        ("wrn-28x10", "did you mean wrn-28-10"),
        ("resnet", "no such model"),
        ("wrn-28-10-b35", "1x1 and 3x3"),
        ("wrn-28-0", "no channels"),
        ("wrn-16-2-b313", "not 9N \\+ 4"),
        ("", "no such model"),
    ],
)
def test_bad_names(name, says):
    with pytest.raises(ValueError, match=says):
        wrn.create_model(name, num_classes=10)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_dropout_outside_its_range(dropout):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        wrn.create_model("wrn-10-1", num_classes=10, dropout=dropout)


def test_num_classes_must_be_said():
    with pytest.raises(TypeError, match="num_classes"):
        wrn.create_model("wrn-10-1")


@given(
    st.integers(1, 9),
    st.integers(4, 900).map(lambda n: n / 64),
    st.lists(st.sampled_from([1, 3]), min_size=1, max_size=4),
)
def test_printed_names_are_read_back(blocks, k, kernels):
    suffix = "".join(map(str, kernels))
    spec = parse(f"wrn-{3 * len(kernels) * blocks + 4}-{k!r}-b{suffix}", "true")
    assert (spec.arguments["blocks_per_group"], spec.arguments["widen_factor"], spec.arguments["kernels"]) == (
        blocks,
        k,
        tuple(kernels),
    )
    assert parse(spec.name, "true") == spec


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-16-1.5", "wrn-13-2-b313", "wrn-16-0.5"])
def test_the_formula_counts_as_the_modules_do(name):
    spec = parse(name)
    formula = parameter_count(
        spec.arguments["blocks_per_group"],
        spec.arguments["widen_factor"],
        spec.arguments["kernels"],
        num_classes=12,
        in_channels=4,
    )
    assert formula == wrn.describe(name, num_classes=12, in_channels=4).params


def test_the_papers_networks_are_listed():
    assert {"wrn-28-10", "wrn-40-4", "wrn-52-1", "wrn-40-2-b3333", "wrn-22-2-b313"} <= set(MODELS)

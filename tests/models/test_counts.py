"""Sizes of all listed networks: the published counts, and the file that `wrn list models` reads."""

import json
from functools import cache

import pytest
import torch
from torch import nn

import wrn
from wrn.models.complexity import SIZES
from wrn.models.names import MODELS, parse, rule_of
from wrn.paper import paper, rows

OURS = {"original-ResNet": "resnet", "stoc-depth": "stochastic-depth", "pre-act-ResNet": "pre-resnet"}
CLASSES = {"c10": 10, "c100": 100, "c10_released_yaml": 10}  # the last: FitNet's 5 pieces, which its paper does not say


def name_of(row):
    """`stoc-depth-110` of Table 5 is `stochastic-depth-110` here, `WRN-18` of Table 7 with k = 1.5 `wrn-18-1.5-…`."""
    printed, _, depth = row["network"].rpartition("-")
    if printed == "WRN":
        return f"wrn-{depth}-{row['k']:g}-imagenet"
    return f"{OURS[printed]}-{depth}" if printed in OURS else row["network"].lower()


@cache
def described(name, classes):
    return wrn.describe(name, num_classes=classes, depth_rule=rule_of(MODELS.get(name, "")))


def usual(name):
    """Its size for 10 classes, of ImageNet's for 1,000."""
    return described(name, parse(name, rule_of(MODELS.get(name, ""))).classes)


@cache
def on_meta(name):
    with torch.device("meta"):
        return wrn.create_model(name, num_classes=10)


TABLE5, IMAGENET = rows("table5"), rows("table7") + rows("table8")
LOGS = {log["network"]: log["n_parameters"] for log in paper()["logs_in_authors_repo"]}
COUNTS = {
    **{(name_of(row), 1000): row["params_computed"] for row in IMAGENET},
    **{
        (name_of(row), CLASSES[key]): count
        for row in TABLE5
        for key, count in (row["params_computed"] or {}).items()
        if key in CLASSES
    },
    ("vgg", 10): LOGS["VGG-16conv-BN"],
    ("wrn-34-3-imagenet", 1000): 192_712_872,  # no row of Table 7
    ("wrn-101-2-bottleneck", 1000): 126_886_696,  # torchvision's; not in the paper
}
TWICE = [("pre-resnet-1001", 100), ("resnet-1202", 100)]  # 5 s each; with 10 classes they are counted below too

assert len(COUNTS) == 38  # nothing was filtered away


@pytest.mark.parametrize(
    ("name", "classes"), [pytest.param(*key, marks=pytest.mark.slow if key in TWICE else ()) for key in COUNTS]
)
def test_counts_are_the_published_ones(name, classes):
    assert described(name, classes).params == COUNTS[name, classes]


# Table 5 prints 10.2M for these three: right for none, but for the last one without its BN
NOT_10_2 = ["resnet-1202", "stochastic-depth-1202", "pre-resnet-1001"]
PRINTED = [
    *(
        (name_of(row), row["params_M"], name_of(row) not in NOT_10_2)
        for row in TABLE5
        if type(row["params_M"]) is float
    ),
    *((name_of(row), row["params_M"]["v4"], True) for row in TABLE5 if isinstance(row["params_M"], dict)),
    *((name_of(row), row["params_M"], True) for row in IMAGENET),
    ("wrn-40-4", 8.7, False),  # v1's misprint
    (
        "stochastic-depth-1202",
        19.4,
        False,
    ),  # of its body, rounded down: the released biases make it 19.5M
    ("fitnet", 2.5, False),  # its paper says so, its released configuration is what is built
    ("highway", 2.3, True),
]

assert len(PRINTED) == 26


@pytest.mark.parametrize(("name", "millions", "true"), PRINTED)
def test_printed_sizes_agree_unless_known_to_be_wrong(name, millions, true):
    assert (round(usual(name).params / 1e6, 1) == millions) == true


def test_the_1001_layers_have_10_2_million_parameters_without_bn():
    row = next(row for row in TABLE5 if name_of(row) == "pre-resnet-1001")
    layers = [part for part in on_meta("pre-resnet-1001").modules() if isinstance(part, nn.BatchNorm2d)]
    without = usual("pre-resnet-1001").params - sum(p.numel() for layer in layers for p in layer.parameters())
    assert without == row["params_computed"]["c10_without_bn"]
    assert round(without / 1e6, 1) == row["params_M"]


def test_elus_39_3_million_are_with_100_classes():
    assert [round(described("elu", classes).params / 1e6, 1) for classes in (10, 100)] == [39.2, 39.3]


@pytest.mark.parametrize("name", MODELS)
def test_listed_sizes_are_those_described(name):
    listed = json.loads(SIZES.read_text(encoding="utf-8"))
    assert list(listed) == list(MODELS), "run python -m wrn.models.complexity"
    found = usual(name)
    assert listed[name] == {"params": found.params, "macs": found.macs}, "run python -m wrn.models.complexity"


@pytest.mark.parametrize("name", ["nin", "dsn", "fitnet", "highway", "elu", "vgg", "stochastic-depth-110"])
def test_description_leaves_no_parameter_out(name):
    """DSN's companions, too, which do not run in a plain forward."""
    assert usual(name).params == sum(p.numel() for p in on_meta(name).parameters())

"""Recipes: what the paper and its released codes say, and their JSON."""

import json
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wrn
from wrn.recipes import RECIPES, Recipe

OF = {name: name for name in ("nin", "dsn", "fitnet", "highway", "elu")}  # recipes that only one network has


def paper(**fields):
    return wrn.recipe("wrn-28-10", data="folder:pictures", **fields)


def test_the_papers_schedule():
    """59 epochs at 0.1, 60 at 0.02, 40 at 0.004, 41 at 0.0008, the drop before epochs 60, 120, 160."""
    recipe = paper()
    assert Counter(recipe.lr_at(epoch) for epoch in range(1, 201)) == {0.1: 59, 0.02: 60, 0.004: 40, 0.0008: 41}
    assert [epoch for epoch in range(1, 201) if recipe.drops_at(epoch)] == [60, 120, 160]
    assert recipe.deviations() == {}


@given(st.integers(1, 400))
def test_scaled_schedule_is_the_200_epoch_one(epochs):
    recipe, whole = paper(epochs=epochs), paper()
    for epoch in range(1, epochs + 1):
        assert recipe.lr_at(epoch) == whole.lr_at((epoch - 1) * 200 // epochs + 1)


def test_one_cycle_rises_and_falls_linearly():
    recipe = paper(recipe="fast", epochs=10, lr=0.5, warmup=0.2)
    assert [recipe.lr_at(epoch, 0.0) for epoch in (1, 2, 3, 7)] == pytest.approx([0, 0.25, 0.5, 0.25])
    assert recipe.lr_at(10, 1.0) == 0
    assert not any(recipe.drops_at(epoch) for epoch in range(1, 11))
    assert set(recipe.deviations()) == {"epochs", "lr"}
    assert paper(schedule="one-cycle").milestones == ()


def test_given_milestones_stand_as_they_are():
    recipe = paper(epochs=10, milestones=(4, 8))
    assert [recipe.lr_at(epoch) for epoch in range(1, 11)] == [0.1] * 3 + [0.02] * 4 + [0.004] * 3


@pytest.mark.parametrize("epoch", [0, 201])
def test_no_rate_outside_the_schedule(epoch):
    with pytest.raises(ValueError, match=r"outside 1\.\.200"):
        paper().lr_at(epoch)


def test_named_recipes_differ_as_the_codes_did():
    authors, pytorch = paper(recipe="authors"), paper(recipe="authors-pytorch")
    assert (paper().reset_momentum, paper().drop_last, paper().bn_init, paper().nesterov) == (
        False,
        False,
        "ones",
        True,
    )
    assert (authors.reset_momentum, authors.drop_last, authors.bn_init, authors.nesterov) == (
        True,
        True,
        "uniform",
        True,
    )
    assert (pytorch.nesterov, pytorch.drop_last, pytorch.linear_init) == (False, False, "normal")
    assert {r.weight_decay for r in (paper(), authors, pytorch)} == {5e-4}


def test_json_round_trip():
    for name in RECIPES:
        model = OF.get(name, "wrn-28-10")
        recipe = wrn.recipe(model, data="cifar10", recipe=name, epochs=7, dropout=0.3, lr=1)
        again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
        assert again == recipe
        assert again.hash == recipe.hash
        assert again.hash == wrn.recipe(model, data="cifar10", recipe=name, epochs=7, dropout=0.3, lr=1.0).hash
        assert set(recipe.deviations()) == {"epochs", "dropout", "lr"}
    assert paper(epochs=7).hash != paper(epochs=8).hash
    # Pinned: it names the folders of people's runs. A new field must leave it alone
    assert wrn.recipe("wrn-28-10", data="cifar10").hash == "d192d31b"


def test_a_depth_rule_that_changes_nothing_is_no_part_of_the_recipe():
    assert paper(depth_rule="true") == paper()
    ruled = wrn.recipe("wrn-40-2-b313", data="digits", depth_rule="nominal")
    assert ruled.depth_rule == "nominal"
    assert ruled != wrn.recipe("wrn-40-2-b313", data="digits", depth_rule="true")


def test_the_catalogue_decides_augmentation():
    assert paper().augment == "flip-crop"
    digits = wrn.recipe("wrn-16-1", data="digits")
    assert digits.augment == "none"
    assert digits.deviations() == {"epochs": {"recipe": 200, "here": 20}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"weight_decai": 0}, "did you mean weight_decay"),
        ({"recipe": "autors"}, "did you mean authors"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 2.5}, "not a whole number"),
        ({"epochs": True}, "not a whole number"),
        ({"lr": float("nan")}, "positive"),
        ({"augment": "mixup"}, "flip-crop, v1, imagenet, none"),
        ({"milestones": (0,)}, "counted from 1"),
        ({"milestones": (5, 3)}, "in their order"),
        ({"momentum": 0.0}, "nesterov"),
        ({"image_size": 4}, "at least 5"),
    ],
)
def test_bad_fields(fields, says):
    with pytest.raises(ValueError, match=says):
        paper(**fields)


def test_a_rate_without_drops_has_no_factor_of_these():
    with pytest.raises(ValueError, match=r"lr_decay 0\.5: changes nothing, since the rate has no drops"):
        paper(lr_decay=0.5, milestones=())
    with pytest.raises(ValueError, match=r"lr_decay 0\.5: changes nothing, since the rate has no drops"):
        paper(lr_decay=0.5, epochs=1)  # whose milestones lie behind it


def test_fields_of_a_file_are_checked_too():
    with pytest.raises(ValueError, match="did you mean epochs"):
        Recipe.from_dict({"epoch": 3})
    with pytest.raises(ValueError, match="not a number"):
        Recipe.from_dict({"lr": "fast"})


@pytest.mark.parametrize(
    ("name", "batch", "rates", "drops", "end"),
    [  # rates, and the thousands of iterations after which they change
        ("resnet", 128, (0.1, 0.01, 0.001), (32, 48), 64),
        ("resnet-110", 128, (0.01, 0.1, 0.01, 0.001), (0.4, 32, 48), 64),
        ("highway", 100, (0.025, 0.0025, 0.00025, 0.000025), (100, 150, 175), 200),
        ("dsn", 100, (0.025, 0.00125, 0.0001), (150, 170), 200),
        ("nin", 128, (0.1, 0.01), (100,), 120),
        ("elu", 100, (0.01, 0.001), (35,), 125),
    ],
)
def test_schedules_of_others_are_their_iterations(name, batch, rates, drops, end):
    recipe = wrn.recipe(OF.get(name, "wrn-10-1"), data="cifar10", recipe=name)
    assert recipe.batch_size == batch
    of_epochs = [recipe.lr_at(epoch) for epoch in range(1, recipe.epochs + 1)]
    assert [rate for rate, _ in groupby(of_epochs)] == pytest.approx(rates)
    changes = [epoch for epoch in range(1, recipe.epochs) if of_epochs[epoch] != of_epochs[epoch - 1]]
    for epochs, thousands in zip([*changes, recipe.epochs], [*drops, end], strict=True):
        assert epochs == pytest.approx(thousands * 1000 * batch / 50_000, abs=1.1)


def test_only_a_falling_rate_is_a_drop():
    recipe = wrn.recipe("pre-resnet-110", data="cifar10", recipe="own")
    assert recipe.lr_at(2) > recipe.lr_at(1), "it begins slowly"
    assert [epoch for epoch in range(1, recipe.epochs + 1) if recipe.drops_at(epoch)] == list(recipe.milestones[1:])


def test_numbers_of_numpy_are_numbers():
    rates = np.array([0.5, 0.25])
    recipe = wrn.recipe("wrn-10-1", data="digits", lr=rates[1], epochs=np.int64(7), batch_size=np.int32(32))
    assert recipe == wrn.recipe("wrn-10-1", data="digits", lr=0.25, epochs=7, batch_size=32)
    assert type(recipe.lr) is float
    with pytest.raises(ValueError, match="not a whole number"):
        wrn.recipe("wrn-10-1", data="digits", epochs=rates[0])


def test_one_folder_is_one_recipe():
    assert wrn.recipe("wrn-10-1", data="folder:birds/") == wrn.recipe("wrn-10-1", data="folder:./birds")


def test_own_is_the_recipe_of_the_networks_paper():
    assert wrn.recipe("highway", data="cifar10", recipe="own") == wrn.recipe(
        "highway", data="cifar10", recipe="highway"
    )
    assert wrn.recipe("wrn-28-10", data="cifar10", recipe="own").recipe == "paper"
    svhn = wrn.recipe("stochastic-depth-152", data="svhn", recipe="own")
    assert (svhn.epochs, svhn.milestones, svhn.val, svhn.augment, svhn.lr) == (50, (30, 35), 6000, "none", 0.1)
    assert wrn.recipe("dsn", data="cifar100", recipe="own").loss == "cross-entropy"
    imagenet = wrn.recipe("resnet-50", data="imagenet", recipe="own")
    assert (imagenet.epochs, imagenet.batch_size, imagenet.weight_decay) == (90, 256, 1e-4)
    assert imagenet.deviations() == {}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_stands_on_every_kind_of_data(name):
    for data in ("digits", "cifar10", "cifar100", "svhn", "imagenet", "folder:pictures"):
        recipe = wrn.recipe(OF.get(name, "wrn-16-4"), data=data, recipe=name)
        assert recipe.deviations().keys() <= {"epochs"}  # digits' are shortened
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
        usual = {"digits": "none", "svhn": "none", "imagenet": "imagenet"}.get(data, "flip-crop")
        if (name, data) == ("fb-resnet", "folder:pictures"):  # which can be treated as that recipe says
            usual = "imagenet"
            assert recipe.image_size == 224
        assert recipe.augment == usual


def test_given_stages_stand_as_they_are():
    recipe = wrn.recipe("dsn", data="cifar10", recipe="own", epochs=12, stages=(4,))
    assert [recipe.stage_at(epoch) for epoch in range(1, 13)] == [0] * 3 + [1] * 9
    scaled = wrn.recipe("dsn", data="cifar10", recipe="own", epochs=12)
    assert [scaled.stage_at(epoch) for epoch in range(1, 13)] == [0] * 3 + [1] * 9  # 100 of 400
    short = wrn.recipe("elu", data="cifar10", recipe="own", epochs=2, stages=(2,))  # for which its own are too many
    assert short.deviations()["stages"]["here"] == (2,)
    elu = wrn.recipe("elu", data="cifar10", recipe="own")
    assert [epoch for epoch in range(2, 251) if elu.stage_at(epoch) != elu.stage_at(epoch - 1)] == [71, 171]

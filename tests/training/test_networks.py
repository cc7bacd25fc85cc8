"""Every kind of network through `wrn train NAME`: those with BN on real digits, the others by their own recipe."""

import os

import pytest

import wrn

# One of each family, at a reduced depth or width where the real one is large
SMALL_IMAGES = [
    "wrn-10-2",
    "wrn-13-1-b313",
    "resnet-8-cifar",
    "pre-resnet-8-cifar",
    "pre-resnet-11-cifar",
    "stochastic-depth-8",
    "vgg",
]
IMAGENET = ["resnet-18", "wrn-18-0.5-imagenet", "resnet-50", "wrn-50-0.25-bottleneck", "pre-resnet-50"]


SLOW = ["vgg", "resnet-50", "pre-resnet-50"]  # up to a minute; their layers are those of twins in tests/models


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SMALL_IMAGES + IMAGENET]
)
def test_two_epochs_beat_chance(name, run_wrn, tmp_path):
    words = ["train", name, "--data", "digits", "--labels", 640, "--epochs", 2, "--batch-size", 32, "--out", "run"]
    if name in IMAGENET:
        # Maps of one pixel in the last group: BN would see 2 numbers in the last, smaller batch
        words += ["--lr", 0.01, "--drop-last", "true"]
    code, _, err = run_wrn(*words)
    assert code == 0, err
    run = wrn.Run(tmp_path / "run")
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert run.result["test_error"] < 80, "chance is 90"


def last_run(run_wrn, tmp_path, name, *words):
    """A network under the recipe of its own paper, cut short."""
    code, _, err = run_wrn("train", name, "--recipe", "own", "--out", "run", *words)
    assert code == 0, err
    run = wrn.Run(tmp_path / "run")
    assert run.recipe.recipe == name
    return run


@pytest.mark.slow  # four minutes
def test_elus_own_recipe_cut_short(run_wrn, tmp_path):
    run = last_run(run_wrn, tmp_path, "elu", "--data", "digits", "--epochs", 8)
    assert run.result["test_error"] < 50, "chance is 90"


@pytest.mark.slow  # two minutes each
@pytest.mark.parametrize("name", ["nin", "fitnet", "highway"])
def test_their_own_recipe_cut_short_lowers_the_loss(name, run_wrn, tmp_path):
    """They begin on a plateau, from weights near zero, that takes thousands of steps to leave: the loss falls a bit."""
    words = ["--data", "digits", "--epochs", 12]
    if name == "fitnet":
        assert run_wrn("train", "wrn-10-1", "--data", "digits", "--preprocess", "zca", "--out", "teacher")[0] == 0
        words += ["--teacher", tmp_path / "teacher"]
    run = last_run(run_wrn, tmp_path, name, *words)
    losses = [line["train_loss"] for line in run.metrics if run.recipe.stage_at(line["epoch"]) == 0]
    assert min(losses[1:]) < losses[0]


@pytest.mark.slow  # four minutes
def test_dsns_own_recipe_cut_short(run_wrn, tmp_path):
    """Its rate suits photographs and diverges on digits. WRN_TEST_PHOTOGRAPHS: a `--data` such as cifar10 or a copy."""
    data = os.environ.get("WRN_TEST_PHOTOGRAPHS")
    if data is None:
        pytest.skip("name ten classes of photographs in WRN_TEST_PHOTOGRAPHS, such as cifar10")
    words = ["--data", data, "--labels", 10_000, "--epochs", 8, "--stages", 6]
    run = last_run(run_wrn, tmp_path, "dsn", *words)
    # The best answer that is the same for all images is -0.8 to each of ten classes, at a loss of 3.6 from each head;
    # what the heads know, the companions have found first
    of_companions = [line["train_loss"] for line in run.metrics if run.recipe.stage_at(line["epoch"]) == 0]
    assert of_companions[-1] < 4 * 3.6
    assert run.metrics[-1]["train_loss"] < 3.6
    assert run.result["test_error"] < 87, "chance is 90"

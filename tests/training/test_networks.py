"""Every kind of network through `wrn train NAME`: those with BN on real digits, the others by their own recipe."""

import pytest

import wrn

# One of each family, at a reduced depth where the real one is deep
WITH_BN = [
    "wrn-10-2",
    "wrn-13-1-b313",
    "resnet-8-cifar",
    "pre-resnet-8-cifar",
    "pre-resnet-11-cifar",
    "stochastic-depth-8",
    "vgg",
    "resnet-18",
    "wrn-18-1.5-imagenet",
    "resnet-34",
    "resnet-50",
    "wrn-50-1.5-bottleneck",
    "pre-resnet-50",
]


@pytest.mark.parametrize("name", WITH_BN)
def test_two_epochs_beat_chance(name, run_wrn, tmp_path):
    code, _, err = run_wrn("train", name, "--data", "digits", "--epochs", 2, "--batch-size", 32, "--out", "run")
    assert code == 0, err
    run = wrn.Run(tmp_path / "run")
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert run.result["test_error"] < 60, "chance is 90"


@pytest.mark.slow  # minutes each
@pytest.mark.parametrize(("name", "epochs"), [("nin", 60), ("dsn", 40), ("highway", 40), ("elu", 20), ("fitnet", 60)])
def test_without_bn_their_own_recipe_cut_short_learns(name, epochs, run_wrn, tmp_path):
    words = ["train", name, "--data", "digits", "--recipe", "own", "--epochs", epochs, "--out", "run"]
    if name == "fitnet":
        assert run_wrn("train", "wrn-16-1", "--data", "digits", "--preprocess", "zca", "--out", "teacher")[0] == 0
        words += ["--teacher", "teacher"]
    code, _, err = run_wrn(*words)
    assert code == 0, err
    run = wrn.Run(tmp_path / "run")
    assert run.recipe.recipe == name
    assert run.result["test_error"] < 45, "chance is 90"

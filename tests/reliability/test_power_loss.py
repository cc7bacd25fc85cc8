"""The power goes: whatever of the unsynced operations reached the disk, the newest committed checkpoint loads."""

import shutil

import pytest

import wrn
from tests.reliability.replay import Disk, crashes, operations
from tests.reliability.trials import RECIPE
from wrn.training import checkpoint


@pytest.fixture(scope="module")
def logged(trials, tmp_path_factory):
    """The log of a run's operations on the disk, and its folder."""
    folder = tmp_path_factory.mktemp("logged")
    assert trials.run(folder / "run", log=folder / "log").code == 0
    return folder / "log", folder / "run"


def test_the_model_of_the_disk_gives_the_run_itself(logged, tmp_path):
    """All operations done to it make the folder that the real file system has."""
    log, run = logged
    disk = Disk(run)
    for operation in operations(log):
        disk.do(*operation)
    disk.crash(tmp_path / "again", "all", None)
    for path in run.rglob("*"):
        again = tmp_path / "again" / path.relative_to(run)
        assert again.is_dir() if path.is_dir() else again.read_bytes() == path.read_bytes()


def epoch_found(folder):
    """The epoch of the checkpoint that a run would go on from."""
    recipe = wrn.recipe(**RECIPE)
    network = wrn.network_of(recipe, 10, seed=0)
    trained = wrn.objective(network, recipe).trained
    progress, _, _ = checkpoint.load_newest(folder / "checkpoints", trained, wrn.optimizer(trained, recipe), {})
    return progress.epoch


@pytest.mark.parametrize("every", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_every_crash_leaves_the_newest_committed_checkpoint(logged, tmp_path, survived, every):
    log, run = logged
    good = tried = 0
    for number, committed, how, write in crashes(log, run, every):
        left = tmp_path / "left"
        write(left)
        found = epoch_found(left)
        assert found >= committed, f"after operation {number}, {how} kept: {found} epochs of {committed}"
        good, tried = good + 1, tried + 1
        shutil.rmtree(left)
    assert tried > 300
    survived("the power goes after any operation, any unsynced ones are lost", tried, good, long=every > 1)


def test_a_run_goes_on_after_the_power_went(logged, trials, tmp_path):
    """To the same bits, from a folder of which only what was synced is left, and from half of the rest."""
    log, run = logged
    for count, (number, _, how, write) in enumerate(crashes(log, run, 1, seed=5)):
        if count % 23 == 0:
            left = tmp_path / f"{number}-{how}"
            write(left)
            ended = trials.run(left)
            assert ended.code == 0, f"after operation {number}, {how} kept: {ended.said}"
            assert (left / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_without_the_sync_of_a_folder_it_would_be_lost(logged, tmp_path):
    """That the model can fail a program: leave out the syncs of the folder of checkpoints."""
    log, run = logged
    disk = Disk(run)
    for what, path, *rest in operations(log):
        if not (what == "fsync" and path.endswith("/checkpoints")):
            disk.do(what, path, *rest)
    disk.crash(tmp_path / "left", "synced", None)
    assert epoch_found(tmp_path / "left") == 0

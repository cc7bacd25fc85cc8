"""Processes that are killed, and disks that fail, at every operation: nothing committed is lost, the bits stay."""

import errno
import random
import re
import signal

import pytest

from tests.reliability.checks import goes_on_as_if_nothing_had_happened, the_second_save

LINE = re.compile(r"^wrn: error: [^\n]+\n$")


def test_killed_at_each_operation_of_a_save(trials, whole, tmp_path, survived):
    numbers = the_second_save(trials, tmp_path / "logged")
    for number in numbers:
        out = tmp_path / f"kill{number}"
        assert trials.run(out, kill=number, torn=number % 2).code == -signal.SIGKILL
        goes_on_as_if_nothing_had_happened(trials, out, whole[0])
    assert len(numbers) > 15


@pytest.mark.slow
def test_killed_at_every_operation_of_a_run(trials, whole, tmp_path, survived):
    good = tried = 0
    for number in range(1, whole[1].operations + 1):
        for torn in (False, True):
            out = tmp_path / f"kill{number}{torn}"
            assert trials.run(out, kill=number, torn=torn).code == -signal.SIGKILL
            good += goes_on_as_if_nothing_had_happened(trials, out, whole[0])
            tried += 1
    survived("SIGKILL before, and in the middle of, each operation on the disk", tried, good)


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(trials, whole, tmp_path, survived, count):
    draw, good = random.Random(0), 0
    for number in range(count):
        out = tmp_path / f"kill{number}"
        trials.run(out, after=draw.uniform(0, whole[1].seconds))
        good += goes_on_as_if_nothing_had_happened(trials, out, whole[0])
    survived("SIGKILL at random moments", count, good, long=count == 100)


def test_killed_again_and_again(trials, whole, tmp_path):
    """Each process comes a little further than the one before, or not even that."""
    draw, out = random.Random(1), tmp_path / "run"
    for _ in range(12):
        trials.run(out, kill=draw.randrange(1, 60))
    goes_on_as_if_nothing_had_happened(trials, out, whole[0])


def fails_politely(trials, out, whole, number, failure):
    """One line, exit code 1, no scratch left; the newest checkpoint is whole and the run goes on from it."""
    ended = trials.run(out, fail=number, failure=failure)
    if ended.code == 0:  # what failed was the removal of scratch, which is then left
        return goes_on_as_if_nothing_had_happened(trials, out, whole, tidy=False)
    strays = [path.name for path in out.rglob(".*")]
    if ended.code != 1 or not LINE.match(ended.said) or (failure == errno.ENOSPC and strays):
        pytest.fail(f"operation {number}: {ended}, left {strays}")
    return goes_on_as_if_nothing_had_happened(trials, out, whole)


def test_the_disk_fills_in_a_save(trials, whole, tmp_path):
    for number in the_second_save(trials, tmp_path / "logged"):
        assert fails_politely(trials, tmp_path / f"fail{number}", whole[0], number, errno.ENOSPC)


@pytest.mark.slow
@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_the_disk_fails_at_every_operation(trials, whole, tmp_path, survived, failure):
    numbers = range(1, whole[1].operations + 1)
    good = sum(fails_politely(trials, tmp_path / f"fail{number}", whole[0], number, failure) for number in numbers)
    words = {errno.ENOSPC: "a full disk", errno.EIO: "an I/O error", errno.EROFS: "a read-only file system"}[failure]
    survived(f"{words} from each operation on", len(numbers), good)


def test_weights_are_those_of_a_run_of_one_piece(trials, whole, tmp_path):
    """That the comparison can fail: another seed has other bits."""
    trials.run(tmp_path / "other", seed=1)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (whole[0] / "model.safetensors").read_bytes()

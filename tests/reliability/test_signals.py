"""Signals at every operation of a save, within epochs too; terminals that go away; memory that runs out."""

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

import wrn
from tests.reliability.checks import goes_on_as_if_nothing_had_happened, the_second_save
from tests.reliability.trials import Trials
from wrn.files import read_sealed, write_sealed
from wrn.runs import newest_first

SMALL = [
    sys.executable, "-m", "wrn", "train", "wrn-10-1", "--data", "digits", "--image-size", "16", "--labels", "96",
    "--epochs", "2", "--device", "cpu", "--precision", "fp32",
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0), (signal.SIGHUP, 0)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_signal_while_it_saves(trials, whole, tmp_path, survived, number, code):
    """It finishes the step, saves, and says how to go on; or it saves and goes on; or it does not mind."""
    every = list(the_second_save(trials, tmp_path / "logged"))[:: 6 if code else 9]
    for operation in every:
        out = tmp_path / f"signal{operation}"
        ended = trials.run(out, kill=operation, number=number)
        assert ended.code == code, ended
        if code:
            assert "saved; the same command continues" in (out / "train.log").read_text()
            assert not (out / "result.json").exists()
            [step] = [step for epoch, step, _ in newest_first(out / "checkpoints")][:1]
            assert step > 0, "it came in the middle of an epoch, or before its test"
        goes_on_as_if_nothing_had_happened(trials, out, whole[0])


def test_saved_within_epochs_and_killed_there(trials, whole, tmp_path):
    """With --checkpoint-every so short that each step is saved: any of them is gone on from to the same bits."""
    counted = trials.run(tmp_path / "often", checkpoint_every=1e-9)
    assert counted.operations > 2 * whole[1].operations
    assert (tmp_path / "often" / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()
    for operation in range(30, counted.operations, 61):
        out = tmp_path / f"kill{operation}"
        assert trials.run(out, kill=operation, checkpoint_every=1e-9).code == -signal.SIGKILL
        goes_on_as_if_nothing_had_happened(trials, out, whole[0])


def test_asked_to_save_it_saves_within_the_epoch(trials, whole, tmp_path):
    """SIGUSR1, as Slurm sends it before the time is up: a checkpoint within an epoch, from which it goes on."""
    out, log = tmp_path / "run", tmp_path / "log"
    first = the_second_save(trials, tmp_path / "logged")[0]
    assert trials.run(out, kill=first - 1, number=signal.SIGUSR1, log=log).code == 0
    assert b"checkpoints/epoch-0001-step-000001" in log.read_bytes()
    assert (out / "model.safetensors").read_bytes() == (whole[0] / "model.safetensors").read_bytes()


def test_out_of_memory_says_what_to_lower(trials, tmp_path):
    """A batch of 1,442 where there is memory for some hundred: the system refuses, and nothing is changed silently."""
    large = Trials(trials.library, {"model": "wrn-10-4", "data": "digits", "epochs": 1, "batch_size": 1442})
    ended = large.run(tmp_path / "run", memory=400_000_000)
    large.close()
    assert ended.code == 1
    assert re.fullmatch(
        r"wrn: error: out of memory: [\d,.]+ MB more could not be had; lower --batch-size, or take a smaller network\n",
        ended.said,
    )


def test_a_last_batch_of_one_image_says_what_to_change(run_wrn):
    """ImageNet's networks have one number a channel there, of which BN has no deviation."""
    words = ["train", "wrn-18-0.25-imagenet", "--data", "digits", "--labels", 33, "--batch-size", 32, "--epochs", 1]
    code, _, err = run_wrn(*words)
    assert (code, err.count("wrn: error: ")) == (1, 1), err
    assert "--drop-last true" in err


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_nobody_reads_what_it_prints(tmp_path):
    """`wrn train … | head -1`: training goes on to its end, and its log is whole."""
    command = " ".join(map(str, [*SMALL, "--out", tmp_path / "run"]))
    shell = f"{command} 2> {tmp_path}/said | head -n 1 > {tmp_path}/read; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (tmp_path / "said").read_text() == ""
    assert done.stdout == "0\n"
    assert wrn.Run(tmp_path / "run").finished
    log = (tmp_path / "run" / "train.log").read_text()
    assert "epoch 2/2" in log
    assert "test error" in log.splitlines()[-1]


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_listing_that_nobody_reads_to_its_end_says_nothing():
    command = f"{sys.executable} -m wrn list models --json | head -c 10 | cat"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (len(done.stdout), done.stderr) == (10, "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
@pytest.mark.parametrize(
    ("words", "code"), [("list models >&-", 0), ("list models > /dev/full", 1), ("--version 2>&-", 0)]
)
def test_output_that_leads_nowhere(words, code):
    """Closed from the start nobody wants it; where it does not fit, that is a failure, in one line."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m wrn {words}"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == code
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
def test_the_terminal_is_closed(tmp_path):
    """A real one: its end sends SIGHUP, and every later write to it fails. The live bar is on it too."""
    command = [*SMALL, "--epochs", "6", "--out", str(tmp_path / "run")]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(command[0], command)
    seen = b""
    while b"epoch 1/6" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert wrn.Run(tmp_path / "run").finished
    assert "epoch 6/6" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
def test_a_disk_that_is_too_small_is_told_before_it_begins(tmp_path):
    """A real file system of 1 MB, where the kernel lets users mount one."""
    (tmp_path / "small").mkdir()
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}/small"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mounts for users here")
    command = " ".join(map(str, [*SMALL, "--out", tmp_path / "small" / "run"]))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {command}; code=$?; ls {tmp_path}/small; exit $code"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "this run needs 3 MB for its checkpoints and results, and 1 MB are free" in done.stderr
    assert "\nrun" not in done.stdout, "nothing was begun"


def test_another_build_or_machine_is_told_and_marked(trials, tmp_path):
    """A run goes on where something differs that can change its bits; what differs is in the result."""
    out = tmp_path / "run"
    numbers = the_second_save(trials, tmp_path / "logged")
    assert trials.run(out, kill=numbers[-1]).code == -signal.SIGKILL
    for name in ("env.json", "checkpoints/epoch-0002-step-000000/checkpoint.json"):
        change_env(out / name, {"numpy": "1.0"})
    ended = trials.run(out)
    assert ended.code == 0, ended.said
    assert (
        "changed since it was saved, so that this run will not be bit-exact: numpy 1.0 -> "
        in (out / "train.log").read_text()
    )
    result = wrn.Run(out).result
    assert result["bit_exact"] is False
    assert result["determinism"].startswith("not bit-exact: after epoch 2, step 0: numpy 1.0 -> ")
    trials.run(tmp_path / "same")
    assert wrn.Run(tmp_path / "same").result["bit_exact"] is True


def change_env(path, versions):
    """Another version in the file, as if a process with it had written it."""
    content = read_sealed(path, ())
    env = content["files"]["env.json"] if "files" in content else content
    env["versions"] |= versions
    write_sealed(path, content)

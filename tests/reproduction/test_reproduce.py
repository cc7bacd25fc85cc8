"""`wrn reproduce` with real processes: killed, stopped, failing, done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import wrn
from tests.processes import files_under, wait_for
from wrn.reproduction import plan
from wrn.reproduction.schedule import How, run_all

SMALL = ("table4-small", "--data", "digits", "--epochs", "1", "--labels", "200", "--rows", "wrn-10-1", "wrn-16-1")


@pytest.fixture
def reproduce(start, tmp_path):
    """Starts the small table in `tmp_path`."""
    return lambda *words: start(sys.executable, "-m", "wrn", "reproduce", *SMALL, *words, cwd=tmp_path)


def finished(folder):
    """When each result was written; of those that are whole, which a scratch folder's are not."""
    found = {path: facts.st_mtime_ns for path, facts in files_under(folder).items() if path.name == "result.json"}
    return {path: when for path, when in found.items() if not path.parent.name.startswith(".")}


def test_killed_half_way_it_does_no_finished_run_again(tmp_path, reproduce, run_wrn):
    first = reproduce("--seeds", "2")
    wait_for(lambda: finished(tmp_path), first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = finished(tmp_path)
    assert 1 <= len(before) < 4
    second = reproduce("--seeds", "2", "--jobs", "2")
    out, err = second.communicate(timeout=600)
    assert second.returncode == 0, err
    after = finished(tmp_path)
    assert len(after) == 4
    assert {path: after[path] for path in before} == before
    assert f"{4 - len(before)} of 4 runs to do, 2 at a time: about " in out
    fresh = [wrn.Run(path.parent) for path in after if path not in before]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {run.env["execution"]["threads"] for run in fresh} == {share}, "the cores are shared out"
    code, out, err = run_wrn("reproduce", *SMALL, "--seeds", 2)
    assert (code, finished(tmp_path)) == (0, after), err


def test_stopped_it_lets_its_runs_save(tmp_path, reproduce):
    going = reproduce("--seeds", "1", "--epochs", "500")
    wait_for(lambda: any("checkpoints" in path.parts for path in files_under(tmp_path)), going)
    going.send_signal(signal.SIGTERM)
    out, err = going.communicate(timeout=600)
    assert going.returncode == 143, err
    assert "stopped, saved" in out
    (log,) = tmp_path.rglob("train.log")
    assert "saved; the same command continues" in log.read_text()
    (plans,) = tmp_path.rglob("plans/*.json")
    assert json.loads(plans.read_text())["failures"] == {}


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_it_passes_on_that_runs_are_to_save_and_minds_neither_hangups_nor_closed_pipes(tmp_path, reproduce):
    going = reproduce("--seeds", "1", "--epochs", "6", "--jobs", "2")
    going.stdout.close()
    wait_for(lambda: list(tmp_path.glob("runs/digits/*/seed0/checkpoints/epoch-*")), going)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        going.send_signal(number)
    assert going.wait(timeout=600) == 0, going.stderr.read()
    going.stderr.close()


def test_a_row_that_is_asked_for_twice_is_run_and_counted_once(run_wrn):
    code, out, err = run_wrn("reproduce", *SMALL, "wrn-10-1", "--dry-run")
    assert code == 0, err
    assert out.count("| wrn-10-1 ") == 1
    assert "\n6 of 6 runs to do" in out


def test_a_run_that_fails_leaves_the_others_alone(tmp_path, run_wrn):
    choice = plan.choose(
        "table4-small", data="digits", rows=("wrn-10-1", "wrn-16-1"), fields={"epochs": 1, "labels": 200}
    )
    spoilt = plan.jobs(plan.cells(choice, tmp_path / "runs"))[0]
    spoilt.path.mkdir(parents=True)
    (spoilt.path / "holiday.txt").write_text("not a run")
    code, out, err = run_wrn("reproduce", *SMALL, "--seeds", 1)
    assert code == 1
    assert "some runs failed" in err
    assert "wrn-10-1 on digits failed: " in out
    assert "holds files but no run" in out
    assert len(finished(tmp_path)) == 1
    assert "holds files but no run" in run_wrn("report", "runs")[1]
    (spoilt.path / "holiday.txt").unlink()
    code, _, err = run_wrn("reproduce", *SMALL, "--seeds", 1)
    assert (code, len(finished(tmp_path))) == (0, 2), err


def test_a_run_in_other_arithmetic_stands_in_no_table(tmp_path, run_wrn):
    words = ["table4-small", "--data", "digits", "--epochs", 1, "--labels", 200, "--rows", "wrn-10-1", "--seeds", 1]
    (job,) = plan.jobs(
        plan.cells(
            plan.choose(
                "table4-small", data="digits", seeds=1, rows=("wrn-10-1",), fields={"epochs": 1, "labels": 200}
            ),
            tmp_path / "runs",
        )
    )
    wrn.train(job.recipe, job.path, precision="bf16", device="cpu", quiet=True)
    before = finished(tmp_path)
    code, out, _ = run_wrn("reproduce", *words)
    assert code == 1
    assert "holds a run in other arithmetic" in out
    assert "precision is bf16 there and fp32 now" in out
    assert finished(tmp_path) == before
    result = job.path / "result.json"
    result.write_text(result.read_text().replace("precision", "decision"))
    code, out, _ = run_wrn("report", "runs")
    assert code == 0, "one damaged file does not end the report"
    assert str(result.relative_to(tmp_path)) in out


def test_two_processes_do_not_train_in_one_folder(tmp_path, start):
    command = [sys.executable, "-m", "wrn", "train", "wrn-10-1", "--data", "digits", "--epochs", "500", "--out", "run"]
    first = start(*command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: (tmp_path / "run" / "holder.json").exists(), first)
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"run: process {first.pid} on " in second.stderr
    assert wrn.Run(tmp_path / "run").held_by().startswith(f"process {first.pid} on")
    first.kill()
    first.wait()
    assert wrn.Run(tmp_path / "run").held_by() is None, "the system lets go of it"


def small_jobs(folder, epochs):
    rows, fields = ("wrn-10-1", "wrn-16-1"), {"epochs": epochs}
    choice = plan.choose("table4-small", seeds=1, data="digits", rows=rows, fields=fields)
    return plan.jobs(plan.cells(choice, folder))


def test_whatever_goes_wrong_the_runs_save_first(tmp_path):
    short, long = small_jobs(tmp_path, 1)[0], small_jobs(tmp_path, 500)[1]

    def say(_):
        while not any("checkpoints" in path.parts for path in files_under(long.path)):
            time.sleep(0.05)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_all([short, long], 2, How(device="cpu", threads=1), say)
    assert "saved; the same command continues" in (long.path / "train.log").read_text()


def test_what_another_command_trains_is_waited_for(tmp_path):
    (job, _), said = small_jobs(tmp_path, 1), []
    run = wrn.Run(job.path)
    released = threading.Event()

    def held():
        with run.hold():
            run.begin(job.recipe, job.seed, fresh=False)
            begun.set()
            released.wait()

    begun, other = threading.Event(), threading.Thread(target=held)
    other.start()
    begun.wait()
    threading.Timer(2, released.set).start()
    assert run_all([job], 1, How(device="cpu", threads=1), said.append) == {}
    other.join()
    assert "another command trains it; waiting" in said[0]
    assert run.finished


def test_a_damaged_run_stops_no_table(tmp_path, run_wrn):
    code, _, err = run_wrn("reproduce", *SMALL, "--seeds", 1)
    assert code == 0, err
    first, second = sorted(path.parent for path in tmp_path.rglob("result.json"))
    shutil.rmtree(first / "checkpoints")
    (first / "metrics.jsonl").write_text("{")
    (second / "result.json").write_text("{")
    shutil.rmtree(second / "checkpoints")
    code, out, err = run_wrn("reproduce", *SMALL, "--seeds", 2)
    assert (code, "result.json: damaged" in out) == (1, True), out + err
    assert len(list(tmp_path.rglob("seed1/result.json"))) == 2, "the others are trained"
    code, out, err = run_wrn("report", "runs", "--json")
    assert code == 0, err
    assert json.loads(out)["experiments"]


@pytest.mark.slow
def test_table_2_runs_from_nothing(tmp_path):
    """The issue's own words: six networks, two seeds, three epochs of digits, in under ten minutes on two cores."""
    words = ["-m", "wrn", "reproduce", "table2", "--data", "digits", "--epochs", "3", "--seeds", "2", "--jobs", "2"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(finished(tmp_path)) == 12
    assert done.stdout.count("n = 2)") == 6

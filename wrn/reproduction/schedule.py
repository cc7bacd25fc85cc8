"""Runs, several at a time, each a process of its own: one that fails leaves the others alone. No torch."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import IO, Any

from wrn.display import duration
from wrn.hardware import cores
from wrn.options import words_of
from wrn.recipes import Recipe, recipe
from wrn.reproduction.plan import Job, state
from wrn.runs import Run
from wrn.training.interruption import Interrupted, handled, undisturbed


@dataclass(frozen=True)
class How:
    """What all runs are told that is not part of their recipe."""

    device: str | None = None
    workers: int | None = None
    root: str | None = None
    threads: int | None = None  # of each run; None: as many as torch takes by itself


def command(job: Job, how: How) -> list[str]:
    """The words after `wrn` that make the run, for a person as well."""
    recipe = job.recipe
    usual = _usual(recipe)
    words = ["train", recipe.model, "--data", recipe.data, "--recipe", recipe.recipe]
    if recipe.depth_rule is not None:
        words += ["--depth-rule", recipe.depth_rule]
    if recipe.epochs != usual.epochs:
        words += ["--epochs", str(recipe.epochs)]
        usual = _usual(recipe, epochs=recipe.epochs)
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if value != getattr(usual, field.name):
            words += words_of({field.name: value})
    words += ["--seed", str(job.seed), "--precision", job.precision]
    for name in ("device", "workers", "root"):
        if getattr(how, name) is not None:
            words += [f"--{name}", str(getattr(how, name))]
    return [*words, "--out", str(job.path)]


def _usual(made: Recipe, **given: Any) -> Recipe:
    """What the recipe's name alone stands for."""
    rule = {} if made.depth_rule is None else {"depth_rule": made.depth_rule}
    return recipe(made.model, data=made.data, recipe=made.recipe, **given, **rule)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    told: IO[bytes]
    since: float


@undisturbed()
def run_all(
    jobs: Sequence[Job], at_once: int, how: How, say: Callable[[str], None], failed: dict[str, str] | None = None
) -> dict[str, str]:
    """Run what is not finished; returns why runs failed, by their names, which also come into `failed` as they do.

    A teacher is trained before who needs it. SIGINT and SIGTERM are passed on: the runs save and end, and Interrupted
    is raised. So is SIGUSR1, on which they save and go on. If this process is killed the runs are too (on Linux), and
    continue from their last checkpoint the next time.
    """
    waiting = [job for job in jobs if state(job, {}) != "finished"]
    running: list[_Running] = []
    failed = {} if failed is None else failed
    came: list[int] = []  # signals to end by
    total = len(jobs)
    done = total - len(waiting)
    elsewhere: set[str] = set()  # what another command trains
    with _signals() as noted, _ended(running):
        while waiting or running:
            while noted:
                for each in running:
                    each.process.send_signal(noted[0])
                if (number := noted.pop(0)) in (signal.SIGINT, signal.SIGTERM):
                    waiting.clear()
                    came.append(number)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                done += 1
                why = _why_failed(each)
                if why is not None and not came:
                    failed[each.job.name] = why
                say(f"[{done}/{total}] {each.job.title}: {_in_words(each, why, bool(came))}")
            for job in list(waiting):
                if job.after is not None and job.after.name in failed:
                    waiting.remove(job)
                    done += 1
                    failed[job.name] = f"its teacher failed: {failed[job.after.name]}"
                    say(f"[{done}/{total}] {job.title}: {failed[job.name]}")
                elif len(running) < at_once and (job.after is None or state(job.after, {}) == "finished"):
                    if (now := state(job, {})) == "running":
                        if job.name not in elsewhere:
                            say(f"{job.title}: another command trains it; waiting")
                        elsewhere.add(job.name)
                        continue
                    waiting.remove(job)
                    if now == "finished":
                        done += 1
                        say(f"[{done}/{total}] {job.title}: trained by another command")
                    elif why := _start(job, how, running):
                        done += 1
                        failed[job.name] = why
                        say(f"[{done}/{total}] {job.title}: failed: {why}")
            time.sleep(0.05)
    if came:
        raise Interrupted(came[0])
    return failed


@contextmanager
def _ended(running: list[_Running]) -> Iterator[None]:
    """Whatever goes wrong within, the runs still save and end before anybody hears of it."""
    try:
        yield
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.process.wait()
            each.told.close()


def _start(job: Job, how: How, running: list[_Running]) -> str | None:
    """Begin a run, to be among those `running`; returns why it could not be begun."""
    try:
        running.append(_started(job, how))
    except OSError as error:
        return f"could not be started: {error.strerror or error}"
    return None


def _started(job: Job, how: How) -> _Running:
    environment = {**os.environ, "WRN_PARENT": str(os.getpid())}
    if how.threads is not None:
        environment["OMP_NUM_THREADS"] = str(how.threads)
    told = tempfile.TemporaryFile()  # noqa: SIM115  # it is read when the process has ended
    with handled({signal.SIGUSR1: signal.SIG_IGN} if hasattr(signal, "SIGUSR1") else {}):  # until it can save
        process = subprocess.Popen(
            [sys.executable, "-m", "wrn.reproduction.child", *command(job, how)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # it is in the run's train.log
            stderr=told,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we pass it on
        )
    return _Running(job, process, told, time.monotonic())


def _why_failed(ended: _Running) -> str | None:
    """Why it failed; None if it did not."""
    with ended.told:
        ended.told.seek(0)
        lines = ended.told.read().decode(errors="replace").strip().splitlines()
    if ended.process.returncode == 0:
        return None
    if ended.process.returncode < 0:
        return f"killed by signal {-ended.process.returncode}"
    return lines[-1].removeprefix("wrn: error: ")[:300] if lines else f"exit code {ended.process.returncode}"


def _in_words(ended: _Running, why: str | None, stopped: bool) -> str:
    if why is None:
        error = Run(ended.job.path).result["test_error"]
        return f"test error {error:.2f}%, after {duration(time.monotonic() - ended.since)}"
    return "stopped, saved" if stopped else f"failed: {why}"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """While open, note in the list the signals that the runs heed."""
    noted: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    with handled({number: lambda number, _: noted.append(number) for number in numbers}):
        yield noted


def threads_each(at_once: int) -> int | None:
    """How many threads each of several runs gets: the cores, shared out. None for a single run."""
    return None if at_once == 1 else max(1, cores() // at_once)

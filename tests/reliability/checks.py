"""What must hold after whatever happened to a run."""

import re

import pytest

from wrn.runs import Run, newest_first


def told(metrics):
    """What of the metrics must not depend on interruptions: all but times and memory."""
    fields = ("epoch", "lr", "train_loss", "train_error", "test_loss", "test_error")
    return [[line[name] for name in fields] for line in metrics]


def goes_on_as_if_nothing_had_happened(trials, out, whole, tidy=True):
    """What was committed is there, the same command ends with the same bits, and nothing is left lying about."""
    log = out / "train.log"
    said = max(map(int, re.findall(r"^epoch (\d+)/", log.read_text(), re.MULTILINE)), default=0) if log.exists() else 0
    there = max((epoch for epoch, _, _ in newest_first(out / "checkpoints")), default=0)
    again = trials.run(out)
    same = again.code == 0 and (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    strays = [path.name for path in out.rglob(".*")]
    good = same and there >= said and told(Run(out).metrics) == told(Run(whole).metrics) and not (tidy and strays)
    return good or pytest.fail(f"{out.name}: {again}, {there} epochs kept of {said} told, left {strays}")


def the_second_save(trials, out):
    """The numbers of the operations of a run's second checkpoint and its metrics, and of what comes between."""
    log = out.with_suffix(".log")
    trials.run(out, log=log)
    numbers, content, place = {}, log.read_bytes(), 0
    while place < len(content):
        end = content.index(b"\n", place)
        what, path, _, _, _, size = content[place:end].decode().split("\t")
        numbers[len(numbers) + 1] = f"{what} {path}"
        place = end + 1 + int(size)
    first = next(number for number, each in numbers.items() if "epoch-0002" in each)
    last = next(number for number, each in numbers.items() if "epoch-0003" in each)
    return range(first, last + 1)

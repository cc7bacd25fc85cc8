"""Start-up time: that of a new process each time, from its start until its actual work begins."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from wrn.errors import Error, UsageError

HELP, OURS, USUAL = "wrn --help", "wrn train, until its first step", "usual loop, until its first step"

# Ends a process as its first training step begins, when all is imported, made and loaded
_HOOK = """
import os, sys, torch
def begun(module, _):
    if module.training:
        print("begun", flush=True)
        os._exit(0)
torch.nn.modules.module.register_module_forward_pre_hook(begun)
"""
_OURS = """
from wrn.cli import main
raise SystemExit(main(sys.argv[1:]))
"""
_USUAL = """
import numpy as np
from wrn.benchmark.baselines import UsualWRN, batches, training
images, labels = np.zeros((1437, 32, 32, 3), "uint8"), np.arange(1437) % 10
training(UsualWRN(16, 4, 10), batches(images, labels, 128, workers=0), "cpu")()
"""


def bench_startup(rounds: int = 5) -> dict[str, Any]:
    """Time the commands, in turns. Returns {machine, rows}; a row has command, seconds and, of ours, a ratio.

    The usual loop is the one of `wrn bench train`, on a made-up array: it reads no data set.
    """
    from wrn.benchmark.timing import machine

    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        train = [
            "train",
            "wrn-16-4",
            "--data",
            "digits",
            "--device",
            "cpu",
            "--out",
            str(Path(folder) / "run"),
            "--fresh",
        ]
        commands = {
            HELP: [sys.executable, "-m", "wrn", "--help"],
            OURS: [sys.executable, "-c", _HOOK + _OURS, *train],
            USUAL: [sys.executable, "-c", _HOOK + _USUAL],
        }
        for words in commands.values():
            _seconds(words)  # files come into memory, caches are made
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, words in commands.items():
                seconds[name].append(_seconds(words))
    rows: list[dict[str, Any]] = []
    for name, each in seconds.items():
        row = {"command": name, "seconds": statistics.median(each), "least": min(each), "most": max(each)}
        rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    rows[1][f"ratio to {USUAL}"] = round(rows[1]["seconds"] / rows[2]["seconds"], 2)
    return {"what": "startup", "machine": machine("cpu"), "rows": rows}


def _seconds(words: list[str]) -> float:
    # Bytecode is kept, as Python does by itself: to make it anew each time is no start that a user waits for
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    clock = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise Error(f"bench startup: {words[-1]} failed ({(done.stderr.splitlines() or ['no reason given'])[-1]})")
    return time.perf_counter() - clock

"""Runs of `wrn.train` that something happens to: in a process each, on a disk that fails on demand (disk.c).

A server imports torch once and forks a process for each trial, which takes a tenth of the time of starting one.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
RECIPE = {
    "model": "wrn-10-1", "data": "digits", "epochs": 3, "dropout": 0.2, "augment": "flip-crop", "labels": 96,
    "image_size": 16, "batch_size": 32,
}  # fmt: skip


def compiled(folder):
    """disk.c as a library to preload; None where there is no compiler or no preloading."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "disk.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class Ended:
    """How a trial ended: exit code (negative: the signal), operations on the disk, what it said, seconds."""

    code: int
    operations: int
    said: str
    seconds: float


@dataclass
class Trials:
    """The server. `run` trains in `out`, and `kill`s or fails the disk at an operation, or kills after some seconds."""

    library: Path
    recipe: dict = field(default_factory=lambda: dict(RECIPE))

    def __post_init__(self):
        environment = {**os.environ, "LD_PRELOAD": str(self.library), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.trials", json.dumps(self.recipe)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )

    def run(
        self, out, *, kill=0, number=signal.SIGKILL, torn=False, fail=0, failure=0, after=None, memory=None, log="",
        **options
    ):  # fmt: skip
        """`memory`: how many more bytes than now it may take. `options` are those of `wrn.train`."""
        asked = {
            "out": str(out), "kill": kill, "number": int(number), "torn": int(torn), "fail": fail, "failure": failure,
            "after": after, "memory": memory, "log": str(log), "options": options,
        }  # fmt: skip
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _serve(recipe):
    import wrn
    from wrn.cli import _failed
    from wrn.errors import Error
    from wrn.reporting.figures import curves

    made = wrn.recipe(**recipe)
    wrn.dataset(made)
    wrn.optimizer(wrn.create_model("wrn-10-1", num_classes=10), made)  # imports most of torch
    curves({"": [{"epoch": 1, "train_loss": 1.0, "test_error": 1.0, "lr": 1.0}]}, "")  # and matplotlib
    disk = ctypes.CDLL(None)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def train(asked, told):
        os.dup2(told, 2)
        sys.stderr = os.fdopen(2, "w")
        numbers = [asked[name] for name in ("kill", "number", "torn", "fail", "failure")]
        disk.disk_arm(asked["out"].encode(), *numbers, asked["log"].encode())
        if asked["memory"] is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + asked["memory"],) * 2)
        try:
            wrn.train(made, asked["out"], device="cpu", quiet=True, **{"precision": "fp32", **asked["options"]})
            return 0
        except (Error, OSError, KeyboardInterrupt, MemoryError) as error:
            return _failed(error)
        except BaseException:
            traceback.print_exc()
            return 70

    for line in sys.stdin:
        asked = json.loads(line)
        counted, count = os.pipe()
        heard, told = os.pipe()
        clock = time.perf_counter()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = train(asked, told)
                sys.stderr.flush()
                os.write(count, str(disk.disk_count()).encode())
            finally:
                os._exit(code)
        os.close(count), os.close(told)
        if asked["after"] is not None:
            time.sleep(asked["after"])
            os.kill(child, signal.SIGKILL)
        said = os.fdopen(heard).read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.perf_counter() - clock
        operations = int(os.fdopen(counted).read() or 0)
        replies.write(json.dumps({"code": code, "operations": operations, "said": said, "seconds": seconds}) + "\n")
        replies.flush()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))

"""Shared by all tests: a cache of their own, and a data set of real pictures small enough to train on."""

import atexit
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

# Where tests run side by side, OpenMP threads that spin would slow each other down manyfold. Before torch is imported
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before anything reads it. One for all workers of one session, so that digits are decoded once.
if "WRN_CACHE_DIR" not in os.environ:
    os.environ["WRN_CACHE_DIR"] = tempfile.mkdtemp(prefix="wrn-tests-")
    atexit.register(shutil.rmtree, os.environ["WRN_CACHE_DIR"], ignore_errors=True)

with suppress(ImportError):  # benchmarks/gpu.sh takes a machine as it is
    from hypothesis import settings

    settings.register_profile("no deadline", deadline=None)  # a machine that others use stalls now and then
    settings.load_profile("no deadline")


HEAVY = ("training/test_train.py", "reproduction/test_reproduce.py")


def pytest_collection_modifyitems(items):
    """The files that take longest first: the last to be begun then keeps one process busy for a short while alone."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(HEAVY))


@pytest.fixture
def run_wrn(tmp_path):
    """Call the command in this process, in an empty folder: run_wrn("train", …) -> (exit code, stdout, stderr)."""
    from wrn.cli import main

    def call(*words):
        import contextlib
        import io

        out, err = io.StringIO(), io.StringIO()
        before = Path.cwd()
        os.chdir(tmp_path)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main([str(word) for word in words])
        finally:
            os.chdir(before)
        return code, out.getvalue(), err.getvalue()

    return call


@pytest.fixture
def start():
    """`subprocess.Popen` with text in pipes, for processes that are gone when the test ends, however it ends."""
    with ExitStack() as stack:

        def call(*command, **options):
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = stack.enter_context(subprocess.Popen([*map(str, command)], **{**pipes, **options}))
            stack.callback(process.kill)
            return process

        yield call


@pytest.fixture
def pictures(tmp_path):
    """A folder of PNG scans, two classes, 12 to train on and 6 to test, that is easy to spoil."""
    return make_pictures(tmp_path / "pictures")


def make_pictures(root: Path, train: int = 12, test: int = 6, classes: tuple[str, ...] = ("one", "zero")) -> Path:
    from PIL import Image
    from sklearn.datasets import load_digits

    scans = load_digits()
    for label in classes:
        of_class = scans.images[scans.target == {"one": 1, "zero": 0}[label]]
        for number in range(train + test):
            folder = root / ("train" if number < train else "test") / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((of_class[number] * 15.9375).astype("uint8")).save(folder / f"{number:03}.png")
    return root


@pytest.fixture
def www(tmp_path):
    """A web server on loopback; see tests/serving.py."""
    from tests.serving import Www

    server = Www(tmp_path / "www")
    yield server
    server.close()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of this test's own; returns its folder."""
    monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"

"""The pool of large arrays: nothing overlaps, nothing is lost, little is wasted, and it is missed quietly."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading

import pytest
import torch

import wrn
from wrn.hardware import memory_held
from wrn.native import memory
from wrn.native.memory import free_memory_as_usual, give_back_freed_memory, keep_freed_memory, pooled

LARGE = 1 << 18  # bytes; smaller arrays are torch's own


@pytest.fixture
def pool():
    if sys.platform != "linux" or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("needs Linux and a C++ compiler")
    keep_freed_memory()
    assert pooled() is not None
    yield
    free_memory_as_usual()


def test_arrays_keep_what_is_written_whatever_comes_and_goes(pool):
    draws, held, before = random.Random(0), {}, pooled().in_use
    for number in range(3000):
        if held and draws.random() < 0.5:
            name = draws.choice(list(held))
            array = held.pop(name)
            assert (array == name % 251).all()
        else:
            held[number] = torch.full((draws.randrange(1, 1 << 20),), number % 251, dtype=torch.uint8)
            assert held[number].data_ptr() % 64 == 0
        if len(held) > 60:
            held.pop(draws.choice(list(held)))
    assert all((array == name % 251).all() for name, array in held.items())
    assert pooled().in_use > before
    held.clear()
    del array
    assert pooled().in_use == before


STEPS = """
import json, resource, torch
from wrn.native.memory import keep_freed_memory, pooled

def step():
    kept = []
    for size in (40, 40, 40, 20, 20, 20, 10, 10, 10):
        passing = torch.ones(size << 16)
        kept.append(passing + 1)
        kept.append(torch.ones(size << 16) * 2)
    while kept:
        kept.pop().mul(2)

keep_freed_memory()
step()
first, faults = pooled(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(json.dumps([first.most_in_use, first.touched, pooled().touched, faults]))
"""


def test_a_step_takes_what_the_last_one_freed(pool):
    """Arrays are kept and freed as in forward and backward passes; memory is touched once, hardly more than is used."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    most_in_use, touched, touched_then, faults = json.loads(done.stdout)
    assert touched_then == touched < 1.15 * most_in_use
    assert faults < 200


def test_training_gives_the_same_bits_with_and_without(pool, tmp_path, monkeypatch):
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=1, labels=200)
    wrn.train(recipe, tmp_path / "with", device="cpu", quiet=True)
    most = pooled().most_in_use
    assert most > 10 << 20
    free_memory_as_usual()
    monkeypatch.setattr(memory, "_pool", lambda: None)
    wrn.train(recipe, tmp_path / "without", device="cpu", quiet=True)
    monkeypatch.undo()
    assert pooled().most_in_use == most
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert models[0] == models[1]


def test_freed_memory_is_given_back_at_the_end(pool):
    def resident():
        return memory_held("cpu")

    give_back_freed_memory()  # what other tests left
    before = resident()
    array = torch.ones(64 << 20)
    assert resident() - before > 250 << 20
    del array
    assert resident() - before > 250 << 20
    give_back_freed_memory()
    assert resident() - before < 20 << 20


def test_what_no_machine_has_is_refused_as_ever(pool):
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_a_fork_in_the_midst_of_allocations_goes_on(pool):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            torch.empty(LARGE)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        for _ in range(20):
            if (child := os.fork()) == 0:
                array = torch.empty(LARGE)  # OpenMP itself does not survive a fork: nothing is computed in parallel
                os._exit(int(array[-1].fill_(3.0).item() != 3.0))
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for each in threads:
            each.join()


@pytest.mark.parametrize("lacking", ["compiler", "addresses"])
def test_where_it_cannot_be_torchs_own_memory_is_used(lacking, tmp_path):
    words = "import torch; from wrn.native.memory import *; keep_freed_memory(); assert pooled() is None"
    words += "; assert torch.ones(1 << 20).sum() == 1 << 20; give_back_freed_memory()"
    limit, environment = "", {**os.environ, "WRN_CACHE_DIR": str(tmp_path)}
    if lacking == "compiler":
        environment["CXX"] = "/nowhere/c++"
    else:
        limit = "ulimit -v 60000000; "
    command = ["bash", "-c", limit + 'exec "$0" -c "$1"', sys.executable, words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

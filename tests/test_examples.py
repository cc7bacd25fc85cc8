"""The examples, run as a user runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wrn

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*words):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize(("recipe", "epochs"), [("paper", 2), ("fast", 1)])
def test_own_loop_ends_with_the_bits_of_wrn_train(recipe, epochs):
    done = run(EXAMPLES / "own_loop.py", "--epochs", epochs, "--recipe", recipe, "--dropout", 0.3)
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout


def test_examples_are_short():
    assert len((EXAMPLES / "own_loop.py").read_text().splitlines()) <= 60


def test_adversarial_training_lowers_the_error_under_attack(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", recipe="fast", image_size=16, epochs=3)
    wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    done = run(EXAMPLES / "adversarial.py", tmp_path / "run", "--epochs", 1, "--radius", 0.1)
    assert done.returncode == 0, done.stderr
    errors = [float(found) for found in re.findall(r"under attack (\d+\.\d)%", done.stdout)]
    assert errors[-1] < errors[0] - 30, done.stdout

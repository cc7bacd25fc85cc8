"""Malformed inputs: one line each, the right exit code, no traceback, soon and in little memory, nothing lost."""

import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wrn
from tests.reliability import malformed
from wrn import weights
from wrn.data import pictures
from wrn.environment import differences
from wrn.files import read_sealed, seal_of, write_sealed
from wrn.recipes import Recipe
from wrn.training import checkpoint
from wrn.training.outcome import last_line
from wrn.training.precision import recorded


def test_malformed_inputs(tmp_path, survived):
    command = [sys.executable, "-m", "tests.reliability.malformed", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what')]
    assert len(told) >= 150
    for each in told:
        assert each["code"] in (1, 2), each
        one_line = each["said"].startswith("wrn: error: ") and each["said"].count("\n") == 1
        of_tyro = each["code"] == 2 and "full helptext" in each["said"]
        assert one_line or of_tyro, each
        assert each["kept"], each
        assert each["seconds"] <= 1.0, each  # of this process alone, so that a busy machine does not matter
        assert each["bytes"] <= 300e6, each
    survived("malformed inputs: arguments, models, pictures, archives, recipes, checkpoints", len(told), len(told))


JUNK = [None, True, -1, 0, 10**30, 1e308, float("inf"), float("nan"), "", "x" * 1000, "../..", [], [[]], {}, {"a": 1}]


def mutated_value(draw, value):
    """JSON with one thing in it exchanged for junk, at any depth, or removed."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {key: each for key, each in value.items() if key != name}
        return value | {name: mutated_value(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], mutated_value(draw, value[place]), *value[place + 1 :]]
    return draw.choice(JUNK)


def mutated_bytes(draw, content):
    """Up to eight bytes changed, a piece cut out, doubled or the end gone."""
    kind, place = draw.randrange(4), draw.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[place + draw.randrange(1, 50) :]
    if kind == 2:
        return content[:place] + content[place : place + 40] + content[place:]
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 9)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=1, labels=96, image_size=16)
    return wrn.train(recipe, tmp_path_factory.mktemp("runs") / "run", device="cpu", quiet=True)


def recipes(draw, count, run, folder):
    for _ in range(count):
        yield lambda: Recipe.from_dict(mutated_value(draw, run.recipe.to_dict()))


def run_files(draw, count, run, folder):
    """recipe.json, env.json, result.json and metrics.jsonl with seals that fit what they have become."""
    other = wrn.Run(folder / "other")
    other.path.mkdir()
    for name in ("recipe.json", "env.json", "result.json", "metrics.jsonl"):
        (other.path / name).write_bytes((run.path / name).read_bytes())
    for number in range(count):
        name = ("recipe.json", "env.json", "result.json", "metrics.jsonl")[number % 4]
        before = (run.path / name).read_bytes()
        if number % 3:
            (other.path / name).write_bytes(mutated_bytes(draw, before))
        else:
            content = mutated_value(draw, json.loads(before.splitlines()[0] if name == "metrics.jsonl" else before))
            if isinstance(content, dict):
                content.pop("seal", None)
                content |= {"seal": seal_of(content)}
            (other.path / name).write_text(json.dumps(content, indent=2) + "\n")
        yield lambda: (other.recipe, other.seed, other.metrics)
        yield lambda: (recorded(other.env["execution"]), differences(other.env, run.env), last_line(other))
        (other.path / name).write_bytes(before)


def models(draw, count, run, folder):
    file, whole = folder / "model.safetensors", (run.path / "model.safetensors").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for number in range(count):
        if number % 2:
            file.write_bytes(mutated_bytes(draw, whole))
        else:
            header = json.loads(whole[8 : 8 + size])
            ours = json.loads(header["__metadata__"]["wrn"])
            del ours["seal"]
            ours = mutated_value(draw, ours)
            sealed = ours | {"seal": seal_of(ours)} if isinstance(ours, dict) else ours
            header["__metadata__"]["wrn"] = json.dumps(sealed)
            text = json.dumps(header).encode()
            file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
        yield lambda: wrn.load(file)
        yield lambda: weights.header_of(file)


def checkpoints(draw, count, run, folder):
    """Bytes of the description, which is then refused; and what a forger may seal, which is refused or gone on from."""
    source = run.path / "checkpoints" / "epoch-0001-step-000000"
    target = folder / "checkpoints" / source.name
    shutil.copytree(source, target)
    checkpoint._checked(target)  # as it is it is good
    recipe = run.recipe
    trained = wrn.objective(wrn.network_of(recipe, 10, seed=0), recipe).trained
    optimizer = wrn.optimizer(trained, recipe)
    for number in range(count):
        if number % 2:
            (target / "checkpoint.json").write_bytes(mutated_bytes(draw, (source / "checkpoint.json").read_bytes()))
            yield lambda: is_refused(lambda: checkpoint._checked(target))
        else:
            content = mutated_value(draw, read_sealed(source / "checkpoint.json"))
            write_sealed(target / "checkpoint.json", content if isinstance(content, dict) else {})
            yield lambda: checkpoint.load_newest(target.parent, trained, optimizer, {})
            if not target.exists():
                shutil.rmtree(folder / "checkpoints" / f"damaged-{source.name}")
                shutil.copytree(source, target)


def is_refused(check):
    try:
        check()
    except checkpoint._DAMAGE:
        return
    raise AssertionError("a mutated checkpoint passed")


def images(draw, count, run, folder):
    from PIL import Image

    noise = Image.frombytes("RGB", (20, 14), draw.randbytes(840))
    whole = []
    for kind in pictures.FORMATS:
        file = io.BytesIO()
        noise.save(file, kind)
        whole.append(file.getvalue())
    for number in range(count):
        content = mutated_bytes(draw, whole[number % len(whole)])
        yield lambda content=content: pictures.decode(content, 16)


def archives(draw, count, run, folder):
    whole = malformed.tar_of(
        [(f"train/{name}/{n}.png", malformed.picture("PNG")) for name in "ab" for n in range(3)], "w"
    )
    file = folder / "pictures.tar"
    for _ in range(count):
        file.write_bytes(mutated_bytes(draw, whole))
        yield lambda: wrn.dataset(f"folder:{file}", image_size=8, val_fraction=0.3)


KINDS = {recipes: 8000, run_files: 1500, models: 1000, checkpoints: 2000, images: 5000, archives: 500}
"""How often each is mutated; of `run_files` and `models` each is used in two ways."""


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it finds in pictures
@pytest.mark.parametrize("share", [0.02, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_mutations(run, tmp_path, monkeypatch, survived, kind, share):
    monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / "cache"))
    draw = random.Random(kind.__name__)
    uses = kind(draw, int(KINDS[kind] * share), run, tmp_path)
    tried = 0
    for use in uses:  # it does what it should, or is refused in words; whatever else it raises fails here
        with contextlib.suppress(wrn.Error, OSError):
            use()
        tried += 1
    survived(f"seeded mutations: {kind.__name__.replace('_', ' ')}", tried, tried, long=share == 1)

"""Which part may import which, read from the imports: recipe -> data -> model -> training -> run -> report."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "wrn"
FILES = sorted(path for path in ROOT.rglob("*.py"))

# What a part of the package may not import, at any depth of nesting in its files
FORBIDDEN = {
    "models": {
        "wrn.recipes",
        "wrn.data",
        "wrn.training",
        "wrn.runs",
        "wrn.reporting",
        "wrn.evaluation",
        "wrn.prediction",
    },
    "data": {"wrn.models", "wrn.training", "wrn.runs", "wrn.reporting", "wrn.evaluation", "wrn.prediction"},
    "training": {"wrn.prediction", "wrn.cli", "wrn.listing"},
    "evaluation.py": {"wrn.training", "wrn.prediction", "wrn.runs", "wrn.recipes"},
    "native": {"wrn.models", "wrn.recipes", "wrn.data", "wrn.training", "wrn.runs", "wrn.reporting"},
    "inference.py": {"wrn.training", "wrn.prediction", "wrn.runs", "wrn.recipes"},
    "weights.py": {"wrn.training", "wrn.prediction", "wrn.evaluation"},
    "reporting": {
        "torch",
        "wrn.training",
        "wrn.reproduction.reproduce",
        "wrn.reproduction.schedule",
        "wrn.models",
        "wrn.evaluation",
        "wrn.prediction",
    },
    "experiments": {"torch", "wrn.models", "wrn.training", "wrn.runs", "wrn.reporting", "wrn.reproduction"},
    "reproduction/plan.py": {"torch", "wrn.models", "wrn.training", "wrn.reporting"},
    "paper": {"torch", "wrn.models", "wrn.data", "wrn.training", "wrn.runs"},
    "recipes.py": {"torch", "wrn.training", "wrn.runs", "wrn.reporting"},
    "named_recipes.py": {"torch", "wrn.recipes", "wrn.models", "wrn.training", "wrn.runs", "wrn.reporting"},
    "runs.py": {"torch", "wrn.training", "wrn.reporting"},
    "environment.py": {"torch", "wrn.recipes", "wrn.runs", "wrn.training", "wrn.reporting"},
    "data/catalog.py": {"torch"},
    "models/names.py": {"torch"},
    "models/families.py": {"torch"},
}


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_nothing_points_back(part):
    files = [path for path in FILES if path.relative_to(ROOT).as_posix().startswith(part)]
    assert files
    for path in files:
        for name in imports(path):
            for banned in FORBIDDEN[part]:
                assert name != banned and not name.startswith(banned + "."), f"{path.relative_to(ROOT)} imports {name}"


def test_torchvision_and_timm_are_only_compared_with():
    for path in FILES:
        libraries = {name.split(".")[0] for name in imports(path)} & {"torchvision", "timm"}
        assert not libraries or path.parent.name == "benchmark", path


def test_subpackages_import_nothing_by_themselves():
    for path in ROOT.rglob("__init__.py"):
        if path.parent not in (ROOT, ROOT / "paper"):
            assert not list(imports(path)), path


def test_the_command_line_holds_no_logic():
    """No arithmetic on data there: only the parsing and printing libraries, and no torch."""
    assert not {name for name in imports(ROOT / "cli.py") if name.split(".")[0] in ("torch", "numpy", "safetensors")}


@pytest.mark.parametrize(
    "code",
    [
        "import wrn",
        "import wrn.cli; wrn.cli.main(['--help'])",
        "import wrn; wrn.recipe('wrn-16-4', data='digits').lr_at(1)",
        "import wrn.cli; wrn.cli.main(['list'])",
        "import wrn; wrn.Run('x'); import wrn.reporting.figures",
        "import wrn.cli; wrn.cli.main(['report', '.'])",
        "import wrn.reproduction.schedule, wrn.reproduction.reproduce",
    ],
)
def test_no_torch_until_it_is_needed(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; assert 'torch' not in sys.modules"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_compiler_until_it_is_needed(tmp_path):
    """torch loads its compiler at the first use of an optimiser, and that takes as long as torch itself."""
    code = """
import sys, torch, wrn
for name in ("paper", "fast"):
    recipe = wrn.recipe("wrn-10-1", data="digits", recipe=name, image_size=16, labels=128, epochs=1)
    run = wrn.train(recipe, out=name)
    optimizer = wrn.optimizer(wrn.load(run), recipe)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    assert isinstance(optimizer, torch.optim.Optimizer)
wrn.evaluate(wrn.load(run, optimize=True), wrn.dataset(recipe).test)
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_public_names_are_there():
    import wrn

    for name in wrn.__all__:
        assert getattr(wrn, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError):
        _ = wrn.nonsense

"""Nothing that is read is run: gadgets in every file, banned calls in the source, names that are HTML."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wrn
from wrn.data import pictures
from wrn.errors import Error

ROOT = Path(wrn.__file__).parent


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_no_gadget_is_executed(tmp_path, survived, every):
    """76 pickle gadgets, or each twentieth, as they are, in torch's or in NumPy's format, in all kinds of file."""
    command = [sys.executable, "-m", "tests.reliability.hostile", str(tmp_path), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["heard"] == 2, "the hook hears what a gadget does where one is really unpickled"
    assert told["gadgets"] * every >= 60
    assert told["read"] == told["gadgets"] * told["places"]
    assert told["places"] >= 25
    assert told["seen"] == []
    assert not told["canary"]
    survived(
        f"{told['gadgets']} pickle gadgets in {told['places']} kinds of file",
        told["read"],
        told["read"],
        long=every == 1,
    )


BANNED = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load", "yaml.load", "np.load", "numpy.load",
    "torch.hub.load", "tempfile.mktemp", "shutil.unpack_archive", "runpy.run_path", "time.time",
    "torch.distributed.init_process_group",
}  # fmt: skip
"""By what they are called as. time.time goes back where clocks are set; processes in groups are not ours yet."""

BANNED_METHODS = {"extractall", "extract"}


def calls(path):
    """(name, node) of every call in a file, such as `os.path.join`, whatever its parts were imported as."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            imported |= {each.asname or each.name: above + each.name for each in node.names if each.asname or above}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield imported.get(first, first) + dot + rest, node


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_banned_call(path):
    for name, node in calls(path):
        where = f"{path.name}:{node.lineno}: {name}"
        assert name not in BANNED, where
        assert name.rpartition(".")[2] not in BANNED_METHODS, where
        assert not any(keyword.arg == "shell" for keyword in node.keywords), where
        if name.rpartition(".")[2] == "loadmat":  # of what an unpickler could be made of, SciPy reads numbers alone
            assert path.name in ("svhn.py", "imagenet.py"), where


def test_the_one_unpickler_calls_nothing_but_what_makes_arrays():
    """It is the standard library's, with a list of what may be called."""
    users = [path.name for path in ROOT.rglob("*.py") if re.search(r"(import|from) pickle", path.read_text("utf-8"))]
    assert users == ["cifar.py"]


def test_the_walk_finds_what_it_bans(tmp_path):
    source = "import pickle, os\nfrom pickle import load as read\nimport torch as t\nread(file)\nt.load(file)\n"
    source += "pickle.loads(b'')\nos.system('')\narchive.extractall()\neval('1')\n"
    (tmp_path / "bad.py").write_text(source)
    found = {name for name, _ in calls(tmp_path / "bad.py")}
    assert found & BANNED == {"pickle.loads", "pickle.load", "torch.load", "os.system", "eval"}
    assert "archive.extractall" in found


def test_names_from_data_are_escaped_in_html(tmp_path):
    """A folder, a class and an error that would be markup."""
    from wrn.reporting.report import html_page

    evil = tmp_path / "runs" / "<script>alert(1)</script>"
    evil.mkdir(parents=True)
    (evil / "recipe.json").write_text('{"seed": 0, "recipe": {"model": "<img src=x onerror=alert(2)>"}}')
    page = tmp_path / "page.html"
    html_page(tmp_path / "runs", page)
    text = page.read_text()
    assert "alert(1)" in text, "it is shown"
    assert "<script>alert" not in text
    assert "<img src=x" not in text


@pytest.mark.parametrize("size", [(1 << 16, 1 << 16), (9_500, 9_500)])
def test_pictures_have_a_limit(tmp_path, size):
    """Said before a pixel is decoded."""
    from tests.reliability.malformed import png_of

    with pytest.raises(Error, match=r"too many|decompression bomb"):
        pictures.decode(png_of(*size), 32)


def test_only_the_listed_formats_are_decoded(tmp_path):
    from PIL import Image

    for kind in ("PCX", "TGA", "ICO", "SGI"):
        Image.new("RGB", (16, 16)).save(tmp_path / "picture", kind)
        with pytest.raises(Error, match="is no picture"):
            pictures.decode(tmp_path / "picture", 16)


def test_archives_write_nothing(tmp_path, monkeypatch):
    """Members with names that climb, links that lead out and devices: read or refused, and nothing is made of them."""
    from tests.reliability.malformed import picture, tar_of

    monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / "cache"))
    names = [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in "ab" for n in range(2)]
    members = [(name, picture("PNG")) for name in names]
    members += [("../../climbed.png", picture("PNG")), ("train/a/out.png", "/etc/passwd")]
    archive = tmp_path / "pictures.tar.gz"
    archive.write_bytes(tar_of(members))
    before = {path for path in tmp_path.parent.rglob("*") if "cache" not in path.parts}
    with pytest.raises(wrn.Error, match=r"train/a/out\.png leads to nothing in the archive"):
        wrn.dataset(f"folder:{archive}", image_size=8)
    archive.write_bytes(tar_of(members[:-1]))
    data = wrn.dataset(f"folder:{archive}", image_size=8)
    assert len(data.train) == 4
    assert {path for path in tmp_path.parent.rglob("*") if "cache" not in path.parts} == before

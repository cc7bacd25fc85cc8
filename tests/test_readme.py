"""The README: what it quotes was printed by kept runs, what it shows runs, and it names what exists."""

import json
import re
from pathlib import Path

import pytest

from wrn.cli import GROUPS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """The fenced blocks of one language, fences taken in pairs from the top."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [body for found, body in fenced if found == language]


def test_quoted_lines_come_from_kept_runs():
    logs = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "results").rglob("train.log"))
    quoted = [line for block in blocks("") for line in block.splitlines()]
    assert len(quoted) >= 3
    for line in quoted:
        assert line in logs, line


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_commands_and_flags_exist(run_wrn):
    commands = [
        line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines() if "run wrn" in line
    ]
    for words in commands:
        words = words[words.index("wrn") + 1 :]
        command = words[:2] if words[0] in GROUPS else words[:1]
        help_text = run_wrn(*command, "--help")[1]
        for word in words:
            assert not word.startswith("--") or word in help_text, (words, word)


def test_the_speeds_are_those_of_the_kept_benchmark():
    """To what the README rounds to: whole images, or tenths below ten."""
    kept = json.loads((ROOT / "results" / "runs" / "bench" / "cpu-amx-2" / "train.json").read_text(encoding="utf-8"))[
        "rows"
    ]
    lines = re.findall(r"^\| WRN-(\S+),(?: batches of)? (\d+) \| (.*) \|$", README, flags=re.MULTILINE)
    assert len(lines) == 3
    ratios = []
    for model, batch, cells in lines:
        rows = {
            row["contestant"]: row for row in kept if (row["model"], row["batch_size"]) == (f"wrn-{model}", int(batch))
        }
        names = ("usual loop, fp32", "usual loop, bf16 autocast, channels_last", "wrn")
        for name, cell in zip(names, cells.split(" | "), strict=True):
            assert float(cell) == round(rows[name]["images_per_second"], 1 if "." in cell else 0), (model, name)
        ratios.append([rows["wrn"][f"times {name}"] for name in names[:2]])
    for of in zip(*ratios, strict=True):
        assert f"{min(of):.1f} to {max(of):.1f} times as fast" in README


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == re.search(r"# (\d+), the paper's", code)[1]
    assert (tmp_path / "runs" / "example" / "result.json").exists()


@pytest.mark.parametrize("command", ["uv run wrn train", "uv run pytest"])
def test_the_two_commands_stand_there(command):
    assert f"pip install uv && {command}\n" in README

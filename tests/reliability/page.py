"""`docs/reliability.md`: what runs were put through, and what they survived. `python -m tests.reliability.page`.

Runs every fault test, the long ones too (about ten minutes), keeps what they told in `results/reliability.json` and
writes the page from it.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from wrn.environment import processor

ROOT = Path(__file__).parents[2]
KEPT, PAGE = ROOT / "results" / "reliability.json", ROOT / "docs" / "reliability.md"


def rendered(kept):
    """The page, of what `KEPT` holds."""
    lines = ["| fault | tried | survived |", "|---|---:|---:|"]
    lines += [f"| {each['fault']} | {each['tried']:,} | {each['survived']:,} |" for each in kept["faults"]]
    about = kept["made_with"]
    total = sum(each["tried"] for each in kept["faults"])
    lines += ["", f"{total:,} in all; {about['system']}, {about['processor']}, torch {about['torch']}."]
    return Path(__file__).with_suffix(".md").read_text().replace("{{ survived }}", "\n".join(lines))


def main():
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder) / "book.jsonl"
        words = ["-q", "-m", "not gpu", "tests/reliability", "--ignore", "tests/reliability/test_page.py"]
        environment = {**os.environ, "WRN_RELIABILITY": str(book)}
        done = subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, check=False)
        if done.returncode:
            return done.returncode
        faults = [json.loads(line) for line in book.read_text().splitlines()]
    about = {"system": platform.system(), "processor": processor(), "torch": version("torch").partition("+")[0]}
    kept = {"made_with": about, "faults": sorted(faults, key=lambda each: each["fault"])}
    KEPT.write_text(json.dumps(kept, indent=2) + "\n")
    PAGE.write_text(rendered(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())

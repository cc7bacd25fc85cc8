"""Write constraints.txt, for pip, from the tested versions in pyproject.toml; with --check, only compare."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEADER = "# The versions this was tested with: pip install -c constraints.txt . (made by .ci/constraints.py)\n"


def main() -> int:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    text = HEADER + "".join(f"{line}\n" for line in tool["uv"]["constraint-dependencies"])
    path = ROOT / "constraints.txt"
    if "--check" not in sys.argv:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        print("constraints.txt is out of date; run: uv run python .ci/constraints.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

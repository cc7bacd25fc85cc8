"""What a run is computed by: versions, machine, code. What `env.json` holds, and how two of them differ. No torch."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment(execution: dict[str, Any], gpu: str | None = None, keep_every: int | None = None) -> dict[str, Any]:
    """What `env.json` holds: versions, machine, how the run computes and what it keeps, the code, the command."""
    packages = ("wrn", "torch", "numpy", "pillow", "safetensors", "scikit-learn")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "processor": processor(),
        "gpu": gpu,
        "cores": os.cpu_count(),
        "execution": execution,
        "world_size": 1,
        "git_commit": _git_commit(),
        "code": code(),
        "command": ["wrn", *sys.argv[1:]] if Path(sys.argv[0]).stem in ("wrn", "__main__") else sys.argv,
        "keep_every": keep_every,
        "changes": [],
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of an `env.json` can change the bits that training gives, and did, in words."""

    def telling(env: dict[str, Any]) -> dict[str, Any]:
        names = ("torch", "numpy", "pillow", "scikit-learn")
        facts = {name: env.get("versions", {}).get(name) for name in names}
        facts |= {"processor": env.get("processor"), "gpu": env.get("gpu"), "world size": env.get("world_size")}
        facts |= {name: str(env.get(name))[:8] for name in ("code", "data")}
        return facts | env.get("execution", {})

    there, here = telling(before), telling(now)
    return [f"{name} {there[name]} -> {here[name]}" for name in there if name in here and there[name] != here[name]]


def code() -> str:
    """The SHA-256 of this package's own source files."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".cpp", ".h")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """What the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `-dirty` if it was changed; None elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

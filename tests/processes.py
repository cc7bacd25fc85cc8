"""To watch other processes at work."""

import os
import time
from contextlib import suppress
from pathlib import Path


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)


def files_under(folder) -> dict[Path, os.stat_result]:
    """What is there now; files and folders that go while this looks are left out (`Path.rglob` would raise)."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                path = Path(where, name)
                found[path] = path.stat()
    return found

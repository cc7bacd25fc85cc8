"""To watch other processes at work."""

import os
import time
from contextlib import suppress
from pathlib import Path


def wait_for(condition, process, seconds=600):
    """Until it holds, which `process` is to bring about."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None or condition(), "the process ended before it came to that"
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def files_under(folder) -> dict[Path, os.stat_result]:
    """What is there now; files and folders that go while this looks are left out (`Path.rglob` would raise)."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                path = Path(where, name)
                found[path] = path.stat()
    return found

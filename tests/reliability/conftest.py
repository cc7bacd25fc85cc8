"""What the fault tests share: the disk that fails, the run they compare with, and the book of what was survived."""

import json
import os
from pathlib import Path

import pytest

from tests.reliability.trials import Trials, compiled


@pytest.fixture(scope="session")
def trials(tmp_path_factory):
    library = compiled(tmp_path_factory.mktemp("disk"))
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    server = Trials(library)
    yield server
    server.close()


@pytest.fixture
def survived():
    """survived(fault, tried, survived): told by each test; the long forms are the lines of docs/reliability.md.

    With WRN_RELIABILITY=FILE they are appended there: see tests/reliability/page.py.
    """

    def tell(fault, tried, survived, long=True):
        if long and (book := os.environ.get("WRN_RELIABILITY")):
            with Path(book).open("a") as file:
                file.write(json.dumps({"fault": fault, "tried": tried, "survived": survived}) + "\n")
        assert survived == tried

    return tell


@pytest.fixture(scope="session")
def whole(trials, tmp_path_factory):
    """A run that nothing happens to: its folder, and how many operations on the disk it took."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = trials.run(out)
    assert ended.code == 0, ended.said
    return out, ended

"""Downloads from a real HTTP server that misbehaves: what is continued, what is fetched anew, what is said."""

import hashlib
import resource
import shutil
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pytest

import wrn
from tests.archives import sha256, svhn_file
from tests.processes import wait_for
from wrn.data import download, svhn
from wrn.data.download import Remote, fetched

pytestmark = pytest.mark.usefixtures("empty_cache")

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "_WAIT", 0.05)


def nothing(what, done, total):
    pass


@pytest.fixture
def remote(www):
    """A file of 1,000,000 bytes on the server."""
    (www.folder / "file.bin").write_bytes(CONTENT)
    return Remote(www.url("file.bin"), f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


def part_of(remote, content=None):
    part = remote.place.with_name("file.bin.part")
    if content is not None:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
    return part


def ranges(www):
    return [wanted for _, wanted in www.asked]


def test_once_and_then_from_the_cache(remote, www, empty_cache):
    shown = []
    path = fetched(remote, lambda *line: shown.append(line))
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(empty_cache / "downloads")
    assert {(what, total) for what, _, total in shown} == {("downloading file.bin", 1_000_000)}
    assert [done for _, done, _ in shown] == sorted({done for _, done, _ in shown})
    assert shown[-1][1] == 1_000_000
    assert fetched(remote, nothing) == path
    assert ranges(www) == [None]


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "is reset"])
def test_it_continues_where_the_connection_broke(remote, www, resets):
    www.breaks_after, www.resets = 400_000, resets
    shown = []
    assert fetched(remote, lambda *line: shown.append(line)).read_bytes() == CONTENT
    assert (shown[-1][1:]) == (1_000_000, 1_000_000)
    first, *later = ranges(www)
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in later]
    assert first is None
    assert starts == ([400_000, 800_000] if not resets else sorted(set(starts)))


def test_it_continues_what_a_killed_process_began(www, run_wrn, empty_cache, tmp_path, start):
    """As a user: the process is killed in the middle of the second of two files."""
    for part, count in (("train", 60), ("test", 300)):
        svhn_file(www.folder / f"{part}_32x32.mat", count)
    files = [www.folder / f"{part}_32x32.mat" for part in ("train", "test")]
    words = ["data", "prepare", "svhn-train", "--url", *(www.url(file.name) for file in files)]
    words += ["--sha256", *map(sha256, files)]
    www.bytes_per_second = 1_000_000
    process = start(sys.executable, "-m", "wrn", *words, cwd=tmp_path)
    part = empty_cache / "downloads" / sha256(files[1])[:16] / "test_32x32.mat.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 100_000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    size = part.stat().st_size
    assert 100_000 < size < files[1].stat().st_size
    www.bytes_per_second = None
    www.asked.clear()
    code, out, err = run_wrn(*words)
    assert (code, "60 + 300 images" in out) == (0, True), err
    assert www.asked == [("/test_32x32.mat", f"bytes={size}-")]
    assert part.with_suffix("").read_bytes() == files[1].read_bytes()


def test_a_server_that_ignores_ranges_sends_all_of_it(remote, www):
    part_of(remote, CONTENT[:300_000])
    www.ignores_ranges = True
    assert fetched(remote, nothing).read_bytes() == CONTENT
    assert ranges(www) == ["bytes=300000-"]


def test_a_server_that_ignores_ranges_and_breaks_is_given_up(remote, www):
    www.ignores_ranges, www.breaks_after = True, 400_000
    with pytest.raises(wrn.Error, match=r"ended after 400,000 of 1,000,000 bytes\); run the same command again"):
        fetched(remote, nothing)
    assert len(www.asked) == 4


def test_a_server_that_is_busy_is_asked_again(remote, www):
    www.fails = 2
    assert fetched(remote, nothing).read_bytes() == CONTENT
    assert len(www.asked) == 3


def test_a_file_that_is_not_there_is_asked_for_once(www):
    remote = Remote(www.url("gone.bin"), "md5:" + "0" * 32)
    with pytest.raises(wrn.Error, match=r"gone\.bin: cannot be downloaded \(404 Not Found\).*put it at .*/gone\.bin$"):
        fetched(remote, nothing)
    assert len(www.asked) == 1


def test_a_whole_part_needs_no_network(remote, www):
    """Its process was killed before the file got its name."""
    part = part_of(remote, CONTENT)
    assert fetched(remote, nothing).read_bytes() == CONTENT
    assert not part.exists()
    assert not www.asked


@pytest.mark.parametrize(
    ("content", "asks"),
    [
        (CONTENT + b"more", ["bytes=1000004-", None]),
        (bytes(1_000_000), ["bytes=1000000-", None]),
        (bytes(300_000), ["bytes=300000-", None]),
        (b"", [None]),
    ],
    ids=["too long", "as long", "other bytes", "empty"],
)
def test_a_part_of_another_file_is_fetched_anew_once(remote, www, content, asks):
    part = part_of(remote, content)
    assert fetched(remote, nothing).read_bytes() == CONTENT
    assert ranges(www) == asks
    assert not part.exists()


def test_a_wrong_file_in_its_place_is_replaced(remote, www, capsys):
    path = fetched(remote, nothing)
    path.write_bytes(b"\n <!DOCTYPE html><html>Sign in</html>")
    assert fetched(remote, nothing).read_bytes() == CONTENT
    assert f"{path}: not the right file (an HTML page, 37 bytes); downloading it" in capsys.readouterr().err
    assert len(www.asked) == 2


def test_a_page_that_comes_instead_is_named_and_not_kept(remote, www, empty_cache):
    (www.folder / "file.bin").write_bytes(b"<html><body>moved")
    with pytest.raises(
        wrn.Error, match=r"what came \(an HTML page, 17 bytes\) is not the right file \(sha256:"
    ) as error:
        fetched(remote, nothing)
    assert f"put it at {remote.place}" in str(error.value)
    assert [path.name for path in empty_cache.rglob("*") if path.is_file()] == ["file.bin.lock"]


FETCH = """
import sys
from wrn.data.download import Remote, fetched
print(fetched(Remote(*sys.argv[1:]), lambda *_: None))
"""


def test_two_processes_ask_once(remote, www, start):
    www.bytes_per_second = 20_000
    command = [sys.executable, "-c", FETCH, remote.url, remote.digest]
    first = start(*command)
    wait_for(part_of(remote).exists, first)
    second = start(*command)
    assert second.stderr.readline() == "wrn: file.bin: another process prepares it; waiting\n"
    www.bytes_per_second = None
    for process in (first, second):
        out, err = process.communicate()
        assert (process.returncode, out, err) == (0, f"{remote.place}\n", "")
    assert remote.place.read_bytes() == CONTENT
    assert ranges(www) == [None]


@contextmanager
def largest_file(size):
    """No file of this process can grow beyond it: the system's own limit, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_what_came_is_kept(remote, www, empty_cache):
    with largest_file(300_001), pytest.raises(wrn.Error, match="cannot be written") as error:
        fetched(remote, nothing)
    assert str(error.value).startswith(f"cache {empty_cache}: cannot be written (File too large); free some space")
    assert "set WRN_CACHE_DIR to a folder elsewhere" in str(error.value)
    assert ranges(www) == [None], "it does not try again"
    assert fetched(remote, nothing).read_bytes() == CONTENT
    assert ranges(www) == [None, "bytes=300001-"]


def test_more_than_the_disk_has_is_not_begun(remote, www, empty_cache):
    www.claims = 10**16
    with pytest.raises(wrn.Error, match=r"file\.bin takes 10,000,000,000,000,000 more bytes and [\d,]+ are free"):
        fetched(remote, nothing)
    assert not list(empty_cache.rglob("*.part"))


def test_without_a_network_it_says_what_to_put_where(www, run_wrn, tmp_path, empty_cache, monkeypatch):
    """As a user: SVHN's address does not answer; the files come by hand, the first one a wrong one."""
    mine = tmp_path / "by hand"
    mine.mkdir()
    for part, count in (("train", 60), ("test", 30)):
        name = f"{part}_32x32.mat"
        svhn_file(mine / name, count)
        digest = f"md5:{hashlib.md5((mine / name).read_bytes()).hexdigest()}"
        monkeypatch.setitem(svhn.FILES, part, Remote(www.url(name), digest))
    www.close()
    place = empty_cache / "downloads"
    for part in ("train", "test"):
        code, _, err = run_wrn("train", "wrn-10-1", "--data", "svhn-train", "--epochs", "1")
        assert (code, err.count("\n")) == (1, 1)
        assert f"{svhn.FILES[part].url}: cannot be downloaded ([Errno 111] Connection refused)" in err
        assert err.endswith(f"download the file by hand and put it at {place / f'{part}_32x32.mat'}\n")
        shutil.copy(mine / f"{part}_32x32.mat", place)
    code, out, err = run_wrn("data", "prepare", "svhn-train")
    assert (code, "60 + 30 images" in out, "not from" in out) == (0, True, False), err


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a/b/file.bin?download=1", "file.bin"),
        ("http://a/b/..", "file"),
        ("http://a/b/%2e%2e%2f", "-2e-2e-2f"),
        ("http://a/b\\..\\c:d", "b-..-c-d"),
        ("http://a", "file"),
        (f"http://a/{'x' * 300}.mat", f"{'x' * 96}.mat"),
    ],
)
def test_names_stay_in_the_cache(empty_cache, url, name):
    remote = Remote(url, "sha256:" + "ab" * 32)
    assert remote.name == name
    assert remote.place == empty_cache / "downloads" / ("ab" * 8) / name


def test_an_address_that_is_none_is_one_line_at_once(run_wrn):
    for url in ("http://127.0.0.1:port/x.tgz", "http://127.0.0.1/ä.tgz"):
        code, _, err = run_wrn("data", "prepare", "cifar10", "--url", url, "--sha256", "0" * 64)
        assert (code, err.count("\n")) == (1, 1)
        assert f"wrn: error: {url}: cannot be downloaded (" in err

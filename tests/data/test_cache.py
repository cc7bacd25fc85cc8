"""The cache of decoded arrays, under what happens to caches: kills, two processes, damage, permissions, a full disk."""

import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import wrn
from tests.archives import svhn_file
from tests.processes import files_under, wait_for
from wrn.data import svhn
from wrn.data.arrays import Request
from wrn.data.cache import decoded, folder_of, locked

pytestmark = pytest.mark.usefixtures("empty_cache")


def svhn_in(root: Path, train=30, test=20, seed=0) -> Path:
    root.mkdir(exist_ok=True)
    svhn_file(root / "train_32x32.mat", train, seed=seed)
    svhn_file(root / "test_32x32.mat", test, seed=seed + 1)
    return root


def prepare(root=None):
    """(the data, what was said, how often something was decoded)."""
    said, shown = [], []
    source = svhn.read("svhn-train", Request(root=root))
    return decoded("svhn-train", source, 1, lambda *line: shown.append(line), said.append), said, len(shown)


# The same in a process of its own, without torch; it prints the fingerprint and how often something was decoded
PREPARE = """
import sys
from pathlib import Path
from wrn.data import svhn
from wrn.data.arrays import Request
from wrn.data.cache import decoded
from wrn.display import say

def prepare(root):
    shown = []
    source = svhn.read("svhn-train", Request(root=Path(root) if root else None))
    return decoded("svhn-train", source, 1, lambda *line: shown.append(line), say).fingerprint, len(shown)
"""
CALL = f"{PREPARE}\nprint(*prepare(sys.argv[1]))"


@pytest.fixture
def run(start):
    """Starts a script."""
    return lambda script, *words: start(sys.executable, "-c", script, *words)


def entry_folder():
    return folder_of("data", "svhn-train", svhn.read("svhn-train", Request()).key)


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def must_be_clean(cache):
    entry = entry_folder().name
    whole = [entry, f"{entry}.lock", f"{entry}/arrays.safetensors", f"{entry}/info.json"]
    assert names_in(cache / "data") == sorted(whole)


# Each child is killed, by itself, at the next of the places where it touches the cache; its parent then does it again
KILLS = f"""{PREPARE}
import json, os, shutil, signal
import scipy.io

cache, first, root = os.environ["WRN_CACHE_DIR"], sys.argv[1], sys.argv[2]
touches = ("open", "os.", "shutil.", "tempfile.")

def dies_at(number):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event.startswith(touches) and any(cache in str(argument) for argument in arguments):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def in_a_child(call):
    child = os.fork()
    if not child:
        call()
        os._exit(0)
    return os.waitpid(child, 0)[1]

number, status = 0, signal.SIGKILL
while status == signal.SIGKILL:
    number += 1
    if first:
        in_a_child(lambda: prepare(first))
    status = in_a_child(lambda: (dies_at(number), prepare(root)))
    assert in_a_child(lambda: print(json.dumps(prepare(root)), flush=True)) == 0
    for at in Path(cache).rglob("*"):
        assert not at.name.startswith("."), at
    [entry] = (path for path in Path(cache, "data").iterdir() if path.is_dir())
    assert sorted(path.name for path in entry.iterdir()) == ["arrays.safetensors", "info.json"]
    shutil.rmtree(cache)
assert status == 0
print(number)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("replaces", [False, True])
def test_killed_wherever_it_touches_the_disk_and_run_again(tmp_path, replaces, run):
    root, other = svhn_in(tmp_path / "mine"), svhn_in(tmp_path / "other", seed=5)
    process = run(KILLS, other if replaces else "", root)
    out, err = process.communicate()
    assert process.returncode == 0, err
    *again, kills = map(json.loads, out.splitlines())
    assert kills > 15, "it was killed that often"
    good = prepare(root)[0].fingerprint
    assert {fingerprint for fingerprint, _ in again} == {good}
    assert 0 in {count for _, count in again} and {count for _, count in again} - {0}, "sometimes it was there already"
    if not replaces:
        assert "damaged" not in err, "what was there was whole"


# Just before it renames what it made, for others to see
LINGERS = "import sys, time; sys.addaudithook(lambda event, _: time.sleep(0.3) if event == 'os.rename' else None)"


@pytest.mark.parametrize("moment", ["reading", "writing", "checking", "all written"])
def test_killed_in_the_middle_and_run_again(tmp_path, empty_cache, moment, run):
    """By another process, at a size that takes a while."""
    root = tmp_path / "mine"
    root.mkdir()
    for part, count in (("train", 10_000), ("test", 1_000)):
        pixels = np.broadcast_to((np.arange(count) % 251).astype(np.uint8), (32, 32, 3, count))
        svhn_file(root / f"{part}_32x32.mat", count, X=pixels)
    scratch, size = f"/.{entry_folder().name}.", 11_000 * (3072 + 8)

    def reached():
        found = {
            path: facts.st_size for path, facts in files_under(empty_cache / "data").items() if scratch in str(path)
        }
        written = sum(found.values())
        return {
            "reading": any((empty_cache / "data").glob("*.lock")),
            "writing": written > size / 10,
            "checking": written >= size,
            "all written": any(path.name == "info.json" for path in found),
        }[moment]

    def killed():
        shutil.rmtree(empty_cache, ignore_errors=True)
        process = run(f"{LINGERS}\n{CALL}", root)
        wait_for(lambda: reached() or process.poll() is not None, process)
        process.kill()
        process.communicate()
        in_time = moment == "all written" or not entry_folder().exists()
        return process.returncode == -signal.SIGKILL and in_time

    # A machine that is busy may let a short moment pass unseen
    assert any(killed() for _ in range(5)), "it was not seen"
    data, said, _ = prepare(root)
    assert not any("damaged" in line for line in said)
    assert (len(data.train.images), len(data.test.images)) == (10_000, 1_000)
    assert (data.train.images[:, 5, 7, 1] == np.arange(10_000) % 251).all()
    must_be_clean(empty_cache)


def test_two_processes_at_once_leave_one_good_copy(tmp_path, empty_cache, run):
    root = svhn_in(tmp_path / "mine", 1000, 200)
    with locked(entry_folder(), print):  # until both are there
        both = [run(CALL, root) for _ in range(2)]
        lines = [process.stderr.readline() for process in both]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert lines == [f"wrn: {entry_folder().name}: another process prepares it; waiting\n"] * 2
    found = [out.split() for out, _ in told]
    assert found[0][0] == found[1][0]
    assert sorted(count for _, count in found) == ["0", "2"], "one decoded two files, the other none"
    must_be_clean(empty_cache)
    data, _, count = prepare(root)
    assert (data.fingerprint, count) == (found[0][0], 0)


HOLD = """
import sys, time
from pathlib import Path
from wrn.data.cache import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_dead_process_is_none(tmp_path, run):
    root = svhn_in(tmp_path / "mine")
    holder = run(HOLD, entry_folder())
    assert holder.stdout.readline() == "held\n"
    waiter = run(CALL, root)
    assert "another process prepares it; waiting" in waiter.stderr.readline()
    assert waiter.poll() is None
    holder.kill()
    holder.communicate()
    out, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, out.split()[1]) == (0, "2"), err
    assert Path(f"{entry_folder()}.lock").exists(), "the dead one's is still there"
    assert "waiting" not in "".join(prepare(root)[1])


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("at", [0, 30, 2000, -1], ids=["length", "header", "pixels", "end"])
def test_a_flipped_byte_of_the_arrays_is_said_and_mended(tmp_path, at):
    root = svhn_in(tmp_path / "mine")
    good = prepare(root)[0]
    flip(entry_folder() / "arrays.safetensors", at)
    again, said, count = prepare(root)
    reason = "damaged (arrays.safetensors does not have its recorded hash); making it again"
    assert said[0] == f"cache {entry_folder()}: {reason}"
    assert (again.fingerprint, count) == (good.fingerprint, 2)
    np.testing.assert_array_equal(again.train.images, good.train.images)
    assert not any("damaged" in line for line in prepare(root)[1])


def test_no_flipped_byte_of_the_facts_goes_unseen(tmp_path):
    root = svhn_in(tmp_path / "mine")
    good = prepare(root)[0]
    file = entry_folder() / "info.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 23):
        flip(file, at)
        again, said, count = prepare(root)
        assert said[0].startswith(f"cache {entry_folder()}: damaged ("), at
        assert (again.fingerprint, count) == (good.fingerprint, 2)
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "spoil",
    [
        lambda entry: (entry / "info.json").unlink(),
        lambda entry: (entry / "arrays.safetensors").unlink(),
        lambda entry: (entry / "info.json").write_bytes(b""),
        lambda entry: (entry / "info.json").write_text("[1]"),
        lambda entry: (entry / "info.json").write_text("7"),
        lambda entry: (entry / "info.json").write_text("{}"),
        lambda entry: os.truncate(entry / "arrays.safetensors", 1000),
        lambda entry: shutil.copy(entry / "info.json", entry / "arrays.safetensors"),
    ],
)
def test_half_an_entry_is_never_used(tmp_path, empty_cache, spoil):
    root = svhn_in(tmp_path / "mine")
    good = prepare(root)[0]
    spoil(entry_folder())
    again, said, count = prepare(root)
    assert "damaged" in said[0]
    assert (again.fingerprint, count) == (good.fingerprint, 2)
    must_be_clean(empty_cache)


def test_a_file_is_checked_when_a_process_first_reads_it(tmp_path, run):
    """And what that took is shown, from 1 MB on."""
    root = svhn_in(tmp_path / "mine", 400, 100)

    def costs(said):
        return [line for line in said if " MB checked in " in line]

    [line] = costs(prepare(root)[1])
    assert re.fullmatch(rf"cache {entry_folder().name}: 2 MB checked in \d+\.\d\d s", line)
    assert costs(prepare(root)[1]) == [], "it was just read"
    process = run(CALL, root)
    assert len(costs(process.communicate()[1].splitlines())) == 1
    os.utime(entry_folder() / "arrays.safetensors")
    assert len(costs(prepare(root)[1])) == 1, "it has changed"
    assert costs(prepare(svhn_in(tmp_path / "small"))[1]) == []


def test_a_copy_from_elsewhere_stays_until_there_is_a_better_one(tmp_path):
    root, other, broken = svhn_in(tmp_path / "mine"), svhn_in(tmp_path / "other", seed=5), tmp_path / "broken"
    good = prepare(root)[0]
    shutil.copytree(other, broken)
    (broken / "test_32x32.mat").write_bytes(b"<html>")
    with pytest.raises(wrn.Error, match="an HTML page"):
        prepare(broken)
    kept, said, count = prepare()
    assert (kept.fingerprint, count) == (good.fingerprint, 0)
    assert said == [f"svhn-train: prepared from {root}, not from the published files"]
    assert prepare(other)[0].fingerprint != good.fingerprint
    assert prepare()[1] == [f"svhn-train: prepared from {other}, not from the published files"]


@pytest.mark.parametrize("place", ["a file/cache", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written(tmp_path, run_wrn, monkeypatch, place):
    (tmp_path / "a file").touch()
    place = tmp_path / place
    monkeypatch.setenv("WRN_CACHE_DIR", str(place))
    code, _, err = run_wrn("data", "prepare", "digits")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"wrn: error: cache {place}: cannot be written (")
    assert err.endswith("; free some space there, or set WRN_CACHE_DIR to a folder elsewhere\n")


FULL = f"""{PREPARE}
import resource
from wrn.errors import Error
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # the system's own limit, as on a full disk
try:
    prepare(sys.argv[1])
except Error as error:
    print(error)
"""


def test_a_full_disk(tmp_path, empty_cache, run):
    root = svhn_in(tmp_path / "mine", 400, 100)
    out, err = run(FULL, root).communicate()
    assert out.startswith(f"cache {empty_cache}: cannot be written (") and "File too large" in out, err
    assert out.count("\n") == 1
    assert "set WRN_CACHE_DIR" in out
    assert names_in(empty_cache / "data") == [f"{entry_folder().name}.lock"]
    assert prepare(root)[2] == 2


# Not root: root may write everywhere
OTHERS = f"""{PREPARE}
import os
from wrn.errors import Error
if os.geteuid() == 0:
    os.setuid(65534)
print(*prepare(None))
Path(sys.argv[1], "info.json").exists() or sys.exit("not there")
try:
    os.mkdir(os.path.join(os.environ["WRN_CACHE_DIR"], "mine"))
    sys.exit("it can be written")
except PermissionError:
    pass
try:
    decoded("svhn", svhn.read("svhn", Request()), 1, lambda *_: None, say)
except Error as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs users")
def test_a_prepared_cache_that_may_only_be_read_works(tmp_path, monkeypatch, run):
    """Somebody else's: shared, as on a cluster."""
    root = svhn_in(tmp_path / "mine")
    cache = Path(tempfile.mkdtemp(prefix="wrn-shared-"))  # others cannot look into tmp_path
    monkeypatch.setenv("WRN_CACHE_DIR", str(cache))
    try:
        good = prepare(root)[0]
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [cache, *cache.rglob("*")]}
        shared = {path.name: oct(mode) for path, mode in modes.items() if path.suffix in (".json", ".safetensors")}
        assert len(set(shared.values())) == 1, f"both files can be read by the same people: {shared}"
        for path, mode in {**modes, cache: 0o755}.items():
            path.chmod(mode & ~0o222)
        process = run(OTHERS, entry_folder())
        out, err = process.communicate()
        assert process.returncode == 0, err
        fingerprint, refusal = out.splitlines()
        assert fingerprint.split() == [good.fingerprint, "0"]
        assert refusal.startswith(f"cache {cache}: cannot be written (Permission denied);")
        assert refusal.endswith("set WRN_CACHE_DIR to a folder elsewhere")
        assert "damaged" not in err
    finally:
        for path in [cache, *cache.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(cache)

"""Pickle gadgets in every file that we read: `python -m tests.reliability.hostile FOLDER EVERY` (1: all of them).

Prints a line of JSON: how many were read, and what an audit hook saw that no reader of files has any business with.
The gadgets are written by hand, byte by byte, so that nothing is run by making them.
"""

import contextlib
import io
import json
import os
import pickle
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

CANARY = f"/tmp/wrn-canary-{os.getpid()}"
SOURCE = f"open({CANARY!r}, 'w')"

GADGETS = [
    *(("os", name, (f"touch {CANARY}",)) for name in ("system", "popen")), ("posix", "system", (f"touch {CANARY}",)),
    ("os", "mkdir", (CANARY,)), ("os", "makedirs", (CANARY,)), ("os", "remove", (CANARY,)), ("os", "rmdir", (CANARY,)),
    ("os", "symlink", ("/etc/passwd", CANARY)), ("os", "mknod", (CANARY,)), ("os", "chdir", ("/",)),
    ("os", "putenv", ("LD_PRELOAD", CANARY)), ("os", "kill", (os.getpid(), 0)), ("os", "fork", ()),
    ("os", "_exit", (3,)),
    ("os", "abort", ()), ("os", "execv", ("/bin/true", ["true"])), ("os", "spawnv", (0, "/bin/true", ["true"])),
    ("os", "open", (CANARY, 65)), ("pty", "spawn", (["true"],)),
    *(("subprocess", name, (["touch", CANARY],)) for name in ("Popen", "call", "check_call", "check_output", "run")),
    ("subprocess", "getoutput", (f"touch {CANARY}",)),
    *(("builtins", name, (SOURCE,)) for name in ("eval", "exec")), ("builtins", "open", (CANARY, "w")),
    ("builtins", "__import__", ("antigravity",)), ("builtins", "compile", (SOURCE, "x", "exec")),
    ("builtins", "breakpoint", ()), ("builtins", "exit", ()), ("__builtin__", "eval", (SOURCE,)),
    ("importlib", "import_module", ("antigravity",)), ("runpy", "run_path", (CANARY,)),
    ("runpy", "run_module", ("this",)),
    ("timeit", "timeit", (SOURCE,)), ("cProfile", "run", (SOURCE,)), ("profile", "run", (SOURCE,)),
    ("pdb", "run", (SOURCE,)),
    ("code", "InteractiveInterpreter", ()), ("doctest", "debug_script", (SOURCE,)), ("trace", "Trace", ()),
    ("io", "open", (CANARY, "w")), ("io", "FileIO", (CANARY, "w")), ("gzip", "open", (CANARY, "w")),
    ("bz2", "open", (CANARY, "w")), ("lzma", "open", (CANARY, "w")), ("zipfile", "ZipFile", (CANARY, "w")),
    ("tarfile", "open", (CANARY, "w")), ("shelve", "open", (CANARY,)), ("dbm.dumb", "open", (CANARY, "c")),
    ("sqlite3", "connect", (CANARY,)), ("logging", "FileHandler", (CANARY,)), ("tempfile", "mkdtemp", ()),
    ("shutil", "rmtree", (CANARY,)), ("shutil", "copy", ("/etc/passwd", CANARY)),
    ("socket", "create_connection", (("127.0.0.1", 9),)),
    ("urllib.request", "urlopen", ("http://127.0.0.1:9",)), ("webbrowser", "open", (f"file://{CANARY}",)),
    ("ctypes", "CDLL", (CANARY,)), ("marshal", "loads", (b"\xe3",)),
    ("pickle", "loads", (b"cos\nsystem\n(Vtrue\ntR.",)),
    ("torch", "load", (CANARY,)), ("torch.hub", "load", ("a/b", "c")), ("torch", "save", ((), CANARY)),
    ("numpy", "load", (CANARY, None, True)), ("numpy", "save", (CANARY, 1)), ("pathlib", "Path.touch", ()),
    ("signal", "raise_signal", (10,)), ("threading", "_start_new_thread", ()), ("multiprocessing", "Process", ()),
    ("sys", "exit", ()), ("sys", "setprofile", (None,)), ("atexit", "register", ()),
    ("resource", "setrlimit", (0, (0, 0))),
]  # fmt: skip


def raw(gadget):
    """A pickle that imports the function and calls it, as protocol 0 writes it."""
    module, name, arguments = gadget
    return f"c{module}\n{name}\n".encode() + pickle.dumps(arguments, 0)[:-1] + b"R."


def as_torch(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def as_numpy(content):
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    head += b" " * (117 - len(head)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content


def as_object_in_mat(content):
    """A MATLAB 5 file whose variable X is an opaque object of these bytes."""
    data = (14).to_bytes(4, "little") + (len(content)).to_bytes(4, "little") + content
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + data


WRAPS = (lambda content: content, as_torch, as_numpy)


def places(root, run, whitened):
    """{what is read: (file that the gadget is put into, what reads it)}."""
    import numpy as np

    import wrn
    from wrn import weights
    from wrn.data import cifar, pictures, svhn, whitening
    from wrn.data.cache import folder_of
    from wrn.data.digits import Digits
    from wrn.files import read_sealed, sha256_of, write_sealed
    from wrn.reporting import authors_log
    from wrn.reporting.report import html_page

    recipe = wrn.Run(run).recipe

    def train():
        for name in ("result.json", "checkpoints"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(kept / "checkpoints", run / "checkpoints")
        return wrn.train(recipe, run, device="cpu", quiet=True)

    def tensors_with_their_hash(content):
        """The checkpoint's description is made to vouch for them."""
        (checkpoint / "tensors.safetensors").write_bytes(content)
        told = description | {"sha256": sha256_of(checkpoint / "tensors.safetensors")}
        write_sealed(checkpoint / "checkpoint.json", told)

    kept = Path(shutil.copytree(run, root / "kept"))
    checkpoint = kept / "checkpoints" / "epoch-0001-step-000000"
    description = read_sealed(checkpoint / "checkpoint.json")
    cache = folder_of("data", "digits", Digits(recipe.image_size).key)
    here = root / "here"
    here.mkdir()

    def file(name):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        return (here / name).write_bytes

    def inside(folder, name):
        return (folder / name).write_bytes

    def of_run(name, use):
        def put(content):
            shutil.rmtree(run)
            shutil.copytree(kept, run)
            (run / name).write_bytes(content)

        return put, use

    for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png"):
        file(f"pictures/{name}")(_png())
    (here / "cifar").mkdir()
    file("batches/cifar-10-batches-py/test_batch")(b"harmless")
    svhn_source = here / "svhn.mat"
    labels = np.zeros(1, np.int64), np.zeros((1, 32, 32, 3), np.uint8)
    return {
        "a model": (file("model.safetensors"), lambda: wrn.load(here / "model.safetensors")),
        "a model's header": (file("model.safetensors"), lambda: weights.header_of(here / "model.safetensors")),
        "a run's model": of_run("model.safetensors", lambda: wrn.load(run)),
        "recipe.json": of_run("recipe.json", lambda: (wrn.Run(run).recipe, wrn.Run(run).seed)),
        "env.json": of_run("env.json", lambda: wrn.Run(run).env),
        "result.json": of_run("result.json", lambda: wrn.Run(run).result),
        "metrics.jsonl": of_run("metrics.jsonl", lambda: wrn.Run(run).metrics),
        "a checkpoint's description": (inside(checkpoint, "checkpoint.json"), train),
        "a checkpoint's tensors": (tensors_with_their_hash, train),
        "a whitening": (inside(whitened, "whitening.safetensors"), lambda: wrn.load(whitened)),
        "a whitening alone": (file("w.safetensors"), lambda: whitening.load(here / "w.safetensors")),
        "a picture": (file("picture.png"), lambda: pictures.decode(here / "picture.png", 16)),
        "a picture in a folder": (
            file("pictures/train/a/1.png"), lambda: wrn.dataset(f"folder:{here}/pictures", image_size=8)
        ),
        "an archive of pictures": (file("p.tar.gz"), lambda: wrn.dataset(f"folder:{here}/p.tar.gz", image_size=8)),
        "a Parquet file": (
            file("p/train.parquet"), lambda: wrn.dataset(f"parquet:{here}/p", image_size=8, val_fraction=0.3)
        ),
        "CIFAR's archive": (
            file("cifar/cifar-10-binary.tar.gz"), lambda: wrn.dataset("cifar10", root=here / "cifar")
        ),
        "CIFAR's batches": (
            file("batches/cifar-10-batches-py/data_batch_1"), lambda: wrn.dataset("cifar10", root=here / "batches")
        ),
        "what reads CIFAR's batches": (file("batch"), lambda: cifar._unpickled((here / "batch").read_bytes())),
        "an SVHN file": (file("svhn.mat"), lambda: svhn._read(svhn_source, labels[1], labels[0])),
        "a MATLAB object": (
            lambda content: svhn_source.write_bytes(as_object_in_mat(content)),
            lambda: svhn._read(svhn_source, labels[1], labels[0]),
        ),
        "the cache's arrays": (inside(cache, "arrays.safetensors"), lambda: wrn.dataset(recipe)),
        "the cache's description": (inside(cache, "info.json"), lambda: wrn.dataset(recipe)),
        "a teacher": (file("teacher.safetensors"), lambda: wrn.train(
            wrn.recipe("wrn-10-1", data="digits", teacher=str(here / "teacher.safetensors")), here / "t", quiet=True)),
        "the authors' log": (file("log.txt"), lambda: authors_log.read([here / "log.txt"])),
        "a report's plan": (file("runs/plans/x.json"), lambda: html_page(here / "runs", here / "page.html")),
        "a report's benchmark": (file("other/bench/x.json"), lambda: html_page(here / "other", here / "page.html")),
    }  # fmt: skip


def _png():
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    return content.getvalue()


class Watch:
    """An audit hook that can be set to note what no reader of files may do."""

    FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen",
                 "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen", "os.kill",
                 "pty.spawn", "code.__new__", "webbrowser.open", "sqlite3.connect", "pdb.Pdb", "builtins.breakpoint",
                 "os.putenv", "os.chdir", "signal.pthread_kill", "resource.setrlimit", "marshal.loads")  # fmt: skip
    OURS = ("git", "libc.so.6", "libnvidia-ml.so.1")  # what `wrn.train` asks the machine by for `env.json`
    WRITES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.chmod", "shutil.rmtree")

    def __init__(self, allowed):
        self.allowed = tuple(map(str, allowed))
        self.on, self.seen = False, []
        self.libraries = tuple({*map(str, sysconfig.get_paths().values()), "<frozen", str(Path(__file__).parents[2])})
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.on and self._is_forbidden(event, arguments):
            self.on = False
            self.seen.append(f"{event} {arguments!r}"[:200])
            self.on = True

    def _is_forbidden(self, event, arguments):
        if event in self.FORBIDDEN:
            return str(arguments[0]) not in self.OURS
        if event == "exec":  # of what is imported late it is a file of a library
            return not getattr(arguments[0], "co_filename", "").startswith(self.libraries)
        if event in self.WRITES:
            folder = [each for each in arguments[1:] if isinstance(each, int) and each >= 0]
            above = Path(f"/proc/self/fd/{folder[-1]}").readlink() if folder and "/" not in str(arguments[0]) else ""
            return self._is_elsewhere(Path(above, arguments[0]))
        return event == "open" and self._is_elsewhere(arguments[0]) and arguments[2] & (os.O_WRONLY | os.O_RDWR)

    def _is_elsewhere(self, path):
        return isinstance(path, (str, os.PathLike)) and not os.path.realpath(path).startswith((*self.allowed, "/dev/"))


def main(root, every):
    os.environ["WRN_CACHE_DIR"] = str(root / "cache")
    import wrn
    from wrn.errors import Error

    small = {"data": "digits", "epochs": 1, "labels": 96, "image_size": 8}
    run = wrn.train(wrn.recipe("wrn-10-1", **small), root / "run", device="cpu", quiet=True).path
    whitened = wrn.train(wrn.recipe("wrn-10-1", **small, preprocess="zca"), root / "zca", device="cpu", quiet=True).path
    read = places(root, run, whitened)
    watch = Watch([root])
    # Whatever is imported late is imported now; and the hook must hear what it is for
    for put, use in read.values():
        put(b"harmless")
        with contextlib.suppress(Error, OSError, pickle.UnpicklingError):
            use()
    watch.on = True
    with contextlib.suppress(OSError):
        pickle.loads(raw(("os", "system", ("true",))))
        Path(CANARY).write_text("")
    heard, watch.seen = len(watch.seen), []
    Path(CANARY).unlink()
    watch.seen.clear()

    chosen, count = GADGETS[::every], 0
    for put, use in read.values():
        for number, gadget in enumerate(chosen):
            watch.on = False
            put(WRAPS[number % 3](raw(gadget)))
            watch.on = True
            with contextlib.suppress(Error, OSError, pickle.UnpicklingError, ValueError):
                use()
            count += 1
    watch.on = False
    told = {"gadgets": len(chosen), "places": len(read), "read": count, "heard": heard}
    print(json.dumps(told | {"seen": watch.seen[:20], "canary": os.path.lexists(CANARY)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

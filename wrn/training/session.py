"""`wrn.train`: what must be settled before the loop runs, and what is said when it fails."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wrn import runs, weights
from wrn.data import whitening
from wrn.data.batching import Dataset
from wrn.data.loader import dataset
from wrn.data.preprocess import WholeImage
from wrn.display import Log, seconds_of
from wrn.environment import environment
from wrn.errors import Error, UsageError
from wrn.evaluation import bare
from wrn.files import write_whole
from wrn.hardware import multiplies_bf16, out_of_memory
from wrn.native.library import lacking
from wrn.native.memory import give_back_freed_memory
from wrn.native.recomputation import Memory
from wrn.recipes import Recipe, taught_by
from wrn.runs import Run
from wrn.training import checkpoint, outcome
from wrn.training.interruption import interruption, undisturbed
from wrn.training.loop import Training
from wrn.training.objective import must_do_without_teacher
from wrn.training.precision import Execution, choose, recorded
from wrn.training.teacher import named, teacher_of


@contextmanager
def _own_modes() -> Iterator[None]:
    """Within, gradients are taken whatever the caller does; afterwards torch's determinism is as it was."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if torch.are_deterministic_algorithms_enabled() != before[0]:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@undisturbed()
@_own_modes()
def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    native: bool | None = None,
    memory: Memory | None = None,
    workers: int | None = None,
    root: str | Path | None = None,
    teacher: nn.Module | None = None,
    keep_every: int | None = None,
    checkpoint_every: str | float | None = None,
    deterministic: bool | None = None,
    graphs: bool | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> Run:
    """Train the recipe's network and return its run; continue one that was begun, leave a finished one alone.

    `out` defaults to `runs/<data>/<model>-<recipe hash>/seed<seed>`; `fresh` removes an earlier run first; `quiet`
    prints nothing. `seed` decides the initial weights, order, augmentation and dropout. `device`, `precision` ("fp32",
    "tf32", "bf16"), `compile`, `native` (our own CPU kernels; with an explicit "fp32" used only if True) and `memory`
    ("low" recomputes BN-ReLU instead of keeping its output, "lowest" whole residual blocks) are chosen once and kept
    when the run continues. On the CPU the result is a function of recipe, seed and these. `workers`: how many threads
    or processes decode pictures; `root`: a folder that has the data set's files. `teacher`: a network in memory to
    learn from, bare or as returned by `wrn.load`; a teacher that is a run is named in the recipe. `keep_every` keeps
    the checkpoint of every so many epochs for good; `checkpoint_every`, in seconds or such as "10m", also saves within
    epochs. `deterministic`: bit-reproducible on CUDA too, but slower. `graphs`: on CUDA a step's kernels, the
    optimiser's among them, are recorded once (in each stage) and then launched all at once, in memory of their own.
    Raises ValueError for what makes no sense, wrn.Error for what fails, KeyboardInterrupt (after saving) on a signal.
    """
    if not isinstance(recipe, Recipe):
        given = recipe if isinstance(recipe, str) else type(recipe).__name__
        raise UsageError(f"train: {given} is no recipe; make one with wrn.recipe(MODEL, data=NAME)")
    flags = {"compile": compile, "native": native, "deterministic": deterministic, "graphs": graphs, "fresh": fresh}
    _must_be_of_their_types(seed, keep_every, teacher, flags)
    seed, log = int(seed), Log(quiet)  # NumPy's seeds too
    if teacher is not None:
        recipe = taught_by(recipe, named(teacher))
    if recipe.teacher is None:
        must_do_without_teacher(recipe)  # before data are prepared for nothing
    run = Run(out if out is not None else runs.default_path(recipe, seed))
    if precision == "fp32" and native is None:
        native = False  # torch's own to the bit, also where a run that was begun is continued
    place = None if device is None else str(device)
    ways = {"device": place, "precision": precision, "compile": compile, "native": native, "memory": memory}
    ways |= {"deterministic": deterministic, "graphs": graphs}
    every = seconds_of(checkpoint_every) if isinstance(checkpoint_every, str) else checkpoint_every
    asked: dict[str, Any] = {name: value for name, value in ways.items() if value is not None}
    run.must_hold_nothing_else()
    if not fresh:
        run.must_agree(recipe, seed, asked)
        if run.finished:
            run.tidy()
            log.line(f"already finished, left alone (--fresh starts over): {outcome.last_line(run)}")
            return run
    run.must_be_free()
    begun = not fresh and run.begun
    execution = recorded(run.env["execution"]) if begun else choose(**asked)
    _say_what_is_slow(execution, precision, native, log)
    with _explaining(execution, log):  # what is refused here leaves no folder behind
        training = _prepared(recipe, run, seed, execution, log, begun, keep_every, teacher, workers, root)
        _must_have_room(training)
    try:
        with run.hold():
            if not fresh and (run.finished or run.begun != begun):
                raise Error(f"{run.path}: another process has trained here meanwhile; run the same command again")
            run.begin(recipe, seed, fresh)
            _keep_whitening(run, training.data)
            with log.copied_to(run.path / "train.log"), interruption(every) as interrupt, _explaining(execution, log):
                training.run_all(interrupt)
    finally:
        del training
        give_back_freed_memory()
    return run


def _say_what_is_slow(execution: Execution, precision: str | None, native: bool | None, log: Log) -> None:
    if execution.kind and native is None and (why := lacking(execution.kind)):
        log.line(f"{why}; training without them is slower")
    if precision == "bf16" and execution.device == "cpu" and not multiplies_bf16(torch.device("cpu")):
        log.line("bf16: this processor has no instructions for it, and is many times slower so; leave --precision out")


def _must_be_of_their_types(seed: Any, keep_every: Any, teacher: Any, flags: Mapping[str, Any]) -> None:
    """Raise ValueError for what is no whole number, or no network, and for words in the place of True and False."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise UsageError(f"seed {seed!r}: must be a whole number")
    if keep_every is not None and not (isinstance(keep_every, Integral) and int(keep_every) >= 1):
        raise UsageError(f"--keep-every {keep_every}: must be a whole number, at least 1")
    if not isinstance(teacher, nn.Module | None):
        raise UsageError(f"teacher {teacher!r}: is no network; name a run in the recipe, wrn.recipe(…, teacher=RUN)")
    for name, flag in flags.items():
        if not (flag is None or isinstance(flag, bool)):
            raise UsageError(f"{name} {flag!r}: must be True or False")


def _prepared(
    recipe: Recipe,
    run: Run,
    seed: int,
    execution: Execution,
    log: Log,
    begun: bool,
    keep_every: int | None,
    teacher: nn.Module | None,
    workers: int | None,
    root: str | Path | None,
) -> Training:
    """All that the run needs, in memory: data, teacher, network. Raises as `train` does."""
    execution.apply()  # what is fitted to the data depends on the number of threads
    fitted = _stored_whitening(run, log) if begun else None
    data = dataset(recipe, seed=seed, device=execution.device, workers=workers, log=log, root=root, fitted=fitted)
    if data.train.steps(recipe) == 0:
        raise Error(
            f"batch size {recipe.batch_size}: there are only {len(data.train)} training images and this recipe leaves "
            "out the last, smaller batch; lower --batch-size"
        )
    master = teacher_of(recipe, teacher, data)
    keep_every = keep_every or (run.env.get("keep_every") if begun else None)
    made_by = environment(execution.to_dict(), execution.gpu, keep_every) | {"data": data.fingerprint}
    identity = _identity(recipe, seed, data, master)
    training = Training(recipe, run, seed, data, execution, log, keep_every, master, identity, made_by)
    training.prepare()
    return training


def _identity(recipe: Recipe, seed: int, data: Dataset, teacher: nn.Module | None) -> dict[str, Any]:
    """What a checkpoint must share to be continued."""
    identity: dict[str, Any] = {"recipe": recipe.hash, "seed": seed, "data": data.names or data.fingerprint}
    identity["preprocess"] = data.preprocess.constants()
    if teacher is not None:
        identity["teacher"] = weights.digest(bare(teacher).state_dict())
    return identity


def _stored_whitening(run: Run, log: Log) -> WholeImage | None:
    """The whitening that the run began with: its own file's or, if that is damaged or gone, a checkpoint's copy of it.

    Where there is none it is fitted again, and checkpoints tell if that is the same.
    """
    for folder in [run.path, *(path for _, _, path in runs.newest_first(run.path / "checkpoints"))]:
        if (folder / runs.WHITENING).exists():
            try:
                return whitening.load(folder / runs.WHITENING)
            except Error as error:
                log.line(f"{error}; looking for a copy in the checkpoints, else fitting it again")
    return None


def _keep_whitening(run: Run, data: Dataset) -> None:
    """Write what the run whitens with into its folder, if it does and it is not there."""
    if isinstance(data.preprocess, WholeImage):
        try:
            whitening.load(run.path / runs.WHITENING, data.preprocess.digest)
        except Error:
            write_whole(run.path / runs.WHITENING, partial(whitening.save, data.preprocess))


def _must_have_room(training: Training) -> None:
    """Raise wrn.Error if the disk has too little room for what the run is to leave there."""
    path = training.run.path
    images, classes = len(training.data.test), len(training.data.classes)
    preprocess = sum(tensor.nbytes for tensor in training.data.preprocess.buffers())
    each = checkpoint.size_of(training.objective.trained, training.optimizer) + preprocess
    kept = training.recipe.epochs // training.keep_every if training.keep_every else 0
    there = [folder for _, _, folder in runs.newest_first(path / "checkpoints")]
    needed = max(checkpoint.KEEP + 1 + kept - len(there), 1) * each + preprocess + images * classes * 4 + _SMALL_FILES
    needed += sum(tensor.nbytes for tensor in training.network.state_dict().values())
    free = shutil.disk_usage(next(folder for folder in [path, *path.absolute().parents] if folder.exists())).free
    if needed > free:
        raise Error(
            f"{path}: this run needs {needed / 1e6:,.0f} MB for its checkpoints and results, and {free / 1e6:,.0f} MB "
            "are free; make room, or choose another folder with --out"
        )


_SMALL_FILES = 1_000_000


@contextmanager
def _explaining(execution: Execution, log: Log) -> Iterator[None]:
    """Note a failure in the run's log, and raise it as one line where it is the user's to mend."""
    try:
        yield
    except Exception as error:
        explained = _explained(error, execution)
        with suppress(OSError):  # the disk may be what failed
            log.note(f"wrn: error: {explained or repr(error)}")
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, execution: Execution) -> Error | None:
    """What to tell the user of a failure of training; None if it is none of theirs."""
    if isinstance(error, Error):
        return error
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if (lack := out_of_memory(error)) is not None:
        return lack
    if "more than 1 value per channel" in reason:
        return Error(
            "batch of one image: BN has one number a channel in this network's last maps, and no deviation; take "
            "another --batch-size, or leave the last batch out with --drop-last true"
        )
    if "DataLoader worker" in reason:  # torch raises this wherever the training process happens to be
        return Error(
            f"decoding: a worker process was killed ({reason}); lower --workers, then run the same command again"
        )
    if isinstance(error, OSError) and error.filename:
        return Error(
            f"{error.filename}: {error.strerror}; nothing saved before is lost: mend that, then run the same command "
            "again"
        )
    if execution.compile and type(error).__module__.startswith("torch._"):
        return Error(f"--compile: {reason}; leave the option out, or install what it names")
    return None

"""`wrn tune dropout`: choose it on a validation split, as the paper says it did, by Optuna."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from wrn.data.catalog import label
from wrn.errors import Error, UsageError
from wrn.models.names import parse
from wrn.randomness import key
from wrn.recipes import recipe
from wrn.reporting.markdown import table
from wrn.reporting.tables import Table, Text
from wrn.reproduction.plan import Job, placed
from wrn.reproduction.schedule import How, run_all
from wrn.runs import Run


class Trial(NamedTuple):
    """A dropout, and the validation error of a run with it, in percent."""

    val_error: float
    dropout: float


def tune_dropout(
    model: str,
    data: str,
    fields: Mapping[str, Any],
    trials: int,
    seed: int,
    precision: str,
    out: str | Path,
    how: How,
    say: Callable[[str], None],
) -> list[Trial]:
    """Dropouts among 0, 0.05, …, 0.6 with their validation errors, each a run and told once, the lowest error first.

    Trials, `trials` in all, are kept in `<out>/tune`, so that the same command continues and more trials add to them.
    The test set plays no part. Raises ValueError for a recipe without a validation split or a network without dropout,
    wrn.Error if a run fails.
    """
    try:
        import optuna
    except ImportError as error:
        raise Error("wrn tune: needs optuna; pip install optuna") from error
    base = recipe(model, data=data, **fields)
    if "dropout" in fields:
        raise UsageError("wrn tune dropout: is to choose the dropout itself; leave --dropout out")
    if not parse(base.model, base.depth_rule).dropout:
        raise UsageError(f"wrn tune dropout: {base.model} has none; take a network with dropout, such as wrn-16-4")
    if not base.val:
        raise UsageError("wrn tune: needs a validation split, so that the test set is not used; add --val 5000")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = f"dropout-{base.model}-{label(data)}-{base.hash}-{precision}-seed{seed}"
    journal = Path(out) / "tune" / f"{name}.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{journal}.lock")  # which ends with this process, however it does
    try:
        lock.acquire(timeout=1)
    except Timeout:
        raise Error(f"{journal}: another command tunes this; wait for it, or name another --out") from None
    try:
        job_of = partial(_job, model, data, fields, seed, precision, out)
        return _tuned(journal, name, trials, seed, job_of, how, say)
    finally:
        lock.release()


def _tuned(
    journal: Path,
    name: str,
    trials: int,
    seed: int,
    job_of: Callable[[float], Job],
    how: How,
    say: Callable[[str], None],
) -> list[Trial]:
    """Go on with the trials in the journal until there are so many; `job_of` is the run with a dropout."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    if not study.trials:
        study.enqueue_trial({"dropout": 0.0})  # what the others are compared with
    for stopped in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(stopped.params)
        study.tell(stopped.number, state=optuna.trial.TrialState.FAIL)
    while len(done := study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) < trials:
        # Of the trial, not of the process: one that goes on draws what one alone would have
        study.sampler = optuna.samplers.TPESampler(seed=key(seed, len(done)) % 2**32)
        trial = study.ask()
        dropout = round(trial.suggest_float("dropout", 0.0, 0.6, step=0.05), 2)  # 0.15, not 0.15000000000000002
        job = job_of(dropout)
        say(f"trial {len(done) + 1} of {trials}: dropout {dropout:g}")
        if failed := run_all([job], 1, how, lambda _: None):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise Error(f"trial with dropout {dropout:g}: {failed[job.name]}; the same command tries again")
        val_error = Run(job.path).result["val_error"]
        study.tell(trial, val_error)
        say(f"validation error {val_error:.2f}%")
    return sorted({Trial(each.value or 0.0, round(each.params["dropout"], 2)) for each in done})


def _job(
    model: str, data: str, fields: Mapping[str, Any], seed: int, precision: str, out: str | Path, dropout: float
) -> Job:
    return placed(recipe(model, data=data, **fields, dropout=dropout), seed, precision, out)


def in_a_table(ranked: Sequence[Trial]) -> str:
    rows = tuple((Text(f"{each.dropout:g}"), Text(f"{each.val_error:.2f}")) for each in ranked)
    return table(Table(("dropout", "validation error, %"), rows))

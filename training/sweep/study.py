"""A search for good settings: many trials of one training command, each a process of its own.

A trial that crashes, runs out of memory or is killed fails alone. What is known of all trials is in
an SQLite file, from which the same command goes on:

    study.db          values and outcome of each trial (Optuna's format)
    trial-0007        the checkpoint that it published
    trial-0007.run    its run: metrics, plot, state
    trial-0007.log    what it said

Values come from the tree-structured Parzen estimator (Bergstra et al., 2011), drawn from a seed of
their own for each trial: a sweep that was stopped goes on as if it had not been. A trial whose
evaluations stay worse than the median of the others' at the same step is stopped early.
"""

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from model.checkpoint.atomic import writing
from model.errors import PenwrightError, UsageError
from training.sweep.space import flags_of
from training.sweep.trial import Plan, TrialFailed, run_trial

if TYPE_CHECKING:
    import optuna

_HOPELESS = 3  # trials that fail, one and all, before the sweep gives up


def sweep(plan: Plan) -> "list[optuna.trial.FrozenTrial]":
    """Run trials until there are `plan.trials`; returns all that have ended.

    Raises:
        UsageError: the directory holds a sweep of something else, or there is no such metric.
        PenwrightError: Optuna is not installed, another sweep is at work in the directory, or the
            first trials all failed.
    """
    with writing(plan.directory):
        plan.directory.mkdir(parents=True, exist_ok=True)
    with _alone(plan.directory), _opened(plan) as study, _terminable():
        _requeue_interrupted(study)
        while len(ended := _ended(study)) < plan.trials:
            failed = [trial for trial in ended if trial.state.name == "FAIL"]
            if len(failed) == len(ended) >= _HOPELESS:
                message = failed[-1].user_attrs.get("message")
                raise PenwrightError(f"all {len(failed)} trials failed; the last one: {message}")
            _one_trial(plan, study, len(ended))
        return ended


def _ended(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and "interrupted" not in trial.user_attrs
    ]


def _requeue_interrupted(study: "optuna.Study") -> None:
    """A trial that was at work when an earlier sweep was killed comes again, with its values."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state.name == "RUNNING":
            storage = study._storage
            storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            study.tell(trial.number, state=_state("FAIL"))
            if trial.params:
                study.enqueue_trial(trial.params)


def _one_trial(plan: Plan, study: "optuna.Study", number: int) -> None:
    """Ask for values, run the command with them and record what comes of it."""
    import optuna

    # A sampler of its own: what is proposed depends on seed, number and history alone.
    study.sampler = optuna.samplers.TPESampler(seed=plan.seed + number)
    trial = study.ask()
    values = {name: choice.suggest(trial, name) for name, choice in plan.space.items()}
    shown = " ".join(flags_of(values))
    try:
        value = run_trial(plan, trial, values)
    except optuna.TrialPruned:
        study.tell(trial, state=_state("PRUNED"))
        print(f"trial {trial.number}: {shown}: stopped early, worse than the median")
    except TrialFailed as error:
        trial.set_user_attr("message", str(error))
        study.tell(trial, state=_state("FAIL"))
        print(f"trial {trial.number}: {shown}: failed: {error}")
    except UsageError as error:
        trial.set_user_attr("message", str(error))
        study.tell(trial, state=_state("FAIL"))
        raise
    else:
        study.tell(trial, value)
        best = study.best_trial.number == trial.number
        print(f"trial {trial.number}: {shown}: {plan.metric} {value:.5g}{', the best' * best}")


def _state(name: str) -> "optuna.trial.TrialState":
    import optuna

    return optuna.trial.TrialState[name]


@contextlib.contextmanager
def _opened(plan: Plan) -> "Iterator[optuna.Study]":
    """The study in the plan's directory, new or from an earlier sweep."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = plan.directory / "study.db"
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file.resolve()}")
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        raise PenwrightError(
            f"{file}: cannot be used: {str(error).splitlines()[0]}; name another --study"
        ) from error
    try:
        study = optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction=plan.direction,
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=1),  # step 0 is the start
            load_if_exists=True,
        )
        saved = json.loads(study.user_attrs.get("identity", "null"))
        for name, value in plan.identity.items():
            if saved is not None and saved.get(name) != value:
                raise UsageError(
                    f"--study {plan.directory} holds a sweep with another {name}: "
                    f"{saved.get(name)}; name another directory"
                )
        study.set_user_attr("identity", json.dumps(plan.identity))
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other sweeps out of `directory`, until this process ends."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with writing(directory / "lock"), (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PenwrightError(f"--study {directory}: another sweep is at work in it") from error
        yield


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a sweep as Ctrl-C does: its trial's process ends with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

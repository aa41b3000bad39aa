"""Saving a run, and going on from what was saved."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from training.loop import best, distributed, snapshot
from training.loop import state as saved_state
from training.loop.state import Progress

if TYPE_CHECKING:
    from training.loop.run import Run

_LENGTH = ("steps", "epochs", "tokens")


def save(run: "Run", identity: Mapping[str, Any]) -> None:
    """Write `state/last.pt`. All processes come here together, and the first one writes.

    Args:
        identity: what a resumed run must share.
    """
    state: dict[str, Any] = {
        "format": saved_state.FORMAT,
        "identity": dict(identity),
        "progress": asdict(run.progress),
        "random": snapshot.random_states(run.device),
    }
    if run.settings.sharded_state:
        step = run.progress.step
        state |= snapshot.sharded(run.replica, run.optimizer, run.directory, step)
    else:
        state |= snapshot.gathered(run.replica, run.optimizer)
    if distributed.first():
        saved_state.save(state, saved_state.last_state(run.directory))
        best.settle(run.directory)
        saved_state.forget_shards(run.directory, keep=state.get("shards"))


def resume(run: "Run", identity: Mapping[str, Any]) -> None:
    """Bring `run` where `save` left it, however many processes that was in.

    Raises:
        UsageError: there is nothing to resume, or it was trained with other settings.
        PenwrightError: what was saved cannot be read.
    """
    state = saved_state.load(run.directory)
    saved_state.check_same(state, identity, free=_may_change(run, state))
    run.progress = Progress(**state["progress"])
    named = run.progress if run.keeps_best else None
    # Of a state that was put back by hand, the best weights may be those of the state itself.
    own = named is not None and named.best_step == named.step and best.exists(run.directory)
    if named is not None and not own:
        best.find(run.directory, named)
    snapshot.restore(state, run.replica, run.optimizer, run.directory)
    snapshot.restore_random(state)
    distributed.total(0)  # until all have looked, nothing moves
    with run.replica.whole() if own else contextlib.nullcontext():
        if own and distributed.first():
            best.keep(run.directory, run.progress, run.task.trained.state_dict())
    if distributed.first():
        best.adopt(run.directory, named)
    run.log.go_on(run.progress.step)


def _may_change(run: "Run", state: Mapping[str, Any]) -> Sequence[str]:
    """A run may be made longer or shorter when neither length has an effect on any step that
    is done: none of them decayed, in the saved run as in this one."""
    if state["identity"]["warmup"] != run.schedule.warmup:
        return _LENGTH  # that is what is in the way, and what is said
    length = {name: state["identity"][name] for name in _LENGTH}
    saved = replace(run.settings, **length)
    saved_steps = saved.total_steps(run.task.examples, run.task.tokens_per_example)
    steady = min(
        run.schedule.steady_until(), replace(run.schedule, steps=saved_steps).steady_until()
    )
    return _LENGTH if state["progress"]["step"] <= steady else ()

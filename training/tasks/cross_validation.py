"""K folds, each trained from scratch: how good a recipe is on texts that it has not seen.

Every distinct text is tested once, by the fold that has not trained on it. The decisions of all
folds, each with its own temperature and threshold, are measured together; beside them those of a
baseline on the very same folds, and the paired difference. A fold that is done is not done again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint.atomic import write_file
from model.classifier import Labels
from model.errors import CheckpointError, PenwrightError, UsageError
from model.json_files import field, list_field, read_json
from training.data.folds import FOLD_RULE, fold
from training.data.labelled_parts import Distinct, LabelledData
from training.loop import state as saved_state
from training.measure.baseline import BASELINE, Decisions, f1, ngram_baseline, paired_difference
from training.measure.calibration import calibrated
from training.measure.classifier_metrics import classification_metrics, decision_metrics
from training.measure.classifiers import all_logits
from training.objectives.labels import head_of
from training.tasks.classifier import Recipe

_NUMBERS = ("accuracy", "f1", "temperature", "threshold")


def cross_validate(
    distinct: Distinct,
    folds: int,
    recipe: Recipe,
    directory: Path,
    *,
    resume: bool,
) -> dict[str, Any]:
    """Train and measure all folds, in a directory for each below `directory`; the result is written
    to `folds.json` there.

    Args:
        resume: take what is done of folds with the same settings, and go on from there.

    Raises:
        DataError: a label has too few texts for so many folds.
        UsageError: with `resume`: what is there was trained with other settings.
    """
    # All of them at once, so that a label with too few texts is found before anything is trained.
    splits = [fold(distinct, index, folds, recipe.known) for index in range(folds)]
    done = []
    for index, data in enumerate(splits):
        place = directory / f"fold-{index + 1}"
        print(f"fold {index + 1} of {folds}: {len(data.train)} train, {len(data.test)} test")
        done.append(_fold(data, recipe, place, folds, resume=resume))
        print(
            f"fold {index + 1} of {folds}: accuracy {done[-1]['accuracy']:.4f}, "
            f"F1 {done[-1]['f1']:.4f}; n-grams: {done[-1]['baseline']['accuracy']:.4f}, "
            f"{done[-1]['baseline']['f1']:.4f}"
        )
    result = _pooled(recipe.labels, done)
    write_file(directory / "folds.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def _fold(
    data: LabelledData, recipe: Recipe, place: Path, folds: int, *, resume: bool
) -> dict[str, Any]:
    """What one fold says of its test part, from its file or from training."""
    prepared, labels = recipe.prepare(data, place), recipe.labels
    identity = {
        "folds": folds,
        **prepared.identity,
        "parts": prepared.parts.digest,
        **recipe.settings.identity(),
    }
    identity = json.loads(json.dumps(identity))  # as it is read again
    file = place / "result.json"
    if resume and file.exists():
        result = _result(file)
        saved = saved_state.current_identity(result["identity"], f"--resume: {file}")
        saved_state.check_same({"identity": saved}, identity)
        if "parts" not in saved:
            raise UsageError(
                f"--resume: {file} is of an earlier version, which did not write down its texts; "
                "start again without --resume"
            )
        return result
    file.unlink(missing_ok=True)
    prepared.fold(resume=resume and saved_state.last_state(place).exists())
    network, test = prepared.tuning.network, prepared.encoded["test"]
    trained = head_of(network).labels
    logits = all_logits(network, test, prepared.task.padding)
    probabilities = calibrated(logits, trained.temperature)
    decided = [labels.names.index(trained.decide(list(row))) for row in probabilities]
    truth = np.array(test.targets)
    baseline = ngram_baseline(data.train, data.val, data.test, labels)
    result = {
        "identity": identity,
        "temperature": trained.temperature,
        "threshold": trained.threshold,
        "accuracy": float((truth == decided).mean()),
        "f1": f1(labels, truth, np.array(decided)),
        "truth": truth.tolist(),
        "probabilities": probabilities.tolist(),
        "decided": decided,
        "baseline": {
            "accuracy": float((truth == baseline.decided).mean()),
            "f1": f1(labels, truth, baseline.decided),
            "decided": baseline.decided.tolist(),
            "scores": baseline.scores.tolist(),
        },
    }
    write_file(file, json.dumps(result).encode())
    return result


def _result(file: Path) -> dict[str, Any]:
    """What a fold that is done wrote of its test rows.

    Raises:
        PenwrightError: the file is damaged, or no such result.
    """
    again = "delete it, and --resume measures this fold again"
    try:
        result = read_json(file, not_finite=True)
        baseline = field(result, "baseline", dict, file)
        field(result, "identity", dict, file)
        lists: list[list[Any]] = [
            list_field(result, name, int, file) for name in ("truth", "decided")
        ]
        lists += [list_field(result, "probabilities", list, file)]
        lists += [list_field(baseline, "decided", int, file), field(baseline, "scores", list, file)]
        for values, names in ((result, _NUMBERS), (baseline, _NUMBERS[:2])):
            for name in names:
                field(values, name, (float, type(None)), file)
    except CheckpointError as error:
        raise PenwrightError(f"--resume: {error}; {again}") from error
    if len({len(each) for each in lists}) != 1:
        raise PenwrightError(f"--resume: {file}: its lists are not of the same rows; {again}")
    return result


def _pooled(labels: Labels, done: list[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of all folds' decisions together."""
    truth, probabilities, decided = (
        np.concatenate([np.array(result[name]) for result in done])
        for name in ("truth", "probabilities", "decided")
    )
    baseline = Decisions(
        *(
            np.concatenate([np.array(result["baseline"][name]) for result in done])
            for name in ("decided", "scores")
        )
    )
    return {
        "folds": len(done),
        "rule": FOLD_RULE,
        "classifier": classification_metrics(labels, truth, probabilities, decided),
        "baseline": {
            "method": BASELINE,
            **decision_metrics(labels, truth, baseline.decided, baseline.scores),
        },
        "difference": paired_difference(labels, truth, decided, baseline.decided),
        "each": [
            {
                "n": len(result["truth"]),
                **{k: result[k] for k in ("accuracy", "f1", "temperature", "threshold")},
                "baseline_accuracy": result["baseline"]["accuracy"],
                "baseline_f1": result["baseline"]["f1"],
            }
            for result in done
        ],
    }

"""EleutherAI's `lm_eval`, which measures models that are served, on pairs of sentences."""

import json
from pathlib import Path

import pytest

from model.checkpoint import load_base
from tests.app.conftest import serve
from training.measure.blimp import blimp_metrics, load_pairs

from .conftest import run_python

ROOT = Path(__file__).resolve().parent.parent.parent
BASE = ROOT / "checkpoints" / "scratch" / "base"
VERBS = ("admired", "helped", "seen", "hurt", "known", "taught", "asked", "stopped", "met", "left")
NAMES = ("William", "Paul", "The boy", "The king", "Her brother", "This man")
TASK = """
task: pairs
dataset_path: json
dataset_kwargs:
  data_files: {train: FILE}
output_type: multiple_choice
test_split: train
doc_to_text: ""
doc_to_target: 0
target_delimiter: ""
doc_to_choice: "{{[good, bad]}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
PROGRAM = """
import json, os, sys
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": sys.argv[2]}
import lm_eval
from lm_eval.tasks import TaskManager
found = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={
        "model": "base", "base_url": f"{sys.argv[1]}/v1/completions", "num_concurrent": 4,
        "tokenizer_backend": "remote", "tokenized_requests": True,
    },
    tasks=["pairs"],
    task_manager=TaskManager(include_path=sys.argv[2]),
)
print(json.dumps(found["results"]["pairs"]["acc,none"]))
"""


def test_it_finds_what_our_own_evaluation_finds(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"paradigm": "anaphor", "good": f"{n} had {v} himself.", "bad": f"{n} had {v} herself."}
        for n in NAMES
        for v in VERBS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.yaml").write_text(TASK.replace("FILE", str(file)))
    with serve(base=BASE, quantize="none") as live:
        shown = run_python(PROGRAM, live.url, str(tmp_path))
    base = load_base(BASE)
    expected = blimp_metrics(base.model.eval(), base.tokenizer, load_pairs(file))["accuracy"]
    assert 0.05 < expected["value"] < 1  # neither is all the same
    assert json.loads(shown.splitlines()[-1]) == pytest.approx(expected["value"], abs=0.001)

"""The labelled file that the page gives back, made by its own module, in Node.

tests/browser makes one in a browser.
"""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node to run the page's modules")

CALL = """
const { readTable } = await import("./table-file/csv.js");
const { labelled } = await import("./table-file/table-file.js");
const { text, header, results } = JSON.parse(process.argv[2]);
const table = readTable(text);
const width = table.records[0].fields.length;
process.stdout.write(labelled({ table, header, width }, results));
"""


def result(label: str, **probabilities: float) -> dict[str, Any]:
    return {"label": label, "score": probabilities[label], "probabilities": probabilities}


def labelled(root: Path, text: str, results: list[Any], *, header: bool) -> str:
    assert NODE is not None
    modules = root / "table-file"
    shutil.copytree(Path(str(files("app") / "web")), modules)
    (root / "package.json").write_text('{"type": "module"}')
    (root / "call.js").write_text(CALL)
    given = json.dumps({"text": text, "header": header, "results": results})
    command = [NODE, str(root / "call.js"), given]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_labels_that_are_numbers_stay_as_they_are(tmp_path: Path) -> None:
    results = [
        result("-1", **{"-1": 0.75, "+1": 0.25}),
        result("+1", **{"-1": 0.125, "+1": 0.875}),
        {**result("-1", **{"-1": 0.5, "+1": 0.5}), "label": "=1+1"},
    ]
    back = labelled(tmp_path, "text,id\na,1\nb,2\nc,3\n", results, header=True)
    assert back.splitlines() == [
        "text,id,label,score,p_-1,p_+1",
        "a,1,-1,0.75,0.75,0.25",
        "b,2,+1,0.875,0.125,0.875",
        "c,3,'=1+1,0.5,0.5,0.5",
    ]


def test_every_label_has_its_probability(tmp_path: Path) -> None:
    names = [f"label {number}" for number in range(14)]
    found = {name: number / 100 for number, name in enumerate(names)}
    back = labelled(tmp_path, "text,id\na,1\n", [result("label 13", **found)], header=True)
    head, row = back.splitlines()
    assert head.split(",")[4:] == [f"p_{name}" for name in names]
    assert [float(cell) for cell in row.split(",")[4:]] == list(found.values())

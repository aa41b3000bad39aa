"""What may import what: training → model ← app; and in the engine, each layer those below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "app": {"training", "tests", "benchmarks"},
    "training": {"app", "tests", "benchmarks", "fastapi", "uvicorn"},
    "model": {"app", "training", "tests", "benchmarks", "fastapi", "uvicorn"},
}


def imported(source: str) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            names.add(str(node.args[0].value).split(".")[0])
    return names


def test_the_finder_sees_every_form_of_import() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n  import e\n  importlib.import_module('g.h')"
    assert imported(source) == {"a", "c", "e", "g"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_stay_apart(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        wrong = imported(file.read_text(encoding="utf-8")) & FORBIDDEN[package]
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(wrong)}"


LAYERS = [
    *("settings", "stats", "request"),
    *("json_schema", "grammar_check", "constraints"),
    *("blocks", "scheduler", "runner", "sampler", "engine"),
]


def test_no_layer_of_the_engine_imports_one_above_it() -> None:
    """Not for a type either: imports under TYPE_CHECKING count as others do."""
    folder = ROOT / "model" / "engine"
    assert {file.stem for file in folder.glob("*.py")} == {"__init__", *LAYERS}
    for height, layer in enumerate(LAYERS):
        tree = ast.parse((folder / f"{layer}.py").read_text(encoding="utf-8"))
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        used = {m.removeprefix("model.engine.") for m in modules if m.startswith("model.engine")}
        assert used <= set(LAYERS[:height]), f"{layer} imports {used - set(LAYERS[:height])}"
    for file in (ROOT / "model").rglob("*.py"):
        if folder not in file.parents:
            text = file.read_text(encoding="utf-8")
            assert "import model.engine" not in text
            assert "from model.engine" not in text

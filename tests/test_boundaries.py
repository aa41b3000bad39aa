"""What may import what: training → model ← app; and in each of them, each layer those below it."""

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


MODEL = (
    *("errors", "tasks", "json_files", "weight_files", "subprocesses"),
    *("standard_streams", "rope", "architecture"),
    # The kernels of training stand below the network, what serves it in 8 bits above.
    *("cpu.library", "cpu.gradients", "fused"),
    *("dora", "projection", "positions", "attention", "transformer", "classifier", "lora", "cpu"),
    *("frozen", "kv_cache"),
    *("tokenizer", "prompts", "sampling"),
    # What reads other programs' files, checkpoints, and what writes other programs' files.
    *("convert", "checkpoint", "convert.hf_write", "convert.gguf_write"),
    *("convert.peft_modules", "convert.peft_read", "convert.peft_write"),
    *("engine.settings", "engine.stats", "engine.request", "engine.intake"),
    *("engine.json_schema", "engine.grammar_check", "engine.grammars", "engine.constraints"),
    *("engine.blocks", "engine.speculation", "engine.sequence", "engine.turns"),
    *("engine.prompt_budget", "engine.scheduler"),
    *("engine.runner", "engine.scoring", "engine.sampler", "engine.engine"),
)
"""The modules and folders of `model`, the lowest first."""

TRAINING = (
    *("report", "data", "loop", "tuning"),
    # What the objectives show and train with stands below them, the rest of `measure` above.
    *("measure.intervals", "measure.samples", "measure.answers", "objectives", "measure"),
    *("tasks", "sweep", "commands", "cli"),
)
"""The modules and folders of `training`."""

APP = (
    *("paths", "setting_types", "settings", "envelopes", "errors", "keys", "ops", "engine", "http"),
    # What endpoints share, then Penwright's own, and those of others.
    *("api", "api.native", "api.openai", "api.anthropic", "api.ollama"),
    *("main", "cli", "ray"),
)
"""The modules and folders of `app`."""

LAYERS = {"model": MODEL, "training": TRAINING, "app": APP}


def layer_of(module: str) -> int:
    """The height of a module: that of the longest name of a layer which stands for it."""
    package, _, path = module.partition(".")
    layers = LAYERS[package]
    names = [name for name in layers if f"{path}.".startswith(f"{name}.")]
    assert names, f"{module} stands in no layer"
    return layers.index(max(names, key=len))


def modules_of(package: str) -> dict[str, Path]:
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(modules: dict[str, Path]) -> dict[str, set[str]]:
    """What each module imports of the others, for a type alone as well. To import a module of
    another folder is to import that folder, whose `__init__` is run, if it does anything."""
    graph = {}
    for module, file in modules.items():
        used: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                used |= names & modules.keys()
                used |= {node.module} if names - modules.keys() else set()
        for name in used & modules.keys():
            folder = name.rpartition(".")[0]
            own = f"{module}.".startswith(f"{folder}.")
            if "." in folder and not own and does_anything(modules[folder]):
                used = used | {folder}
        graph[module] = used & modules.keys() - {module}
    return graph


def does_anything(file: Path) -> bool:
    """Whether there is more in a module than what it says of itself."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not isinstance(node, ast.Expr) for node in body)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other around, or none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for used in sorted(graph[module]):
            if found := search(used, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in graph if (found := search(module, []))), [])


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_module_imports_one_above_it(package: str) -> None:
    graph = imports_of(modules_of(package))
    assert len(graph) > 50
    for module, used in graph.items():
        if module in (package, "model.engine"):
            continue
        for other in used:
            assert layer_of(other) <= layer_of(module), f"{module} imports {other}"


@pytest.mark.parametrize("package", LAYERS)
def test_no_modules_import_each_other(package: str) -> None:
    assert not circle(imports_of(modules_of(package)))


def test_apis_stand_side_by_side() -> None:
    """Each is written for its own clients; what two share is `api`'s."""
    names = ("native", "openai", "anthropic", "ollama")
    apis = {f"app.api.{name}": 0 for name in names}
    for module, used in imports_of(modules_of("app")).items():
        own = module.rpartition(".")[0]
        if own in apis:
            apis[own] += 1
            assert not {name.rpartition(".")[0] for name in used} & (apis.keys() - {own}), module
    assert all(apis.values())


def test_flags_are_the_commands_matter() -> None:
    """What trains can be called without a command line."""
    for module, file in modules_of("training").items():
        if "argparse" in imported(file.read_text(encoding="utf-8")):
            assert module.startswith(("training.commands.", "training.sweep.space", "training.cli"))

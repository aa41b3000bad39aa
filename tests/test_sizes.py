"""What the repository and the wheel may weigh."""

import subprocess
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from model.checkpoint import is_adapter

ROOT = Path(__file__).resolve().parent.parent
MB = 1_000_000
ADAPTERS = sorted(path for path in ROOT.glob("checkpoints/*/*") if is_adapter(path))


@pytest.fixture(scope="module")
def tracked() -> dict[str, int]:
    """Bytes of each file in the repository."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git repository")
    names = listed.stdout.decode().rstrip("\0").split("\0")
    return {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}


def test_the_repository(tracked: dict[str, int]) -> None:
    assert len(tracked) > 500
    assert sum(tracked.values()) <= 52 * MB
    models = {name: size for name, size in tracked.items() if name.startswith("checkpoints/")}
    assert 30 * MB < sum(models.values()) <= 45 * MB
    assert not [name for name in tracked if name.endswith(".gguf")]


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_adapter(path: Path) -> None:
    assert sum(file.stat().st_size for file in path.iterdir()) <= 5 * MB


def test_the_wheel_has_the_default_models_without_weights() -> None:
    builder = WheelBuilder(str(ROOT))
    shared = builder.recurse_explicit_files(builder.config.shared_data)
    files = {file.distribution_path: Path(file.path) for file in shared}
    place = "share/penwright/checkpoints/"
    assert all(name.startswith(f"{place}default/") for name in files)
    assert {f"{place}default/models.json", f"{place}default/base/card.json"} <= files.keys()
    weights = {name for name in files if name.endswith((".gguf", "model.safetensors"))}
    assert not weights
    assert sum(path.stat().st_size for path in files.values()) < 12 * MB

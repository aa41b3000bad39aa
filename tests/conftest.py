"""What all tests share: pinned threads, no network, real data and real weights where they are."""

import json
import os
from pathlib import Path

import pytest
import torch

from model.checkpoint.weights_folder import weights_folder
from model.cpu import library

_BASE = Path(__file__).parent.parent / "checkpoints" / "default" / "base"
SMOLLM2: str = json.loads((_BASE / "config.json").read_text())["weights"]
"""The name of the file that the bundled models are made on; `make weights` fetches it."""
MOST_SMOLLM2 = 15
"""Tests of the default tier that may read it; together they take less than two minutes."""

torch.set_num_threads(1)  # the same low bits on every machine, and no fight over two cores


def pytest_configure() -> None:
    """`make check-kernels` tests the library that checks itself."""
    if os.environ.get("PENWRIGHT_CHECKED_KERNELS"):
        library._LIBRARY = Path(__file__).parent.parent / "build" / "libkernels-checked.so"
        assert library.load() is not None


def pytest_itemcollected(item: pytest.Item) -> None:
    """`-m smollm2` is all tests that read the file."""
    if "smollm2_file" in getattr(item, "fixturenames", ()):
        item.add_marker("smollm2")


@pytest.hookimpl(trylast=True)  # when those that are not to run have gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    quick = [item for item in items if not any(item.iter_markers("weights"))]
    names = [item.nodeid for item in quick if any(item.iter_markers("smollm2"))]
    if len(names) > MOST_SMOLLM2:
        raise pytest.UsageError(
            f"{len(names)} tests outside of the tiers read {SMOLLM2}, at most {MOST_SMOLLM2} may: "
            f"mark some with `weights`, or make one of several. They are {', '.join(names)}"
        )


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct, which no test fetches. With PENWRIGHT_REQUIRE_WEIGHTS=1, as in CI, it
    must be there."""
    file = weights_folder() / SMOLLM2
    if not file.is_file():
        lacking = f"{file} is not there; `make weights` brings it"
        if os.environ.get("PENWRIGHT_REQUIRE_WEIGHTS") == "1":
            pytest.fail(lacking)
        pytest.skip(lacking)
    return file


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real data that PENWRIGHT_DATA names."""
    directory = os.environ.get("PENWRIGHT_DATA")
    if not directory:
        pytest.skip("PENWRIGHT_DATA names no directory of real data")
    return Path(directory).resolve()

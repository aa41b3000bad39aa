"""What all tests share: pinned threads, no network, and real data where it is given."""

import os
from pathlib import Path

import pytest
import torch

from model.cpu import library

torch.set_num_threads(1)  # the same low bits on every machine, and no fight over two cores


def pytest_configure() -> None:
    """`make check-kernels` tests the library that checks itself."""
    if os.environ.get("PENWRIGHT_CHECKED_KERNELS"):
        library._LIBRARY = Path(__file__).parent.parent / "build" / "libkernels-checked.so"
        assert library.load() is not None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real data that PENWRIGHT_DATA names."""
    directory = os.environ.get("PENWRIGHT_DATA")
    if not directory:
        pytest.skip("PENWRIGHT_DATA names no directory of real data")
    return Path(directory).resolve()

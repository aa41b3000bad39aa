"""What all tests share: pinned threads, no network, and real data where it is given."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the same low bits on every machine, and no fight over two cores


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real data that PENWRIGHT_DATA names."""
    directory = os.environ.get("PENWRIGHT_DATA")
    if not directory:
        pytest.skip("PENWRIGHT_DATA names no directory of real data")
    return Path(directory).resolve()

"""The compiled kernels: which of their paths this processor can run, and how C is called.

kernel = load()  # None where there was no compiler
"""

import ctypes
import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PATHS = ("portable", "avx2", "avx-vnni", "avx512-vnni", "amx")
"""The instruction sets, slowest first; all give the same bits."""
_LIBRARY = Path(__file__).with_name("kernels") / "libkernels.so"
_VERSION = 10
_log = logging.getLogger(__name__)

_POINTER, _INT64, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_FLOAT = ctypes.c_float
_SIGNATURES = {
    # weights, x, rows, y, path, threads
    "int8_linear": (_POINTER, _POINTER, _INT64, _POINTER, _INT, _INT),
    # weights, channels, rows, y
    "int8_rows": (_POINTER, _POINTER, _INT64, _POINTER),
    # x, numbers, path, threads
    "int8_gelu": (_POINTER, _INT64, _INT, _INT),
    # blocks, count, shape, cache, step, x, path, threads
    "network": (_POINTER, _INT64, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT),
    # cache, layer, segments, count, q, k, v, stride, out, path, threads
    "attention": (
        *(_POINTER, _INT64, _POINTER, _INT64),
        *(_POINTER, _POINTER, _POINTER, _INT64, _POINTER, _INT, _INT),
    ),
    # x, weight, eps, rows, n, y, inverse, path, threads
    "train_rms_norm": (
        *(_POINTER, _POINTER, _FLOAT, _INT64, _INT64, _POINTER, _POINTER, _INT, _INT),
    ),
    # grad, x, weight, inverse, rows, n, of_x, path, threads
    "train_rms_norm_gradient": (
        *(_POINTER, _POINTER, _POINTER, _POINTER, _INT64, _INT64, _POINTER, _INT, _INT),
    ),
    # x, rows, n, y, path, threads
    "train_swiglu": (_POINTER, _INT64, _INT64, _POINTER, _INT, _INT),
    # grad, x, rows, n, of_x, path, threads
    "train_swiglu_gradient": (_POINTER, _POINTER, _INT64, _INT64, _POINTER, _INT, _INT),
    # x, heads, cosines, sines, sign, y, path, threads
    "train_turn": (_POINTER, _POINTER, _POINTER, _POINTER, _FLOAT, _POINTER, _INT, _INT),
    # logits, targets, rows, n, losses, path, threads
    "train_cross_entropy": (_POINTER, _POINTER, _INT64, _INT64, _POINTER, _INT, _INT),
}
"""The arguments of the functions in network.c and gradients.c; all but `int8_gelu` return whether
they failed."""


def require(truth: bool, message: str) -> None:
    """Refuse what C would take for granted. An `assert` would be gone under `python -O`.

    Raises:
        ValueError: with `message`.
    """
    if not truth:
        raise ValueError(message)


@dataclass(frozen=True)
class Kernel:
    """The compiled library, and which of its paths is used."""

    library: ctypes.CDLL
    path: int
    """Index in `PATHS`."""

    @property
    def able(self) -> list[str]:
        """The paths that this processor can run, slowest first."""
        return [name for bit, name in enumerate(PATHS) if self.library.int8_paths() >> bit & 1]

    def gelu(self, x: Tensor) -> Tensor:
        """GELU in its tanh form, within 1e-6; in place where `x` is contiguous fp32."""
        require(x.is_cpu, f"the kernels are for the CPU; x is on {x.device}")
        x = x.float().contiguous()
        self.library.int8_gelu(x.data_ptr(), x.numel(), self.path, torch.get_num_threads())
        return x


@functools.cache
def load(path: str | None = None) -> Kernel | None:
    """The kernel with the fastest path of this processor, or with the path named.

    Returns:
        None if it was not compiled when the package was installed.

    Raises:
        ValueError: this processor lacks the path named.
    """
    if not _LIBRARY.is_file():
        return None
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        _log.warning("the C kernels cannot be loaded: %s", error)
        return None
    if library.int8_version() != _VERSION:
        _log.warning("the C kernels are of another version; install the package again")
        return None
    for name, arguments in _SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    library.int8_gelu.restype = None
    able = Kernel(library, 0).able
    if path is not None and path not in able:
        raise ValueError(f"path {path!r} is none of {', '.join(able)}")
    return Kernel(library, PATHS.index(path or able[-1]))

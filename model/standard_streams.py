"""Standard streams that a program was started without, as by `<&-`.

The first file or socket that is opened would get their numbers: libuv refuses to close such a one
and aborts the process, and what is written to a stream would end up in it.
"""

import os
import sys


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115

"""The time of day jumps while requests run: a real process, whose C library is told so."""

import concurrent.futures
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from .server import running

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

# What `date -s` does, for one process: all of its time of day is off by the seconds in a file.
# The monotonic clock, which such a jump leaves alone, stays as it is.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += offset();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    shim, offset = tmp_path / "shim.so", tmp_path / "offset"
    command = ["cc", "-shared", "-fPIC", "-o", str(shim), str(tmp_path / "shim.c"), "-ldl"]
    subprocess.run(command, check=True)
    offset.write_text("0")
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("CLOCK_OFFSET", str(offset))
    flags = ("--request-timeout", "20", "--body-timeout", "5", "--stuck-timeout", "5")
    with (
        running(tmp_path, *flags, "--log-level", "info") as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        long = {"prompt": "the", "max_new_tokens": 250, "ignore_eos": True, "temperature": 0}

        def call(stream: bool) -> None:
            answer = httpx.post(
                f"{server.url}/generate", json={**long, "stream": stream}, timeout=60
            )
            assert answer.status_code == 200, answer.text
            assert '"completion_tokens":250' in answer.text

        years = set()
        for seconds in (86_400, -86_400 * 365, 3_000_000_000, -3600):
            calls = [pool.submit(call, number % 2 == 0) for number in range(8)]
            time.sleep(0.1)
            offset.write_text(str(seconds))
            for future in calls:
                future.result()
            time.sleep(1.1)  # uvicorn looks at the date once a second
            ready = httpx.get(f"{server.url}/readyz", timeout=30)
            assert ready.status_code == 200
            years.add(ready.headers["date"][12:16])
        assert len(years) > 2  # the process did see it
        server.assert_idle()
        assert "Traceback" not in server.log.read_text()

"""A process that seems to run on another machine, whose clock is wrong: by a preloaded library, compiled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <time.h>

static time_t shift(void) { return atol(getenv("OTHER_CLOCK_S")); }

int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, now);
    if (status == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int status = real(now, zone);
    if (status == 0) now->tv_sec += shift();
    return status;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int uname(struct utsname *name) {
    int (*real)(struct utsname *) = dlsym(RTLD_NEXT, "uname");
    int status = real(name);
    if (status == 0) strcpy(name->nodename, "elsewhere");
    return status;
}
"""


def other_machine(folder: Path, clock_s: int) -> dict[str, str]:
    """Return environment variables for a process on the host ``elsewhere``, whose clock is ``clock_s`` seconds ahead.

    Args:
        folder: where the library is compiled.
        clock_s: seconds, negative for a clock that is behind.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = folder / "other_machine.c", folder / "other_machine.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "OTHER_CLOCK_S": str(clock_s)}

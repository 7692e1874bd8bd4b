"""The script of a job on a cluster's head: check the versions, then run ``amsam-ray``; or interrupt another job.

It travels with the job under the name ``amsam_job.py`` and imports the package only after it has compared the versions,
so that it can also report a package that is missing or of another version.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def run(version: str, arguments: list[str]) -> None:
    """Run ``amsam-ray`` with ``arguments`` if the head has this ``version`` of the package; exits."""
    try:
        import amsam_ray
    except ImportError as error:
        sys.exit(
            f"error: {sys.executable} on the cluster's head cannot import amsam-ray ({error}); install amsam-ray "
            f"{version} on every node, and start Ray with the folder of that Python first on PATH"
        )
    if amsam_ray.__version__ != version:
        print(
            f"error: the cluster's head has amsam-ray {amsam_ray.__version__}, and the command was given with "
            f"{version}; install the same version on both",
            file=sys.stderr,
        )
        sys.exit(2)
    from amsam_ray.cli.main import main

    # Ray blocks it in its own processes, and a child inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    main(arguments)


def interrupt(job: str) -> None:
    """Send SIGINT, one Ctrl-C, to the process of the job with this id on this machine."""
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                # The shell around the process has the same words in one.
                if words[1:4] == [sys.argv[0].encode(), b"run", job.encode()]:
                    os.kill(int(name), signal.SIGINT)
                    found += 1
    if not found:
        sys.exit(f"error: job {job} has no process on the cluster's head")
    print(f"Interrupted {job}.")


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[3], sys.argv[4:])
    else:
        interrupt(sys.argv[2])

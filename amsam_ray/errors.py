"""Errors that a user can act on. Each holds all the problems found, not just the first."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Control characters, halves of surrogate pairs, and characters that reverse the direction of text.
_ACTS_ON_TERMINALS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return ``text`` with every character that acts on a terminal as its code, such as ``\\x1b``."""
    return _ACTS_ON_TERMINALS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@dataclass(frozen=True)
class Problem:
    """One fault in the user's input, and its remedy.

    Attributes:
        where: the file, line or key, for example ``demo.yaml:12 (search.space.alpha)``; empty if there is none.
        what: what is wrong, and the remedy as an imperative.
        line: line in the file, counted from 1, if known. Only used for sorting.
    """

    where: str
    what: str
    line: int | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.what}" if self.where else self.what)


def counted(number: int, thing: str) -> str:
    """Return ``1 image`` or ``2 images``: a number with a noun whose plural ends in s."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


REMEDIES = {  # of faults of the machine, by error number
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EROFS: "mount the file system writable",
    errno.EACCES: "change its permissions or choose another folder",
    errno.EPERM: "change its permissions or choose another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.EIO: "check the disk",
    errno.ESTALE: "mount the file system again",
}


def with_remedy(error: OSError) -> str:
    """Return what the operating system refused and the remedy: ``FILE: No space left on device; free some space``."""
    remedy = REMEDIES.get(error.errno or 0)
    what = f"{error.strerror or error}; {remedy}" if remedy else str(error.strerror or error)
    return f"{error.filename}: {what}" if error.filename else what


class AmsamError(Exception):
    """An error that the user can fix; the command line prints it in one sentence, without a traceback."""

    exit_status = 1


class InputError(AmsamError):
    """Input refused before any work starts. Holds every problem found.

    Args:
        problems: at least one problem. A string is one problem without a place.
    """

    exit_status = 2

    def __init__(self, problems: Iterable[Problem] | Problem | str):
        if isinstance(problems, str):
            problems = [Problem("", problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

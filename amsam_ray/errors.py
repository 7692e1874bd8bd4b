"""Errors that a user can act on, and how many of them are told at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what the user gave, and what to do about it.

    Attributes:
        where: the file, line or key, e.g. ``demo.yaml:12 (search.space.alpha)``.
        what: what was wrong and what to do, one sentence each.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


def yaml_problem(file: str, error: yaml.YAMLError) -> Problem:
    """A file that is not YAML: the line, what stands there, where the part that it breaks begins, and what to do."""
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    what = " ".join((getattr(error, "problem", None) or str(error)).split())
    if mark and begun and begun.line != mark.line:
        what += f" {getattr(error, 'context', '')} that begins in line {begun.line + 1}"
    remedy = "mend it: close brackets and quotes, put a space after each colon, indent with spaces"
    return Problem(f"{file}:{mark.line + 1}" if mark else file, f"is not valid YAML: {what}; {remedy}")


def counted(number: int, thing: str) -> str:
    """``1 image``, ``2 images``: a number and a word that takes an s."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


class AmsamError(Exception):
    """A fault that the user can mend; the command line prints it in one sentence, without a traceback."""

    exit_status = 1


class InputError(AmsamError):
    """Input that was refused before anything was started. Holds every problem found, not just the first.

    Args:
        problems: what is wrong, at least one. A plain string is one problem with no place.
    """

    exit_status = 2

    def __init__(self, problems: Iterable[Problem] | Problem | str):
        if isinstance(problems, str):
            problems = [Problem("", problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

"""Trials that train at the same time in one process, whose steps are computed together.

Every member is a whole trial in a thread of its own: it draws its batches, scores its epochs and asks at its rungs as a
trial by itself does. Only its steps are computed with those of the others: a member that needs a step waits until all
members need one, and then a single computation takes all of them. The threads do not run in parallel: one runs at a
time, and passes the turn on only where it waits for a step, so that code that is not thread-safe needs no lock.

A member may join or leave at any time, and one that fails leaves the others alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

_CURRENT: ContextVar[Population | None] = ContextVar("population", default=None)


def current() -> Population | None:
    """Return the population of the trial in this thread; None: the trial trains by itself."""
    return _CURRENT.get()


@dataclass
class _Waiting(Generic[Question, Answer]):
    question: Question
    answered: bool = False
    answer: Answer | None = None
    error: BaseException | None = None


class Population(Generic[Question, Answer]):
    """Members that take turns, and whose questions are answered together.

    Args:
        answer: computes the answers to several questions, in their order. An exception instead of an answer is raised
            in the member that asked; one that ``answer`` raises, in all of them. Called without questions when the last
            member has ended, so that ``answer`` can free what it keeps of them.
    """

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]]):
        self._answer = answer
        self._turn = threading.Condition()
        self._counting = threading.Lock()
        self._members = 0
        self._shared_s, self._since = 0.0, time.monotonic()
        self._running = 0  # the thread that has the turn
        self._waiting: list[_Waiting[Question, Answer]] = []

    def measure_share(self) -> Callable[[], float]:
        """Return a function that returns a member's share of the time since this call.

        It is the mean of 1 / N, with N the number of members at each moment, so that the members' seconds times their
        shares add up to the seconds in which there was any.
        """
        started, before = time.monotonic(), self._count(0)
        return lambda: (self._count(0) - before) / max(time.monotonic() - started, 1e-6)

    def _count(self, change: int) -> float:
        """Change the number of members, and return the seconds so far, each divided by the number of members then."""
        with self._counting:
            now = time.monotonic()
            self._shared_s += (now - self._since) / max(self._members, 1)
            self._since, self._members = now, self._members + change
            return self._shared_s

    def is_running(self, thread: int) -> bool:
        """Return whether the member in the thread with this identifier has the turn."""
        return self._running == thread

    def start(self, trial: Callable[[], Result]) -> Future[Result]:
        """Run a trial as a member, in a thread of its own, and return its end. Call it from any thread."""
        self._count(1)  # before the trial has a turn: a member that runs alone then waits at its next step
        end = Future[Result]()
        threading.Thread(target=self._run, args=(trial, end), name="amsam-member", daemon=True).start()
        return end

    def _run(self, trial: Callable[[], Result], end: Future[Result]) -> None:
        with self._turn:
            _CURRENT.set(self)
            self._running = threading.get_ident()
            try:
                result = trial()
            except BaseException as error:
                failure: BaseException | None = error
            else:
                failure = None
            self._count(-1)
            self._answer_if_all_wait()
        # Set when this thread no longer has the turn: what waits for the end may start another member.
        if failure is None:
            end.set_result(result)
        else:
            end.set_exception(failure)

    def ask(self, question: Question) -> Answer:
        """Return the answer, which is computed once all members wait for one. Call it from a member."""
        mine = _Waiting[Question, Answer](question)
        self._waiting.append(mine)
        self._answer_if_all_wait()
        while not mine.answered:
            self._turn.wait()
        self._running = threading.get_ident()
        if mine.error is not None:
            raise mine.error
        return cast(Answer, mine.answer)

    def _answer_if_all_wait(self) -> None:
        if len(self._waiting) < self._members:
            return
        waiting, self._waiting = self._waiting, []
        try:
            answers = self._answer([one.question for one in waiting])
            for one, answer in zip(waiting, answers, strict=True):
                if isinstance(answer, Exception):
                    one.error = answer
                else:
                    one.answer = answer
        except BaseException as error:  # also of the kind that ends a thread: a member without an answer waits forever
            for one in waiting:
                one.error = error
        for one in waiting:
            one.answered = True
        self._turn.notify_all()

"""Trials that train at the same time in one process, whose steps are computed together.

Every member is a whole trial in a thread of its own: it draws its batches, scores its epochs and asks at its rungs as a
trial by itself does. Only its steps are computed with those of the others: a member that needs a step waits until all
members need one, and then a single computation takes all of them. The threads are no parallelism: one at a time runs,
and hands over only where it waits for a step, so that code which is not made for threads needs no lock.

A member may join or leave at any time, and one that fails leaves the others alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

_CURRENT: ContextVar[Population | None] = ContextVar("population", default=None)


def current() -> Population | None:
    """Return the population to which the trial of this thread belongs; None: it trains by itself."""
    return _CURRENT.get()


@dataclass
class _Waiting(Generic[Question, Answer]):
    question: Question
    answer: Answer | Exception | None = None


class Population(Generic[Question, Answer]):
    """Members that take turns, and whose questions are answered together.

    Args:
        answer: computes the answers of several questions, in their order; an exception instead of an answer is raised
            in the member that asked.
    """

    def __init__(self, answer: Callable[[Sequence[Question]], Sequence[Answer | Exception]]):
        self._answer = answer
        self._turn = threading.Condition()
        self._counting = threading.Lock()
        self._members = 0
        self._running = 0  # the thread that has the turn
        self._waiting: list[_Waiting[Question, Answer]] = []

    @property
    def size(self) -> int:
        """Number of members now."""
        return self._members

    def is_running(self, thread: int) -> bool:
        """Return whether the member in the thread with this identifier has the turn."""
        return self._running == thread

    def start(self, trial: Callable[[], Result]) -> Future[Result]:
        """Run a trial as a member, in a thread of its own, and return its end. Call it from any thread."""
        with self._counting:  # before the trial has a turn: a member that runs alone then waits at its next step
            self._members += 1
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
            with self._counting:
                self._members -= 1
            self._answer_if_all_wait()
        # The end is told when this thread holds nothing any more: what waits for it may start another member.
        if failure is None:
            end.set_result(result)
        else:
            end.set_exception(failure)

    def ask(self, question: Question) -> Answer:
        """Return the answer, which is computed once all members wait for one. Call it from a member."""
        mine = _Waiting[Question, Answer](question)
        self._waiting.append(mine)
        self._answer_if_all_wait()
        while mine.answer is None:
            self._turn.wait()
        self._running = threading.get_ident()
        if isinstance(mine.answer, Exception):
            raise mine.answer
        return mine.answer

    def _answer_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self._members:
            return
        waiting, self._waiting = self._waiting, []
        answers: Sequence[Answer | Exception]
        try:
            answers = self._answer([one.question for one in waiting])
        except Exception as error:
            answers = [error] * len(waiting)
        for one, answer in zip(waiting, answers, strict=True):
            one.answer = answer
        self._turn.notify_all()

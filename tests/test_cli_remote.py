"""Following a job on a cluster."""

from __future__ import annotations

import os
import signal

import pytest

from amsam_ray.cli.remote import _interrupts


class InterruptedAtItsEnd:
    """Receives Ctrl-C while it is finalised, where Python drops exceptions."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finaliser_swallows_is_noted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _interrupts() as interrupted:
        assert not interrupted.is_set()
        InterruptedAtItsEnd()
        assert interrupted.is_set()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_elsewhere_is_raised_as_usual() -> None:
    with pytest.raises(KeyboardInterrupt), _interrupts():
        os.kill(os.getpid(), signal.SIGINT)

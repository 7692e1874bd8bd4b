"""An epoch reads no value from the device before its last step, and an iteration is one graph for a compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

from amsam_ray.config.methods import METHODS
from amsam_ray.training import loop
from amsam_ray.training.batches import Stream
from tests.training.toys import toy_trainer

# The networks on pixels have no step of their own: tests/models/baselines/test_no_host_reads.py runs theirs.
TRAINABLE = [name for name, spec in METHODS.items() if spec.trainable and name not in ("deeplabv3", "swin_unet")]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TRAINABLE),
    *(("am_sam", {"hypergradient": mode}) for mode in ("first_order", "exact")),
    ("am_sam", {"box_training": "mix"}),
    ("am_sam", {"calibration": "batch"}),
    ("blo_sam", {"ahead": "sgd"}),
    *((name, {"checkpointing": "on"}) for name in ("samed", "sam_adapter", "am_mca_sam")),
]


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """Random draws are made on the host: they need no value of the device."""

    def draw(*given: Any, **named: Any) -> Any:
        with unset_fake_temporarily():
            return function(*given, **named)

    return draw


@contextmanager
def _fake(trainer: loop.Trainer) -> Iterator[None]:
    """Replace every tensor of a trainer by one that has a shape and no values."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def fake(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return mode.from_tensor(value)
            if is_dataclass(value) and not isinstance(value, type):
                names = [item.name for item in fields(value) if isinstance(getattr(value, item.name), torch.Tensor)]
                return replace(value, **{name: fake(getattr(value, name)) for name in names})
            return value

        pictures = trainer._pictures
        kept = {"has_box": pictures.has_box, "detected": pictures.detected, "has_object": pictures.has_object}
        trainer._pictures = replace(fake(pictures), **kept)  # on the host, whatever the device
        for name in ("weights", "prompt", "_weights_state", "_prompt_state"):
            setattr(trainer, name, fake(getattr(trainer, name)))
        yield


@pytest.mark.parametrize(("method", "params"), VARIANTS, ids=str)
def test_an_epoch_reads_nothing_before_its_last_step(
    method: str, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(method, batch_size=2, **params)
    monkeypatch.setattr(Stream, "next", _on_host(Stream.next))
    monkeypatch.setattr(loop, "draw_kinds", _on_host(loop.draw_kinds))
    monkeypatch.setattr(loop, "draw_tokens", _on_host(loop.draw_tokens))
    monkeypatch.setattr(loop, "draw_support", _on_host(loop.draw_support))
    with _fake(trainer), pytest.raises(DataDependentOutputException):
        trainer.epoch()  # the losses are read at its end
    assert trainer.epochs_done == 1


def _iteration(trainer: loop.Trainer) -> Callable[[], list[torch.Tensor]]:
    """Return a function that trains one step of both levels on batches that are drawn now, and returns the losses."""
    lower, upper = trainer._batch(trainer._d1), None if trainer._d2 is None else trainer._batch(trainer._d2)
    tokens = trainer._draw_tokens(lower)

    def iteration() -> list[torch.Tensor]:
        losses = [trainer._move_prompt(lower, tokens, upper, 1e-3, 1e-3)] if upper is not None else []
        return [*losses, trainer._move_weights(lower, tokens, 1e-3)]

    return iteration


GRAPHS = [
    *((name, {}) for name in TRAINABLE if METHODS[name].start is None),
    ("samed", {"checkpointing": "on"}),
]


@pytest.mark.parametrize(("method", "params"), GRAPHS, ids=str)
def test_an_iteration_is_one_graph(method: str, params: dict[str, Any]) -> None:
    """``fullgraph`` raises at anything that the compiler cannot capture, such as a read of a value."""
    eager, compiled = (toy_trainer(method, batch_size=2, **params) for _ in range(2))
    expected = _iteration(eager)()
    try:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            found = torch.compile(_iteration(compiled), fullgraph=True, backend="eager")()
    finally:
        torch._dynamo.reset()
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    torch.testing.assert_close(compiled.weights, eager.weights)
    torch.testing.assert_close(compiled.prompt, eager.prompt)


def test_a_read_in_a_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = toy_trainer("am_sam", batch_size=2)
    monkeypatch.setattr(Stream, "next", _on_host(Stream.next))
    plain = trainer._move_weights
    monkeypatch.setattr(trainer, "_move_weights", lambda *given: torch.tensor(float(plain(*given))))
    with _fake(trainer), pytest.raises(DataDependentOutputException):
        trainer.epoch()
    assert trainer.epochs_done == 0

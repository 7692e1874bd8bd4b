"""Gradient checkpointing: equal numbers, blocks that run again, and configurations in which it acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from amsam_ray.config.methods import METHODS
from amsam_ray.config.space_file import load_space, parse_space
from amsam_ray.errors import InputError
from amsam_ray.search.cells import make_cells
from tests.training.toys import toy_trainer

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, spec in METHODS.items() if spec.changes_encoder),
    *(("am_mca_sam", {"hypergradient": mode}) for mode in ("first_order", "exact")),
    *((name, {"protocol": "published"}) for name in ("med_sa", "sam_adapter")),
    ("samed", {"precision": "bf16"}),
    ("am_sam", {}),  # nothing of its encoder trains
]


@pytest.mark.parametrize(("method", "given"), VARIANTS, ids=str)
def test_losses_and_trained_values_are_those_without_it(method: str, given: dict[str, Any]) -> None:
    """Two epochs, so that values differ if any gradient of the first did; AdamW turns small differences into large."""
    plain, saving = (toy_trainer(method, batch_size=2, checkpointing=word, **given) for word in ("off", "on"))
    before = saving.weights.clone()
    for _ in range(2):
        assert plain.epoch() == pytest.approx(saving.epoch(), rel=1e-6)
    torch.testing.assert_close(saving.weights, plain.weights, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(saving.prompt, plain.prompt, rtol=1e-6, atol=1e-7)
    assert not torch.equal(saving.weights, before)


@pytest.mark.parametrize(("word", "runs"), [("off", 1), ("on", 2)])
def test_the_backward_pass_runs_every_block_again(word: str, runs: int) -> None:
    trainer = toy_trainer("samed", batch_size=2, checkpointing=word)
    encoder: Any = trainer._model.encoder
    seen = []
    for index, block in enumerate(encoder.blocks):
        block.register_forward_pre_hook(lambda module, given, index=index: seen.append(index))
    trainer._move_weights(trainer._batch(trainer._d1), None, 1e-3)
    assert sorted(seen) == sorted(list(range(len(encoder.blocks))) * runs)
    seen.clear()
    with torch.no_grad():
        trainer._forward(trainer.weights, trainer.prompt, trainer._batch(trainer._d1), "fp32", training=False)
    assert seen == list(range(len(encoder.blocks)))


def space(methods: list[str], **train: Any) -> dict[str, Any]:
    data = {"name": "small", "datasets": [{"name": "procedural", "options": {"family": "lesion"}}], "shots": [4]}
    return {**data, "methods": methods, "train": train}


def test_a_space_file_sets_it_for_all_trials() -> None:
    on = yaml.safe_load("on")  # a boolean in YAML 1.1
    (cell,) = make_cells(parse_space(space(["samed"], checkpointing=on)))
    assert cell.config({}, seed=0).train.checkpointing == "on"
    (cell,) = make_cells(parse_space(space(["samed"])))
    assert "checkpointing" not in cell.config({}, seed=0).model_dump()["train"]


def test_it_is_refused_where_no_method_trains_inside_the_encoder(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space(["sam", "am_sam"], checkpointing="on")))
    with pytest.raises(InputError, match=r"train\.checkpointing.*none of which trains inside the encoder; remove it"):
        load_space(path)
    path.write_text(yaml.safe_dump(space(["sam", "am_sam", "mca_sam"], checkpointing="on")))
    assert load_space(path).train.checkpointing == "on"

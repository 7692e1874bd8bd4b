"""The registry of methods: discovery, order, conditions of keys, and the refusal of broken definitions."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from amsam_ray.cli.methods import methods
from amsam_ray.config.methods import (
    ENTRY_POINTS,
    METHODS,
    _spec_problems,
    discover_methods,
    get_method,
    live_params,
    max_rank,
)
from amsam_ray.config.networks import BackboneConfig
from amsam_ray.config.params import on_off_word
from amsam_ray.config.protocol import Protocol
from amsam_ray.errors import InputError
from amsam_ray.models.methods import PUBLISHED_ORDER

GOOD = 'name="x", title="X", paper="none", trains="nothing", prompt="default", keys={}, recipe=Recipe(adapt_decoder)'
BROKEN = {
    "module that does not exist": ("nowhere:METHOD", GOOD, r"entry point mine \(nowhere:METHOD\): does not load"),
    "attribute that does not exist": ("plugin:NOTHING", GOOD, "does not load .*Fix or uninstall the package"),
    "error at import": ("plugin:METHOD", "1 / 0", r"does not load \(ZeroDivisionError"),
    "no MethodSpec": ("plugin:Recipe", GOOD, "is of type type. Make it an amsam_ray.config.methods.MethodSpec"),
    "name taken": ("plugin:METHOD", GOOD.replace('"x"', '"samed"'), "defines method samed, which already exists"),
    "unknown key": ("plugin:METHOD", GOOD.replace("{}", '{"depth": None, "lr": None}'), "has the unknown keys depth"),
    "unknown key in the defaults": ("plugin:METHOD", GOOD + ', defaults={"width": 3}', "has the unknown keys width"),
    "unknown switch": ("plugin:METHOD", GOOD.replace("{}", '{"lr": ActsWhen("mode", frozenset())}'), "keys mode"),
    "default out of range": (
        "plugin:METHOD",
        GOOD + ', defaults={"alpha": 2}',
        r"default of alpha must be a number in \[0, 1\], not 2",
    ),
    "rank without a limit": ("plugin:METHOD", GOOD.replace("{}", '{"rank": None}'), "Set rank_limit"),
}


def test_the_methods_are_in_the_published_order() -> None:
    assert tuple(METHODS) == PUBLISHED_ORDER
    assert len(METHODS) == 12 and "sam" in METHODS and "unet" not in METHODS


@pytest.mark.parametrize("name", PUBLISHED_ORDER)
def test_each_method_is_in_the_module_of_its_name(name: str) -> None:
    module = importlib.import_module(f"amsam_ray.models.methods.{name}")
    assert module.METHOD is METHODS[name] and module.METHOD.name == name
    assert module.METHOD.trains and module.METHOD.paper


def test_listing_the_methods_imports_no_torch() -> None:
    code = "import sys; from amsam_ray.config.methods import METHODS; list(METHODS); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unet: is not a method; choose from sam, samed, .*am_mca_sam, .*ssp"):
        get_method("unet")


@pytest.mark.parametrize(
    ("method", "possible", "dead"),
    [
        ("am_sam", {}, set()),
        ("am_sam", {"calibration": {"off"}}, {"alpha"}),
        ("am_sam", {"calibration": {"off", "batch"}}, set()),
        ("am_sam", {"levels": {1}, "loss": {"bce_iou"}}, {"lr_prompt", "hypergradient", "ahead", "reach", "lambda"}),
        ("mca_sam", {}, {"lambda"}),
        ("mca_sam", {"adaptors": {"tc"}}, {"lambda", "tau_sample", "w_sample"}),
        ("mca_sam", {"adaptors": {"sc"}}, {"lambda", "tau_token", "w_token", "contrast_tokens"}),
        ("med_sa", {"adaptors": {"none"}}, set()),
    ],
)
def test_a_key_is_live_only_under_its_condition(method: str, possible: dict, dead: set[str]) -> None:
    assert set(get_method(method).keys) - live_params(method, possible) == dead


def test_without_adaptors_none_of_their_keys_is_live() -> None:
    live = live_params("am_mca_sam", {"adaptors": {"none"}})
    assert not {key for key in live if key.startswith(("adaptor_", "tau_", "w_", "contrast_"))}


@pytest.mark.parametrize(
    ("method", "arch", "rank"),
    [("samed", "nano", 192), ("samed", "vit_h", 1280), ("am_sam", "nano", 64), ("blo_sam", "vit_b", 128)],
)
def test_the_rank_limit_is_the_width_of_the_adapted_projection(method: str, arch: str, rank: int) -> None:
    assert max_rank(method, BackboneConfig.model_validate({"arch": arch})) == rank
    assert max_rank("sam_adapter", BackboneConfig()) is None


def test_booleans_are_read_as_the_words_on_and_off() -> None:
    assert [on_off_word(value) for value in (True, False, 1, 0, "on", None)] == ["on", "off", 1, 0, "on", None]


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """Discovery before and after the test, so that no other test sees its entry points."""
    discover_methods.cache_clear()
    yield
    discover_methods.cache_clear()


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.usefixtures("fresh_registry")
def test_a_broken_entry_point_is_refused(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value, arguments, message = BROKEN[fault]
    (tmp_path / "plugin.py").write_text(
        "from amsam_ray.config.key_groups import ActsWhen\n"
        "from amsam_ray.config.methods import MethodSpec\n"
        "from amsam_ray.models.recipe import Recipe, adapt_decoder\n"
        f"METHOD = MethodSpec({arguments})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugin", raising=False)
    point = importlib.metadata.EntryPoint("mine", value, ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    with pytest.raises(InputError, match=message):
        list(METHODS)
    sys.modules.pop("plugin", None)


def test_methods_are_listed_as_text_and_as_json() -> None:
    listed = json.loads(CliRunner().invoke(methods, ["list", "--format", "json"]).stdout)
    assert [entry["name"] for entry in listed] == list(METHODS)
    for entry in listed:
        assert set(entry["parameters"]) == set(METHODS[entry["name"]].keys)
    text = CliRunner().invoke(methods, ["list"]).stdout
    assert all(f"{name}: " in text for name in METHODS) and "alpha=0.7" in text
    published = {entry["name"] for entry in listed if entry["published"]}
    assert published == {"samed", "med_sa", "sam_adapter", "blo_sam"}
    assert "protocol: published  a warm-up of 250 steps" in text


def test_a_published_protocol_and_its_key_come_together() -> None:
    def broken(**changes) -> list[str]:
        return _spec_problems(replace(get_method("samed"), **changes))

    assert not broken()
    assert broken(published=None) and broken(keys={"rank": None})
    assert "unknown keys rate" in broken(published=Protocol(fixes={"rate": 1}))[0]
    assert "default of warmup" in broken(published=Protocol(fixes={"warmup": 2.0}))[0]

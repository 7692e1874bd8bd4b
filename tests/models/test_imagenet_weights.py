"""The ImageNet weights of the networks: fetched from a local server, verified, loaded; refused if absent or wrong."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torchvision.models import resnet50, swin_t

from amsam_ray.cli.weights import weights
from amsam_ray.config.methods import resolve_params
from amsam_ray.config.space import SpaceFile
from amsam_ray.errors import InputError
from amsam_ray.models import weights as module
from amsam_ray.models.build import build_model
from amsam_ray.models.networks.imagenet import imagenet_state
from amsam_ray.search.checks import check_sweep
from amsam_ray.search.options import RunOptions

OFFICIAL = {
    "resnet50": ("0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 102_530_333),
    "swin_t": ("704ceda373461b0a224fcdddd75cd2a5e9f8064512ed47adbddef7f343fd147b", 113_445_839),
}
BUILDERS = {"resnet50": resnet50, "swin_t": swin_t}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Randomly initialised networks, saved in the official format and served over HTTP."""
    folder = tmp_path_factory.mktemp("server")
    for name, build in BUILDERS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.save(build(weights=None).state_dict(), folder / module.WEIGHTS[name].file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    patched = pytest.MonkeyPatch()
    for name in BUILDERS:
        content = (folder / module.WEIGHTS[name].file).read_bytes()
        url = f"http://127.0.0.1:{server.server_address[1]}/{module.WEIGHTS[name].file}"
        sha256 = hashlib.sha256(content).hexdigest()
        changed = replace(module.WEIGHTS[name], url=url, sha256=sha256, size=len(content))
        patched.setitem(module.WEIGHTS, name, changed)
    patched.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path_factory.mktemp("weights")))
    yield folder
    patched.undo()
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_pinned_hashes_are_torchvisions():
    for name, (sha256, size) in OFFICIAL.items():
        item = module.get_weights(name)
        assert (item.sha256, item.size) == (sha256, size)
        assert item.file.partition("-")[2] == f"{sha256[:8]}.pth"  # the name holds the beginning of the hash


@pytest.mark.parametrize("name", BUILDERS)
def test_an_official_state_dict_is_fetched_verified_and_loaded(name, published):
    fetched = CliRunner().invoke(weights, ["fetch", name])
    assert fetched.exit_code == 0, fetched.output
    assert Path(fetched.stdout.strip()).read_bytes() == (published / module.WEIGHTS[name].file).read_bytes()
    listing = CliRunner().invoke(weights, ["list"]).stdout
    assert any(line.startswith(name) and " here " in line for line in listing.splitlines())
    state = imagenet_state(name)
    if name == "swin_t":
        model = build_model("swin_unet", resolve_params("swin_unet", {}), None, seed=1)
        found = model.state_dict()["net.encoder.features.1.0.attn.qkv.weight"]
        assert torch.equal(found, state["features.1.0.attn.qkv.weight"])
        return
    key = "layer3.0.conv1.weight"
    for method, place in (("deeplabv3", "net.backbone"), ("ssp", "ssp.extract")):
        model = build_model(method, resolve_params(method, {}), None, seed=1)
        assert torch.equal(model.state_dict()[f"{place}.{key}"], state[key])
    hsnet = build_model("hsnet", resolve_params("hsnet", {"image_size": 64}), None, seed=1)
    assert hsnet.frozen.fingerprint == module.WEIGHTS[name].sha256 and not hsnet.kept
    packed = hsnet.frozen.encode(torch.zeros(1, 3, 64, 64), "maps")
    assert packed.shape == (1, hsnet.get_buffer("support_maps").shape[1])


def test_a_file_of_the_right_size_and_wrong_bytes_is_refused(published, tmp_path, monkeypatch):
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path))
    item = module.WEIGHTS["resnet50"]
    (tmp_path / item.file).write_bytes(bytes(item.size))
    with pytest.raises(InputError, match=r"has SHA-256 .* expected .* weights fetch resnet50"):
        imagenet_state("resnet50")


def test_a_sweep_without_the_weights_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path))
    networks = ["deeplabv3", "swin_unet", {"name": "hsnet", "params": {"features": "sam"}}, "ssp"]
    space = SpaceFile.model_validate(
        {
            "name": "small",
            "datasets": [{"name": "procedural", "options": {"family": "person"}}],
            "shots": [4],
            "methods": ["sam", *networks],
            "detector": {"weights": "none"},
            "storage": str(tmp_path / "results"),
        }
    )
    problems = [str(problem) for problem in check_sweep(space, space.storage, RunOptions(address=None))]
    assert len(problems) == 3
    for index, name, choices in ((1, "resnet50", "random"), (2, "swin_t", "random"), (4, "resnet50", "sam or random")):
        (found,) = [text for text in problems if text.startswith(f"methods[{index}].params.features")]
        assert f"`amsam-ray weights fetch {name}`" in found and found.endswith(f"or set features: {choices}")
    assert not (tmp_path / "results").exists()


def test_a_trial_without_the_weights_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path))
    for method, name in (
        ("deeplabv3", "resnet50"),
        ("swin_unet", "swin_t"),
        ("hsnet", "resnet50"),
        ("ssp", "resnet50"),
    ):
        with pytest.raises(InputError, match=f"does not exist; run `amsam-ray weights fetch {name}`"):
            build_model(method, resolve_params(method, {}), None, seed=0)

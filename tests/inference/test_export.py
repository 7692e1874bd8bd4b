"""Exports: SAM's own predictor, ONNX and TorchScript give the masks of `predict`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from segment_anything import SamPredictor

from amsam_ray.cli.main import cli
from amsam_ray.cli.predict import find_images
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.data.dataset import open_dataset
from amsam_ray.data.images import decode_image
from amsam_ray.data.patterns import SUFFIXES
from amsam_ray.errors import AmsamError, InputError
from amsam_ray.inference.adapter_file import load_adapter, read_adapter_info, save_adapter
from amsam_ray.inference.export import export_adapter
from amsam_ray.inference.predict import load_predictor
from amsam_ray.models.adapted import AdaptedSam
from amsam_ray.models.backbone import build_sam, load_backbone
from amsam_ray.models.detector import build_network, load_detector, save_network
from amsam_ray.models.trained_model import ModelInputs
from amsam_ray.records.io import write_trial
from amsam_ray.training.trial import train_trial
from tests.models.tiny_detector import TINY, tiny_detector
from tests.records.synthetic import Folder, config, record


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return storages with one final each: of a method that merges into SAM, of a cold head, and of adaptors.

    Also ``tiny``, the file of their detector.
    """
    torch.set_num_threads(1)
    found = {}
    tiny = tiny_detector(tmp_path_factory.mktemp("detector"))
    detector = DetectorConfig(weights=str(tiny), confidence=0.0)  # finds a box in every image
    for name, method, params in (
        ("am_sam", "am_sam", {"hypergradient": "first_order", "lr": 1e-3}),
        ("blo_sam", "blo_sam", {"hypergradient": "first_order"}),
        ("mca_sam", "mca_sam", {"adaptor_blocks": "last_1", "contrast_tokens": 16}),
    ):
        folder = tmp_path_factory.mktemp(name)
        trial = config("lesion", 2, method, role="final", epochs=1, **params)
        dataset = trial.dataset.model_copy(
            update={"limit_test": 3, "options": {"family": "lesion", "train": 8, "test": 4}}
        )
        trial = trial.model_copy(update={"dataset": dataset, "detector": detector})
        result = train_trial(trial, cache_dir=tmp_path_factory.getbasetemp() / "prepared", work_dir=folder / "work")
        made = record(trial, 0, 0, result=result)
        write_trial(Folder(folder / "results"), made, result)
        found[name] = folder / "results"
    return {**found, "tiny": tiny}


def adapter_of(storage: Path) -> bytes:
    (path,) = storage.rglob("*.safetensors")
    return path.read_bytes()


def images(count: int = 2) -> list[np.ndarray]:
    dataset = open_dataset(config("lesion").dataset, split="final")
    return [dataset.image(name) for name in dataset.test[:count]]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit | AmsamError):
        raise result.exception
    return result


def test_merged_weights_give_the_same_masks_in_segment_anything(trained: dict[str, Path], tmp_path: Path) -> None:
    adapter = adapter_of(trained["am_sam"])
    export_adapter(adapter, tmp_path, decoder="none")
    sam = build_sam("nano", 256)
    sam.load_state_dict(torch.load(tmp_path / "sam.pth", weights_only=True))
    plain, ours = SamPredictor(sam), load_predictor(adapter, "cpu", detector=trained["tiny"])
    for image, (mask, _, box) in zip(images(), ours(images()), strict=True):
        plain.set_image(image)
        assert box is not None
        theirs, _, _ = plain.predict(box=box, multimask_output=False)
        assert np.mean(theirs[0] == mask) > 0.999


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_the_exported_decoder_gives_the_same_logits(trained: dict[str, Path], tmp_path: Path, form: str) -> None:
    adapter = adapter_of(trained["am_sam"])
    made = export_adapter(adapter, tmp_path, decoder=form)  # type: ignore[arg-type]
    model = load_predictor(adapter, "cpu", detector=trained["tiny"]).model
    assert isinstance(model, AdaptedSam)
    embedding = torch.randn(1, model.prompt.no_mask_embed.shape[1], 16, 16, generator=torch.Generator().manual_seed(0))
    for corners in ([20.0, 30.0, 200.0, 220.0], [0.0, 0.0, 256.0, 100.0]):
        box = torch.tensor([corners])
        with torch.no_grad():
            wanted = model(ModelInputs(embedding, box, (True,))).logits
        logits = _run_decoder(tmp_path, form, embedding, box)
        torch.testing.assert_close(logits, wanted[:, 1:] - wanted[:, :1], rtol=1e-3, atol=1e-3)
    assert json.loads((tmp_path / "model.json").read_text())["image_size"] == 256
    assert set(made) == {"sam.pth", "model.json", "decoder.onnx" if form == "onnx" else "decoder.pt"}


@pytest.mark.parametrize(
    ("params", "fallback", "without_box", "prediction"),
    [
        ({}, "full_image", "give the box of the whole image", "the decoder's output for one box"),
        ({}, "none", "predict decodes without a box", "the decoder's output for one box"),
        ({"prompt": "fused"}, "full_image", "predict decodes without a box", "the decoder takes one box"),
        (None, "full_image", None, "the decoder's output"),
    ],
)
def test_model_json_says_how_predict_uses_boxes(
    trained: dict[str, Path],
    tmp_path: Path,
    params: dict | None,
    fallback: str,
    without_box: str | None,
    prediction: str,
) -> None:
    """The last case is a method without boxes."""
    adapter = adapter_of(trained["blo_sam" if params is None else "am_sam"])
    adapter = _changed(adapter, tmp_path / "changed.safetensors", params or {}, {"fallback": fallback})
    export_adapter(adapter, tmp_path / "out", decoder="none")
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["prediction"].startswith(prediction)
    if without_box is None:
        assert about["without_box"] is None and about["box"] is None
    else:
        assert about["without_box"].startswith(without_box)
    if params == {"prompt": "fused"}:
        assert "confidence at least 0.01" in about["prediction"] and "the 8 most confident" in about["prediction"]


def _changed(adapter: bytes, path: Path, params: dict, detector: dict, tuned: Path | None = None) -> bytes:
    """Return an adapter with the same tensors under another configuration."""
    info = read_adapter_info(adapter)
    model = load_adapter(adapter, load_backbone(info.config.backbone, "cpu"))
    config = info.config.model_copy(
        update={
            "params": info.config.params.model_copy(update=params),
            "detector": info.config.detector.model_copy(update=detector),
        }
    )
    save_adapter(path, model.trainable_state(), config, model.frozen.fingerprint, tuned_detector=tuned)
    return path.read_bytes()


def test_the_returned_box_is_the_one_that_prompted_the_decoder(trained: dict[str, Path], tmp_path: Path) -> None:
    """Without a detection it is the box of the whole image; merged weights give the same mask with that box."""
    adapter = _changed(adapter_of(trained["am_sam"]), tmp_path / "changed.safetensors", {}, {"confidence": 1.0})
    export_adapter(adapter, tmp_path / "out", decoder="none")
    sam = build_sam("nano", 256)
    sam.load_state_dict(torch.load(tmp_path / "out" / "sam.pth", weights_only=True))
    plain, image = SamPredictor(sam), images(1)[0][:48]
    ((mask, _, box),) = load_predictor(adapter, "cpu", detector=trained["tiny"])([image])
    assert box is not None and np.allclose(box, [0, 0, image.shape[1], image.shape[0]])
    plain.set_image(image)
    masks = [plain.predict(box=given, multimask_output=False)[0][0] for given in (box, None)]
    assert np.mean(masks[0] == mask) > 0.999 > np.mean(masks[1] == mask)
    none = _changed(
        adapter_of(trained["am_sam"]), tmp_path / "none.safetensors", {}, {"confidence": 1.0, "fallback": "none"}
    )
    ((mask, _, box),) = load_predictor(none, "cpu", detector=trained["tiny"])([image])
    assert box is None and np.mean(masks[1] == mask) > 0.999


@pytest.mark.parametrize("prompt", ["fused", "box"])
def test_fused_predictions_pool_the_untuned_and_the_tuned_detector(
    trained: dict[str, Path], tmp_path: Path, prompt: str
) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    network = build_network(TINY, ["object"])
    for level in network.model[-1].cv3:
        level[-1].bias.data += 6.0  # confident enough for candidates
    save_network(network, other, 64)
    adapter = _changed(adapter_of(trained["am_sam"]), tmp_path / "a.safetensors", {"prompt": prompt}, {}, other)
    given = trained["tiny"] if prompt == "fused" else None  # otherwise the tuned detector inside is all that is used
    predictor = load_predictor(adapter, "cpu", detector=given)
    pool = predictor._preparer.pool
    tuned = load_detector(DetectorConfig(weights=str(other), confidence=0.0))
    untuned = load_detector(predictor.info.config.detector)
    assert tuned is not None and untuned is not None
    wanted = [untuned.fingerprint, tuned.fingerprint] if prompt == "fused" else [tuned.fingerprint]
    assert [detector.fingerprint for detector in pool] == wanted
    assert predictor._preparer.detector is pool[-1]
    image = images(1)[0]
    found = [d for one in (untuned, tuned) for d in one.candidates([image], confidence=0.01, limit=8)[0]]
    assert found
    ((_, _, box),) = predictor([image])
    best = max(found, key=lambda d: d.confidence) if prompt == "fused" else tuned.detect([image])[0]
    assert best is not None and box is not None and np.allclose(box, best.box, atol=1)


def _run_decoder(folder: Path, form: str, embedding: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    if form == "torchscript":
        with torch.no_grad():
            return torch.jit.load(str(folder / "decoder.pt"))(embedding, box)
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"embedding": embedding.numpy(), "box": box.numpy()})[0])


def test_a_cold_head_has_no_merged_weights_but_a_decoder(trained: dict[str, Path], tmp_path: Path) -> None:
    made = export_adapter(adapter_of(trained["blo_sam"]), tmp_path, decoder="torchscript")
    assert "cold head" in made["sam.pth"] and not (tmp_path / "sam.pth").exists()
    assert (tmp_path / "decoder.pt").exists()


def test_an_export_replaces_an_earlier_one(trained: dict[str, Path], tmp_path: Path) -> None:
    export_adapter(adapter_of(trained["am_sam"]), tmp_path, decoder="none")
    assert (tmp_path / "sam.pth").exists()
    export_adapter(adapter_of(trained["blo_sam"]), tmp_path, decoder="none")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sam.pth").write_text("not an export")
    with pytest.raises(InputError, match=r"sam\.pth that no export wrote"):
        export_adapter(adapter_of(trained["am_sam"]), tmp_path / "other", decoder="none")


def test_adaptors_in_the_encoder_are_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AmsamError, match="its encoder has additional layers"):
        export_adapter(adapter_of(trained["mca_sam"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_command_takes_a_cell(trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    storage = ("--storage", trained["am_sam"])
    result = run("export", "lesion.k2.am_sam", *storage, "--out", tmp_path / "out", "--decoder", "none")
    assert result.exit_code == 0 and (tmp_path / "out" / "sam.pth").exists()


@pytest.mark.parametrize("name", ["am_sam", "mca_sam"])
def test_predict_command_writes_the_predictor_s_masks(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AMSAM_DEVICE", "cpu")
    given = tmp_path / "images"
    given.mkdir()
    for index, image in enumerate(images(3)):
        Image.fromarray(image).save(given / f"{index}.png")
    (given / "broken.jpg").write_bytes(b"no image")
    (adapter,) = trained[name].rglob("*.safetensors")
    result = run(
        "predict", given, "--adapter", adapter, "--out", tmp_path / "out", "--batch", 2, "--detector", trained["tiny"]
    )
    assert result.exception is not None and "1 of 4 files" in str(result.exception)
    assert "broken.jpg" in result.stderr and "3 masks" in result.stdout
    wanted = load_predictor(adapter, "cpu", detector=trained["tiny"])(images(3))
    for index, prediction in enumerate(wanted):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{index}.png"))
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask > 0, prediction.mask)
        assert Image.open(tmp_path / "out" / "overlays" / f"{index}.png").size == mask.shape[::-1]


def test_predict_reads_every_type_of_image_that_datasets_read(tmp_path: Path) -> None:
    wanted = []
    for index, suffix in enumerate(sorted(SUFFIXES)):
        wanted.append(tmp_path / f"{index}{suffix.upper() if index % 2 else suffix}")
        Image.new("L", (8, 8)).save(wanted[-1])
    (tmp_path / "notes.txt").write_text("no image")
    assert find_images([tmp_path]) == wanted
    for path in wanted:
        assert decode_image(path.read_bytes(), path.name).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{images}", "--adapter", "nothing.safetensors"), "does not exist"),
        (("{images}", "--adapter", "lesion.k2.nobody"), "is not a trial or cell"),
        (("{empty}", "--adapter", "x"), "holds no image"),
        (("{images}/none.png", "--adapter", "x"), "does not exist"),
        (("{images}/a.png", "{images}/a.jpg", "--adapter", "x"), "the same mask"),
    ],
)
def test_predict_refuses_bad_input(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.setenv("AMSAM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("a.png", "a.jpg") if "a.jpg" in str(arguments) else ("a.png",):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    places = {"images": tmp_path / "images", "empty": tmp_path / "empty"}
    storage = ("--storage", trained["am_sam"], "--out", tmp_path / "out")
    result = run("predict", *(a.format(**places) for a in arguments), *storage)
    assert isinstance(result.exception, InputError) and words in str(result.exception)
    assert not (tmp_path / "out").exists()

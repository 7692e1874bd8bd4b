"""The detector: boxes, filters, refusal of unknown pickles, tuning, and no network access or stray files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from amsam_ray.cli.detector import detector as detector_command
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.data.procedural import render
from amsam_ray.errors import InputError
from amsam_ray.hashing import file_sha256
from amsam_ray.models import detector as module
from amsam_ray.models.detector import Detector, build_network, load_detector, save_network
from amsam_ray.models.detector_file import OFFICIAL_SHA256, check_detector, detector_path
from amsam_ray.models.detector_tuning import TuningShot, tune_detector
from tests.models.tiny_detector import TINY, tiny_detector


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny detector of two classes with random weights, as a safetensors file."""
    return tiny_detector(tmp_path_factory.mktemp("detector"), ["cat", "dog"])


@pytest.fixture(scope="module")
def pickled(tiny: Path) -> Path:
    """The same detector in the format of ultralytics."""
    detector = load_detector(DetectorConfig(weights=str(tiny)))
    assert detector is not None
    path = tiny.with_name("tiny.pt")
    torch.save({"model": detector.model, "train_args": {"imgsz": 96}}, path)
    return path


def _load(weights: Path, **options: object) -> Detector:
    detector = load_detector(DetectorConfig.model_validate({"weights": str(weights), **options}))
    assert detector is not None
    return detector


def _images() -> list[np.ndarray]:
    picture = render("polyp", 0, 0, 64)[0]
    return [picture, picture[:40], np.ascontiguousarray(picture[:, :30]), picture[:40]]


def test_weights_none_loads_no_detector() -> None:
    assert load_detector(DetectorConfig(weights="none")) is None


def test_each_image_has_one_box_inside_it(tiny: Path) -> None:
    found = _load(tiny, confidence=0.0).detect(_images())
    assert len(found) == 4
    for image, hit in zip(_images(), found, strict=True):
        assert hit is not None
        left, upper, right, lower = hit.box
        assert 0 <= left < right <= image.shape[1]
        assert 0 <= upper < lower <= image.shape[0]
        assert 0 <= hit.confidence <= 1


def test_a_box_does_not_depend_on_the_batch(tiny: Path) -> None:
    detector = _load(tiny, confidence=0.0)
    together = detector.detect(_images() * 5)
    for hit, alone in zip(together, [detector.detect([image])[0] for image in _images()] * 5, strict=True):
        assert hit is not None
        assert alone is not None
        assert hit.box == pytest.approx(alone.box, abs=1e-2)


def test_boxes_below_the_confidence_are_ignored(tiny: Path) -> None:
    assert _load(tiny, confidence=0.99).detect(_images()) == [None] * 4
    assert _load(tiny).detect([]) == []


def test_classes_are_filtered_by_name_and_number(tiny: Path) -> None:
    boxes = {}
    for name, classes in (("all", None), ("cat", ["cat"]), ("dog", ["dog"]), ("1", [1])):
        boxes[name] = _load(tiny, confidence=0.0, classes=classes).detect(_images())[0]
    best = max((boxes["cat"], boxes["dog"]), key=lambda hit: hit.confidence if hit else 0)
    assert boxes["all"] == best
    assert boxes["dog"] == boxes["1"] != boxes["cat"]
    with pytest.raises(InputError, match=r"cow: not among the detector's classes \(cat, dog\)"):
        _load(tiny, classes=["cat", "cow"])


def test_the_fingerprint_depends_on_weights_and_filters(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    save_network(build_network(TINY, ["cat", "dog"]), other, 64)
    prints = [
        _load(tiny).fingerprint,
        _load(tiny, confidence=0.5).fingerprint,
        _load(tiny, classes=["dog"]).fingerprint,
        _load(other).fingerprint,
    ]
    assert len(set(prints)) == 4
    assert _load(tiny).fingerprint == prints[0]


def test_a_pickle_of_unknown_origin_is_refused(pickled: Path) -> None:
    sha256 = file_sha256(pickled)
    with pytest.raises(InputError, match=f"pickle of unknown origin.*set sha256: {sha256} or trust: true"):
        _load(pickled)
    assert _load(pickled, sha256=sha256).image_size == 96
    assert _load(pickled, trust=True).weights_sha256 == sha256
    with pytest.raises(InputError, match="not the configured one"):
        _load(pickled, sha256="0" * 64, trust=True)


def test_a_pickle_with_a_published_hash_is_loaded(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFICIAL_SHA256, "yolov8n.pt", file_sha256(pickled))
    assert _load(pickled).names == {0: "cat", 1: "dog"}


def test_a_configured_hash_does_not_allow_code(tmp_path: Path) -> None:
    """A configured hash loads through the restricted unpickler; only trust allows code in a pickle."""
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"model": _Evil(str(trace))}, path)
    with pytest.raises(InputError, match="is not an ultralytics detector"):
        _load(path, sha256=file_sha256(path))
    assert not trace.exists()


class _Evil:
    """Touches a file when unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_an_official_name_is_found_among_the_fetched_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMSAM_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = DetectorConfig(weights="yolov8n.pt")
    assert detector_path(config) == tmp_path / "yolov8n.pt"
    assert "weights fetch yolov8n.pt" in str(check_detector(config)[0])


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("none.safetensors", None, "no file"),
        ("page.safetensors", b"<html>", "is not a detector of amsam-ray"),
        ("model.onnx", b"onnx", "neither .pt nor .safetensors"),
    ],
)
def test_a_file_that_is_not_a_detector_is_refused(name: str, content: bytes | None, what: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=what):
        _load(tmp_path / name)


def _shots(count: int = 4) -> list[TuningShot]:
    drawn = [render("shadow", 3, index, 64) for index in range(count)]
    return [TuningShot(image, mask, str(index)) for index, (image, mask) in enumerate(drawn)]


def _box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    inter = float(sides.prod())
    return inter / (float((a[2:] - a[:2]).prod()) + float((b[2:] - b[:2]).prod()) - inter)


def _blob(index: int) -> TuningShot:
    """A bright block on a dark background, which a tiny detector learns in seconds."""
    rng = np.random.default_rng(index)
    left, upper = rng.integers(4, 24, 2)
    width, height = rng.integers(20, 36, 2)
    mask = np.zeros((64, 64), bool)
    mask[upper : upper + height, left : left + width] = True
    image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
    image[mask] += 180
    return TuningShot(image, mask, str(index))


def test_tuning_learns_the_shots_boxes(tiny: Path, tmp_path: Path) -> None:
    config = DetectorConfig(weights=str(tiny), confidence=0.05, finetune_epochs=240)
    tuned = tune_detector(config, [_blob(index) for index in range(8)], seed=0, cache_dir=tmp_path)
    detector = _load(Path(tuned.weights), confidence=0.05)
    assert detector.names == {0: "object"}
    unseen = [_blob(index) for index in range(100, 110)]
    before = _load(tiny, confidence=0.0).detect([shot.image for shot in unseen])
    after = detector.detect([shot.image for shot in unseen])
    overlaps = [
        np.mean(
            [_iou(np.array(hit.box), _box(shot.mask)) if hit else 0 for hit, shot in zip(hits, unseen, strict=True)]
        )
        for hits in (before, after)
    ]
    assert overlaps[1] > 0.6, overlaps
    assert overlaps[1] > overlaps[0] + 0.2, overlaps


def test_tuning_is_cached_by_its_inputs(tiny: Path, tmp_path: Path) -> None:
    config = DetectorConfig(weights=str(tiny), confidence=0.3, finetune_epochs=1)
    state = torch.get_rng_state()
    first = tune_detector(config, _shots(), seed=0, cache_dir=tmp_path / "a")
    assert torch.equal(state, torch.get_rng_state())
    assert (first.confidence, first.finetune_epochs) == (0.3, 0)
    written = Path(first.weights).stat().st_mtime_ns
    again = tune_detector(config, _shots()[::-1], seed=0, cache_dir=tmp_path / "a")
    assert again == first
    assert Path(again.weights).stat().st_mtime_ns == written
    elsewhere = tune_detector(config, _shots(), seed=0, cache_dir=tmp_path / "b")
    assert elsewhere.sha256 == first.sha256
    others = [
        tune_detector(config, _shots(), seed=1, cache_dir=tmp_path / "a"),
        tune_detector(config, _shots(3), seed=0, cache_dir=tmp_path / "a"),
        tune_detector(config.model_copy(update={"finetune_epochs": 2}), _shots(), seed=0, cache_dir=tmp_path / "a"),
    ]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 4


def test_nothing_to_tune_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = DetectorConfig(weights=str(tiny), finetune_epochs=1)
    blank = TuningShot(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), bool), "blank")
    with pytest.raises(InputError, match="no shot has an object"):
        tune_detector(config, [blank], seed=0, cache_dir=tmp_path)
    with pytest.raises(InputError, match="nothing to tune"):
        tune_detector(DetectorConfig(weights=str(tiny)), _shots(), seed=0, cache_dir=tmp_path)


GUARDED = """
import json, os, socket, sys

def refuse(*words, **more):
    raise RuntimeError(f"network: {words}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.path.insert(0, sys.argv[3])
import numpy as np, torch, cv2
cv2.setNumThreads(3)
before = torch.get_num_threads(), cv2.getNumThreads(), np.get_printoptions(), os.environ.get("OMP_NUM_THREADS")
from pathlib import Path
from amsam_ray.config.networks import DetectorConfig
from amsam_ray.models.detector import load_detector
from amsam_ray.models.detector_networks import register_network
from amsam_ray.models.detector_tuning import TuningShot, tune_detector

register_network("tiny", json.loads(sys.argv[4]))
weights, state = sys.argv[1], Path(sys.argv[2])
image = np.full((40, 60, 3), 90, np.uint8)
mask = np.zeros((40, 60), bool)
mask[10:30, 10:40] = True
config = DetectorConfig(weights=weights, confidence=0.0, finetune_epochs=1)
tuned = tune_detector(config, [TuningShot(image, mask, "a")], seed=0, cache_dir=state / "tuned", state_dir=state / "u")
load_detector(tuned, state_dir=state / "u").detect([image])
after = torch.get_num_threads(), cv2.getNumThreads(), np.get_printoptions(), os.environ.get("OMP_NUM_THREADS")
from ultralytics.utils import SETTINGS
print(json.dumps({"same": before == after, "sync": SETTINGS["sync"]}))
"""


def test_ultralytics_uses_no_network_and_writes_no_stray_files(tiny: Path, tmp_path: Path) -> None:
    """In a process whose network calls raise, nothing is printed, and home and working folder stay empty."""
    home, work, state, scratch = (tmp_path / name for name in ("home", "work", "state", "scratch"))
    for folder in (home, work, state, scratch):
        folder.mkdir()
    project = str(Path(module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tiny), str(state), project, json.dumps(TINY)],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(scratch)},
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"same": True, "sync": False}
    assert done.stderr == ""
    assert list(home.rglob("*")) == []
    assert list(work.rglob("*")) == []
    assert {path.name for path in state.iterdir()} == {"tuned", "u"}
    assert all(path.name.startswith("torchinductor") for path in scratch.iterdir())  # torch's own, made at import


def test_detector_train_writes_a_file_that_loads(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "mine.safetensors"
    words = ["train", "procedural", "--shots", "2", "--epochs", "1", "--weights", str(tiny), "--out", str(out)]
    options = ["--option", "family=lesion", "--option", "train=4", "--option", "test=1", "--option", "size=64"]
    result = CliRunner().invoke(detector_command, [*words, *options])
    assert result.exit_code == 0, result.output
    assert "tuned for 1 epochs on lesion-" in result.output
    assert _load(out).names == {0: "object"}
    assert [path.name for path in out.parent.iterdir()] == [out.name]

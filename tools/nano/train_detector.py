"""Train the nano detector, a YOLOv8n with one class, on procedural images and write its weights.

    python -m tools.nano.train_detector --minutes 15 --images 3200 --batch 32 --side 160 --run /tmp/detector \\
        --out FIRST.safetensors

and then, from its result,

    python -m tools.nano.train_detector --init FIRST.safetensors --minutes 75 --images 20000 --batch 32 --side 224 \\
        --rate 1e-3 --workers 1 --run /tmp/longer --out amsam_ray/models/assets/nano_detector.safetensors

made the shipped weights on one processor core; for a GPU and many cores: `--images 24000 --workers 8 --batch 128`.

Every image has one box, of its salient object (for a group of people, of the group), so that the most confident box
of an image is the object it shows. Nothing is written outside of `--run` and `--out`, and no network is used.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

CONFIG = "yolov8n.yaml"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write (fp16)")
    parser.add_argument("--run", type=Path, required=True, help="folder for images, settings and logs")
    parser.add_argument("--minutes", type=float, default=15.0, help="wall time of training, drawing not included")
    parser.add_argument("--images", type=int, default=20000, help="training images to draw")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and load images")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=256, help="longest side the images are trained at, in pixels")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--init", type=Path, help="detector file to start from; default: random weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or a CUDA device's number")
    return parser.parse_args()


def provide_font(folder: Path) -> None:
    """Install matplotlib's font where ultralytics expects one, so that it downloads none."""
    import matplotlib
    from ultralytics.utils import USER_CONFIG_DIR

    assert USER_CONFIG_DIR.resolve().is_relative_to(folder.resolve())
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", USER_CONFIG_DIR / "Arial.ttf")


def main() -> None:
    """Draw the images, train, write the weights."""
    args = arguments()
    import torch

    from amsam_ray.config.networks import DetectorConfig
    from amsam_ray.models.detector import load_detector, save_network
    from amsam_ray.models.ultralytics_quiet import import_ultralytics
    from tools.nano.detection import write_dataset

    yolo = import_ultralytics(args.run / "settings").YOLO
    provide_font(args.run)

    start = time.monotonic()
    data = write_dataset(args.run / "data", args.images, max(args.images // 40, 50), args.seed, args.workers)
    print(f"drew {args.images} images in {time.monotonic() - start:.0f} s", flush=True)
    device: Any = args.device
    if device == "auto":
        device = 0 if torch.cuda.is_available() else "cpu"
    model = yolo(CONFIG)
    if args.init:
        begun = load_detector(DetectorConfig(weights=str(args.init)))
        assert begun is not None
        model.model = begun.model
        model.ckpt = {"epoch": -1}  # training starts from the loaded network only if there is a checkpoint
    start = time.monotonic()
    results = model.train(
        data=str(data),
        time=args.minutes / 60,
        imgsz=args.side,
        batch=args.batch,
        workers=args.workers,
        device=device,
        seed=args.seed,
        optimizer="AdamW",
        lr0=args.rate,
        cos_lr=True,
        warmup_epochs=1,
        amp=False,  # its self-test would fetch another model
        mosaic=0.1,
        degrees=5.0,
        hsv_s=0.9,
        cache="ram",
        plots=False,
        pretrained=bool(args.init),
        project=str(args.run.resolve()),
        name="train",
        exist_ok=True,
        verbose=False,
    )
    facts = {
        "recipe": "tools/nano/train_detector.py",
        "arguments": json.dumps({name: value for name, value in vars(args).items() if isinstance(value, int | float)}),
        "seconds": str(round(time.monotonic() - start)),
        "map50": f"{results.box.map50:.4f}",
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "torch": torch.__version__,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_network(model.model.cpu(), args.out, args.side)
    add_metadata(args.out, facts)
    print(f"wrote {args.out}: {facts}")


def add_metadata(path: Path, facts: dict[str, str]) -> None:
    """Add `facts` to the metadata of a safetensors file."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    save_file(load_file(path), path, metadata={**metadata, **facts})


if __name__ == "__main__":
    main()

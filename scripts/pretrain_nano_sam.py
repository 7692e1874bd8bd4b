"""Pretrain the nano SAM on procedural scenes and write its weights.

    python -m scripts.pretrain_nano_sam --minutes 18 --out amsam_ray/models/assets/nano_sam.safetensors

The scenes are drawn while training runs; nothing is read but this code. The length is wall time, so a faster machine
sees more images. On two cores without a GPU, `--minutes 60 --workers 1 --batch 8 --buffer 4000` follows the same
course with about one two-hundredth of the images.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from segment_anything.modeling import Sam

from amsam_ray.models.nano import IMAGE_SIZE, build_nano_sam
from scripts.nano import objective
from scripts.nano.augment import frame, recolour
from scripts.nano.feed import Batch, SceneFeed

SCENE_SIZE = 288


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write (fp16)")
    parser.add_argument("--minutes", type=float, default=18.0, help="wall time of training")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    parser.add_argument("--batch", type=int, default=256, help="images per step")
    parser.add_argument("--prompts", type=int, default=4, help="prompts per image")
    parser.add_argument("--buffer", type=int, default=60000, help="scenes kept for replay (about 0.33 MB each)")
    parser.add_argument("--rate", type=float, default=1.2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", type=Path, help="checkpoint (.pt) of this script to go on from")
    parser.add_argument("--checkpoint", type=Path, help="where to write checkpoints, every two minutes")
    return parser.parse_args()


def train_step(sam: Sam, batch: Batch, prompts: int, refine: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and mean box Dice of one batch.

    Args:
        refine: also decode the boxes a second time, with the first answer as mask input and a point where it errs.
    """
    framed = frame(batch, IMAGE_SIZE)
    image = (recolour(framed) * 255 - sam.pixel_mean) / sam.pixel_std * framed.valid
    targets = objective.draw_targets(batch, framed, prompts)
    kinds = objective.kinds_of(len(targets.image), len(batch.image))
    with torch.autocast(image.device.type, torch.bfloat16):
        features = sam.image_encoder(image)
    features = features.float()
    total, score = features.new_zeros(()), features.new_zeros(())
    for kind in range(4):
        chosen = (kinds == kind).nonzero()[:, 0].to(image.device)
        if not len(chosen):
            continue
        sparse, dense = objective.embed(sam, kind, targets, chosen)
        with torch.autocast(image.device.type, torch.bfloat16):
            logits, ious = objective.decode(sam, features[targets.image[chosen]], sparse, dense)
        loss, dice = objective.mask_loss(logits, ious, targets, chosen, kind)
        total = total + loss * (len(chosen) / len(kinds))
        if kind == objective.BOX:
            score = dice
            if refine:
                chosen, guess = chosen[: len(chosen) // 3], logits[: len(chosen) // 3, :1].detach().float()
                sparse, dense = objective.embed(sam, objective.BOX_POINT, targets, chosen, guess)
                with torch.autocast(image.device.type, torch.bfloat16):
                    logits, ious = objective.decode(sam, features[targets.image[chosen]], sparse, dense)
                total = total + 0.3 * objective.mask_loss(logits, ious, targets, chosen, kind)[0]
    return total, score


def main() -> None:
    """Train until the time is up; write checkpoints on the way and the averaged weights at the end."""
    args = arguments()
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted if args.device == "auto" else args.device)
    torch.manual_seed(args.seed)
    start = time.monotonic()
    with SceneFeed(workers=args.workers, capacity=args.buffer, size=SCENE_SIZE, seed=args.seed, device=device) as feed:
        sam = build_nano_sam().to(device)
        average = build_nano_sam().to(device)
        average.load_state_dict(sam.state_dict())
        optimiser = torch.optim.AdamW(_groups(sam), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.05)
        step, skipped, spent = 0, 0, 0.0
        if args.resume:
            saved = torch.load(args.resume, map_location=device, weights_only=True)
            sam.load_state_dict(saved["model"])
            average.load_state_dict(saved["average"])
            optimiser.load_state_dict(saved["optimiser"])
            step, spent = saved["step"], saved["seconds"]
        feed.take(at_least=min(8 * args.batch, args.buffer // 2))
        print(f"first scenes after {time.monotonic() - start:.1f} s on {device}", flush=True)
        start = time.monotonic() - spent
        limit, report, saved_at = args.minutes * 60, time.monotonic(), time.monotonic()
        while (elapsed := time.monotonic() - start) < limit:
            feed.take()
            rate = args.rate * min(1.0, (step + 1) / 500) * 0.5 * (1 + math.cos(math.pi * elapsed / limit))
            for group in optimiser.param_groups:
                group["lr"] = max(rate, 1e-6)
            loss, dice = train_step(sam, feed.sample(args.batch), args.prompts, refine=step % 4 == 0)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if not torch.isfinite(torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)):
                skipped += 1
                continue
            optimiser.step()
            decay = min(0.9995, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(sam.parameters()), 1 - decay)
            step += 1
            now = time.monotonic()
            if now - report > 20:
                report = now
                print(
                    f"{elapsed:6.0f} s  step {step:6d}  scenes {feed.total:7d}  loss {loss.item():.3f}"
                    f"  box dice {dice.item():.3f}",
                    flush=True,
                )
            if args.checkpoint and now - saved_at > 120:
                saved_at = now
                _checkpoint(args.checkpoint, sam, average, optimiser, step, now - start)
        elapsed = time.monotonic() - start
        facts = {
            "recipe": "scripts/pretrain_nano_sam.py",
            "arguments": {name: str(value) for name, value in vars(args).items() if value is not None},
            "steps": step,
            "skipped": skipped,
            "scenes": feed.total,
            "images": step * args.batch,
            "seconds": round(elapsed),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
        }
        write_weights(args.out, average, facts)
        print(f"wrote {args.out}: {json.dumps(facts)}")


def _groups(sam: Sam) -> list[dict[str, object]]:
    """Weight decay on matrices only."""
    trained = [p for p in sam.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _checkpoint(
    path: Path, sam: Sam, average: Sam, optimiser: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    """Write what `--resume` needs; the average also in the form that is shipped, so that a cut run leaves weights."""
    partial = path.with_suffix(".part")
    torch.save(
        {
            "model": sam.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "seconds": seconds,
        },
        partial,
    )
    partial.replace(path)
    write_weights(path.with_suffix(".safetensors"), average, {"steps": step, "seconds": round(seconds)})


def write_weights(path: Path, sam: Sam, facts: dict[str, object]) -> None:
    """Write a model's weights as fp16 safetensors under segment-anything's own names, with `facts` as metadata."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in sam.state_dict().items()}
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    save_file(state, path, metadata={"architecture": "nano", **metadata})


if __name__ == "__main__":
    main()

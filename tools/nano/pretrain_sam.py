"""Pretrain the nano SAM on procedural scenes and write its weights.

    python -m tools.nano.pretrain_sam --minutes 50 --workers 1 --batch 8 --small 0.35 --reuse 3 \\
        --out amsam_ray/models/assets/nano_sam.safetensors

made the shipped weights on two processor cores. The scenes are drawn while training runs; nothing is read but this
code. The length is wall time, so a faster machine sees more images; for a GPU and many cores:
`--minutes 18 --workers 12 --batch 128 --buffer 60000 --rate 1e-3`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from amsam_ray.models.nano import IMAGE_SIZE, PATCH_SIZE, build_nano_sam
from tools.nano import objective
from tools.nano.augment import frame, recolour
from tools.nano.feed import Batch, SceneFeed

SCENE_SIZE = 288
"""Side of the drawn scenes in pixels; training uses windows of them."""

WARM_UP = 500
"""Steps until the learning rate reaches its peak."""

REFINE_EVERY, REFINE_WEIGHT = 5, 0.3
SMALL_BATCH = 3
"""Number of half-sized images per step, relative to full-sized ones, at about the same cost."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write (fp16)")
    parser.add_argument("--minutes", type=float, default=50.0, help="wall time of training")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--small", type=float, default=0.0, help="share of the time spent first on half-sized images")
    parser.add_argument("--prompts", type=int, default=4, help="prompts per image")
    parser.add_argument("--buffer", type=int, default=6000, help="scenes kept for replay (0.33 MB each)")
    parser.add_argument("--reuse", type=float, default=1.0, help="draw no more scenes than this makes necessary")
    parser.add_argument("--rate", type=float, default=8e-4, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--resume", type=Path, help="checkpoint (.pt) of this script to go on from")
    parser.add_argument("--checkpoint", type=Path, help="where to write checkpoints, every two minutes")
    return parser.parse_args()


def batch_loss(sam: Sam, batch: Batch, prompts: int, size: int, refine: bool) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch under all kinds of prompts, and the mean Dice of its box prompts.

    Args:
        prompts: masks asked for in each image.
        size: longest side of the images in pixels. Smaller ones than the model's are put at a random place of its
            grid of tokens, so that every position is trained with the neighbours it will have.
        refine: also decode some of the boxes a second time, with the first answer as mask input and a point inside.
    """
    place = objective.Place(size // PATCH_SIZE, *torch.randint((IMAGE_SIZE - size) // PATCH_SIZE + 1, (2,)).tolist())
    framed = frame(batch, size)
    image = (recolour(framed) * 255 - sam.pixel_mean) / sam.pixel_std * framed.valid
    targets = objective.draw_targets(batch, framed, prompts)
    kinds = objective.kinds_of(len(targets.image), len(batch.image))
    with torch.autocast(image.device.type, torch.bfloat16):
        features = objective.encode(sam, image, place)
    features = features.float()

    def answer(chosen: Tensor, kind: int, guess: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        sparse, dense = objective.embed(sam, kind, targets, chosen, place, guess)
        with torch.autocast(image.device.type, torch.bfloat16):
            logits, ious = objective.decode(sam, features[targets.image[chosen]], sparse, dense, place)
        return (*objective.mask_loss(logits, ious, targets, chosen, kind), logits)

    total, score = features.new_zeros(()), features.new_zeros(())
    for kind in (objective.BOX, objective.BOX_POINT, objective.POINT, objective.NOTHING):
        chosen = (kinds == kind).nonzero()[:, 0].to(image.device)
        if not len(chosen):
            continue
        loss, dice, logits = answer(chosen, kind)
        total = total + loss * (len(chosen) / len(kinds))
        if kind == objective.BOX:
            score = dice
        if kind == objective.BOX and refine:
            some = len(chosen) // 3
            guess = logits[:some, :1].detach().float()
            total = total + REFINE_WEIGHT * answer(chosen[:some], objective.BOX_POINT, guess)[0]
    return total, score


class Trainer:
    """The model, the running average of its weights, the optimiser and the counters.

    Args:
        rate: peak learning rate; it rises linearly over WARM_UP steps and falls as a cosine of the time used.
    """

    def __init__(self, rate: float, device: torch.device) -> None:
        self.sam, self.average = build_nano_sam().to(device), build_nano_sam().to(device)
        self.average.load_state_dict(self.sam.state_dict())
        self.rate = rate
        self.optimiser = torch.optim.AdamW(_groups(self.sam), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
        self.counts = {"steps": 0, "skipped": 0, "images": 0}

    def step(self, batch: Batch, prompts: int, size: int, progress: float) -> tuple[Tensor, Tensor]:
        """Take one step at `progress` (0 to 1) of the training; return loss and box Dice. Overflows are skipped."""
        done = self.counts["steps"]
        rate = self.rate * min(1.0, (done + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, 1e-6)
        loss, dice = batch_loss(self.sam, batch, prompts, size, refine=done % REFINE_EVERY == 0)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.counts["images"] += len(batch.image)
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(self.sam.parameters(), 1.0)):
            self.optimiser.step()
            with torch.no_grad():  # the average forgets faster while it is young
                keep = min(0.9995, (done + 1) / (done + 10))
                torch._foreach_lerp_(list(self.average.parameters()), list(self.sam.parameters()), 1 - keep)
            self.counts["steps"] += 1
        else:
            self.counts["skipped"] += 1
        return loss.detach(), dice

    def save(self, path: Path, seconds: float) -> None:
        """Write a checkpoint for `load`, and next to it the averaged weights as they are shipped."""
        state = {
            "sam": self.sam.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counts": self.counts,
            "seconds": seconds,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        write_weights(path.with_suffix(".safetensors"), self.average, {**self.counts, "seconds": round(seconds)})

    def load(self, path: Path) -> float:
        """Resume from a checkpoint; return its training time in seconds."""
        state = torch.load(path, map_location=self.sam.device, weights_only=True)
        self.sam.load_state_dict(state["sam"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.counts = state["counts"]
        return float(state["seconds"])


def _groups(sam: Sam) -> list[dict[str, object]]:
    """Return parameter groups with weight decay on matrices only."""
    trained = [p for p in sam.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def write_weights(path: Path, sam: Sam, facts: dict[str, object]) -> None:
    """Write a model's weights as fp16 safetensors under segment-anything's own names, with `facts` as metadata."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in sam.state_dict().items()}
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    save_file(state, path, metadata={"architecture": "nano", **metadata})


def train(args: argparse.Namespace, device: torch.device, feed: SceneFeed) -> dict[str, object]:
    """Train until the time limit and write the averaged weights; return the facts of the run."""
    trainer = Trainer(args.rate, device)
    spent = trainer.load(args.resume) if args.resume else 0.0
    begun = trainer.counts["images"]
    feed.take(at_least=min(8 * args.batch, args.buffer // 2))
    start, limit = time.monotonic() - spent, args.minutes * 60
    said = saved = time.monotonic()
    while (elapsed := time.monotonic() - start) < limit:
        if (feed.total - feed.first) * args.reuse < trainer.counts["images"] - begun:
            feed.take()
        small = elapsed < args.small * limit
        batch = feed.sample(args.batch * (SMALL_BATCH if small else 1))
        loss, dice = trainer.step(batch, args.prompts, IMAGE_SIZE // 2 if small else IMAGE_SIZE, elapsed / limit)
        now = time.monotonic()
        if now - said > 20:
            said = now
            print(
                f"{elapsed:6.0f} s  {trainer.counts}  scenes {feed.total}  loss {loss:.3f}  box dice {dice:.3f}",
                flush=True,
            )
        if args.checkpoint and now - saved > 120:
            saved = now
            trainer.save(args.checkpoint, now - start)
    facts: dict[str, object] = {
        "recipe": "tools/nano/pretrain_sam.py",
        "arguments": {name: value for name, value in vars(args).items() if isinstance(value, int | float)},
        **trainer.counts,
        "scenes": feed.total,
        "seconds": round(time.monotonic() - start),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    write_weights(args.out, trainer.average, facts)
    return facts


def main() -> None:
    """Draw scenes, train, write the weights."""
    args = arguments()
    wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted if args.device == "auto" else args.device)
    torch.manual_seed(args.seed)
    with SceneFeed(workers=args.workers, capacity=args.buffer, size=SCENE_SIZE, seed=args.seed, device=device) as feed:
        facts = train(args, device, feed)
    print(f"wrote {args.out}: {json.dumps(facts)}")


if __name__ == "__main__":
    main()

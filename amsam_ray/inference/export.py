"""Export of an adapter file for use without this package: plain SAM weights, and the decoder."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amsam_ray.config.methods import get_method
from amsam_ray.errors import AmsamError, InputError, Problem
from amsam_ray.inference.inputs import CANDIDATE_CONFIDENCE, CANDIDATES
from amsam_ray.models.merge import merged_state

if TYPE_CHECKING:
    from torch import nn

    from amsam_ray.models.adapted import AdaptedSam

_ABOUT = "model.json"
_FILES = ("sam.pth", "decoder.onnx", "decoder.pt", _ABOUT)

DecoderFormat = Literal["onnx", "torchscript", "none"]


def export_adapter(
    adapter: bytes, out: Path, *, decoder: DecoderFormat = "onnx", backbone_file: Path | None = None
) -> dict[str, str]:
    """Write an adapter file's model into a folder, in formats for other programs (see ``docs/results.md``).

    ``sam.pth`` is a state dict for ``segment_anything.sam_model_registry``; ``decoder.onnx`` or ``decoder.pt`` maps
    an image embedding (1xCxGxG) and, for methods with a detector, a box (1x4, XYXY in pixels of the encoder's
    input) to mask logits (1x1x4Gx4G), positive on the object; ``model.json`` says how to use them.

    Args:
        adapter: the content of an adapter file.
        out: the folder; created if missing.
        decoder: the format of the decoder.
        backbone_file: the checkpoint of the frozen SAM; None finds the shipped or fetched one with the adapter's
            fingerprint.

    Returns:
        File name -> description; for a file that was not written, the reason in parentheses.

    Raises:
        InputError: ``adapter`` is no adapter file, the backbone's file is missing, or ``out`` holds files of these
            names that are not from an export. All files of an earlier export are replaced.
        AmsamError: the method does not adapt SAM, plain SAM cannot represent its encoder, or the ``export`` extra is
            not installed.
    """
    import torch

    from amsam_ray.inference.adapter_file import load_adapter, read_adapter_info
    from amsam_ray.inference.frozen_networks import find_backbone
    from amsam_ray.models.adapted import AdaptedSam

    info = read_adapter_info(adapter)
    if get_method(info.config.method).start is not None:
        raise AmsamError(
            f"{info.config.method} does not adapt SAM, so that it has neither SAM weights nor a decoder to export. "
            "Use `amsam-ray predict` with the adapter file."
        )
    backbone = find_backbone(info, "cpu", backbone_file)
    model = load_adapter(adapter, backbone)
    assert isinstance(model, AdaptedSam)
    made: dict[str, str] = {}
    try:
        state = merged_state(model)
    except AmsamError as error:
        if model.encoder is not None:
            raise  # the decoder is useless without its encoder
        made["sam.pth"] = f"(not written: {error})"
        state = None
    _make_room(out)
    if state is not None:
        torch.save(state, out / "sam.pth")
        made["sam.pth"] = "SAM's weights merged with the trained ones"
    if decoder != "none":
        name = "decoder.onnx" if decoder == "onnx" else "decoder.pt"
        _write_decoder(model, out / name, decoder)
        made[name] = "image embedding and box to mask logits"
    about = {
        "method": info.config.method,
        "arch": backbone.arch,
        "image_size": backbone.image_size,
        "pixel_mean": backbone.sam.pixel_mean.flatten().tolist(),
        "pixel_std": backbone.sam.pixel_std.flatten().tolist(),
        "backbone_sha256": backbone.fingerprint,
        "box": "XYXY in pixels of the encoder's input" if model.uses_boxes else None,
        "without_box": _without_box(model, info.config.detector.fallback),
        "prediction": _prediction(model),
        "object": "where the logit is above 0",
        "config": info.config.model_dump(mode="json", by_alias=True),
    }
    (out / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    made["model.json"] = "how to use them"
    return made


def _without_box(model: AdaptedSam, fallback: str) -> str | None:
    """Return what to give the decoder for an image without a box, as ``predict`` does."""
    if not model.uses_boxes:
        return None
    if model.params.prompt == "fused" or fallback == "none":
        return "predict decodes without a box; the exported decoder needs one and cannot"
    return "give the box of the whole image: 0, 0, its width, its height, scaled as the image (not of the padded input)"


def _prediction(model: AdaptedSam) -> str:
    """Return how ``predict`` arrives at a mask from outputs of the decoder."""
    if not model.uses_boxes or model.params.prompt != "fused":
        return "the decoder's output for one box" if model.uses_boxes else "the decoder's output"
    return (
        "the decoder takes one box; predict decodes every candidate box of each detector "
        f"(confidence at least {CANDIDATE_CONFIDENCE:g}, the {CANDIDATES} most confident of each) and averages "
        "the sigmoids of their logits, weighted by confidence; the object is where the average is above 0.5"
    )


def _make_room(out: Path) -> None:
    """Create the folder and remove an earlier export from it, so that no file of another model remains."""
    out.mkdir(parents=True, exist_ok=True)
    present = [name for name in _FILES if (out / name).exists()]
    if present and _ABOUT not in present:
        raise InputError(Problem(str(out), f"holds {', '.join(present)} that no export wrote; use another folder"))
    for name in present:
        (out / name).unlink()


def _write_decoder(model: AdaptedSam, path: Path, form: DecoderFormat) -> None:
    import torch

    decoder = _plain_decoder(model)
    grid = model.backbone.grid
    inputs: tuple[Any, ...] = (torch.zeros(1, model.prompt.no_mask_embed.shape[1], grid, grid),)
    names = ["embedding"]
    if model.uses_boxes:
        side = float(model.backbone.image_size)
        inputs, names = (*inputs, torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * side), ["embedding", "box"]
    with torch.no_grad():
        if form == "torchscript":
            with warnings.catch_warnings():
                # Tracing fixes sizes; the backbone has fixed them already.
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                torch.jit.save(torch.jit.trace(decoder, inputs), str(path))
            return
        try:
            import onnxscript  # noqa: F401 - torch's exporter needs it
        except ImportError:
            raise AmsamError("ONNX needs the export extra: pip install 'amsam-ray[export]'.") from None
        torch.onnx.export(
            decoder,
            inputs,
            str(path),
            input_names=names,
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _plain_decoder(model: AdaptedSam) -> nn.Module:
    """Return the part of the model after its encoder, with LoRA merged, in evaluation mode."""
    from torch import Tensor, nn
    from torch.nn.utils import parametrize

    from amsam_ray.models.parts.upscaling import arrange

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt, self.decoder, self.calibration = copy.deepcopy(
                (model.prompt, model.decoder, model.calibration)
            )
            for module in self.decoder.modules():
                if parametrize.is_parametrized(module):
                    for name in list(module.parametrizations):  # type: ignore[arg-type]
                        parametrize.remove_parametrizations(module, name)

        def forward(self, embedding: Tensor, box: Tensor | None = None) -> Tensor:
            sparse = None if box is None else self.prompt.sparse(box)
            masks = self.calibration(*self.decoder(embedding, self.prompt.dense_pe, sparse, self.prompt.dense()))
            logits = arrange(masks, *embedding.shape[-2:])
            return logits[:, 1:] - logits[:, :1]

    return Decoder().eval()

"""The hyperparameters and switches of all methods, with their ranges and defaults.

This is the only table of them; checks, documentation and search read it. Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from amsam_ray.config.added_fields import WithAddedFields
from amsam_ray.config.starts import Features

LAST_K = re.compile(r"^last_([1-9][0-9]*)$")


def on_off_word(value: Any) -> Any:
    """Return ``on`` or ``off`` for a boolean, which is how YAML 1.1 reads these words, and any other value as is."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value


def _block_choice(value: str) -> str:
    if value != "all" and not LAST_K.match(value):
        raise ValueError("must be `all` or `last_<k>` with k >= 1, for instance last_2")
    return value


OnOff = Annotated[Literal["on", "off"], BeforeValidator(on_off_word)]
Calibration = Annotated[Literal["off", "batch", "sample", "learned"], BeforeValidator(on_off_word)]
Blocks = Annotated[str, AfterValidator(_block_choice)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class MethodParams(WithAddedFields):
    """The hyperparameters and switches of one trial. The ``MethodSpec`` of a method names those that it uses.

    The defaults are AM-SAM's published settings (arXiv 2410.09714, "Hyper-parameters") where the papers give one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    ADDED: ClassVar[frozenset[str]] = frozenset(
        {"steps", "views", "prompt", "box_training", "ahead", "reach", "protocol"}
        | {"features", "image_size", "prototypes"}
    )

    alpha: Share = Field(0.7, description="weight of the original mask in the calibration, eq. 12")
    lambda_: Share = Field(0.8, alias="lambda", description="weight of Dice against cross-entropy, eq. 5")
    rank: int = Field(4, ge=1, description="rank r of every LoRA update, eq. 2")
    tau_token: Positive = Field(0.1, description="temperature of the token-level contrastive loss")
    tau_sample: Positive = Field(0.1, description="temperature of the sample-level contrastive loss")
    w_token: NotNegative = Field(0.1, description="weight of the token-level contrastive loss")
    w_sample: NotNegative = Field(0.1, description="weight of the sample-level contrastive loss")
    contrast_tokens: int = Field(1024, ge=2, description="tokens drawn per image for the token-level loss")
    adaptor_ratio: int = Field(4, ge=1, description="bottleneck reduction s of an adaptor, d -> d/s -> d")
    freq_ratio: Share = Field(0.25, description="share of the spectrum that SAM-Adapter's high-pass mask removes")
    lr: Positive = Field(5e-3, description="initial learning rate of the lower level (trainable weights W)")
    lr_prompt: Positive = Field(1e-3, description="initial learning rate of the upper level (prompt embedding A)")
    weight_decay: NotNegative = Field(0.1, description="weight decay of the optimiser, both levels; decoupled in AdamW")
    warmup: Share = Field(0.0, lt=1, description="share of the iterations with linear warm-up of the rates")
    loss: Literal["ce_dice", "bce_iou", "bce"] = Field(
        "ce_dice", description="eq. 5, SAM-Adapter's BCE + IoU, or Medical SAM Adapter's BCE with positive weight 2"
    )
    detector: OnOff = Field("off", description="the frozen detector's box as a prompt")
    calibration: Calibration = Field("off", description="mask calibration, eq. 9-12")
    head: Literal["cold", "warm"] = Field("warm", description="two-channel head from random or from SAM's weights")
    adaptors: Literal["none", "tc", "sc", "mc"] = Field("none", description="contrastive adaptors")
    adaptor_blocks: Blocks = Field("all", description="the encoder blocks that get an adaptor")
    hypergradient: Literal["first_order", "unrolled", "exact"] = Field(
        "unrolled", description="how the upper level differentiates through W*(A)"
    )
    ahead: Literal["adamw", "sgd", "mixed"] = Field(
        "adamw",
        description="the step ahead to W*(A): AdamW's, plain descent, or AdamW's differentiated as a plain one",
    )
    reach: float = Field(
        0.01, gt=0, le=1, allow_inf_nan=False, description="length of the finite difference of `unrolled`, in W"
    )
    steps: int = Field(
        0, ge=0, le=10**7, description="optimiser steps of the whole training; 0: train.epochs passes over the pictures"
    )
    views: int = Field(0, ge=0, le=64, description="fixed views of every shot besides it; 0: as train.augment says")
    prompt: Literal["box", "fused"] = Field(
        "box", description="the detector's best box, or the masks of all its candidate boxes, fused by confidence"
    )
    box_training: Literal["detector", "mix"] = Field(
        "detector", description="boxes in training: the detector's, or drawn from true, jittered true and none"
    )
    protocol: Literal["default", "published"] = Field(
        "default", description="published: all that the method's public code does otherwise; docs/methods.md lists it"
    )
    features: Features = Field(
        "imagenet",
        description="first weights of a method that is not SAM: published ImageNet ones, the frozen SAM, or random",
    )
    image_size: int = Field(
        224, ge=32, le=2048, description="side of the square input of a method that is not SAM, in pixels"
    )
    prototypes: int = Field(
        1, ge=1, le=64, description="foreground prototypes of the support that SSP compares a pixel with"
    )
    levels: Literal[1, 2] = Field(2, description="1: everything on D1 and D2 together; 2: bi-level, eq. 6-8")

    def as_dict(self) -> dict[str, Any]:
        """Return all values under their public names (``lambda``, not ``lambda_``)."""
        fields = type(self).model_fields
        return {info.alias or name: getattr(self, name) for name, info in fields.items()}


SWITCHES = frozenset(
    {"loss", "detector", "calibration", "head", "adaptors", "adaptor_blocks", "hypergradient", "levels"}
    | {"prompt", "box_training", "ahead", "protocol", "features"}
)
"""The keys that choose among variants of a method; the other keys are hyperparameters."""


@dataclass(frozen=True)
class ParamInfo:
    """The allowed values of one key.

    Attributes:
        name: public name, as in YAML.
        kind: ``float``, ``int``, ``choice`` or ``blocks`` (``all`` or ``last_<k>``).
        default: the value of a method that states none of its own.
        doc: the meaning, in one line.
        low, high: ends of the range; None if unbounded.
        low_open, high_open: True if the end itself is not allowed.
        choices: the allowed values of a ``choice``.
    """

    name: str
    kind: Literal["float", "int", "choice", "blocks"]
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def allowed(self) -> str:
        """The allowed values in words, for error messages and documentation."""
        if self.kind == "choice":
            return " | ".join(str(choice) for choice in self.choices)
        if self.kind == "blocks":
            return "all | last_<k>"
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        left = "(" if self.low_open or self.low is None else "["
        right = ")" if self.high_open or self.high is None else "]"
        return f"{'an integer' if self.kind == 'int' else 'a number'} in {left}{low}, {high}{right}"


def _infos() -> dict[str, ParamInfo]:
    schema = MethodParams.model_json_schema(by_alias=True)["properties"]
    infos = {}
    for name, entry in schema.items():
        common = {"name": name, "default": entry["default"], "doc": entry["description"]}
        if name == "adaptor_blocks":
            infos[name] = ParamInfo(kind="blocks", **common)
        elif "enum" in entry:
            infos[name] = ParamInfo(kind="choice", choices=tuple(entry["enum"]), **common)
        else:
            low, high = entry.get("minimum"), entry.get("maximum")
            infos[name] = ParamInfo(
                kind="int" if entry["type"] == "integer" else "float",
                low=entry.get("exclusiveMinimum", low),
                high=entry.get("exclusiveMaximum", high),
                low_open="exclusiveMinimum" in entry,
                high_open="exclusiveMaximum" in entry,
                **common,
            )
    return infos


PARAMS: dict[str, ParamInfo] = _infos()
"""Public name -> allowed values, in the order of lists and tables."""

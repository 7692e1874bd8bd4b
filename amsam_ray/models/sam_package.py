"""What this package uses of segment-anything, imported in one place: see `lean_imports`."""

from amsam_ray.lean_imports import import_torchvision

import_torchvision()

from segment_anything import sam_model_registry  # noqa: E402
from segment_anything.modeling import (  # noqa: E402
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from segment_anything.modeling.image_encoder import Attention as EncoderAttention  # noqa: E402
from segment_anything.modeling.image_encoder import Block as EncoderBlock  # noqa: E402
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition  # noqa: E402
from segment_anything.modeling.mask_decoder import MLP  # noqa: E402
from segment_anything.modeling.transformer import Attention  # noqa: E402
from segment_anything.utils.transforms import ResizeLongestSide  # noqa: E402

__all__ = [
    "MLP",
    "Attention",
    "EncoderAttention",
    "EncoderBlock",
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "ResizeLongestSide",
    "Sam",
    "TwoWayTransformer",
    "get_rel_pos",
    "sam_model_registry",
    "window_partition",
    "window_unpartition",
]

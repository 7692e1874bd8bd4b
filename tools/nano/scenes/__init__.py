"""Scenes of many objects with masks of parts, wholes and groups, for pretraining the nano SAM and its detector."""

from tools.nano.scenes.canvas import MAX_PARTS
from tools.nano.scenes.scene import GROUP, MAX_MASKS, PART, WHOLE, Scene, render_scene
from tools.nano.scenes.textures import texture_bank

__all__ = ["GROUP", "MAX_MASKS", "MAX_PARTS", "PART", "WHOLE", "Scene", "render_scene", "texture_bank"]

"""SAM, the methods that adapt it and their parts, and the detector. Imports no Ray."""

from amsam_ray.models.lean_imports import import_torchvision

import_torchvision()

"""The built-in methods, one file each.

Every module of this package defines ``METHOD``, a ``MethodSpec``, and imports no torch. A new module is a new method.
"""

PUBLISHED_ORDER = (
    "sam",
    "samed",
    "med_sa",
    "sam_adapter",
    "blo_sam",
    "am_sam",
    "mca_sam",
    "am_mca_sam",
    "deeplabv3",
    "swin_unet",
    "hsnet",
    "ssp",
)
"""The order of the methods in lists and tables. A module that is not named here follows these, by name."""

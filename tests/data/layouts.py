"""The official layouts in miniature, made of procedural images, with the quirks of the real downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from amsam_ray.data.procedural import render

SIDE = 64


def photograph(index: int, family: str = "person") -> tuple[np.ndarray, np.ndarray]:
    """A small image (HWC uint8) and mask (HW bool); every index gives another."""
    return render(family, 7, index, SIDE)


def put_image(path: Path, pixels: np.ndarray, **options: object) -> None:
    """Write pixels to a file, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def put_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask as 0 and 255."""
    put_image(path, mask.astype(np.uint8) * 255)


def put_pair(root: Path, image: str, mask: str, index: int, family: str = "person") -> np.ndarray:
    """Write a photograph and its mask below ``root``; return the mask."""
    pixels, object_HW = photograph(index, family)
    put_image(root / image, pixels)
    put_mask(root / mask, object_HW)
    return object_HW


def tiktok(root: Path) -> None:
    """Kaggle's archive: one folder more, equal stems, numbers without padding."""
    for index in (1, 2, 10, 11, 100):
        folder = "segmentation_full_body_tik_tok_2615_img"
        put_pair(root, f"{folder}/images/{index}.png", f"{folder}/masks/{index}.png", index)


def vikram_human(root: Path) -> None:
    """Photographs as .jpg, masks as .png, numbers missing, one mask of another size."""
    for index in (0, 2, 3, 9, 10, 21):
        put_pair(root, f"Training_Images/{index}.jpg", f"Ground_Truth/{index}.png", index)
    mask = photograph(9)[1]
    put_mask(root / "Ground_Truth/9.png", np.repeat(np.repeat(mask, 2, 0), 2, 1))


def isic2018(root: Path) -> None:
    """Two folders a split, masks with a suffix, a licence text among the photographs."""
    train, test = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1-2_Test_Input"
    for index in range(4):
        name = f"ISIC_00000{index:02d}"
        put_pair(root, f"{train}/{name}.jpg", f"ISIC2018_Task1_Training_GroundTruth/{name}_segmentation.png", index)
    for index in range(4, 6):
        name = f"ISIC_00000{index:02d}"
        put_pair(root, f"{test}/{name}.jpg", f"ISIC2018_Task1_Test_GroundTruth/{name}_segmentation.png", index)
    (root / train / "LICENSE.txt").write_text("CC-0")
    (root / train / "ATTRIBUTION.txt").write_text("ISIC")


def kvasir_seg(root: Path, count: int = 5) -> dict[str, np.ndarray]:
    """JPEG masks of three channels with compression noise; return the true masks."""
    masks = {}
    for index in range(count):
        pixels, mask = photograph(index, "polyp")
        name = f"cju{index:03d}"
        put_image(root / f"Kvasir-SEG/images/{name}.jpg", pixels)
        noisy = np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)
        put_image(root / f"Kvasir-SEG/masks/{name}.jpg", noisy, quality=40)
        masks[name] = mask
    return masks


def cod10k(root: Path) -> None:
    """Version 3: photographs without a camouflaged object beside those with one."""
    for split, indices in (("Train", (1, 2, 3)), ("Test", (4, 5))):
        for index in indices:
            name = f"COD10K-CAM-1-Aquatic-1-BatFish-{index}"
            put_pair(root, f"COD10K-v3/{split}/Image/{name}.jpg", f"COD10K-v3/{split}/GT_Object/{name}.png", index)
        other = f"COD10K-NonCAM-{split}"
        put_pair(root, f"COD10K-v3/{split}/Image/{other}.jpg", f"COD10K-v3/{split}/GT_Object/{other}.png", 50)


def cod10k_sinet(root: Path) -> None:
    """SINet's archives: COD10K and CAMO share the train folder."""
    for index in (1, 2):
        name = f"COD10K-CAM-{index}"
        put_pair(root, f"TrainDataset/Imgs/{name}.jpg", f"TrainDataset/GT/{name}.png", index)
    put_pair(root, "TrainDataset/Imgs/camourflage_00001.jpg", "TrainDataset/GT/camourflage_00001.png", 3)
    put_pair(root, "TestDataset/COD10K/Imgs/COD10K-CAM-4.jpg", "TestDataset/COD10K/GT/COD10K-CAM-4.png", 4)


def camo(root: Path) -> None:
    """Both splits' masks in one folder."""
    for split, indices in (("Train", (1, 2, 3)), ("Test", (4, 5))):
        for index in indices:
            name = f"camourflage_{index:05d}"
            put_pair(
                root, f"CAMO-V.1.0-CVIU2019/Images/{split}/{name}.jpg", f"CAMO-V.1.0-CVIU2019/GT/{name}.png", index
            )


def istd(root: Path) -> None:
    """Three folders a split: shadow, mask, shadow-free; one name in both splits."""
    for split, names in (("train", ("1-1", "1-2", "2-1")), ("test", ("91-1", "1-1"))):
        for index, name in enumerate(names):
            number = index + (10 if split == "test" else 0)
            put_pair(root, f"{split}/{split}_A/{name}.png", f"{split}/{split}_B/{name}.png", number, "shadow")
            put_image(root / f"{split}/{split}_C/{name}.png", photograph(number + 20, "shadow")[0])


def folder(root: Path, count: int = 6) -> None:
    """A plain pair of folders."""
    for index in range(count):
        put_pair(root, f"images/photo{index}.jpg", f"masks/photo{index}.png", index)

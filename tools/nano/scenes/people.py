"""Articulated people in clothes: standing, walking, sitting, bending, full length or close up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.nano.scenes import outlines
from tools.nano.scenes.heads import hair_behind, head_and_face
from tools.nano.scenes.materials import surface
from tools.nano.scenes.outlines import Shape
from tools.nano.scenes.pieces import Piece
from tools.nano.scenes.wardrobe import Wardrobe, draw_wardrobe


def person(rng: np.random.Generator, bank: Sequence[np.ndarray]) -> list[Piece]:
    """Draw a person as pieces, far to near, in body heights: x to the right, y down, 0 at the crown, 1 at the soles."""
    wear = draw_wardrobe(rng, bank)
    build = float(np.exp(rng.normal(0.05, 0.16)))
    turned = float(rng.uniform(0.45, 1.0))  # 1 seen from the front
    big_head = float(np.exp(abs(rng.normal(0, 0.15)) if rng.random() < 0.8 else rng.uniform(0.2, 0.6)))
    lean = rng.normal(0, 0.05) if rng.random() < 0.75 else rng.normal(0, 0.3)

    hip = np.array([0.0, 0.52])
    up = np.array([np.sin(lean), -np.cos(lean)])
    chest = hip + 0.22 * up
    neck = hip + 0.35 * up
    across = np.array([-up[1], up[0]]) * turned
    head = neck + np.array([np.sin(lean + rng.normal(0, 0.15)), -1.0]) * 0.085 * big_head**0.7

    pieces: list[Piece] = []
    legs = _legs(rng, wear, hip, across, build)
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    for side in order:
        pieces += legs[side]
    arms = [_arm(rng, wear, neck, across * sign, up, build, big_head) for sign in (-1.0, 1.0)]
    behind = int(rng.choice([0, 1, 1, 2], p=[0.3, 0.25, 0.25, 0.2]))
    for arm in arms[:behind]:
        pieces += arm
    if rng.random() < 0.12:  # a backpack or a rucksack's edge
        pieces.append(Piece([outlines.blob(rng, chest, (0.14, 0.17), 0.1)], surface(rng, bank), "bag"))
    pieces += hair_behind(rng, wear, head, big_head)
    pieces += _torso(rng, wear, hip, chest, neck, across, build)
    pieces.append(Piece(outlines.tube([neck - 0.02 * up, head], [0.033 * build, 0.031]), wear.skin, "head"))
    pieces += head_and_face(rng, bank, wear, head, big_head, turned)
    for arm in arms[behind:]:
        pieces += arm
    if rng.random() < 0.12:
        side = across / (turned + 1e-6) * rng.choice([-1, 1])
        bag = hip + side * 0.13 + np.array([0, rng.uniform(-0.05, 0.15)])
        pieces.append(Piece([outlines.corners(rng, bag, (0.07, 0.09), 5)], surface(rng, bank), "bag"))
        strap = outlines.tube([bag, neck - side * 0.05], [0.006, 0.006])
        pieces.append(Piece(strap, pieces[-1].material, "bag"))
    amount = float(rng.uniform(0.0, 0.012))
    return [Piece(outlines.wobbled(rng, p.shape, amount, 0.25), p.material, p.group, p.detail) for p in pieces]


def _legs(
    rng: np.random.Generator, wear: Wardrobe, hip: np.ndarray, across: np.ndarray, build: float
) -> list[list[Piece]]:
    seated = rng.random() < 0.2
    stride = abs(rng.normal(0, 0.25))
    legs = []
    for sign in (-1.0, 1.0):
        start = hip + across * sign * 0.05 * build
        if seated:
            thigh, length = sign * rng.uniform(0.1, 1.5), rng.uniform(0.08, 0.24)
            shin = rng.normal(0, 0.35)
        else:
            thigh, length = sign * stride * rng.uniform(0.3, 1.0) + rng.normal(0, 0.06), rng.uniform(0.19, 0.24)
            shin = thigh * rng.uniform(0.0, 1.0) - rng.normal(0, 0.12) * (1 + 3 * (rng.random() < 0.15))
        knee = start + length * np.array([np.sin(thigh), np.cos(thigh)])
        ankle = knee + rng.uniform(0.19, 0.23) * np.array([np.sin(shin), np.cos(shin)])
        toe = ankle + np.array([sign * rng.uniform(0.0, 0.07), rng.uniform(0.012, 0.05)])
        middle = (knee + ankle) / 2 + rng.normal(0, 0.006, 2)
        radii = np.array([0.068, 0.046, 0.042, 0.025]) * build
        bare = outlines.tube([start, knee, middle, ankle], radii)
        leg = [Piece(bare, wear.skin, "legs"), Piece(outlines.tube([ankle, toe], [0.028, 0.022]), wear.shoes, "shoes")]
        loose = rng.uniform(1.0, 1.5)
        if wear.trouser >= 1.0:
            cloth = outlines.tube([start, knee, middle, ankle], radii * [1.02, 1.05, loose, 1.2 * loose])
        else:
            end = start + (knee - start) * min(1.0, wear.trouser * 2)
            cloth = outlines.tube([start, end], [radii[0] * 1.05, radii[1] * loose * 1.15])
        if wear.skirt == 0.0 or rng.random() < 0.2:
            leg.append(Piece(cloth, wear.bottom, "bottom"))
        legs.append(leg)
    return legs


def _torso(
    rng: np.random.Generator,
    wear: Wardrobe,
    hip: np.ndarray,
    chest: np.ndarray,
    neck: np.ndarray,
    across: np.ndarray,
    build: float,
) -> list[Piece]:
    width = float(rng.uniform(0.92, 1.12)) * build
    shoulder = neck + (chest - neck) * 0.22
    low = hip + (hip - chest) * rng.uniform(-0.15, 0.35)
    waist = (hip + chest) / 2

    def outline(loose: float, bottom: np.ndarray, flare: float) -> np.ndarray:
        right = [
            neck + across * 0.035,
            shoulder + across * 0.115 * width * loose,
            chest + across * 0.100 * width * loose,
            waist + across * rng.uniform(0.078, 0.10) * width * loose,
            bottom + across * flare * width * loose,
        ]
        left = [2 * (hip + (neck - hip) * _along(p, hip, neck)) - p for p in right]
        return np.stack(right + left[::-1])

    pieces = []
    if wear.skirt:
        hem = hip + np.array([rng.normal(0, 0.03), wear.skirt])
        flare = rng.uniform(0.10, 0.22) * build
        side = np.array([1.0, 0.0])
        skirt = np.stack([waist + side * 0.075 * build, hip + side * 0.1 * build, hem + side * flare])
        mirrored = (skirt * [-1, 1] + [2 * hip[0], 0])[::-1]
        pieces.append(Piece([np.vstack([skirt, mirrored])], wear.bottom, "bottom"))
    else:
        pieces.append(Piece([outlines.oval(hip, (0.095 * build, 0.06))], wear.bottom, "bottom"))
    pieces.append(Piece([outline(1.0, low, 0.095), outlines.disc(shoulder, 0.05 * build)], wear.top, "top"))
    if rng.random() < 0.4:  # the neckline
        opening = np.stack([neck + across * 0.04, neck - across * 0.04, neck + (chest - neck) * rng.uniform(0.2, 0.6)])
        pieces.append(Piece([opening], wear.skin, "head"))
    if wear.coat is not None:
        long = hip + (hip - chest) * rng.uniform(-0.1, 1.5)
        full = outline(1.1, long, rng.uniform(0.1, 0.13))
        half, gap = len(full) // 2, rng.uniform(0.0, 0.05)
        for side, sign in ((full[:half], 1.0), (full[half:][::-1], -1.0)):
            inner = np.stack([long + across * sign * gap, neck + across * sign * 0.02])
            pieces.append(Piece([np.vstack([side, inner])], wear.coat, "coat"))
    return pieces


def _along(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Return the position of a point's projection between `start` (0) and `end` (1)."""
    axis = end - start
    return float((point - start) @ axis / (axis @ axis))


def _arm(
    rng: np.random.Generator,
    wear: Wardrobe,
    neck: np.ndarray,
    side: np.ndarray,
    up: np.ndarray,
    build: float,
    big_head: float,
) -> list[Piece]:
    sign = float(np.sign(side[0]) or 1.0)
    start = neck - 0.055 * up + side * 0.105 * build
    swing = abs(rng.normal(0.15, 0.3)) if rng.random() < 0.75 else rng.uniform(-0.5, 2.9)
    bend = rng.uniform(-0.1, 0.5) if rng.random() < 0.5 else rng.uniform(-0.6, 2.6)
    direction = -1.0 if rng.random() < 0.7 else 1.0
    upper, lower = rng.uniform(0.11, 0.165), rng.uniform(0.10, 0.155)
    elbow = start + upper * np.array([sign * np.sin(swing), np.cos(swing)])
    turn = swing + direction * bend
    wrist = elbow + lower * np.array([sign * np.sin(turn), np.cos(turn)])
    reach = turn + rng.normal(0, 0.3)
    hand = wrist + 0.04 * big_head**0.5 * np.array([sign * np.sin(reach), np.cos(reach)])
    radii = np.array([0.042, 0.034, 0.031, 0.020]) * build
    middle = (elbow + wrist) / 2
    pieces = [
        Piece(outlines.tube([start, elbow, middle, wrist], radii), wear.skin, "arm"),
        Piece(_hand(rng, wrist, hand, 0.021 * big_head**0.5), wear.skin, "hand"),
    ]
    cover = wear.sleeve if wear.coat is None else 1.0
    material = wear.top if wear.coat is None else wear.coat
    loose = rng.uniform(1.05, 1.5)
    if cover > 0.6:
        end = elbow + (wrist - elbow) * min(1.0, (cover - 0.5) * 2)
        sleeve = outlines.tube([start, elbow, (elbow + end) / 2, end], radii * [1.1, 1.15, loose, loose * 1.1])
    elif cover > 0:
        sleeve = outlines.tube([start, start + (elbow - start) * cover * 1.8], radii[:2] * [1.12, loose * 1.1])
    else:
        return pieces
    return [*pieces, Piece(sleeve, material, "top" if wear.coat is None else "coat")]


def _hand(rng: np.random.Generator, wrist: np.ndarray, tip: np.ndarray, radius: float) -> Shape:
    shape = outlines.tube([wrist, tip], [radius * 0.9, radius])
    if rng.random() < 0.5:
        return shape
    axis = (tip - wrist) / (np.linalg.norm(tip - wrist) + 1e-9)
    normal = np.array([-axis[1], axis[0]])
    for finger in np.linspace(-0.8, 0.8, 4):
        base = tip + normal * finger * radius
        length = axis + normal * finger * rng.uniform(0.1, 0.7)
        shape += outlines.tube([base, base + length * radius * 1.6], [radius * 0.28, radius * 0.2])
    return shape

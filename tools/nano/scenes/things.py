"""Objects that are not people: animals, boxes and furniture, vehicles, turned vessels, plants, loose composites.

Each maker returns pieces (see `pieces.Piece`) about one unit tall, centred near (0, 0.5), x right and y down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.nano.scenes import outlines
from tools.nano.scenes.materials import Material, any_rgb, surface
from tools.nano.scenes.outlines import Shape
from tools.nano.scenes.pieces import Piece

Bank = Sequence[np.ndarray]


def composite(rng: np.random.Generator, bank: Bank) -> list[Piece]:
    """Draw one to five connected blobs and polygons, of one or of several surfaces."""
    main = surface(rng, bank)
    rough = float(rng.choice([0.03, 0.12, 0.3]))
    centre = np.array([0.0, 0.5])
    radii = np.array([0.4 * rng.uniform(0.5, 1.6), 0.4])
    first = outlines.blob(rng, centre, radii, rough)
    if rng.random() < 0.3:
        first = outlines.corners(rng, centre, radii, int(rng.integers(3, 8)))
    pieces = [Piece([first], main, "body")]
    for _ in range(int(rng.integers(0, 5))):
        at = centre + rng.uniform(-1, 1, 2) * radii * 0.9
        size = radii * rng.uniform(0.15, 0.7)
        same = rng.random() < 0.35
        shape = [outlines.blob(rng, at, size, rough)]
        if rng.random() < 0.3:
            shape = outlines.tube([centre, at, at + rng.normal(0, 0.3, 2)], [0.1, 0.07, rng.uniform(0.01, 0.07)])
        piece = Piece(shape, main if same else surface(rng, bank), "body" if same else f"part{len(pieces)}")
        pieces.insert(0 if rng.random() < 0.3 else len(pieces), piece)
    return pieces


def animal(rng: np.random.Generator, bank: Bank) -> list[Piece]:
    """Draw a four-legged, winged or finned body in one coat, with markings."""
    coat = surface(rng, bank, soft=float(rng.uniform(0, 1.2)))
    body, length, thick = [], rng.uniform(0.3, 0.6), rng.uniform(0.12, 0.24)
    back, front = np.array([-length / 2, 0.5]), np.array([length / 2, 0.5 + rng.normal(0, 0.05)])
    middle = (back + front) / 2 + [0, rng.normal(0, 0.04)]
    body += outlines.tube([back, middle, front], [thick * rng.uniform(0.8, 1.1), thick, thick * rng.uniform(0.7, 1.1)])
    head = front + np.array([rng.uniform(0.08, 0.25), rng.uniform(-0.35, 0.1)])
    skull = thick * rng.uniform(0.5, 0.85)
    body += outlines.tube([front, head], [thick * 0.8, skull])
    muzzle = head + np.array([rng.uniform(0.05, 0.18), rng.uniform(0.0, 0.1)])
    body += outlines.tube([head, muzzle], [skull, skull * 0.5])
    for sign in (-1, 1):
        tip = head + np.array([sign * 0.05, -skull - rng.uniform(0.0, 0.15)])
        body += outlines.tube([head + np.array([sign * skull * 0.5, -skull * 0.5]), tip], [skull * 0.4, skull * 0.1])
    tail = back + np.array([-rng.uniform(0.05, 0.3), rng.uniform(-0.3, 0.2)])
    body += outlines.tube([back, (back + tail) / 2 + rng.normal(0, 0.05, 2), tail], [thick * 0.4, thick * 0.25, 0.02])
    if rng.random() < 0.8:
        foot = 0.5 + thick + rng.uniform(0.08, 0.35)
        for x in (back[0], back[0] + 0.06, front[0] - 0.05, front[0]):
            knee = np.array([x + rng.normal(0, 0.04), (0.5 + foot) / 2 + 0.03])
            sole = np.array([x + rng.normal(0, 0.07), foot])
            body += outlines.tube([[x, 0.5], knee, sole], [thick * 0.55, thick * 0.3, thick * 0.2])
    pieces = [Piece(body, coat, "body")]
    for _ in range(int(rng.integers(0, 4))):
        at = middle + rng.normal(0, 1, 2) * [length * 0.3, thick * 0.3]
        pieces.append(
            Piece([outlines.blob(rng, at, (thick * 0.5, thick * 0.35), 0.2)], surface(rng, bank), "body", True)
        )
    eye = outlines.disc(head + np.array([skull * 0.3, -skull * 0.2]), skull * 0.13)
    pieces.append(Piece([eye], surface(rng, bank, (0.05, 0.05, 0.05), contrast=0.05), "body", True))
    return pieces


def box(rng: np.random.Generator, bank: Bank) -> list[Piece]:
    """Draw a block in perspective: chests, cupboards, houses, screens; sometimes with legs, doors or windows."""
    wide, tall = rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.45)
    depth = np.array([rng.uniform(-0.35, 0.35), -rng.uniform(0.02, 0.25)])
    colour = any_rgb(rng)
    contrast = float(np.exp(rng.uniform(np.log(0.03), np.log(0.5))))

    def face(light: float) -> Material:
        red, green, blue = (min(c * light, 1.0) for c in colour)
        return surface(rng, bank, (red, green, blue), contrast=contrast, round_=0.0)

    a, b = np.array([-wide, 0.5 - tall]), np.array([wide, 0.5 - tall])
    c, d = np.array([wide, 0.5 + tall]), np.array([-wide, 0.5 + tall])
    sidelight = rng.uniform(0.4, 1.3)
    near, far = (b, c) if depth[0] > 0 else (a, d)
    pieces = []
    if rng.random() < 0.4:
        legs: Shape = []
        for corner in (c, d, near + depth + [0, 2 * tall]):
            end = corner + np.array([0, rng.uniform(0.1, 0.4)])
            legs += outlines.tube([corner - [0.02 * np.sign(corner[0]), 0], end], [0.02, 0.015])
        pieces.append(Piece(legs, face(0.7), "legs"))
    pieces += [
        Piece([np.stack([a, b, b + depth, a + depth])], face(rng.uniform(0.9, 1.5)), "lid"),
        Piece([np.stack([near, far, far + depth, near + depth])], face(sidelight), "side"),
        Piece([np.stack([a, b, c, d])], face(1.0), "front"),
    ]
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    if rng.random() < 0.6:
        panes: Shape = []
        for column in range(columns):
            for row in range(rows):
                low = a + (c - a) * [(column + 0.15) / columns, (row + 0.15) / rows]
                high = a + (c - a) * [(column + 0.85) / columns, (row + 0.85) / rows]
                panes.append(np.array([low, [high[0], low[1]], high, [low[0], high[1]]]))
        pieces.append(Piece(panes, surface(rng, bank, round_=0.0), "front", True))
    return pieces


def vehicle(rng: np.random.Generator, bank: Bank) -> list[Piece]:
    """Draw a body on wheels with a cabin."""
    paint, dark = surface(rng, bank, contrast=0.06), surface(rng, bank, (0.08, 0.08, 0.09), contrast=0.1)
    half, top = rng.uniform(0.45, 0.8), rng.uniform(0.35, 0.5)
    hull = np.array([[-half, 0.72], [-half, top], [half * 0.95, top + 0.05], [half, 0.72]])
    cabin = np.array([[-half * 0.8, top], [-half * 0.5, 0.2], [half * 0.3, 0.2], [half * 0.6, top + 0.03]])
    glass = (cabin - cabin.mean(axis=0)) * 0.8 + cabin.mean(axis=0)
    pieces = [Piece([hull, cabin], paint, "body"), Piece([glass], surface(rng, bank, contrast=0.3), "body", True)]
    for x in (-half * 0.6, half * 0.6):
        pieces.append(Piece([outlines.disc((x, 0.74), 0.14)], dark, "wheels"))
        pieces.append(Piece([outlines.disc((x, 0.74), 0.07)], surface(rng, bank), "wheels", True))
    return pieces


def vessel(rng: np.random.Generator, bank: Bank) -> list[Piece]:
    """Draw a turned profile: bottles, vases, lamps, balls on a stand; often with a label or bands."""
    heights = np.sort(rng.uniform(0, 1, 5))
    heights[0], heights[-1] = 0.0, 1.0
    y = np.linspace(0, 1, 24)
    half: np.ndarray = np.interp(y, heights, rng.uniform(0.04, 0.3, 5))
    half = np.convolve(np.pad(half, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    outline = np.column_stack([np.concatenate([half, -half[::-1]]), np.concatenate([y, y[::-1]])])
    pieces = [Piece([outline], surface(rng, bank, contrast=float(rng.uniform(0.02, 0.3))), "body")]
    for _ in range(int(rng.integers(0, 3))):
        start, count = int(rng.integers(0, 18)), int(rng.integers(2, 6))
        band = slice(start, start + count)
        label = np.column_stack(
            [np.concatenate([half[band], -half[band][::-1]]), np.concatenate([y[band], y[band][::-1]])]
        )
        pieces.append(Piece([label], surface(rng, bank), f"band{start}"))
    return pieces


def plant(rng: np.random.Generator, bank: Bank) -> list[Piece]:
    """Draw a trunk or a pot under leaves."""
    green = np.array([0.2, 0.35, 0.12]) * rng.uniform(0.5, 1.8) + rng.normal(0, 0.05, 3)
    red, g, blue = (float(v) for v in np.clip(green, 0, 1))
    leaf = surface(rng, bank, (red, g, blue), contrast=float(rng.uniform(0.15, 0.7)), soft=float(rng.uniform(0, 0.8)))
    stem: Shape = outlines.tube([[0, 1.0], [rng.normal(0, 0.05), 0.5]], [0.04, 0.025])
    if rng.random() < 0.5:
        stem = [np.array([[-0.14, 0.75], [0.14, 0.75], [0.1, 1.0], [-0.1, 1.0]])]
    crown: Shape = []
    slender = rng.random() < 0.5
    for _ in range(int(rng.integers(6, 22))):
        if slender:
            end = np.array([rng.normal(0, 0.25), rng.uniform(0.0, 0.7)])
            crown += outlines.tube([[0, 0.75], end * [0.6, 1], end], [0.015, 0.05 * rng.random() + 0.01, 0.004])
        else:
            crown.append(outlines.blob(rng, (rng.normal(0, 0.18), rng.normal(0.3, 0.14)), (0.14, 0.11), 0.2))
    return [Piece(stem, surface(rng, bank), "stem"), Piece(crown, leaf, "crown")]


MAKERS = (composite, composite, animal, box, box, vehicle, vessel, plant)
"""All drawing functions, repeated by their frequency."""

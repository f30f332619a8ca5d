# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The plan of a place, and how houses, trees and cars are drawn into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from .materials import CAR_PAINTS, MATERIAL_ID

FloatMap = NDArray[np.float32]
ByteMap = NDArray[np.uint8]
BoolMap = NDArray[np.bool_]

IGNORE, IMPERVIOUS, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = range(7)
CLASS_NAMES = ('impervious_surface', 'building', 'low_vegetation', 'tree', 'car', 'clutter')

METRES_PER_PIXEL = 0.3
SUPERSAMPLING = 2
MARGIN_PIXELS = 32  # planned and lit, then cut away: shadows and crowns come in from outside


@dataclass
class Layout:
    """A planned place at working resolution: ``SUPERSAMPLING`` times the finished one, with margin.

    Args:
        size: Edge of the finished square image in pixels.
        labels: Label ids 0..6, shape (n, n).
        material: Index into :data:`MATERIALS`, shape (n, n).
        under: Material below deciduous crowns, shape (n, n).
        variant: Position between the two colours of the material, in [0, 1], shape (n, n).
        height: Metres above ground, shape (n, n).
        slope: Rise in x and in y direction (metres per metre), shape (2, n, n).
    """

    size: int
    labels: ByteMap = field(init=False)
    material: ByteMap = field(init=False)
    under: ByteMap = field(init=False)
    variant: FloatMap = field(init=False)
    height: FloatMap = field(init=False)
    slope: FloatMap = field(init=False)

    def __post_init__(self) -> None:
        n = self.resolution
        self.labels = np.full((n, n), LOW_VEGETATION, np.uint8)
        self.material = np.full((n, n), MATERIAL_ID['grass'], np.uint8)
        self.under = self.material.copy()
        self.variant = np.zeros((n, n), np.float32)
        self.height = np.zeros((n, n), np.float32)
        self.slope = np.zeros((2, n, n), np.float32)

    @property
    def resolution(self) -> int:
        """Edge of the arrays in working pixels."""
        return (self.size + 2 * MARGIN_PIXELS) * SUPERSAMPLING

    @property
    def pixel(self) -> float:
        """Edge of a working pixel in metres."""
        return METRES_PER_PIXEL / SUPERSAMPLING

    @property
    def extent(self) -> float:
        """Half the edge of the planned square in metres; the origin is its centre."""
        return self.resolution * self.pixel / 2


def layout_labels(layout: Layout) -> ByteMap:
    """Label map of the finished image.

    Args:
        layout: The place.

    Returns:
        Ids 1..6 (0 would be "ignore"), shape (size, size), uint8.
    """
    first = SUPERSAMPLING // 2
    full = layout.labels[first::SUPERSAMPLING, first::SUPERSAMPLING]
    return full[MARGIN_PIXELS:-MARGIN_PIXELS, MARGIN_PIXELS:-MARGIN_PIXELS].copy()


def layout_elevation(layout: Layout) -> FloatMap:
    """Elevation above ground of the finished image.

    Args:
        layout: The place.

    Returns:
        Metres, shape (size, size), float32.
    """
    extent = layout.size + 2 * MARGIN_PIXELS
    whole = cv2.resize(layout.height, (extent, extent), interpolation=cv2.INTER_AREA)
    return whole[MARGIN_PIXELS:-MARGIN_PIXELS, MARGIN_PIXELS:-MARGIN_PIXELS].copy()


class Window:
    """A rotated local frame on part of a layout.

    Args:
        layout: The layout.
        centre: Metres from the layout's centre, (x, y).
        angle: Of the axis ``along``, in radians.
        radius: Metres around the centre that the window covers.

    Attributes:
        along: Metres from the centre along the axis, of every pixel of the window.
        across: Metres at right angles to it.
    """

    def __init__(
        self, layout: Layout, centre: Sequence[float], angle: float, radius: float
    ) -> None:
        column = (centre[0] + layout.extent) / layout.pixel
        row = (centre[1] + layout.extent) / layout.pixel
        reach = radius / layout.pixel + 2
        top, bottom = (int(np.clip(row + sign * reach, 0, layout.resolution)) for sign in (-1, 1))
        left, right = (
            int(np.clip(column + sign * reach, 0, layout.resolution)) for sign in (-1, 1)
        )
        self.layout = layout
        self.angle = angle
        self.area = (slice(top, bottom), slice(left, right))
        east = (np.arange(left, right, dtype=np.float32) + 0.5 - column)[None] * layout.pixel
        south = (np.arange(top, bottom, dtype=np.float32) + 0.5 - row)[:, None] * layout.pixel
        self.along = east * math.cos(angle) + south * math.sin(angle)
        self.across = south * math.cos(angle) - east * math.sin(angle)

    def box(
        self, half_length: float, half_width: float, at: tuple[float, float] = (0.0, 0.0)
    ) -> BoolMap:
        """Mask of a rectangle of the local frame."""
        return (np.abs(self.along - at[0]) <= half_length) & (
            np.abs(self.across - at[1]) <= half_width
        )

    def paint(
        self,
        mask: BoolMap,
        material: str,
        label: int | None = None,
        *,
        variant: float | FloatMap | None = None,
        height: float | FloatMap = 0.0,
        slope: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    ) -> None:
        """Cover the masked pixels.

        Args:
            mask: Pixels of the window.
            material: Name in ``MATERIALS``.
            label: Label id; None keeps it.
            variant: Position between the material's two colours; None keeps it.
            height: Metres above ground.
            slope: Rise along and across, metres per metre; None for flat.
        """
        layout, area = self.layout, self.area
        layout.material[area][mask] = MATERIAL_ID[material]
        if material != 'leaves':
            layout.under[area][mask] = MATERIAL_ID[material]
        if label is not None:
            layout.labels[area][mask] = label
        if variant is not None:
            layout.variant[area][mask] = (
                variant[mask] if isinstance(variant, np.ndarray) else variant
            )
        layout.height[area][mask] = height[mask] if isinstance(height, np.ndarray) else height
        if slope is None:
            layout.slope[(slice(None), *area)][:, mask] = 0
        else:
            cosine, sine = math.cos(self.angle), math.sin(self.angle)
            layout.slope[(0, *area)][mask] = (slope[0] * cosine - slope[1] * sine)[mask]
            layout.slope[(1, *area)][mask] = (slope[0] * sine + slope[1] * cosine)[mask]


def smooth_noise(rng: np.random.Generator, size: int, grain: float) -> FloatMap:
    """Smooth noise of zero mean and unit variance, shape (size, size), ``grain`` in pixels."""
    knots = max(4, math.ceil(size / grain) + 3)
    field_ = rng.standard_normal((knots, knots)).astype(np.float32)
    if grain > 1:
        zoomed = cv2.resize(field_, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
        field_ = zoomed[:size, :size]
    field_ = field_[:size, :size]
    return ((field_ - field_.mean()) / (field_.std() + 1e-6)).astype(np.float32)


def draw_house(
    layout: Layout,
    rng: np.random.Generator,
    centre: Sequence[float],
    angle: float,
    half: Sequence[float],
    roof: str,
) -> None:
    """A building on a rectangle, with a gable, hip or flat roof and what stands on it."""
    length, width = max(half), min(half)
    if half[1] > half[0]:
        angle += math.pi / 2
    window = Window(layout, centre, angle, math.hypot(length, width) + 1)
    variant = float(rng.uniform())
    eaves = float(rng.uniform(3.0, 6.5))
    body = window.box(length, width)
    if roof == 'flat_roof':
        window.paint(body, roof, BUILDING, variant=variant, height=eaves + 1.5)
        rim = body & ~window.box(length - 0.4, width - 0.4)
        window.paint(rim, 'fixture', variant=0.3, height=eaves + 2.0)
        for _ in range(int(rng.integers(1, 6))):
            at = (rng.uniform(-0.7, 0.7) * length, rng.uniform(-0.7, 0.7) * width)
            block = window.box(rng.uniform(0.4, 1.4), rng.uniform(0.4, 1.0), at) & body
            window.paint(block, 'fixture', variant=float(rng.uniform()), height=eaves + 2.5)
        return
    pitch = float(rng.uniform(0.5, 0.95))
    across = np.abs(window.across)
    slope_across = -pitch * np.sign(window.across) * np.ones_like(window.along)
    slope_along = np.zeros_like(slope_across)
    distance = np.broadcast_to(width - across, slope_across.shape)
    if rng.uniform() < 0.35:  # hip: the ends lean too
        to_end = length - np.abs(window.along)
        end = to_end < distance
        slope_along = np.where(end, -pitch * np.sign(window.along), 0).astype(np.float32)
        slope_across = np.where(end, 0, slope_across).astype(np.float32)
        distance = np.minimum(distance, to_end)
    height = (eaves + pitch * distance).astype(np.float32)
    window.paint(
        body, roof, BUILDING, variant=variant, height=height, slope=(slope_along, slope_across)
    )
    for _ in range(int(rng.integers(0, 4))):  # chimneys and roof windows
        at = (rng.uniform(-0.8, 0.8) * length, rng.uniform(-0.7, 0.7) * width)
        block = window.box(0.45, 0.35, at) & body
        window.paint(block, 'fixture', variant=float(rng.uniform()), height=height + 0.6)


def draw_tree(
    layout: Layout, rng: np.random.Generator, centre: Sequence[float], radius: float
) -> None:
    """A crown with a ragged edge; buildings and cars stay visible below its rim."""
    window = Window(layout, centre, float(rng.uniform(0, 6.28)), radius * 1.3)
    bearing = np.arctan2(window.across, window.along)
    lobes = sum(
        rng.normal(0, 0.07) * np.cos(count * bearing + rng.uniform(0, 6.28))
        for count in (2, 3, 5, 7)
    )
    reach = np.hypot(window.along, window.across) / (radius * (1 + lobes))
    crown = np.sqrt(np.clip(1 - reach**2, 0, 1))
    tall = radius * float(rng.uniform(1.5, 2.2))
    height = (tall * (0.45 + 0.55 * crown)).astype(np.float32)
    free = ~np.isin(layout.labels[window.area], (BUILDING, CAR)) | (height > 5) & (reach < 0.8)
    steep = (-0.9 * reach / np.maximum(np.hypot(window.along, window.across), 0.1)).astype(
        np.float32
    )
    kind = 'needles' if rng.uniform() < 0.25 else 'leaves'
    window.paint(
        (reach < 1) & free,
        kind,
        TREE,
        variant=float(rng.uniform()),
        height=height,
        slope=(
            (steep * window.along).astype(np.float32),
            (steep * window.across).astype(np.float32),
        ),
    )


def draw_car(
    layout: Layout, rng: np.random.Generator, centre: Sequence[float], angle: float
) -> None:
    """A passenger car, or a van now and then."""
    van = rng.uniform() < 0.12
    length, width, tall = (2.9, 1.05, 2.3) if van else (2.2, 0.92, 1.5)
    window = Window(layout, centre, angle + float(rng.normal(0, 0.03)), 3.2)
    rounded = window.box(length, width) & (
        np.abs(window.along) / length + np.abs(window.across) / width < 1.75
    )
    if (layout.labels[window.area][rounded] != IMPERVIOUS).any():
        return
    paint = int(rng.choice(len(CAR_PAINTS), p=[0.27, 0.25, 0.18, 0.14, 0.08, 0.08]))
    window.paint(rounded, 'paint', CAR, variant=paint / (len(CAR_PAINTS) - 1), height=tall)
    front = -length * (0.75 if van else 0.35)
    window.paint(window.box(0.3, width * 0.8, (front, 0.0)), 'glass', variant=0.5, height=tall)
    if not van:
        window.paint(
            window.box(0.25, width * 0.75, (length * 0.62, 0.0)), 'glass', variant=0.5, height=tall
        )

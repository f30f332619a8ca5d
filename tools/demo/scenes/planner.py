# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Plans towns: streets, blocks of several kinds, and what stands in them."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .layout import (
    CLUTTER,
    IMPERVIOUS,
    LOW_VEGETATION,
    Layout,
    Window,
    draw_car,
    draw_house,
    draw_tree,
    smooth_noise,
)
from .streets import Streets


class _TownPlanner:
    """Fills a layout: streets, the ground of block after block, then houses, cars and crowns."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self.layout = layout
        self.rng = rng
        self.streets = Streets(rng, layout.extent)
        self.roofs = rng.dirichlet([1.2, 0.7, 0.6])
        self.houses: list[tuple[tuple[float, float], float, tuple[float, float], str]] = []
        self.trees: list[tuple[tuple[float, float], float]] = []
        self.cars: list[tuple[tuple[float, float], float]] = []
        self.whole = Window(layout, (0.0, 0.0), 0.0, layout.extent)

    def run(self) -> None:
        layout, rng = self.layout, self.rng
        n = layout.resolution
        layout.variant[:] = np.clip(0.5 + 0.3 * smooth_noise(rng, n, 60), 0, 1)
        wild = smooth_noise(rng, n, 110) > 0.9
        self.whole.paint(wild, 'meadow', LOW_VEGETATION)
        self._pave()
        kinds = [
            self._homes,
            self._flats,
            self._shops,
            self._park,
            self._site,
            self._sport,
            self._pond,
        ]
        for block in self.streets.blocks():
            kinds[rng.choice(7, p=[0.39, 0.15, 0.13, 0.09, 0.10, 0.09, 0.05])](*block)
        for centre, angle, half, roof in self.houses:
            draw_house(layout, rng, centre, angle, half, roof)
        for centre, angle in self.cars:
            draw_car(layout, rng, centre, angle)
        for centre, radius in self.trees:
            draw_tree(layout, rng, centre, radius)

    # ---- streets

    def _pave(self) -> None:
        rng, streets, layout = self.rng, self.streets, self.layout
        axis = (
            (np.arange(layout.resolution, dtype=np.float32) + 0.5) * layout.pixel
        ) - layout.extent
        u, v = streets.street_frame(*np.meshgrid(axis, axis))
        carriageway = np.full(u.shape, np.inf, np.float32)
        stripe = np.zeros(u.shape, bool)
        for position in streets.main:
            if not u.min() - 9 < position < u.max() + 9:
                continue
            distance = np.abs(u - position)
            carriageway = np.minimum(carriageway, distance)
            stripe |= (distance < 0.12) & (np.mod(v, 6.0) < 3.0)
        for (u0, u1), cross in zip(itertools.pairwise(streets.main), streets.cross, strict=True):
            if u1 < u.min() or u0 > u.max():
                continue
            between = (u >= u0) & (u <= u1)
            for position in cross:
                if not v.min() - 9 < position < v.max() + 9:
                    continue
                carriageway = np.where(
                    between, np.minimum(carriageway, np.abs(v - position)), carriageway
                )
        half = streets.half_width
        surface = str(rng.choice(['asphalt', 'asphalt', 'asphalt', 'concrete', 'paving']))
        walk = str(rng.choice(['concrete', 'paving', 'concrete']))
        walk_mask = (carriageway < half + streets.sidewalk) & (carriageway >= half)
        self.whole.paint(walk_mask, walk, IMPERVIOUS)
        self.whole.paint(carriageway < half, surface, IMPERVIOUS)
        if rng.uniform() < 0.7:
            self.whole.paint(stripe & (carriageway < half), 'marking')
        self._traffic()

    def _traffic(self) -> None:
        rng, streets = self.rng, self.streets
        parked = rng.uniform(0.15, 0.6)
        avenue = rng.uniform() < 0.6
        for position in streets.main:
            v = -self.layout.extent * 1.5
            while v < self.layout.extent * 1.5:
                v += float(rng.uniform(5.4, 9.0))
                for side in (-1, 1):
                    if rng.uniform() < parked * 0.5:
                        place, angle = streets.place(
                            position + side * (streets.half_width - 1.1), v
                        )
                        self.cars.append((place, angle + (math.pi if side > 0 else 0)))
                    if avenue and rng.uniform() < 0.3:
                        place, _ = streets.place(position + side * (streets.half_width + 1.4), v)
                        self.trees.append((place, float(rng.uniform(1.4, 2.8))))
                if rng.uniform() < 0.08:
                    place, angle = streets.place(position + float(rng.choice([-1, 1])) * 1.0, v)
                    self.cars.append((place, angle))

    # ---- small parts

    def _patch(
        self,
        u: float,
        v: float,
        half: tuple[float, float],
        material: str,
        label: int,
    ) -> None:
        """A flat rectangle, ``half`` = (across, along) the main street."""
        place, angle = self.streets.place(u, v)
        window = Window(self.layout, place, angle, math.hypot(*half) + 1)
        window.paint(window.box(half[1], half[0]), material, label)

    def _roof(self) -> str:
        return str(self.rng.choice(['tile_roof', 'dark_roof', 'flat_roof'], p=self.roofs))

    def _grove(
        self, u0: float, u1: float, v0: float, v1: float, per_are: float, least: float = 1.3
    ) -> None:
        """Trees at random, ``per_are`` of them on 100 square metres."""
        for _ in range(self.rng.poisson(max(0.0, (u1 - u0) * (v1 - v0)) * per_are / 100)):
            place, _ = self.streets.place(
                float(self.rng.uniform(u0, u1)), float(self.rng.uniform(v0, v1))
            )
            self.trees.append((place, float(self.rng.uniform(least, 4.2))))

    def _shrubs(self, u0: float, u1: float, v0: float, v1: float, count: int) -> None:
        """Bushes and hedges: low vegetation like small trees that throw hardly a shadow."""
        rng = self.rng
        for _ in range(count):
            place, angle = self.streets.place(
                float(rng.uniform(u0, u1)), float(rng.uniform(v0, v1))
            )
            window = Window(self.layout, place, angle, 6.0)
            if rng.uniform() < 0.5:
                mask = window.box(rng.uniform(2, 5), rng.uniform(0.4, 0.8))
            else:
                mask = np.hypot(window.along, window.across) < rng.uniform(0.7, 2.2)
            mask = mask & (self.layout.labels[window.area] == LOW_VEGETATION)
            window.paint(mask, 'bush', LOW_VEGETATION, variant=float(rng.uniform()), height=0.7)

    # ---- blocks, all on a rectangle of street coordinates

    def _homes(self, u0: float, u1: float, v0: float, v1: float) -> None:
        rng = self.rng
        self._shrubs(u0, u1, v0, v1, int((u1 - u0) * (v1 - v0) / 120))
        for side, edge in ((1, u0), (-1, u1)):
            v = v0
            while v < v1 - 11:
                lot = float(min(rng.uniform(13, 19), v1 - v))
                depth, width = (
                    float(rng.uniform(3.8, 5.6)),
                    float(min(rng.uniform(3.8, 6.2), lot / 2 - 1.2)),
                )
                setback = float(rng.uniform(1.5, 5.0))
                u = edge + side * (setback + depth)
                middle = v + lot / 2 + float(rng.normal(0, 0.6))
                if rng.uniform() < 0.75:
                    drive = middle - width - 1.6 if rng.uniform() < 0.5 else middle + width + 1.6
                    reach = (setback + depth) / 2
                    surface = str(rng.choice(['paving', 'concrete', 'asphalt']))
                    self._patch(edge + side * reach, drive, (reach, 1.5), surface, IMPERVIOUS)
                    if rng.uniform() < 0.55:
                        place, angle = self.streets.place(edge + side * (reach + 0.4), drive)
                        self.cars.append((place, angle + math.pi / 2))
                if rng.uniform() < 0.5:
                    self._patch(u + side * (depth + 1.5), middle, (1.8, 2.8), 'paving', IMPERVIOUS)
                if rng.uniform() < 0.93:
                    place, angle = self.streets.place(u, middle)
                    turn = float(rng.normal(0, 0.04))
                    self.houses.append((place, angle + turn, (width, depth), self._roof()))
                if rng.uniform() < 0.3:  # shed or garage
                    place, angle = self.streets.place(u + side * (depth + 5), middle + width * 0.6)
                    self.houses.append((place, angle, (1.9, 1.5), 'flat_roof'))
                v += lot
        middle = (u0 + u1) / 2
        self._grove(middle - 6, middle + 6, v0, v1, 1.1)
        self._grove(u0, u1, v0, v1, 0.25)

    def _flats(self, u0: float, u1: float, v0: float, v1: float) -> None:
        rng = self.rng
        self._shrubs(u0, u1, v0, v1, int((u1 - u0) * (v1 - v0) / 160))
        roof = self._roof()
        depth = float(rng.uniform(5.0, 6.5))
        for u in (u0 + depth + 2, u1 - depth - 2) if u1 - u0 > 4 * depth + 10 else ((u0 + u1) / 2,):
            v = v0 + 2
            while v < v1 - 14:
                length = float(min(rng.uniform(9, 16), (v1 - v) / 2))
                place, angle = self.streets.place(u, v + length)
                self.houses.append((place, angle, (length, depth), roof))
                v += 2 * length + float(rng.uniform(5, 10))
        middle = (u0 + u1) / 2
        if rng.uniform() < 0.7:
            self._patch(middle, (v0 + v1) / 2, (1.0, (v1 - v0) / 2), 'paving', IMPERVIOUS)
        self._grove(u0 + 1, u1 - 1, v0, v1, 0.9)

    def _shops(self, u0: float, u1: float, v0: float, v1: float) -> None:
        rng = self.rng
        half_u, half_v = (u1 - u0) / 2, (v1 - v0) / 2
        surface = str(rng.choice(['asphalt', 'concrete', 'paving']))
        self._patch((u0 + u1) / 2, (v0 + v1) / 2, (half_u - 1, half_v - 1), surface, IMPERVIOUS)
        share = float(rng.uniform(0.35, 0.55))
        place, angle = self.streets.place((u0 + u1) / 2, v0 + 2 * half_v * share / 2 + 2)
        self.houses.append((place, angle, (half_v * share - 1, half_u - 4), 'flat_roof'))
        filled = rng.uniform(0.35, 0.85)
        v = v0 + 2 * half_v * share + 7
        while v < v1 - 4:
            for slot in np.arange(u0 + 3, u1 - 3, 2.6):
                if rng.uniform() < filled:
                    place, angle = self.streets.place(float(slot), v)
                    self.cars.append((place, angle))
                elif rng.uniform() < 0.06:
                    self.trees.append((self.streets.place(float(slot), v)[0], 1.6))
            v += 6.0 if rng.uniform() < 0.5 else 10.5
        self._grove(u0 - 0.5, u0 + 1.5, v0, v1, 2.0)

    def _park(self, u0: float, u1: float, v0: float, v1: float) -> None:
        rng = self.rng
        self._patch(
            (u0 + u1) / 2, (v0 + v1) / 2, ((u1 - u0) / 2, (v1 - v0) / 2), 'meadow', LOW_VEGETATION
        )
        for _ in range(int(rng.integers(1, 3))):
            v = float(rng.uniform(v0, v1))
            self._patch((u0 + u1) / 2, v, ((u1 - u0) / 2, 0.9), 'paving', IMPERVIOUS)
        self._shrubs(u0, u1, v0, v1, int(rng.integers(5, 25)))
        self._grove(u0, u1, v0, v1, float(rng.uniform(0.8, 2.4)))

    def _site(self, u0: float, u1: float, v0: float, v1: float) -> None:
        rng = self.rng
        half_u, half_v = (u1 - u0) / 2, (v1 - v0) / 2
        self._patch((u0 + u1) / 2, (v0 + v1) / 2, (half_u - 1, half_v - 1), 'soil', CLUTTER)
        for _ in range(int(rng.integers(4, 10))):
            place, angle = self.streets.place(
                float(rng.uniform(u0 + 3, u1 - 3)), float(rng.uniform(v0 + 3, v1 - 3))
            )
            window = Window(self.layout, place, angle, 6.0)
            if rng.uniform() < 0.5:
                radius = float(rng.uniform(1.5, 4.5))
                reach = np.hypot(window.along, window.across) / radius
                height = (radius * 0.5 * np.clip(1 - reach, 0, 1)).astype(np.float32)
                window.paint(
                    reach < 1, 'rubble', CLUTTER, variant=float(rng.uniform()), height=height
                )
            else:
                box = window.box(3.0, 1.25)
                window.paint(box, 'container', CLUTTER, variant=float(rng.uniform()), height=2.6)
        self._grove(u0, u1, v0, v1, 0.15)

    def _sport(self, u0: float, u1: float, v0: float, v1: float) -> None:
        rng = self.rng
        variant = float(rng.choice([0.0, 0.0, 1.0]))
        v = v0 + 11
        while v < v1 - 9:
            place, angle = self.streets.place((u0 + u1) / 2, v)
            window = Window(self.layout, place, angle + math.pi / 2, 22)
            half = (min(16.0, (u1 - u0) / 2 - 1), 8.0)
            window.paint(window.box(*half), 'court', CLUTTER, variant=variant)
            play = (half[0] * 0.7, 4.9)
            lines = window.box(*play) & ~window.box(play[0] - 0.25, play[1] - 0.25)
            lines |= window.box(0.12, play[1]) | window.box(play[0], 0.12)
            window.paint(lines, 'marking', CLUTTER, variant=0.8)
            v += 18
        self._grove(u0, u0 + 3, v0, v1, 1.5)
        self._grove(u1 - 3, u1, v0, v1, 1.5)

    def _pond(self, u0: float, u1: float, v0: float, v1: float) -> None:
        place, angle = self.streets.place((u0 + u1) / 2, (v0 + v1) / 2)
        half_u, half_v = (u1 - u0) / 2, (v1 - v0) / 2
        window = Window(self.layout, place, angle, math.hypot(half_u, half_v))
        bearing = np.arctan2(window.across, window.along)
        shore = 0.85 + 0.08 * np.sin(3 * bearing + self.rng.uniform(0, 6.28))
        reach = np.hypot(window.along / half_v, window.across / half_u)
        window.paint(reach < shore, 'water', CLUTTER)
        self._shrubs(u0, u1, v0, v1, 12)
        self._grove(u0, u1, v0, v0 + half_v * 0.4, 1.2)
        self._grove(u0, u1, v1 - half_v * 0.4, v1, 1.2)


def make_layout(rng: np.random.Generator, size: int = 256) -> Layout:
    """Plan one place.

    Args:
        rng: Source of randomness.
        size: Edge of the finished image in pixels (0.3 m each), at least 32.

    Returns:
        The layout, with ``SUPERSAMPLING`` times the resolution and a margin.

    Raises:
        ValueError: If ``size`` is below 32.
    """
    if size < 32:
        raise ValueError(f'size={size} is too small for a scene: give at least 32 pixels.')
    layout = Layout(size)
    _TownPlanner(layout, rng).run()
    return layout

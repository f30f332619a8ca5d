# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A street grid that bends: coordinates along and across the streets, and the blocks between."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .layout import FloatMap


class Streets:
    """A warped street grid: ``u`` counts metres across the main streets, ``v`` along them.

    Args:
        rng: Source of randomness.
        extent: Half the edge of the planned square in metres.

    Attributes:
        main: u of the main streets.
        cross: v of the streets between each two main ones.
        half_width: Half the carriageway in metres.
        sidewalk: Width of the sidewalk in metres.
    """

    def __init__(self, rng: np.random.Generator, extent: float) -> None:
        self.angle = float(rng.uniform(0, math.pi))
        self.bend = float(rng.uniform(2, 6)), float(rng.uniform(1, 4))
        self.period = float(rng.uniform(90, 160)), float(rng.uniform(90, 160))
        self.phase = float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))
        self.half_width = float(rng.uniform(2.6, 3.8))
        self.sidewalk = float(rng.uniform(1.2, 2.2))
        reach = extent * 1.6
        self.main = self._positions(rng, reach, 34, 56)
        self.cross = [
            [v for v in self._positions(rng, reach, 45, 80) if rng.uniform() < 0.8]
            for _ in self.main[1:]
        ]

    @staticmethod
    def _positions(
        rng: np.random.Generator, reach: float, least: float, most: float
    ) -> list[float]:
        positions = [-reach - float(rng.uniform(0, most))]
        while positions[-1] < reach:
            positions.append(positions[-1] + float(rng.uniform(least, most)))
        return positions

    def street_frame(self, x: FloatMap, y: FloatMap) -> tuple[FloatMap, FloatMap]:
        """Street coordinates (u, v) of image positions in metres."""
        a = x * math.cos(self.angle) + y * math.sin(self.angle)
        b = y * math.cos(self.angle) - x * math.sin(self.angle)
        u = a + self.bend[0] * np.sin(2 * math.pi * b / self.period[0] + self.phase[0])
        v = b + self.bend[1] * np.sin(2 * math.pi * a / self.period[1] + self.phase[1])
        return u.astype(np.float32), v.astype(np.float32)

    def place(self, u: float, v: float) -> tuple[tuple[float, float], float]:
        """Image position in metres, and the main street's direction, at street coordinates."""
        a, b = u, v
        for _ in range(8):
            a, b = (
                u - self.bend[0] * math.sin(2 * math.pi * b / self.period[0] + self.phase[0]),
                v - self.bend[1] * math.sin(2 * math.pi * a / self.period[1] + self.phase[1]),
            )
        rate = 2 * math.pi / self.period[0]
        lean = self.bend[0] * rate * math.cos(rate * b + self.phase[0])
        x = a * math.cos(self.angle) - b * math.sin(self.angle)
        y = a * math.sin(self.angle) + b * math.cos(self.angle)
        return (x, y), self.angle + math.pi / 2 + math.atan(lean)

    def blocks(self) -> list[tuple[float, float, float, float]]:
        """Rectangles (u0, u1, v0, v1) between the sidewalks."""
        rim = self.half_width + self.sidewalk
        found = []
        for (u0, u1), cross in zip(itertools.pairwise(self.main), self.cross, strict=True):
            found += [
                (u0 + rim, u1 - rim, v0 + rim, v1 - rim) for v0, v1 in itertools.pairwise(cross)
            ]
        return found

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Season, light and sensor: turns a layout into a photograph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .layout import MARGIN_PIXELS, SUPERSAMPLING, ByteMap, FloatMap, Layout, smooth_noise
from .materials import CAR_PAINTS, MATERIAL_ID, MATERIALS


@dataclass(frozen=True)
class SceneStyle:
    """Season, light and sensor of one flight.

    Args:
        green: 1 for fresh vegetation, 0 for a dried-out one.
        autumn: Share of yellow and brown in deciduous crowns, in [0, 1].
        leaf_off: Share of the ground seen through deciduous crowns, in [0, 1].
        sun_azimuth: Direction towards the sun in radians, image axes (x right, y down).
        sun_elevation: Height of the sun in radians.
        ambient: Share of sky light in the shade, in (0, 1).
        white_balance: Gain of red, green and blue.
        haze: Share of path radiance, in [0, 1).
        exposure: Gain before the tone curve.
        gamma: Exponent of the tone curve.
        blur: Standard deviation of the optical blur in pixels of the finished image.
        noise: Standard deviation of the sensor noise in grey levels (0-255).
    """

    green: float = 1.0
    autumn: float = 0.0
    leaf_off: float = 0.0
    sun_azimuth: float = 0.8
    sun_elevation: float = 0.85
    ambient: float = 0.4
    white_balance: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze: float = 0.05
    exposure: float = 1.5
    gamma: float = 0.75
    blur: float = 0.5
    noise: float = 3.0

    @classmethod
    def sample(cls, rng: np.random.Generator) -> SceneStyle:
        """Draw a flight: one of four seasons, and light, haze and sensor at random.

        Args:
            rng: Source of randomness.

        Returns:
            The style.
        """
        season = rng.choice(['spring', 'summer', 'drought', 'autumn'], p=[0.2, 0.4, 0.2, 0.2])
        green, autumn, leaf_off, low_sun, high_sun = {
            'spring': (0.65, 0.05, 0.55, 28, 45),
            'summer': (1.00, 0.00, 0.00, 45, 62),
            'drought': (0.15, 0.10, 0.00, 42, 60),
            'autumn': (0.55, 0.80, 0.20, 24, 40),
        }[str(season)]
        warmth = rng.normal(0.0, 0.05)
        return cls(
            green=float(np.clip(green + rng.normal(0, 0.12), 0, 1)),
            autumn=float(np.clip(autumn + rng.normal(0, 0.06), 0, 1)),
            leaf_off=float(np.clip(leaf_off + rng.normal(0, 0.05), 0, 0.7)),
            sun_azimuth=float(rng.uniform(0, 2 * math.pi)),
            sun_elevation=math.radians(rng.uniform(low_sun, high_sun)),
            ambient=float(rng.uniform(0.30, 0.55)),
            white_balance=(1 + warmth, 1 + float(rng.normal(0, 0.03)), 1 - warmth),
            haze=float(rng.uniform(0.0, 0.18)),
            exposure=float(rng.uniform(1.25, 1.65)),
            gamma=float(rng.uniform(0.66, 0.86)),
            blur=float(rng.uniform(0.3, 0.8)),
            noise=float(rng.uniform(1.5, 5.0)),
        )


def _cast_shadow(height: FloatMap, style: SceneStyle, pixel: float) -> FloatMap:
    """Share of direct light that is blocked, in [0, 1], shape of ``height`` (metres)."""
    small = cv2.resize(height, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    pixel *= 2
    rise = math.tan(style.sun_elevation)
    step_x, step_y = math.cos(style.sun_azimuth), math.sin(style.sun_azimuth)
    longest = int(float(small.max()) / rise / pixel) + 1
    pad = longest + 1
    padded = np.pad(small, pad, mode='edge')
    rows, columns = small.shape
    blocked = np.zeros(small.shape, bool)
    for step in range(1, longest + 1):
        top, left = pad + round(step * step_y), pad + round(step * step_x)
        towards_sun = padded[top : top + rows, left : left + columns]
        blocked |= towards_sun > small + (step * pixel * rise + 0.25)
    shade = cv2.GaussianBlur(blocked.astype(np.float32), (0, 0), 0.6)
    return cv2.resize(shade, height.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _albedo(layout: Layout, style: SceneStyle, rng: np.random.Generator) -> FloatMap:
    """Reflectance (n, n, 3) of the layout in the style's season."""
    n = layout.resolution
    fine, medium, coarse = (smooth_noise(rng, n, grain) for grain in (1.6, 5, 45))
    leaves, paint = MATERIAL_ID['leaves'], MATERIAL_ID['paint']
    seen_through = (layout.material == leaves) & (
        0.6 * smooth_noise(rng, n, 2.5) + 0.4 * fine < -0.9 + 1.9 * style.leaf_off
    )
    seen_through &= style.leaf_off > 0.02
    material = np.where(seen_through, layout.under, layout.material)

    first = np.array([entry.first for entry in MATERIALS.values()], np.float32)
    second = np.array([entry.second for entry in MATERIALS.values()], np.float32)
    contrast = np.array([entry[2:] for entry in MATERIALS.values()], np.float32)
    dry, turned = np.array([0.47, 0.41, 0.26]), np.array([0.45, 0.30, 0.11])
    for name, share in (('grass', 0.85), ('meadow', 1.0), ('bush', 0.35), ('leaves', 0.12)):
        index = MATERIAL_ID[name]
        mix = share * (1 - style.green)
        first[index] += mix * (dry * 0.9 - first[index])
        second[index] += mix * (dry * 1.15 - second[index])
    for name, share in (('leaves', 1.0), ('bush', 0.5)):
        index = MATERIAL_ID[name]
        first[index] += 0.35 * share * style.autumn * (turned * 0.7 - first[index])
        second[index] += share * style.autumn * (turned * 1.2 - second[index])

    variant = layout.variant[..., None]
    colour = first[material] + variant * (second - first)[material]
    painted = material == paint
    index = np.rint(layout.variant[painted] * (len(CAR_PAINTS) - 1)).astype(int)
    colour[painted] = CAR_PAINTS[index]
    texture = contrast[material] * np.stack([fine, medium, coarse], axis=-1)
    return colour * np.clip(1 + texture.sum(-1, keepdims=True), 0.3, 1.9)


def render_layout(layout: Layout, style: SceneStyle, rng: np.random.Generator) -> ByteMap:
    """Photograph a layout.

    Args:
        layout: The place.
        style: Season, light and sensor.
        rng: Source of texture and noise.

    Returns:
        RGB image, shape (size, size, 3), uint8.
    """
    colour = _albedo(layout, style, rng)
    elevation = style.sun_elevation
    sun = (
        math.cos(style.sun_azimuth) * math.cos(elevation),
        math.sin(style.sun_azimuth) * math.cos(elevation),
        math.sin(elevation),
    )
    rough = np.isin(layout.material, [MATERIAL_ID[name] for name in ('bush', 'leaves', 'needles')])
    bump = 0.45 * rough
    slope_x = layout.slope[0] + bump * smooth_noise(rng, layout.resolution, 3.5)
    slope_y = layout.slope[1] + bump * smooth_noise(rng, layout.resolution, 3.5)
    facing = (sun[2] - slope_x * sun[0] - slope_y * sun[1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    direct = np.clip(facing / sun[2], 0, 1.8) * (
        1 - _cast_shadow(layout.height, style, layout.pixel)
    )
    sunlight = (1 - style.ambient) * np.array([1.04, 1.0, 0.94], np.float32)
    skylight = style.ambient * np.array([0.90, 1.0, 1.14], np.float32)
    radiance = colour * (direct[..., None] * sunlight + skylight)
    radiance = radiance * style.exposure * np.array(style.white_balance, np.float32)
    radiance += style.haze * (np.array([0.60, 0.64, 0.70], np.float32) - radiance)
    radiance = cv2.GaussianBlur(radiance.astype(np.float32), (0, 0), style.blur * SUPERSAMPLING)
    extent = layout.size + 2 * MARGIN_PIXELS
    image = cv2.resize(radiance, (extent, extent), interpolation=cv2.INTER_AREA)
    inner = slice(MARGIN_PIXELS, -MARGIN_PIXELS)
    image = 255 * np.clip(image[inner, inner], 0, 1) ** style.gamma
    image += rng.standard_normal(image.shape) * style.noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Georeference of rasters, and whether two rasters cover the same ground."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SAME = 0.5  # pixels by which the corners of two rasters of the same ground may differ
_TOUCHING = 0.01  # share of a side: neighbours that overlap less only touch
_TOLD_ASIDE = re.compile(rb'<(NoDataValue|GeoTransform|GCPList|SRS)[ >]|domain="RPC"')
_AXIS, _FLATNESS = 6378137.0, 0.00669437999  # semi-major axis (m), squared eccentricity of WGS 84
_UNITS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)


@dataclass(frozen=True)
class Place:
    """Georeference of a raster.

    Attributes:
        width: Width of the raster in pixels.
        height: Height of the raster in pixels.
        transform: ``affine.Affine`` from (column, row) to coordinates.
        crs: ``rasterio.crs.CRS`` of the coordinates; None if the file has none.
    """

    width: int
    height: int
    transform: Any
    crs: Any = None

    def part(self, left: int, top: int, right: int, bottom: int) -> Place:
        """Return the georeference of a window, given in pixels."""
        shifted = self.transform * type(self.transform).translation(left, top)
        return Place(right - left, bottom - top, shifted, self.crs)

    def corners(self, crs: Any = None) -> np.ndarray:
        """Return the four corners in order around the raster.

        Args:
            crs: CRS to transform the corners to; None keeps their own.

        Returns:
            x and y of each corner, shape (4, 2); NaN where they cannot be transformed.
        """
        columns, rows = (_UNITS * [self.width, self.height]).T
        xs, ys = self.transform * (columns, rows)
        if crs and self.crs and crs != self.crs:
            from rasterio.errors import RasterioError
            from rasterio.warp import transform

            try:
                xs, ys = transform(self.crs, crs, list(xs), list(ys))[:2]
            except (RasterioError, ValueError):  # there is no transformation between them
                xs = ys = np.full(4, np.nan)
        return np.stack([xs, ys], 1)


def place_of(raster: Any) -> Place | None:
    """Return the georeference of an open raster, by transform or control points, or None."""
    transform, crs = raster.transform, raster.crs
    if transform.is_identity and raster.gcps[0]:
        from rasterio.transform import from_gcps

        transform, crs = from_gcps(raster.gcps[0]), raster.gcps[1]
    if transform.is_identity or transform.is_degenerate:  # no georeference, or pixels without size
        return None
    return Place(raster.width, raster.height, transform, crs or None)


def is_annotated(path: Path) -> bool:
    """Return whether files next to a picture give its georeference or no data, as GDAL reads them.

    Such files are ``photo.jpg.msk``, world files like ``photo.jgw`` and ``photo.wld``, and
    ``photo.jpg.aux.xml`` if it holds more than statistics.
    """
    suffix = path.suffix[1:].lower()
    worlds = [f'{suffix}w', f'{suffix[:1]}{suffix[-1:]}w', 'wld']
    worlds += [world.upper() for world in worlds]
    if any(path.with_suffix(f'.{world}').is_file() for world in worlds):
        return True
    if path.with_name(f'{path.name}.msk').is_file():
        return True
    aside = path.with_name(f'{path.name}.aux.xml')
    return aside.is_file() and _TOLD_ASIDE.search(aside.read_bytes()) is not None


def misfit(mask: Place, image: Place) -> str | None:
    """Describe how the ground of a mask differs from that of its image.

    Returns:
        Predicate of a sentence about the mask; None if each of its pixels matches one of the image.
    """
    other_crs = bool(mask.crs and image.crs and mask.crs != image.crs)
    columns, rows = ~image.transform * mask.corners(image.crs).T
    moved = np.stack([columns, rows], 1) - _UNITS * [image.width, image.height]
    same_size = (mask.width, mask.height) == (image.width, image.height)
    if same_size and np.abs(moved).max() <= _SAME:  # False for NaN
        return None
    if other_crs:
        return f'has coordinates in {_short(mask.crs)} and the image in {_short(image.crs)}'
    step, wanted = _step(mask), _step(image)
    if np.abs(step / wanted - 1).max() * max(mask.width, mask.height) > _SAME:
        return (
            f'has pixels of {step[0]:g} x {step[1]:g} and the image of {wanted[0]:g} x '
            f'{wanted[1]:g}'
        )
    if mask.transform.e * image.transform.e < 0:
        return 'has its rows in the other order (the first is the southernmost)'
    across, down = moved[0]
    size = '' if same_size else f'is {mask.width} x {mask.height} pixels large and '
    return f'{size}lies {across:.4g} pixels to the right of and {down:.4g} below the image'


def warp(bands: np.ndarray, source: Place, target: Place, fill: int) -> np.ndarray:
    """Resample pixels to the grid of another raster by nearest neighbour.

    Args:
        bands: Shape (B, H, W), integers.
        source: Georeference of ``bands``.
        target: Georeference of the other raster.
        fill: Value outside of ``source``.

    Returns:
        Shape (B, H', W') of the target, with the dtype of ``bands``.
    """
    from rasterio.crs import CRS
    from rasterio.warp import Resampling, reproject

    crs = source.crs and target.crs
    anywhere = CRS.from_epsg(3857)  # for both, where one of them is unknown
    wide = bands.astype(np.int32)
    laid = np.full((len(bands), target.height, target.width), fill, np.int32)
    nothing = np.iinfo(np.int32).min  # not a value of a mask
    reproject(
        wide,
        laid,
        src_transform=source.transform,
        src_crs=source.crs if crs else anywhere,
        src_nodata=nothing,
        dst_transform=target.transform,
        dst_crs=target.crs if crs else anywhere,
        dst_nodata=nothing,
        init_dest_nodata=True,
        resampling=Resampling.nearest,
    )
    return np.where(laid == nothing, fill, laid).astype(bands.dtype)


def overlapping(places: Sequence[Place]) -> Iterator[tuple[int, int]]:
    """Find pairs of rasters that cover common ground; neighbours that only touch do not count.

    Args:
        places: Georeferences of the rasters, compared in the CRS of the first that has one.

    Yields:
        Two indices, the smaller first.
    """
    crs = next((place.crs for place in places if place.crs), None)
    outlines = np.array([place.corners(crs) for place in places]).reshape(-1, 4, 2)
    centres = outlines.mean(1, keepdims=True)
    outlines = centres + (outlines - centres) * (1 - _TOUCHING)
    low, high = outlines.min(1), outlines.max(1)
    order = np.argsort(low[:, 0], kind='stable')
    starts = low[order, 0]
    for position, index in enumerate(order):
        end = np.searchsorted(starts, high[index, 0])
        others = order[position + 1 : end]
        near = (low[others, 1] < high[index, 1]) & (low[index, 1] < high[others, 1])
        for other in others[near]:
            if not _apart(outlines[index], outlines[other]):
                yield int(min(index, other)), int(max(index, other))


def square_metres(crs: Any, y: float) -> float:
    """Return the area in m² of a square whose side is one unit of the coordinates.

    Args:
        crs: ``rasterio.crs.CRS``. Degrees are taken to be on the WGS 84 ellipsoid. The metres of
            Mercator maps, as of web tiles, are converted to those on the ground; other projected
            coordinates are taken as they are.
        y: Second coordinate of the square, such as its latitude in degrees.
    """
    if crs.is_geographic:
        latitude = np.radians(y)
        unit = np.radians(1) ** 2
    elif 'PROJECTION["Mercator_1SP' in crs.wkt:
        latitude = np.arctan(np.sinh(y / _AXIS))
        unit = np.cos(latitude) / _AXIS**2
    else:
        return float(crs.linear_units_factor[1]) ** 2 if crs.is_projected else 1.0
    squash = 1 - _FLATNESS * np.sin(latitude) ** 2
    meridian, normal = _AXIS * (1 - _FLATNESS) / squash**1.5, _AXIS / squash**0.5
    return float(meridian * normal * np.cos(latitude) * unit)


def _apart(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two convex outlines (4, 2) are disjoint, by the separating axis theorem."""
    for outline in (first, second):
        sides = np.roll(outline, -1, 0) - outline
        for normal in np.stack([-sides[:, 1], sides[:, 0]], 1):
            one, other = first @ normal, second @ normal
            if one.max() <= other.min() or other.max() <= one.min():
                return True
    return False


def _step(place: Place) -> np.ndarray:
    """Return the ground size of a pixel across and down, shape (2,)."""
    return np.hypot([place.transform.a, place.transform.b], [place.transform.d, place.transform.e])


def _short(crs: Any) -> str:
    number = crs.to_epsg()
    return f'EPSG:{number}' if number else ' '.join(crs.to_string().split())[:60]

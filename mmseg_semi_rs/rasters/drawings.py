# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Points and areas that a person has drawn on a map and labelled, and their conversion to masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .place import Place

SUFFIXES = ('.gpkg', '.geojson', '.json', '.shp')
CLASS_FIELD = 'class'
UNLABELLED = 255

_AREAS = ('Polygon', 'MultiPolygon')
_POINTS = ('Point', 'MultiPoint')


@dataclass(frozen=True)
class Drawing:
    """A labelled shape.

    Attributes:
        shape: GeoJSON geometry of points or areas.
        label: Name of its class.
        crs: ``rasterio.crs.CRS`` of the coordinates; None if the file has none.
    """

    shape: dict[str, Any]
    label: str
    crs: Any


def import_fiona(path: Path) -> Any:
    """Import fiona to read or write ``path``, or raise an ImportError that names the extra."""
    try:
        import fiona
    except ImportError as error:
        raise ImportError(
            f'Shapes of {path} are read and written by fiona, which is not installed: pip install '
            "'mmseg_semi_rs[geo]'."
        ) from error
    return fiona


def read_drawings(path: Path) -> list[Drawing]:
    """Read the points and areas of all layers that have text in the field ``class``.

    Args:
        path: GeoPackage, GeoJSON or shapefile.

    Returns:
        The shapes, areas first, so that points are drawn over them.

    Raises:
        ImportError: fiona or rasterio is not installed.
        ValueError: The file cannot be read, a shape is of another type, or no shape has a class.
    """
    fiona = import_fiona(path)
    from rasterio.crs import CRS

    found = []
    try:
        for layer in fiona.listlayers(path):
            with fiona.open(path, layer=layer) as rows:
                if CLASS_FIELD not in rows.schema['properties']:
                    continue
                crs = CRS.from_wkt(rows.crs_wkt) if rows.crs_wkt else None
                for row in rows:
                    label = str(row['properties'][CLASS_FIELD] or '').strip()
                    if label and row['geometry'] is not None:
                        found.append(Drawing(row['geometry'].__geo_interface__, label, crs))
    except (fiona.errors.FionaError, OSError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path} cannot be read ({reason}): replace the file.') from error
    for drawing in found:
        if drawing.shape['type'] not in _AREAS + _POINTS:
            raise ValueError(
                f'{path} has a {drawing.shape["type"]} of class {drawing.label!r}: draw points or '
                'areas.'
            )
    if not found:
        raise ValueError(
            f'Nothing in {path} has a class: write its name into the field {CLASS_FIELD!r} of each '
            'point or area.'
        )
    return sorted(found, key=lambda drawing: drawing.shape['type'] in _POINTS)


def rasterise(drawings: Sequence[Drawing], classes: Sequence[str], place: Place) -> np.ndarray:
    """Draw shapes as class ids on the pixel grid of an image.

    Args:
        drawings: The shapes; later ones cover earlier ones.
        classes: Class names in the order of their ids.
        place: Georeference of the image.

    Returns:
        (H, W) uint8, :data:`UNLABELLED` where nothing is drawn. A point labels the pixel it lies
        in, an area the pixels whose centres it contains.
    """
    from rasterio.features import rasterize

    ids = {name: number for number, name in enumerate(classes)}
    shapes = [(_carried(drawing, place), ids[drawing.label]) for drawing in drawings]
    mask: np.ndarray = rasterize(
        shapes,
        (place.height, place.width),
        fill=UNLABELLED,
        transform=place.transform,
        dtype='uint8',
    )
    return mask


def _carried(drawing: Drawing, place: Place) -> dict[str, Any]:
    """Transform a shape to the coordinates of an image."""
    if not (drawing.crs and place.crs) or drawing.crs == place.crs:
        return drawing.shape
    from rasterio.warp import transform_geom

    carried: dict[str, Any] = transform_geom(drawing.crs, place.crs, drawing.shape)
    return carried

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Choice of the tiles that a person should label: those that represent most of the others.

With the same number of labels, tiles of many scenes help more than any method trained on tiles of
few scenes. The choice is greedy facility location: every tile is represented by the most similar
chosen tile, and the next tile is the one that improves these similarities most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmseg.registry import MODELS
from torch import Tensor

from ..rasters.drawings import CLASS_FIELD, import_fiona
from ..rasters.gdal import import_rasterio
from ..rasters.levels import RasterToRGB
from ..rasters.reader import raster_info
from ..rasters.sources import PixelSource, Source, is_raster, open_source
from ..rasters.windows import Window, tile_name, tile_windows
from ..utils.progress import progress_bar
from ..visualization import save_picture
from .clicks import choose_clicks, count_clicks
from .maps import writing
from .mosaic import Mosaic
from .predictor import Predictor

#: Backbone whose features compare tiles; installed by pip, without a weight file.
BACKBONE = dict(type='EfficientNetLite', arch='lite0', out_indices=[2, 3], checkpoint='imagenet')
_SIDE = 224  # side in pixels to which tiles are resized for the backbone
_SERVED = 4000  # most tiles to be represented, picked evenly if there are more
_THUMBNAIL = 160


class Candidate(NamedTuple):
    """A tile that could be labelled.

    Attributes:
        name: Name in a list: the path below the folder without suffix, and the window in a large
            image.
        path: The image that contains the tile.
        window: Position of the tile in the image.
    """

    name: str
    path: Path
    window: Window


def list_candidates(
    images: Sequence[tuple[str, Path]], tile: int | None, to_rgb: RasterToRGB
) -> list[Candidate]:
    """Divide images into tiles that could be labelled, without those that have no data.

    Args:
        images: Name and file of each image.
        tile: Side of the tiles in pixels; None takes whole images.
        to_rgb: Conversion of bands to RGB.

    Returns:
        The tiles, image by image and row by row.
    """
    candidates = []
    for name, path in images:
        partly = to_rgb.nodata is not None or raster_info(path).transparent
        with open_source(path, to_rgb) as source:
            whole = tile is None or max(source.width, source.height) <= tile
            for window in tile_windows(source.width, source.height, None if whole else tile):
                if not partly or _read(source, window)[1].any():
                    stem = tile_name(name, None if whole else window)
                    candidates.append(Candidate(stem, path, window))
    return candidates


def _read(source: Source, window: Window) -> tuple[np.ndarray, np.ndarray]:
    left, top, right, bottom = window
    return source.read(top, min(bottom, source.height), left, min(right, source.width))


def read_tile(tile: Candidate, to_rgb: RasterToRGB) -> tuple[np.ndarray, np.ndarray]:
    """Read a tile as network input and where it has data, see :meth:`~.rasters.sources.Source`."""
    with open_source(tile.path, to_rgb) as source:
        return _read(source, tile.window)


def see_tile(tile: Candidate, to_rgb: RasterToRGB) -> np.ndarray:
    """Read a tile as a picture for people, (H, W, 3) uint8, RGB."""
    return to_rgb.picture(read_tile(tile, to_rgb)[0])


@torch.no_grad()
def tile_features(
    tiles: Sequence[Candidate], to_rgb: RasterToRGB, backbone: dict[str, Any] | None = None
) -> np.ndarray:
    """Describe tiles by mean and standard deviation of the features of a pretrained backbone.

    Args:
        tiles: N tiles.
        to_rgb: Conversion of bands to RGB.
        backbone: Config of a backbone for RGB images in [-1, 1]. Defaults to :data:`BACKBONE`.

    Returns:
        (N, D) float32, standardised per feature, with rows of length 1.
    """
    network = MODELS.build(dict(backbone or BACKBONE))
    network.init_weights()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    network.to(device).eval()
    rows = []
    with progress_bar() as bar:
        for tile in bar.track(tiles, description='looking at tiles'):
            image = cv2.resize(see_tile(tile, to_rgb), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
            pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
            maps: list[Tensor] = [level.flatten(2)[0] for level in network(pixels)]
            rows.append(torch.cat([part for m in maps for part in (m.mean(1), m.std(1))]).cpu())
    features = torch.stack(rows)
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    return torch.nn.functional.normalize(features, dim=1).numpy()


@torch.no_grad()
def tile_needs(tiles: Sequence[Candidate], predictor: Predictor) -> np.ndarray:
    """Score how much a trained network would learn from each tile.

    The score is the mean entropy over the pixels, weighted by the inverse square root of the
    predicted share of the pixel's class, so that rare classes count more.

    Args:
        tiles: N tiles.
        predictor: The network.

    Returns:
        (N,) float64, with mean 1.
    """
    side = predictor.window
    sums = np.zeros((len(tiles), len(predictor.classes)))
    shares = np.zeros(len(predictor.classes))
    with progress_bar() as bar:
        for index, tile in enumerate(bar.track(tiles, description='predicting tiles')):
            image = cv2.resize(read_tile(tile, predictor.to_rgb)[0], (side, side))
            window = torch.from_numpy(image).permute(2, 0, 1)[None].to(predictor.device)
            probabilities = predictor.probabilities(window)[0].flatten(1).double().cpu()
            entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(0)
            labels = probabilities.argmax(0)
            weights = [torch.bincount(labels, w, len(shares)) for w in (entropy, None)]
            sums[index] = weights[0] / side**2
            shares += weights[1].double().numpy() / side**2
    rarity = 1 / np.sqrt(np.maximum(shares / shares.sum(), 1e-4))
    needs = sums @ rarity
    return needs / needs.mean()


def choose_tiles(
    features: np.ndarray,
    scenes: Sequence[str],
    count: int,
    known: Sequence[int] = (),
    needs: np.ndarray | None = None,
) -> list[int]:
    """Choose the tiles that represent all tiles best, with the scenes in turn.

    Greedy facility location: the next tile i maximises the sum over all tiles j of
    ``needs_j * max(0, s_ij - best_j)``, where s is the cosine similarity of the features and
    ``best_j`` that of j to its nearest chosen tile, so that near duplicates of chosen tiles gain
    nothing. Only the scenes with the fewest chosen tiles compete.

    Args:
        features: (N, D), rows of length 1.
        scenes: Scene of each tile.
        count: Number of tiles to choose.
        known: Indices of tiles that are already labelled; they represent others but are not chosen.
        needs: Weight of each tile, (N,). Defaults to 1.

    Returns:
        Indices in the order of choice; fewer than ``count`` if there are not enough tiles.

    Examples:
        >>> angle = np.deg2rad([0, 1, 2, 90, 91])
        >>> choose_tiles(np.stack([np.cos(angle), np.sin(angle)], 1), list('aaaaa'), 2)
        [2, 3]
    """
    number = len(features)
    served = (
        np.arange(number) if number <= _SERVED else np.linspace(0, number - 1, _SERVED).astype(int)
    )
    weights = np.ones(number) if needs is None else needs
    similar = features @ features[served].T
    best = np.full(len(served), -1.0)
    for index in known:
        best = np.maximum(best, similar[index])
    used = Counter(dict.fromkeys(scenes, 0))
    used.update(scenes[index] for index in known)
    left = sorted(set(range(number)) - set(known))
    chosen: list[int] = []
    while left and len(chosen) < count:
        least = min(used[scenes[index]] for index in left)
        asked = [index for index in left if used[scenes[index]] == least]
        gains = np.maximum(similar[asked] - best, 0) @ weights[served]
        index = asked[int(gains.argmax())]
        chosen.append(index)
        left.remove(index)
        used[scenes[index]] += 1
        best = np.maximum(best, similar[index])
    return chosen


def write_contact_sheet(tiles: Sequence[Candidate], to_rgb: RasterToRGB, path: Path) -> Path:
    """Draw thumbnails of the tiles with their numbers, row by row."""
    columns = min(8, max(1, len(tiles)))
    rows = -(-len(tiles) // columns)
    cell = _THUMBNAIL + 4
    sheet = np.full((rows * cell + 4, columns * cell + 4, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        image = see_tile(tile, to_rgb)
        scale = _THUMBNAIL / max(image.shape[:2])
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        top, left = (4 + part * cell for part in divmod(number, columns))
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                small, str(number + 1), (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width
            )
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return save_picture(sheet, path)


def click_points(
    tiles: Sequence[Candidate], clicks: str, to_rgb: RasterToRGB, predictor: Predictor | None = None
) -> list[np.ndarray]:
    """Choose the pixels of tiles that a person should click.

    Args:
        tiles: N tiles.
        clicks: Number or share per tile, see :func:`~.clicks.count_clicks`.
        to_rgb: Conversion of bands to RGB.
        predictor: A trained network, whose entropy decides; None uses colours instead.

    Returns:
        Column and row in its image of each click, one array (n, 2) per tile.
    """
    found = []
    with progress_bar() as bar:
        for tile in bar.track(tiles, description='choosing clicks'):
            image, valid = read_tile(tile, to_rgb)
            height, width = image.shape[:2]
            probabilities = None
            if predictor is not None:
                mosaic = Mosaic(predictor, width, height, memory=2**62)
                strips = mosaic.predict(PixelSource(image, valid, to_rgb), probabilities=True)
                parts = [np.asarray(strip.probabilities) for strip in strips]
                probabilities = np.concatenate(parts, axis=1) / 255
            count = count_clicks(clicks, height * width)
            rows_columns = choose_clicks(to_rgb.picture(image), count, probabilities, valid)
            found.append(rows_columns[:, ::-1] + tile.window[:2])
    return found


def write_places(
    tiles: Sequence[Candidate], path: Path, clicks: Sequence[np.ndarray] | None = None
) -> Path | None:
    """Write the outlines of tiles of georeferenced images as a GeoPackage for labelling in QGIS.

    The layer ``suggested`` holds the outlines, ``clicks`` the points to label, and ``areas`` is
    empty for drawing. Images of different coordinate systems are given in longitude and latitude.
    Shapes of the latter two with a name in the field ``class`` are read by
    :func:`~mmseg_semi_rs.rasters.drawings.read_drawings`.

    Args:
        tiles: Tiles in the order of their rank.
        path: File to write.
        clicks: Column and row in its image of each tile's points, (n, 2).

    Returns:
        The path; None if no image is georeferenced.

    Raises:
        ImportError: rasterio or fiona is not installed.
    """
    rasterio = import_rasterio(path)
    outlines: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    systems: list[Any] = []
    for rank, tile in enumerate(tiles, start=1):
        if not is_raster(tile.path):
            continue
        with rasterio.open(tile.path) as raster:
            if raster.crs is None:
                continue
            crs, to_ground = raster.crs, raster.transform
        systems.append(crs)
        x0, y0, x1, y1 = tile.window
        corners = [to_ground * corner for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        known = {'rank': rank, 'tile': tile.name}
        outlines.append(_feature('Polygon', [[*corners, corners[0]]], known, crs))
        for column, row in clicks[rank - 1].tolist() if clicks is not None else ():
            ground = to_ground * (column + 0.5, row + 0.5)
            points.append(_feature('Point', ground, {**known, CLASS_FIELD: ''}, crs))
    if not outlines:
        return None
    from rasterio.warp import transform_geom

    same = all(crs == systems[0] for crs in systems)
    common = systems[0] if same else rasterio.crs.CRS.from_epsg(4326)
    for feature in (*outlines, *points):
        crs = feature.pop('crs')
        if crs != common:
            feature['geometry'] = transform_geom(crs, common, feature['geometry'])
    named, labelled = {'rank': 'int', 'tile': 'str'}, {CLASS_FIELD: 'str'}
    with writing(path) as partial:
        for layer, kind, fields, rows in (
            ('suggested', 'Polygon', named, outlines),
            ('clicks', 'Point', named | labelled, points),
            ('areas', 'Polygon', labelled, []),
        ):
            schema = {'geometry': kind, 'properties': fields}
            options = dict(driver='GPKG', layer=layer, schema=schema, crs_wkt=common.to_wkt())
            with import_fiona(path).open(partial, 'w', **options) as sink:
                sink.writerecords(rows)
    return path


def _feature(kind: str, coordinates: Any, properties: dict[str, Any], crs: Any) -> dict[str, Any]:
    return {
        'type': 'Feature',
        'crs': crs,
        'geometry': {'type': kind, 'coordinates': coordinates},
        'properties': properties,
    }

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Files of predicted maps: cloud-optimised GeoTIFF, PNG, polygons and previews."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..classes import is_background
from ..rasters.drawings import import_fiona
from ..rasters.gdal import import_rasterio, open_raster
from ..rasters.place import square_metres
from ..rasters.sources import PixelSource, RasterSource
from ..utils.files import write_png
from ..visualization import colorize, legend, overlay, save_picture
from .mosaic import Strip
from .predictor import NO_DATA

_PREVIEW_SIDE = 1024
_FEW = 16  # largest number of bands in blocks of 512 px, which are then at most 4 MiB
_AT_ONCE = 2**22  # pixels of a polygon whose confidence is averaged at a time
_RESERVED = ('gpkg', 'rtree', 'sqlite')


@dataclass(frozen=True)
class Layers:
    """The files to write for an image besides its map of classes.

    Attributes:
        confidence: Whether to write the probability of the predicted class.
        probabilities: Whether to write the probabilities of all classes.
        polygons: Whether to write outlines of connected regions of a class.
        preview: Whether to write a picture of the image and of the map laid over it, of at most
            1024 px each, with a legend.
        background: Whether polygons and preview include classes called background, other etc.
    """

    confidence: bool = False
    probabilities: bool = False
    polygons: bool = False
    preview: bool = False
    background: bool = False


@dataclass(frozen=True)
class _Layer:
    """How to write one file of pixels."""

    suffix: str
    of: Callable[[Strip], np.ndarray]
    bands: int
    nodata: int | None
    overview: str


@dataclass(frozen=True)
class MapWriter:
    """Writer of the files of one predicted image.

    ``<name>.tif`` or ``.png`` holds class ids with the palette, and 255 where the image has no
    data. ``<name>_confidence`` holds the probability of that class in 255ths, 0 without data.
    ``<name>_probabilities`` holds one such band per class; a GeoTIFF carries the scale 1/255, and a
    picture gets an array (K, H, W) uint8, ``.npy``. ``<name>.gpkg`` holds polygons with
    ``class_id``, ``class_name``, mean ``confidence``, number of ``pixels`` and, where the CRS is
    known, ``area_m2``; the coordinates are the raster's, or pixels. ``<name>_preview.png`` is a
    picture to look at.

    Maps of rasters are cloud-optimised GeoTIFFs with the raster's CRS and transform or ground
    control points, and its rational polynomial coefficients (RPC). Each is read back and compared,
    since GDAL does not report every failure. Every file is written in a temporary folder and moved
    to its place when complete.

    Attributes:
        classes: Names of the classes.
        palette: RGB colour of each class.
        layers: The files to write besides the map.
    """

    classes: Sequence[str]
    palette: Sequence[Sequence[int]]
    layers: Layers

    def files(self, out: Path) -> list[Path]:
        """List the files of an image, the map first.

        Args:
            out: Path of the map, ``.tif`` or ``.png``.
        """
        names = [out.with_name(out.stem + layer.suffix + out.suffix) for layer in self._parts()]
        if self.layers.probabilities and _is_picture(out):
            names[-1] = names[-1].with_suffix('.npy')
        if self.layers.polygons:
            names.append(out.with_suffix('.gpkg'))
        if self.layers.preview:
            names.append(out.with_name(f'{out.stem}_preview.png'))
        return names

    def write(
        self, out: Path, strips: Iterable[Strip], source: PixelSource | RasterSource
    ) -> list[Path]:
        """Write all files of an image.

        Args:
            out: Path of the map; ``.tif`` for rasters, ``.png`` for pictures.
            strips: All strips of the map; iterated once for each layer.
            source: The image.

        Returns:
            The files, the map first.

        Raises:
            OSError: A file cannot be written.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        files = self.files(out)
        for layer, path in zip(self._parts(), files, strict=False):
            if isinstance(source, RasterSource):
                self._write_raster(layer, path, strips, source.dataset)
            else:
                self._write_pixels(layer, path, strips, (source.height, source.width))
        if self.layers.polygons:
            self._write_polygons(out, strips, (source.height, source.width))
        if self.layers.preview:
            self._write_preview(out, files[-1], source)
        return files

    def _parts(self) -> list[_Layer]:
        parts = [_Layer('', lambda strip: strip.labels[None], 1, NO_DATA, 'NEAREST')]
        if self.layers.confidence:
            parts.append(
                _Layer('_confidence', lambda strip: strip.confidence[None], 1, 0, 'AVERAGE')
            )
        if self.layers.probabilities:
            parts.append(
                _Layer(
                    '_probabilities',
                    lambda strip: np.asarray(strip.probabilities),
                    len(self.classes),
                    None,
                    'AVERAGE',
                )
            )
        return parts

    def _write_pixels(
        self, layer: _Layer, path: Path, strips: Iterable[Strip], size: tuple[int, int]
    ) -> None:
        pixels = np.zeros((layer.bands, *size), np.uint8)
        for strip in strips:
            part = layer.of(strip)
            rows, columns = part.shape[1:]
            pixels[:, strip.top : strip.top + rows, strip.left : strip.left + columns] = part
        with writing(path) as partial:
            if path.suffix == '.npy':
                np.save(partial, pixels)
            elif layer.nodata == NO_DATA:
                image = Image.fromarray(pixels[0])
                image.putpalette(np.array(self._colours(), np.uint8)[:, :3].tobytes())
                image.save(partial, 'PNG')
            else:
                write_png(partial, pixels[0])

    def _write_raster(self, layer: _Layer, path: Path, strips: Iterable[Strip], like: Any) -> None:
        rasterio = import_rasterio(path)
        from rasterio.shutil import copy
        from rasterio.windows import Window

        block = 512 if layer.bands <= _FEW else 256
        profile = {
            'driver': 'GTiff',
            'width': like.width,
            'height': like.height,
            'count': layer.bands,
            'dtype': 'uint8',
            'crs': like.crs,
            'transform': like.transform,
            'nodata': layer.nodata,
            'tiled': True,
            'blockxsize': block,
            'blockysize': block,
            'bigtiff': 'IF_SAFER',
        }
        written = []
        with writing(path) as partial:
            plain = partial.with_name('plain.tif')
            with rasterio.open(plain, 'w', **profile) as raster:
                if like.gcps[0]:
                    raster.gcps = like.gcps
                if like.rpcs:
                    raster.rpcs = like.rpcs
                if layer.nodata == NO_DATA:
                    raster.write_colormap(1, dict(enumerate(self._colours())))
                    names = {str(index): name for index, name in enumerate(self.classes)}
                    raster.update_tags(1, **names)
                else:
                    raster.scales = [1 / 255] * layer.bands
                if layer.bands == len(self.classes) and layer.nodata is None:
                    raster.descriptions = tuple(self.classes)
                for strip in strips:
                    part = layer.of(strip)
                    rows, columns = part.shape[1:]
                    window = Window(strip.left, strip.top, columns, rows)
                    raster.write(part, window=window)
                    written.append((window, zlib.crc32(part.tobytes())))
            copy(
                plain,
                partial,
                driver='COG',
                compress='DEFLATE',
                blocksize=block,
                overview_resampling=layer.overview,
                num_threads='ALL_CPUS',
                bigtiff='IF_SAFER',
            )
            with rasterio.open(partial) as raster:
                for window, checksum in written:
                    if zlib.crc32(raster.read(window=window).tobytes()) != checksum:
                        raise OSError('the file is not what was written')

    def _colours(self) -> list[tuple[int, int, int, int]]:
        """Return the RGBA palette of all 256 values; values without a class are transparent."""
        colours = [(*map(int, colour), 255) for colour in self.palette]
        return [*colours, *[(0, 0, 0, 0)] * (256 - len(colours))]  # type: ignore[list-item]

    def _shown(self, value: int) -> bool:
        """Return whether polygons and preview show a value of the map."""
        if value == NO_DATA:
            return False
        return self.layers.background or not is_background(self.classes[value])

    def _write_polygons(self, out: Path, strips: Iterable[Strip], size: tuple[int, int]) -> None:
        fiona = import_fiona(out)
        import_rasterio(out)
        from rasterio.features import shapes

        properties = {
            'class_id': 'int',
            'class_name': 'str',
            'confidence': 'float',
            'pixels': 'int',
        }
        with (
            writing(out.with_suffix('.gpkg')) as partial,
            _open_map(out) as (band, transform, crs),
        ):
            place = {'crs_wkt': crs.to_wkt()} if crs else {}
            schema = {'geometry': 'Polygon', 'properties': properties}
            if crs:
                properties['area_m2'] = 'float'
            options = {'driver': 'GPKG', 'schema': schema, 'layer': layer_name(out.stem), **place}
            sure = np.memmap(partial.with_name('confidence'), np.uint8, 'w+', shape=size)
            for strip in strips:
                rows, columns = strip.confidence.shape
                here = slice(strip.top, strip.top + rows), slice(strip.left, strip.left + columns)
                sure[here] = strip.confidence
            with fiona.open(partial, 'w', **options) as sink:
                for outline, value in shapes(band, transform=transform):
                    if not self._shown(int(value)):
                        continue
                    laid = [np.array(ring) for ring in outline['coordinates']]
                    rings = [np.rint(np.stack(~transform * ring.T, 1)) for ring in laid]
                    told = {
                        'class_id': int(value),
                        'class_name': self.classes[int(value)],
                        'confidence': round(_mean_in(sure, rings) / 255, 4),
                        'pixels': _pixels_in(rings),
                    }
                    if crs:
                        step = abs(transform.determinant) * square_metres(crs, laid[0][:, 1].mean())
                        told['area_m2'] = round(told['pixels'] * step, 3)
                    sink.write({'geometry': outline, 'properties': told})

    def _write_preview(self, out: Path, path: Path, source: PixelSource | RasterSource) -> None:
        shrink = max(1.0, max(source.width, source.height) / _PREVIEW_SIDE)
        size = (max(1, round(source.height / shrink)), max(1, round(source.width / shrink)))
        image = source.shrunk(size)
        if isinstance(source, RasterSource):
            with open_raster(out) as raster:
                labels = raster.read(1, out_shape=size)
        else:
            with Image.open(out) as found:
                labels = np.asarray(found.resize(size[::-1], Image.Resampling.NEAREST))
        shown = np.isin(labels, [k for k in range(len(self.classes)) if self._shown(k)])
        painted = overlay(image, colorize(labels, self.palette), mask=shown)
        both = np.concatenate([image, painted], axis=int(size[0] >= size[1]))
        names = legend(self.classes, self.palette, both.shape[1])
        save_picture(np.concatenate([both, names]), path)


def _pixels_in(rings: Sequence[np.ndarray]) -> int:
    """Count the pixels within the rings (n, 2) of a polygon in pixels, without its holes."""
    areas = [abs(np.dot(r[:-1, 0], r[1:, 1]) - np.dot(r[1:, 0], r[:-1, 1])) / 2 for r in rings]
    return round(areas[0] - sum(areas[1:]))


def _mean_in(values: np.ndarray, rings: Sequence[np.ndarray]) -> float:
    """Return the mean of values (H, W) within the rings (n, 2) of a polygon in pixels."""
    from rasterio import Affine
    from rasterio.features import rasterize

    outline = {'type': 'Polygon', 'coordinates': [ring.tolist() for ring in rings]}
    (left, top), (right, bottom) = rings[0].min(0).astype(int), rings[0].max(0).astype(int)
    rows = max(1, _AT_ONCE // (right - left))
    total = count = 0
    for first in range(top, bottom, rows):
        part = values[first : min(first + rows, bottom), left:right]
        frame = Affine.translation(left, first)
        inside = rasterize([outline], part.shape, transform=frame, dtype='uint8') > 0
        total += int(part[inside].sum(dtype=np.int64))
        count += int(inside.sum())
    return total / max(count, 1)


def layer_name(stem: str) -> str:
    """Return a valid name for the polygon layer: the image's, with a prefix where GDAL refuses it.

    A GeoPackage layer name must not begin with a sign (as of a tile west of Greenwich) or with a
    word reserved for the format's own tables.
    """
    refused = not (stem[0].isalnum() or stem[0] == '_') or stem.lower().startswith(_RESERVED)
    return f'map_{stem}' if refused else stem


@contextmanager
def _open_map(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Open a map, and yield what rasterio traces, its transform and its CRS."""
    rasterio = import_rasterio(path)
    if _is_picture(path):
        with Image.open(path) as image:
            yield np.asarray(image), rasterio.Affine.identity(), None
    else:
        with open_raster(path) as raster:
            yield rasterio.band(raster, 1), raster.transform, raster.crs


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() == '.png'


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Let a file be written in a temporary folder, and move it to its place when complete.

    Yields:
        The path to write to.

    Raises:
        OSError: Writing failed; no part of the file is left.
    """
    folder = path.with_name(f'.{path.name}.part')
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    try:
        folder.mkdir()
        yield folder / path.name
        (folder / path.name).replace(path)
    except Exception as error:  # GDAL raises exceptions of its own types
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise OSError(
            f'{path} cannot be written ({reason}): check the space on the disk and the permissions.'
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)

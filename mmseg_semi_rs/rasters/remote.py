# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Rasters on a web server, in an object store, or named by a STAC item.

Each is represented by a small local file, a GDAL VRT, so that all other code works with files. GDAL
reads the pixels on demand by range requests, and takes credentials from the environment as usual
(``AWS_PROFILE``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_CONNECTION_STRING`` ...).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import urlopen

from ..utils.files import read_text, replacing
from ..utils.progress import map_threaded
from .gdal import import_rasterio

__all__ = ['gdal_name', 'is_remote', 'item_asset', 'stand_in', 'stand_ins']

_STORES = {'s3': '/vsis3/', 'gs': '/vsigs/', 'az': '/vsiaz/'}
#: GDAL options for web servers, each used unless its environment variable is set.
_PATIENCE = {
    'max_retry': ('4', 'GDAL_HTTP_MAX_RETRY'),
    'retry_delay': ('1', 'GDAL_HTTP_RETRY_DELAY'),
    'connecttimeout': ('20', 'GDAL_HTTP_CONNECTTIMEOUT'),
    'low_speed_time': ('60', 'GDAL_HTTP_LOW_SPEED_TIME'),
    'low_speed_limit': ('1000', 'GDAL_HTTP_LOW_SPEED_LIMIT'),
}
_PREFERRED = ('visual', 'data', 'image')  # keys or roles of assets of a STAC item
_SECONDS = 60


def is_remote(name: str | Path) -> bool:
    """Return whether a name is an address: ``https://``, ``s3://``, ``/vsi...``."""
    return str(name).startswith('/vsi') or '://' in str(name)


def gdal_name(address: str) -> str:
    """Return the name by which GDAL opens an address.

    Raises:
        ValueError: The scheme of the address is unknown.
    """
    scheme, _, rest = address.partition('://')
    if address.startswith('/vsi'):
        return address
    if scheme in _STORES:
        return _STORES[scheme] + rest
    if scheme not in ('http', 'https'):
        raise ValueError(
            f'{address} is of a kind that is not known: give https://, http://, s3://, gs://, '
            "az://, or GDAL's own name (/vsi...)."
        )
    told = {key: value for key, (value, name) in _PATIENCE.items() if name not in os.environ}
    options = ''.join(f'{key}={value}&' for key, value in told.items())
    return f'/vsicurl?{options}list_dir=no&url={quote(address, safe="")}'


def stand_in(address: str, folder: Path) -> Path:
    """Write a VRT that represents a remote raster.

    Args:
        address: Address of the raster, see :func:`is_remote`.
        folder: The VRT is written below its ``.remote``. When the raster changes, so does the path,
            so that results of the old raster are not reused.

    Returns:
        Path of the VRT, which has the stem of the raster.

    Raises:
        FileNotFoundError: There is no raster at the address.
        ImportError: rasterio is not installed.
        ValueError: The scheme of the address is unknown.
    """
    rasterio = import_rasterio(address)
    from rasterio.shutil import copy

    name = gdal_name(address)
    stem = Path(unquote(urlsplit(address).path)).stem
    try:
        # Not from GDAL's cache, since the file may have changed since it was last read.
        with (
            rasterio.Env(CPL_VSIL_CURL_NON_CACHED=name.partition('&url=')[0]),
            rasterio.open(name) as raster,
        ):
            path = folder / '.remote' / _fingerprint(raster, address) / f'{stem}.vrt'
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as partial:
                    copy(raster, partial, driver='VRT')
    except rasterio.errors.RasterioError as error:
        reason = ' '.join(str(error.__cause__ or error).replace(name, address).split())
        raise FileNotFoundError(
            f'{address} cannot be opened ({reason}): correct the address, or the credentials that '
            'GDAL reads from the environment.'
        ) from error
    return path


def stand_ins(addresses: Path, folder: Path) -> list[str]:
    """Write a VRT for each remote raster of a list.

    Args:
        addresses: Text file with one address per line.
        folder: Output folder; VRTs of another list are removed from it.

    Returns:
        A message for each address that cannot be opened.

    Raises:
        FileNotFoundError: The list is empty, or none of its rasters can be opened.
        ImportError: rasterio is not installed.
        ValueError: A line is not an address, or two rasters have the same name.
    """
    lines = [line.strip() for line in read_text(addresses).splitlines() if line.strip()]
    local = [line for line in lines if not is_remote(line)]
    if local:
        raise ValueError(
            f'{addresses} names {local[0]}, which is no address such as https://host/a.tif: put '
            'local images into a folder and give that.'
        )

    def look(address: str) -> Path | str:
        try:
            return stand_in(address, folder)
        except FileNotFoundError as error:
            return str(error)

    found = map_threaded(look, lines, 'opening rasters')
    problems = [each for each in found if isinstance(each, str)]
    if len(problems) == len(lines):
        raise FileNotFoundError(
            *problems[:1] or [f'{addresses} is empty: write addresses into it.']
        )
    names: dict[str, str] = {}
    for address, path in zip(lines, found, strict=True):
        if isinstance(path, Path) and names.setdefault(path.name, address) != address:
            raise ValueError(
                f'{names[path.name]} and {address} have one name, by which masks are found: give '
                'lists of their own to them.'
            )
    for path in folder.glob('*.vrt'):
        path.unlink()
    for each in found:
        if isinstance(each, Path):
            shutil.copy2(each, folder / each.name)  # with its time: the raster is the same
    return problems


def _fingerprint(raster: Any, address: str) -> str:
    """Return a digest of an address, of the raster's header and of three blocks of pixels."""
    found = hashlib.sha256(repr((address, raster.profile, raster.tags())).encode())
    blocks = [window for _, window in raster.block_windows(1)]
    for window in {blocks[0], blocks[len(blocks) // 2], blocks[-1]}:
        found.update(raster.read(1, window=window).tobytes())
    return found.hexdigest()[:16]


def item_asset(item: str | Path, asset: str | None = None) -> str:
    """Return the address of a raster that a STAC item names.

    Args:
        item: JSON file of the item, local or at ``https://``.
        asset: Key of the asset. None takes the one whose key or role is visual, data or image, or
            the only raster.

    Raises:
        FileNotFoundError: The file cannot be read.
        ValueError: It is not a STAC item, or the choice of the asset is ambiguous.

    Source: SpatioTemporal Asset Catalog 1.0, https://github.com/radiantearth/stac-spec
    """
    place = str(item) if is_remote(item) else Path(item).resolve().as_uri()
    try:
        with urlopen(place, timeout=_SECONDS) as file:
            parsed = json.loads(file.read().decode('utf-8-sig'))
    except OSError as error:
        raise FileNotFoundError(f'{item} cannot be read ({error}): correct the path.') from error
    except ValueError as error:
        raise ValueError(f'{item} is no JSON ({error}): give an image or a STAC item.') from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get('assets'), dict):
        raise ValueError(f'{item} is no STAC item, which has assets: give an image or an item.')
    assets = {
        key: {**value, 'roles': value.get('roles') or ()}
        for key, value in parsed['assets'].items()
        if isinstance(value, dict) and value.get('href')
    }
    rasters = {
        key: value
        for key, value in assets.items()
        if 'image/' in (value.get('type') or 'image/') and 'thumbnail' not in value['roles']
    }
    if asset is None:
        fitting = [
            key
            for word in _PREFERRED
            for key, value in rasters.items()
            if key == word or word in value['roles']
        ]
        chosen = fitting[:1] if len({*fitting}) == 1 or fitting[:1] == ['visual'] else [*rasters]
        asset = chosen[0] if len(chosen) == 1 else None
    if asset not in assets:
        raise ValueError(
            f'{item} has the assets {", ".join(assets) or "none"}: name the one to predict by '
            '--asset.'
        )
    address = urljoin(place, assets[asset]['href'])
    return unquote(urlsplit(address).path) if address.startswith('file:') else address

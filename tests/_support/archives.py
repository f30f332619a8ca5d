# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny data sets in the very layout of the public archives."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

# id on disk -> colour
POTSDAM = {
    1: (255, 255, 255),
    2: (0, 0, 255),
    3: (0, 255, 255),
    4: (0, 255, 0),
    5: (255, 255, 0),
    6: (255, 0, 0),
}
DEEPGLOBE = {
    0: (0, 255, 255),
    1: (255, 255, 0),
    2: (255, 0, 255),
    3: (0, 255, 0),
    4: (0, 0, 255),
    5: (255, 255, 255),
    6: (0, 0, 0),
}
WHDLD = {
    1: (255, 0, 0),
    2: (255, 255, 0),
    3: (192, 192, 0),
    4: (0, 255, 0),
    5: (128, 128, 128),
    6: (0, 0, 255),
}
GID15 = {
    0: (200, 0, 0),
    1: (250, 0, 150),
    2: (200, 150, 150),
    3: (250, 150, 150),
    4: (0, 200, 0),
    5: (150, 250, 0),
    6: (150, 200, 150),
    7: (200, 0, 200),
    8: (150, 0, 250),
    9: (150, 150, 250),
    10: (250, 200, 0),
    11: (200, 200, 0),
    12: (0, 0, 200),
    13: (0, 150, 200),
    14: (0, 200, 250),
    255: (0, 0, 0),
}
MARS = {
    0: (128, 0, 0),
    1: (0, 128, 0),
    2: (128, 128, 0),
    3: (0, 0, 128),
    4: (128, 0, 128),
    5: (0, 128, 128),
    6: (128, 128, 128),
    7: (64, 0, 0),
    8: (192, 0, 0),
    255: (0, 0, 0),
}


def encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def random_ids(ids: Iterable[int], height: int, width: int, seed: int) -> np.ndarray:
    """Blocks of 8 px; every id occurs."""
    values = np.array(sorted(ids), np.uint8)
    rng = np.random.default_rng(seed)
    blocks = rng.permuted(np.resize(values, (-(-height // 8)) * (-(-width // 8))))
    grid = blocks.reshape(-(-height // 8), -(-width // 8))
    return grid.repeat(8, 0).repeat(8, 1)[:height, :width]


def random_rgb(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def paint(ids: np.ndarray, colours: Mapping[int, tuple[int, int, int]]) -> np.ndarray:
    rgb = np.empty((*ids.shape, 3), np.uint8)
    for class_id, colour in colours.items():
        rgb[ids == class_id] = colour
    return rgb


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return path


def write_files(folder: Path, members: Mapping[str, bytes]) -> Path:
    for name, contents in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    return folder


def potsdam_members(
    tiles: Iterable[str], size: int = 96
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, np.ndarray]]:
    """Members of 2_Ortho_RGB.zip and 5_Labels_all.zip, and the true ids by tile."""
    images, labels, truth = {}, {}, {}
    for seed, tile in enumerate(tiles):
        truth[tile] = random_ids(POTSDAM, size, size, seed)
        rgb = random_rgb(size, size, seed)
        images[f'2_Ortho_RGB/top_potsdam_{tile}_RGB.tif'] = encode(rgb, 'TIFF')
        images[f'2_Ortho_RGB/top_potsdam_{tile}_RGB.tfw'] = b'0.05\n'
        label = paint(truth[tile], POTSDAM)
        labels[f'top_potsdam_{tile}_label.tif'] = encode(label, 'TIFF')
    return images, labels, truth


def converted(
    root: Path,
    names: Iterable[str],
    ids: Mapping[str, Iterable[int]] | Iterable[int] = (1, 2, 3, 4, 5, 6),
    size: int = 8,
) -> Path:
    """Tiles as a converter leaves them: black images, labels that show the given ids."""
    black = encode(np.zeros((size, size, 3), np.uint8), 'PNG')
    for name in names:
        shown = list(ids[name] if isinstance(ids, Mapping) else ids)
        members = {f'img_dir/{name}.png': black}
        label = np.resize(np.array(shown, np.uint8), size * size).reshape(size, size)
        members[f'ann_dir/{name}.png'] = encode(label, 'PNG')
        write_files(root, members)
    return root


def grid_names(
    scenes: Mapping[str, str], per_side: int, window: int = 512, shift: int = 0
) -> list[str]:
    """Tile names of scenes (key -> folder); the last row and column are moved by ``shift``."""
    starts = [k * window for k in range(per_side)]
    starts[-1] -= shift
    return [
        f'{folder}/{scene}_{x}_{y}_{x + window}_{y + window}'
        for scene, folder in scenes.items()
        for y in starts
        for x in starts
    ]

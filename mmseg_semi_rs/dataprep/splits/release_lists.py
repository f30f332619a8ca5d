# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Translation of names in published lists to the names of converted tiles.

Releases number the windows of an image from 1, row by row, or number all tiles of a dataset. Our
tiles carry their coordinates, so a number is resolved by the grid of the dataset, even if single
tiles are missing. Window numbers follow row-major order, and running numbers the natural order of
the images, as the manifest states. The releases did not publish the seed of their draws. The lists
of GID-15 give row and column, counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from ...rasters.windows import POTSDAM_TILES, parse_tile_name

TileOrder = Literal['natural', 'lexicographic']

# (scene, number) in the file names of a release
_NUMBERED = {
    'potsdam': re.compile(r'^(?:top_potsdam_)?(\d+_\d+)_(\d+)(?:_RGB|_IRRG|_label)?$'),
    'loveda': re.compile(r'^(\d+)_(\d+)$'),
    'deepglobe': re.compile(r'^(\d+)_(?:sat_|mask_)?(\d+)$'),
}
# (scene, row, column) in the file names of a release
_IN_GRID = {'gid15': re.compile(r'^(GF2_.+)_(\d+)_(\d+)$')}


class TileIndex:
    """Lookup of converted tiles by their names in a release.

    Args:
        dataset: ``'potsdam'``, ``'loveda'``, ``'deepglobe'`` or ``'gid15'``; for any other name,
            only plain file names are known.
        names: Converted tiles, with folder and without suffix.
        tile_order: Order of the images in running numbers: by their numbers (2_10 ... 6_7, 6_8) or
            as text (6_10 before 6_7).
    """

    def __init__(
        self, dataset: str, names: Iterable[str], tile_order: TileOrder = 'natural'
    ) -> None:
        self.dataset = dataset
        self.tile_order = tile_order
        self._by_base: dict[str, list[str]] = {}
        self._by_position: dict[tuple[str, int, int], str] = {}
        columns: set[int] = set()
        rows: set[int] = set()
        for name in names:
            self._by_base.setdefault(name.rsplit('/', 1)[-1], []).append(name)
            stem, window = parse_tile_name(name)
            if window is not None:
                columns.add(window.x0)
                rows.add(window.y0)
                self._by_position[stem, window.y0, window.x0] = name
        self._columns = sorted(columns)
        self._rows = sorted(rows)
        self.scenes = sorted({scene for scene, _, _ in self._by_position}, key=self._order_key)

    def _order_key(self, scene: str) -> tuple[int, ...] | str:
        if self.tile_order == 'lexicographic':
            return scene
        return tuple(int(part) for part in re.findall(r'\d+', scene))

    @property
    def windows(self) -> int:
        """Number of windows of one image."""
        return len(self._columns) * len(self._rows)

    def numbered(self, scene: str, number: int) -> str | None:
        """Return the tile by the number of its window, from 1, row by row."""
        if not 1 <= number <= self.windows:
            return None
        return self.in_grid(scene, *divmod(number - 1, len(self._columns)))

    def in_grid(self, scene: str, row: int, column: int) -> str | None:
        """Return the tile by row and column of its window, from 0."""
        if row >= len(self._rows) or column >= len(self._columns):
            return None
        return self._by_position.get((scene, self._rows[row], self._columns[column]))

    def running(self, number: int) -> str | None:
        """Return the tile by its number in the whole dataset, from 1, image by image."""
        if self.windows == 0:
            return None
        scene, window = divmod(number - 1, self.windows)
        if not 0 <= scene < len(self.scenes):
            return None
        return self.numbered(self.scenes[scene], window + 1)

    def check_running_numbers(self, images: int = 38, windows: int = 144) -> None:
        """Check that running numbers mean the same as in the release.

        Raises:
            ValueError: The dataset is incomplete, or was cut into other windows.
        """
        expected = [tile for tiles in POTSDAM_TILES.values() for tile in tiles]
        absent = sorted(set(expected) - set(self.scenes), key=self._order_key)
        if len(self.scenes) == images and self.windows == windows:
            return
        missing = f' (absent: {", ".join(absent)})' if absent and images == len(expected) else ''
        raise ValueError(
            f'The release numbers {images} images x {windows} windows but there are '
            f'{len(self.scenes)} x {self.windows}{missing}: convert all of the data set with '
            '--window 512 and no --stride.'
        )

    def find(self, entry: str) -> str | None:
        """Return the tile by its path in a release, e.g. ``images/top_potsdam_6_11_28_RGB.tif``.

        Raises:
            ValueError: Tiles of several folders have this name.
        """
        path = entry.strip().replace('\\', '/')
        path = re.sub(r'\.(png|jpe?g|tiff?)$', '', path, flags=re.IGNORECASE)
        base = path.rsplit('/', 1)[-1]
        there = self._by_base.get(base, [])
        if path in there or len(there) == 1:
            return path if path in there else there[0]
        if there:
            raise ValueError(
                f'{entry} of a list may be {" or ".join(there[:3])}: write the names in it with '
                'the folders below img_dir.'
            )
        pattern = _NUMBERED.get(self.dataset)
        match = pattern.match(base) if pattern is not None else None
        if match is not None:
            return self.numbered(match[1], int(match[2]))
        in_grid = _IN_GRID.get(self.dataset)
        match = in_grid.match(base) if in_grid is not None else None
        if match is not None:
            return self.in_grid(match[1], int(match[2]), int(match[3]))
        if self.dataset == 'potsdam' and base.isdigit():
            self.check_running_numbers()
            return self.running(int(base))
        return None


def read_release_list(text: str, index: TileIndex, source: str) -> list[str]:
    """Translate a list with one sample per line: ``<image>``, or ``<image> <label>``.

    Args:
        text: Contents of the list.
        index: The converted tiles.
        source: Name of the list in messages.

    Returns:
        Names of converted tiles in the order of the list; labels are dropped.

    Raises:
        ValueError: The list is empty, a line has other columns, or samples are not found.
    """
    names: list[str] = []
    unknown: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        columns = line.split()
        if len(columns) > 2:
            raise ValueError(
                f'Line {number} of {source} has {len(columns)} columns ({line.strip()!r}): a list '
                'has an image, and perhaps its label after a space.'
            )
        name = index.find(columns[0])
        if name is None:
            unknown.append(columns[0])
        else:
            names.append(name)
    if unknown:
        raise ValueError(
            f'{len(unknown)} of {len(unknown) + len(names)} samples of {source} are not among the '
            f'converted tiles ({", ".join(unknown[:5])}): convert the data set whole and with the '
            'windows of the release, and check --dataset.'
        )
    if not names:
        raise ValueError(f'{source} is empty: give a list with one sample per line.')
    return names


def semiearth_names(numbers: Sequence[str], index: TileIndex) -> list[str]:
    """Return the tiles of SemiEarth's running numbers.

    Raises:
        ValueError: A number has no tile.
    """
    names = [index.running(int(number)) for number in numbers]
    absent = [number for number, name in zip(numbers, names, strict=True) if name is None]
    if absent:
        raise ValueError(
            f'{len(absent)} of {len(numbers)} numbered tiles do not exist (first: '
            f'{", ".join(absent[:5])}): convert all 38 Potsdam tiles with --window 512.'
        )
    return [name for name in names if name is not None]

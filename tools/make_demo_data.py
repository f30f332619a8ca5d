# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fabricate aerial scenes in Potsdam's on-disk layout, and the lists of a 1/4 split by scene.

    python tools/make_demo_data.py --out data/demo_potsdam

The same arguments give the same files; a folder that was made with them is kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from demo import scenes as fabricated
from rich.progress import track

from mmseg_semi_rs.dataprep.splits.files import find_tiles, write_split
from mmseg_semi_rs.dataprep.splits.make import SplitOptions, make_split
from mmseg_semi_rs.utils.command_line import command_parser


def make_demo_data(
    out: str | Path,
    seed: int = 0,
    train: int = 32,
    val: int = 8,
    size: int = 256,
    tile: int = 128,
    workers: int = 0,
) -> None:
    """Write scenes and lists.

    ``splits/scene/{train,val}.txt`` and ``splits/scene/1-4/{labeled,unlabeled}.txt``, as
    ``tools/make_splits.py`` makes them: whole scenes are labelled or not.

    Args:
        out: Data root to make.
        seed: Seed of the scenes and of the split.
        train: Number of training scenes; a quarter of them is labelled.
        val: Number of validation scenes.
        size: Edge of a scene in pixels.
        tile: Edge of a tile in pixels.
        workers: Processes beside this one that fabricate scenes.

    Raises:
        ValueError: See :func:`demo.fabricated.write_potsdam_layout`.
    """
    out = Path(out)
    scenes = fabricated.write_potsdam_layout(out, seed, train, val, size, tile, workers)
    for _ in track(scenes, 'fabricating scenes', total=train + val, transient=True):
        pass
    lists = out / 'splits' / 'scene'
    if not (lists / 'manifest.json').is_file():
        options = SplitOptions(
            'potsdam',
            out,
            preset='official',
            ratios=['1-4', '3-32'],
            seed=seed,
            labelled_by='scene',
        )
        split = make_split(options, find_tiles(out), progress=False)
        write_split(lists, split.lists, split.recipe, overwrite=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    parser = command_parser(
        'demo-data',
        'Fabricate aerial scenes in the Potsdam layout',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--out', default='data/demo_potsdam', help='data root to make')
    parser.add_argument('--seed', type=int, default=0, help='seed of scenes and split')
    parser.add_argument('--train', type=int, default=32, help='training scenes')
    parser.add_argument('--val', type=int, default=8, help='validation scenes')
    parser.add_argument('--size', type=int, default=256, help='edge of a scene in pixels')
    parser.add_argument('--tile', type=int, default=128, help='edge of a tile in pixels')
    parser.add_argument('--workers', type=int, default=0, help='more processes to work in')
    args = parser.parse_args(arguments)
    make_demo_data(**vars(args))
    print(f'{args.out}: {args.train} training and {args.val} validation scenes')


if __name__ == '__main__':
    main()

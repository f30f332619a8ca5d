# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
r"""Write the lists of labelled, unlabelled, validation and test tiles of a converted data set.

Presets:

  scene      (default) whole scenes go to train, val or test, 60 : 20 : 20, so that nothing of a
             place that is evaluated was seen in training. Labelled tiles come scene by scene if the
             smallest labelled set then holds at least 8 scenes, else spread over all training
             scenes (--labelled-by overrules).
  tile       the same with single tiles: leaks, for comparison only.
  official   the data set's own folders: train is divided, val is both val and test unless there is
             a labelled test folder.
  dwl        the protocol of DWL, RS-MTDF and UFFM: random tiles 60 : 20 : 20; LoveDA: its train
             folder, and halves of its val folder. Drawn anew, since how theirs were is unknown.
  semiearth  Potsdam only: the very lists of SemiEarth's release, if its running numbers go through
             the tiles in --tile-order and through each tile row by row.
  co2s       the protocol of Co2S: random tiles 90 : 10 (potsdam, loveda in whole images, whdld) or
             80 : 20 (gid15, mer, msl) and its ratios; val is also test. Drawn anew.

Writes <data-root>/splits/<name>/{train,val,test}.txt, <ratio>/{labeled,unlabeled}.txt and
manifest.json. Names are relative to img_dir and have no suffix, as mmseg's ann_file wants them with
data_prefix=dict(img_path='img_dir', seg_map_path='ann_dir'). Unlabelled lists have one column.

  python tools/make_splits.py potsdam
  python tools/make_splits.py loveda --preset official --ratios 1-4 1-8
  python tools/make_splits.py loveda --preset co2s --data-root data/loveda_1024
  python tools/make_splits.py mine --data-root data/mine --scene-regex '^([a-z]+)' --seed 1
  python tools/make_splits.py potsdam --name release \
      --import-list 1pct/labeled=l.txt 1pct/unlabeled=u.txt val=val.txt test=test.txt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmseg_semi_rs.dataprep.splits import draw as splits
from mmseg_semi_rs.dataprep.splits.files import find_tiles, write_split
from mmseg_semi_rs.dataprep.splits.make import PRESETS, Split, SplitOptions, make_split
from mmseg_semi_rs.utils.command_line import command_parser


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = command_parser('splits', __doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'dataset', help=f'{", ".join(splits.SCENE_REGEX)}, or any other name with --scene-regex'
    )
    parser.add_argument('--data-root', type=Path, help='default: data/<dataset>')
    parser.add_argument('--preset', choices=PRESETS, default='scene', help='default: %(default)s')
    parser.add_argument('--name', help='folder below splits (default: the preset)')
    parser.add_argument(
        '--ratios',
        nargs='+',
        help="labelled shares: '1-8' one eighth, '5pct' five percent (default: the published ones "
        f'for --preset co2s, else {" ".join(splits.RATIOS)})',
    )
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--shares',
        type=int,
        nargs=3,
        default=list(splits.SHARES),
        metavar=('TRAIN', 'VAL', 'TEST'),
        help=f'of scenes or tiles (default: {" ".join(map(str, splits.SHARES))})',
    )
    parser.add_argument(
        '--scene-regex',
        help="searched in a tile's name without folder and window; group 1, or all, is the scene",
    )
    parser.add_argument(
        '--labelled-by',
        choices=('auto', 'scene', 'tile'),
        default='auto',
        help='what becomes labelled one after the other (default: %(default)s)',
    )
    parser.add_argument(
        '--extra-unlabelled',
        action='store_true',
        help='images without a label join the unlabelled lists, unless their scene is evaluated',
    )
    parser.add_argument(
        '--import-list',
        nargs='+',
        default=[],
        metavar='ROLE=FILE',
        help="published lists: '<ratio>/labeled', '<ratio>/unlabeled', 'val' and 'test'; one image "
        'per line, perhaps with a label after a space',
    )
    parser.add_argument(
        '--tile-order',
        choices=('natural', 'lexicographic'),
        default='natural',
        help="order of the Potsdam tiles in a release's running numbers (default: %(default)s)",
    )
    parser.add_argument('--img-dir', default='img_dir', help='default: %(default)s')
    parser.add_argument('--ann-dir', default='ann_dir', help='default: %(default)s')
    parser.add_argument('--img-suffix', default='.png', help='default: %(default)s')
    parser.add_argument('--seg-map-suffix', default='.png', help='default: %(default)s')
    parser.add_argument(
        '--ignore-ids',
        type=int,
        nargs='*',
        default=[255],
        help='ids that are no class, for data sets that this tool does not know (default: 255)',
    )
    parser.add_argument(
        '--no-coverage',
        action='store_true',
        help='do not read the labels to see that every class is there',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the split of that name')
    return parser


def report(console: Console, split: Split, folder: Path) -> None:
    """Print counts, leaks and warnings."""
    table = Table('list', 'tiles', 'scenes', title=str(folder))
    scenes = split.recipe['scenes']
    for role in ('train', 'val', 'test'):
        table.add_row(role, str(len(getattr(split, role))), str(scenes[role]))
    for ratio, (labelled, unlabelled) in split.sets.items():
        count = f'{len(labelled)} + {len(unlabelled)}'
        table.add_row(f'{ratio} labelled + unlabelled', count, str(scenes[f'{ratio}/labeled']))
    console.print(table)
    if 'labelled' in split.recipe:
        labelled = split.recipe['labelled']
        console.print(f'labelled by {labelled["unit"]}: {labelled["reason"]}')
    for role, leak in split.recipe['leak'].items():
        by_ratio = ', '.join(f'{k} {v:.1%}' for k, v in leak['scene_labelled'].items())
        pixels = leak['pixels_in_training']
        shared = '' if pixels is None else f', {pixels:.1%} share pixels with it'
        console.print(
            f'{role}: {leak["scene_in_training"]:.1%} of tiles have their scene in training'
            f'{shared}; scene labelled: {by_ratio}'
        )
    for warning in split.warnings:
        console.print(f'warning: {warning}', style='yellow')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: Command line. Defaults to the process's.

    Returns:
        Exit status: 0 if the split was written.
    """
    args = build_parser().parse_args(argv)
    args.data_root = args.data_root or Path('data') / args.dataset
    name = args.name or ('import' if args.import_list else args.preset)
    folder = args.data_root / 'splits' / name
    options = SplitOptions(**{item.name: getattr(args, item.name) for item in fields(SplitOptions)})
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        tiles = find_tiles(
            args.data_root, args.img_dir, args.ann_dir, args.img_suffix, args.seg_map_suffix
        )
        split = make_split(options, tiles)
        write_split(folder, split.lists, split.recipe, args.overwrite)
    except (ValueError, OSError) as error:
        console.print(f'error: {error}', style='red')
        return 2
    report(console, split, folder)
    return 0


if __name__ == '__main__':
    sys.exit(main())

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cut ISPRS Potsdam into mmseg's layout.

Reads ``2_Ortho_RGB.zip`` and ``5_Labels_all.zip`` (or the folders they unpack to; where they came
in one ``Potsdam.zip``, unpack that one) and writes
``img_dir/{train,val}/<row>_<column>_<x0>_<y0>_<x1>_<y1>.png`` with labels of the same name below
``ann_dir``: 1 impervious surface, 2 building, 3 low vegetation, 4 tree, 5 car, 6 clutter, 0 ignored
(padding, and the eroded boundaries of ``5_Labels_all_noBoundary.zip``). With the defaults these are
the names, windows and ids of mmseg's own converter: 3,456 + 2,016 tiles.

    python tools/dataset_converters/potsdam.py ~/Downloads/potsdam -o data/potsdam --workers 4
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from mmseg_semi_rs.dataprep.convert.raw_labels import ColourLabels
from mmseg_semi_rs.dataprep.convert.tool import (
    Plan,
    add_unknown_colours,
    find_pairs,
    run_tool,
    tool_parser,
)
from mmseg_semi_rs.rasters.windows import POTSDAM_TILES

LEGEND = (
    ((0, 0, 0), 0),
    ((255, 255, 255), 1),
    ((0, 0, 255), 2),
    ((0, 255, 255), 3),
    ((0, 255, 0), 4),
    ((255, 255, 0), 5),
    ((255, 0, 0), 6),
)
# Two of the 38 published labels are off the legend (one was compressed lossily), but no channel of
# theirs comes nearer than 40 to the middle of 0..255.
TOLERANCE = 88


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = tool_parser('potsdam', __doc__, 'data/potsdam', 'all of the 38 tiles')
    parser.add_argument(
        '--bands', choices=('RGB', 'IRRG'), default='RGB', help='orthophoto (default: %(default)s)'
    )
    parser.add_argument(
        '--no-boundary',
        action='store_true',
        help='labels with eroded boundaries (5_Labels_all_noBoundary.zip)',
    )
    parser.add_argument('--exclude', nargs='*', default=[], help='tiles to leave out, e.g. 7_10')
    parser.add_argument(
        '--colour-tolerance',
        type=int,
        default=TOLERANCE,
        help='largest difference of a channel to the legend (default: %(default)s)',
    )
    add_unknown_colours(parser)
    return parser


def plan(args: argparse.Namespace) -> Plan:
    """Find the files and say how to read them."""
    ending = 'label_noBoundary' if args.no_boundary else 'label'
    pattern = re.compile(rf'top_potsdam_(\d+_\d+)_({args.bands}|{ending})\.tiff?$', re.IGNORECASE)
    pairs, missing = find_pairs(
        args.source, pattern, lambda match: (match[1], match[2].upper() != args.bands)
    )
    # the challenge's smaller label archive stands in where the complete one is damaged
    for pair in pairs.values():
        pair.labels.sort(key=lambda source: 'for_participants' in str(source))
    subset_of = {tile: subset for subset, tiles in POTSDAM_TILES.items() for tile in tiles}
    unknown = [tile for tile in args.exclude if tile not in subset_of]
    if unknown:
        raise ValueError(f'--exclude {" ".join(unknown)} is no tile of Potsdam, such as 7_10.')
    wanted = [tile for tile in subset_of if tile not in args.exclude]
    here = [tile for tile in wanted if tile in pairs]
    absent = [tile for tile in wanted if tile not in pairs]
    if absent and not (args.allow_missing and here):
        missing.append(
            f'Tiles {", ".join(absent)} are in none of {", ".join(map(str, args.source))}: add '
            f'*_Ortho_{args.bands}.zip and 5_Labels_all.zip, or pass --allow-missing.'
        )
    jobs = [pairs[tile].job(tile, subset_of[tile], whole=False) for tile in here]
    decoder = ColourLabels(LEGEND, 0, args.colour_tolerance, args.unknown_colours)
    return Plan(jobs, decoder, missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; 0 if every tile was converted."""
    return run_tool(build_parser().parse_args(argv), plan)


if __name__ == '__main__':
    sys.exit(main())

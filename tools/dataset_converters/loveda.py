# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cut LoveDA into mmseg's layout.

Reads ``Train.zip`` and ``Val.zip`` (``<subset>/<Urban|Rural>/<images_png|masks_png>/<id>.png``; or
the folders they unpack to) and writes ``img_dir/{train,val}`` and ``ann_dir/{train,val}``. Labels
keep the published ids: 0 no-data (ignored; padding too), 1 background, 2 building, 3 road, 4 water,
5 barren, 6 forest, 7 agriculture. By default each image becomes four quadrants of 512 pixels,
``<id>_<x0>_<y0>_<x1>_<y1>.png``; ``--window whole`` keeps the 1024 pixels of mmseg, ``<id>.png``,
which the Co2S protocol wants in a folder of its own.

    python tools/dataset_converters/loveda.py ~/Downloads/LoveDA -o data/loveda --workers 4
    python tools/dataset_converters/loveda.py ~/Downloads/LoveDA -o data/loveda_1024 --window whole
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from mmseg_semi_rs.dataprep.convert.raw_labels import IdLabels
from mmseg_semi_rs.dataprep.convert.tool import Plan, find_pairs, run_tool, tool_parser

PATTERN = re.compile(
    r'(?:^|/)(Train|Val|Test)/(?:Urban|Rural)/(images|masks)_png/(\d+)\.png$', re.IGNORECASE
)
PUBLISHED = {'train': range(2522), 'val': range(2522, 4191)}


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = tool_parser('loveda', __doc__, 'data/loveda', 'all 4,191 labelled images')
    parser.add_argument(
        '--unlabelled',
        action='store_true',
        help='cut the images of Test too, which have no public labels',
    )
    return parser


def plan(args: argparse.Namespace) -> Plan:
    """Find the files and say how to read them."""
    pairs, missing = find_pairs(
        args.source,
        PATTERN,
        lambda match: ((match[1].lower(), int(match[3])), match[2].lower() == 'masks'),
    )
    if not args.allow_missing or not pairs:
        for subset, numbers in PUBLISHED.items():
            absent = [number for number in numbers if (subset, number) not in pairs]
            if absent:
                missing.append(
                    f'{len(absent)} of {len(numbers)} images of {subset} are in none of '
                    f'{", ".join(map(str, args.source))} (first: {absent[:5]}): download '
                    f'{subset.capitalize()}.zip again, or pass --allow-missing.'
                )
    jobs = [
        pair.job(str(number), subset, labelled=subset != 'test')
        for (subset, number), pair in sorted(pairs.items())
        if subset != 'test' or args.unlabelled
    ]
    return Plan(jobs, IdLabels(frozenset(range(1, 8)), 0), missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; 0 if every image was converted."""
    return run_tool(build_parser().parse_args(argv), plan)


if __name__ == '__main__':
    sys.exit(main())

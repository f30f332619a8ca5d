# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cut LoveDA into mmseg's layout.

Reads ``Train.zip`` and ``Val.zip`` (``<subset>/<Urban|Rural>/<images_png|masks_png>/<id>.png``; or
the folders they unpack to) and writes ``img_dir/{train,val}`` and ``ann_dir/{train,val}``. Labels
keep the published ids: 0 no-data (ignored; padding too), 1 background, 2 building, 3 road, 4 water,
5 barren, 6 forest, 7 agriculture. By default each image becomes four quadrants of 512 pixels,
``<id>_<x0>_<y0>_<x1>_<y1>.png``; ``--window whole`` keeps the 1024 pixels of mmseg, ``<id>.png``.

    python tools/dataset_converters/loveda.py ~/Downloads/LoveDA -o data/loveda --workers 4
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from mmseg_semi_rs.datasets.archives import SourceFile, find_sources
from mmseg_semi_rs.datasets.conversion import Job, add_arguments, run_tool
from mmseg_semi_rs.datasets.raw_labels import IdLabels

PATTERN = re.compile(
    r'(?:^|/)(Train|Val|Test)/(?:Urban|Rural)/(images|masks)_png/(\d+)\.png$', re.IGNORECASE
)
PUBLISHED = {'train': range(2522), 'val': range(2522, 4191)}


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, 'data/loveda')
    parser.add_argument(
        '--unlabelled',
        action='store_true',
        help='cut the images of Test too, which have no public labels',
    )
    parser.add_argument(
        '--allow-missing', action='store_true', help='do not ask for all 4,191 labelled images'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: Command line. Defaults to the process's.

    Returns:
        Exit status: 0 if every image was converted.
    """
    args = build_parser().parse_args(argv)
    try:
        found, missing = find_sources(args.source, PATTERN)
    except FileNotFoundError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    files: dict[tuple[str, int], dict[str, list[SourceFile]]] = {}
    for match, source in found:
        kinds = files.setdefault((match[1].lower(), int(match[3])), {'images': [], 'masks': []})
        kinds[match[2].lower()].append(source)
    if not args.allow_missing or not files:
        for subset, numbers in PUBLISHED.items():
            absent = [number for number in numbers if (subset, number) not in files]
            if absent:
                missing.append(
                    f'{len(absent)} of {len(numbers)} images of {subset} are in none of '
                    f'{", ".join(map(str, args.source))} (first: {absent[:5]}): download '
                    f'{subset.capitalize()}.zip again, or pass --allow-missing.'
                )
    jobs = []
    for (subset, number), kinds in sorted(files.items()):
        if subset != 'test':
            images, masks = tuple(kinds['images']), tuple(kinds['masks'])
            jobs.append(Job(str(number), subset, images, masks))
        elif args.unlabelled:
            jobs.append(Job(str(number), subset, tuple(kinds['images']), None))
    return run_tool(args, jobs, IdLabels(frozenset(range(1, 8)), 0), missing)


if __name__ == '__main__':
    sys.exit(main())

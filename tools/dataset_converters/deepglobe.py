# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cut the DeepGlobe Land Cover data set into mmseg's layout.

Reads ``train/<id>_sat.jpg`` and ``train/<id>_mask.png`` (803 pairs; zip or folder) and writes
``img_dir/train/<id>_<x0>_<y0>_<x1>_<y1>.png`` with labels of the same name below ``ann_dir``:
0 urban, 1 agriculture, 2 rangeland, 3 forest, 4 water, 5 barren, 6 unknown, 255 padding. Only the
training images have public labels; ``tools/make_splits.py`` divides them. Each channel of a mask is
cut at 128, as its authors ask.

    python tools/dataset_converters/deepglobe.py ~/Downloads/deepglobe -o data/deepglobe --workers 4
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from mmseg_semi_rs.datasets.archives import SourceFile, find_sources
from mmseg_semi_rs.datasets.conversion import Job, add_arguments, run_tool
from mmseg_semi_rs.datasets.raw_labels import ColourLabels

PATTERN = re.compile(
    r'(?:^|/)(?:[^/]*(train|valid|test)/)?(\d+)_(sat\.jpg|mask\.png)$', re.IGNORECASE
)
PUBLISHED = 803
LEGEND = (
    ((0, 255, 255), 0),
    ((255, 255, 0), 1),
    ((255, 0, 255), 2),
    ((0, 255, 0), 3),
    ((0, 0, 255), 4),
    ((255, 255, 255), 5),
    ((0, 0, 0), 6),
)


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, 'data/deepglobe', edge='pad')
    parser.add_argument(
        '--unlabelled',
        action='store_true',
        help='cut the images of valid and test too, which have no public labels',
    )
    parser.add_argument(
        '--unknown-colours',
        choices=('error', 'nearest', 'ignore'),
        default='error',
        help='what happens to pixels of other colours (default: %(default)s)',
    )
    parser.add_argument(
        '--allow-missing', action='store_true', help='do not ask for all 803 labelled images'
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
        subset = (match[1] or 'train').lower()
        kinds = files.setdefault((subset, int(match[2])), {'sat.jpg': [], 'mask.png': []})
        kinds[match[3].lower()].append(source)
    published = sum(subset == 'train' for subset, _ in files)
    if published < PUBLISHED and not (args.allow_missing and published):
        missing.append(
            f'{PUBLISHED - published} of {PUBLISHED} labelled images are in none of '
            f'{", ".join(map(str, args.source))}: download the train folder again, or pass '
            '--allow-missing.'
        )
    jobs = []
    for (subset, number), kinds in sorted(files.items()):
        if subset == 'train':
            images, masks = tuple(kinds['sat.jpg']), tuple(kinds['mask.png'])
            jobs.append(Job(str(number), subset, images, masks))
        elif args.unlabelled:
            jobs.append(Job(str(number), subset, tuple(kinds['sat.jpg']), None))
    decoder = ColourLabels(LEGEND, 255, tolerance=127, unknown=args.unknown_colours)
    return run_tool(args, jobs, decoder, missing)


if __name__ == '__main__':
    sys.exit(main())

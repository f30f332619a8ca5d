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

from mmseg_semi_rs.dataprep.convert.raw_labels import ColourLabels
from mmseg_semi_rs.dataprep.convert.tool import (
    Plan,
    add_unknown_colours,
    find_pairs,
    run_tool,
    too_few,
    tool_parser,
)

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
    parser = tool_parser(
        'deepglobe', __doc__, 'data/deepglobe', 'all 803 labelled images', edge='pad'
    )
    parser.add_argument(
        '--unlabelled',
        action='store_true',
        help='cut the images of valid and test too, which have no public labels',
    )
    add_unknown_colours(parser)
    return parser


def plan(args: argparse.Namespace) -> Plan:
    """Find the files and say how to read them."""
    pairs, missing = find_pairs(
        args.source,
        PATTERN,
        lambda match: (
            ((match[1] or 'train').lower(), int(match[2])),
            match[3].lower() == 'mask.png',
        ),
    )
    published = sum(subset == 'train' for subset, _ in pairs)
    missing += too_few(args, published, PUBLISHED, 'labelled images')
    jobs = [
        pair.job(str(number), subset, labelled=subset == 'train')
        for (subset, number), pair in sorted(pairs.items())
        if subset == 'train' or args.unlabelled
    ]
    return Plan(jobs, ColourLabels(LEGEND, 255, 127, args.unknown_colours), missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; 0 if every image was converted."""
    return run_tool(build_parser().parse_args(argv), plan)


if __name__ == '__main__':
    sys.exit(main())

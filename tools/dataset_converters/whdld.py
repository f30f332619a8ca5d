# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Bring WHDLD into mmseg's layout.

Reads ``WHDLD/Images/<name>.jpg`` and ``WHDLD/ImagesPNG/<name>.png`` (4,940 pairs ``wh0001`` ...,
256 x 256; zip or folder) and writes ``img_dir/train/<name>.png`` with labels of the same name below
``ann_dir``: 1 building, 2 road, 3 pavement, 4 vegetation, 5 bare soil, 6 water, 0 ignored. Labels
are read by their colours; copies that hold the ids 1 to 6 as grey values are read too, also from
folders ``images`` and ``labels``. The data set has no subsets: ``tools/make_splits.py`` divides it.

    python tools/dataset_converters/whdld.py ~/Downloads/WHDLD -o data/whdld
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from mmseg_semi_rs.dataprep.convert.raw_labels import ColourLabels, ColourOrIdLabels, IdLabels
from mmseg_semi_rs.dataprep.convert.tool import (
    Plan,
    add_unknown_colours,
    find_pairs,
    run_tool,
    too_few,
    tool_parser,
)

PATTERN = re.compile(
    r'(?:^|/)(?:Images/(\w+)\.jpe?g|(?:ImagesPNG|labels)/(\w+)\.png)$', re.IGNORECASE
)
PUBLISHED = 4940
LEGEND = (
    ((255, 0, 0), 1),
    ((255, 255, 0), 2),
    ((192, 192, 0), 3),
    ((0, 255, 0), 4),
    ((128, 128, 128), 5),
    ((0, 0, 255), 6),
)


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = tool_parser('whdld', __doc__, 'data/whdld', 'all 4,940 images', window='whole')
    add_unknown_colours(parser)
    return parser


def plan(args: argparse.Namespace) -> Plan:
    """Find the files and say how to read them."""
    pairs, missing = find_pairs(
        args.source, PATTERN, lambda match: (match[1] or match[2], match[1] is None)
    )
    missing += too_few(args, len(pairs), PUBLISHED, 'images')
    jobs = [pair.job(name, 'train') for name, pair in sorted(pairs.items())]
    colours = ColourLabels(LEGEND, 0, unknown=args.unknown_colours)
    return Plan(
        jobs,
        ColourOrIdLabels(colours, IdLabels(frozenset(range(1, 7)), 0, may_ignore=False)),
        missing,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; 0 if every image was converted."""
    return run_tool(build_parser().parse_args(argv), plan)


if __name__ == '__main__':
    sys.exit(main())

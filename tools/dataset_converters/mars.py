# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Bring one of the two parts of Mars-Seg into mmseg's layout.

Reads ``MER/JPEGImages/<name>.jpg`` and ``MER/SegmentationClassPNG/<name>.png`` (1,064 frames of
1024 x 1024), or the same below ``MSL`` (560 x 500; semi-supervised work uses 3,927 frames of the
4,148), from zip archives or folders, and writes ``img_dir/train/<name>.png`` with labels of the
same name below ``ann_dir``: 0 soil, 1 sands, 2 gravel, 3 bedrock, 4 rocks, 5 tracks, 6 shadows,
7 unknown, 8 background, 255 without a label.

The folders are those of the authors' page. The colours, Pascal VOC's first nine, are those that
published work paints the classes with; that the label images have them too, and black where there
is no label, is an assumption, and another colour stops the conversion of its file. Grey values are
taken for the ids 0 to 8 and 255 of semi-supervised releases, also from folders ``images`` and
``labels``: a 9 in them tells of a copy that counts from 1, and is refused.

    python tools/dataset_converters/mars.py ~/Downloads/Mars-Seg --part mer -o data/mer
    python tools/dataset_converters/mars.py ~/Downloads/Mars-Seg --part msl -o data/msl
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

PUBLISHED = {'mer': 1064, 'msl': 3927}
LEGEND = (
    ((128, 0, 0), 0),
    ((0, 128, 0), 1),
    ((128, 128, 0), 2),
    ((0, 0, 128), 3),
    ((128, 0, 128), 4),
    ((0, 128, 128), 5),
    ((128, 128, 128), 6),
    ((64, 0, 0), 7),
    ((192, 0, 0), 8),
    ((0, 0, 0), 255),
)


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = tool_parser('mars', __doc__, None, 'all 1,064 or 3,927 frames', window='whole')
    parser.add_argument('--part', choices=tuple(PUBLISHED), required=True, help='which rovers')
    add_unknown_colours(parser)
    return parser


def plan(args: argparse.Namespace) -> Plan:
    """Find the files and say how to read them."""
    pattern = re.compile(
        rf'(?:^|/){args.part}/(?:.*/)?'
        r'(?:(?:JPEGImages|images)/([^/]+)\.jpe?g|(?:SegmentationClassPNG|labels)/([^/]+)\.png)$',
        re.IGNORECASE,
    )
    pairs, missing = find_pairs(
        args.source, pattern, lambda match: (match[1] or match[2], match[1] is None)
    )
    missing += too_few(args, len(pairs), PUBLISHED[args.part], 'frames')
    jobs = [pair.job(name, 'train') for name, pair in sorted(pairs.items())]
    colours = ColourLabels(LEGEND, 255, unknown=args.unknown_colours)
    return Plan(jobs, ColourOrIdLabels(colours, IdLabels(frozenset(range(9)), 255)), missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; 0 if every frame was converted."""
    return run_tool(build_parser().parse_args(argv), plan)


if __name__ == '__main__':
    sys.exit(main())

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Cut GID-15 into mmseg's layout.

Reads the ten scenes of ``Fine Land-cover Classification_15classes``: ``image_RGB/<scene>.tif`` and
``label_15classes/<scene>_label.tif`` (``_15label.tif`` in other copies), 6800 rows x 7200 columns,
in folders or zip archives (unpack the 7z and rar volumes first). Writes
``img_dir/train/<scene>_<x0>_<y0>_<x1>_<y1>.png`` with labels of the same name below ``ann_dir``:
0 industrial land ... 14 pond, in the order of ``GID15Dataset``, 255 unlabelled and padding.

The published lists name 18 rows x 19 columns of tiles per scene, 3,420 tiles, and no size. The
defaults, 512 pixels every 384, give this grid, and are an assumption; ``--window 384``, without
overlap but for the last row and column, gives it too. ``tools/make_splits.py --import-list`` finds
the tiles of either by row and column.

    python tools/dataset_converters/gid15.py ~/Downloads/GID -o data/gid15 --workers 4
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
    r'(?:^|/)(?:image_RGB/(\w[\w-]*)|label_15classes/(\w[\w-]*)_(?:15)?label)\.tiff?$',
    re.IGNORECASE,
)
PUBLISHED = 10
LEGEND = (
    ((200, 0, 0), 0),
    ((250, 0, 150), 1),
    ((200, 150, 150), 2),
    ((250, 150, 150), 3),
    ((0, 200, 0), 4),
    ((150, 250, 0), 5),
    ((150, 200, 150), 6),
    ((200, 0, 200), 7),
    ((150, 0, 250), 8),
    ((150, 150, 250), 9),
    ((250, 200, 0), 10),
    ((200, 200, 0), 11),
    ((0, 0, 200), 12),
    ((0, 150, 200), 13),
    ((0, 200, 250), 14),
    ((0, 0, 0), 255),
)


def build_parser() -> argparse.ArgumentParser:
    """Options of this tool."""
    parser = tool_parser('gid15', __doc__, 'data/gid15', 'all 10 scenes', stride=384)
    add_unknown_colours(parser)
    return parser


def plan(args: argparse.Namespace) -> Plan:
    """Find the files and say how to read them."""
    pairs, missing = find_pairs(
        args.source, PATTERN, lambda match: (match[1] or match[2], match[1] is None)
    )
    missing += too_few(args, len(pairs), PUBLISHED, 'scenes')
    jobs = [pair.job(scene, 'train') for scene, pair in sorted(pairs.items())]
    return Plan(jobs, ColourLabels(LEGEND, 255, unknown=args.unknown_colours), missing)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; 0 if every scene was converted."""
    return run_tool(build_parser().parse_args(argv), plan)


if __name__ == '__main__':
    sys.exit(main())

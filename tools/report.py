# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Make one HTML page from trainings: scores over seeds, curves, pictures, how configs differ.

    python tools/report.py work_dirs/NAME
    python tools/report.py work_dirs/fixmatch_seed* work_dirs/rsmtdf_seed* --out report.html
    python tools/report.py work_dirs                  # all that are below

The page opens from disk and needs no network. Runs whose configs differ only in seeds and folders
are one recipe, with mean and standard deviation. Runs may be finished, killed, resumed or still
running; what is damaged is named and left out.
"""

from __future__ import annotations

import argparse
import sys

from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser('report', 'Make one HTML page from trainings')
    parser.add_argument(
        'folders', nargs='+', metavar='WORK_DIR', help='folder of a training, or of several'
    )
    parser.add_argument('--out', metavar='FILE', default='report.html', help='default: %(default)s')
    parser.add_argument('--title', default='Training report', help='default: %(default)s')
    return parse(parser, arguments, config=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the tool; bad input is one sentence and exit code 2."""
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        from mmseg_semi_rs.visualization.report import write_report

        path, faults = write_report(args.folders, args.out, args.title)
        for fault in faults:
            print(f'warning: {fault}', file=sys.stderr)
        print(f'page   {path}')


if __name__ == '__main__':
    main()

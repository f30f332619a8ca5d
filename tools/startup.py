# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Measure what the start costs: CPU seconds of ``--help`` of each tool, and of the imports.

    python tools/startup.py
    python tools/startup.py --checkout ../before      # the same of another version

Each is started --repeat times, and printed is the least. With more than one thread the figures are
those of all threads together.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmseg_semi_rs.utils.command_line import command_parser
from mmseg_semi_rs.utils.commands import resources

# What registration needs of mmseg whatever our parts import; the stand-in for operators is ours.
_MMSEG = (
    "import sys; sys.argv = ['rsseg']; import mmseg_semi_rs.compat, mmseg.models, mmseg.datasets, "
    'mmseg.engine, mmseg.evaluation, mmseg.apis'
)
_IMPORTS = {
    'import mmseg': 'import mmseg',
    'import mmseg.models, ...': _MMSEG,
    'import mmseg_semi_rs': 'import mmseg_semi_rs',
}


def cpu_seconds(words: Sequence[str], path: Path | None) -> float:
    """CPU time of a Python process, in seconds.

    Args:
        words: Its arguments.
        path: Where it finds the package first; None where it is installed.

    Raises:
        ValueError: It failed.
    """
    env = {**os.environ, **({} if path is None else {'PYTHONPATH': str(path)})}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ValueError(f'{" ".join(words)} failed: {done.stderr[-500:]}')
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'startup', __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--checkout', type=Path, metavar='FOLDER', help='whose tools and package (default: these)'
    )
    parser.add_argument('--repeat', type=int, default=3, metavar='N', help='default: %(default)s')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool."""
    args = parse_args(arguments)
    root = resources() if args.checkout is None else args.checkout.resolve()
    tools = root / 'tools'
    files = [path for path in sorted(tools.glob('*.py')) if path.name != Path(__file__).name]
    files += sorted((tools / 'dataset_converters').glob('*.py'))
    runs = {f'{path.relative_to(tools)} --help': [str(path), '--help'] for path in files}
    runs |= {name: ['-c', code] for name, code in _IMPORTS.items()}
    for name, words in runs.items():
        seconds = [cpu_seconds(words, args.checkout and root) for _ in range(args.repeat)]
        print(f'{name:<40}{min(seconds):6.2f} s', flush=True)


if __name__ == '__main__':
    main()

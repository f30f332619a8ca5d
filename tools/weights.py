# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Say which weight files a config needs and which are missing; fetch them if told to.

    python tools/weights.py configs/rsmtdf/dinov2_clip_potsdam_1-4.py
    python tools/weights.py configs/rsmtdf/dinov2_clip_potsdam_1-4.py --download
    python tools/weights.py --method co2s                  # those of all its configs
    python tools/weights.py                                # the whole table
    python tools/weights.py dinov2_vits14_pretrain.pth --download

Nothing is fetched without --download. What was interrupted is gone on with, and a file gets its
name only when its SHA-256 is that of the table. Proxies (https_proxy), HF_ENDPOINT and a token of
the Hugging Face hub are read as usual. The exit status is 1 while something is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmseg_semi_rs.utils.command_line import Faults, command_parser, parse

MIRRORS = 'RSSEG_MIRRORS'
INTERRUPTED = 130  # exit status, as of a shell


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser(
        'weights', __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'what', nargs='*', help='configs, or names of the table (default: the whole table)'
    )
    parser.add_argument('--method', help='all configs of a method, such as rsmtdf')
    parser.add_argument('--download', action='store_true', help='fetch what is missing')
    parser.add_argument(
        '--folder',
        default='checkpoints',
        help='where files that are given by name go (default: %(default)s)',
    )
    parser.add_argument(
        '--mirror',
        nargs='+',
        default=os.environ.get(MIRRORS, '').split(),
        metavar='FROM=TO',
        help='take addresses that begin with FROM from TO, e.g. https://dl.fbaipublicfiles.com='
        f'https://mirror.example (default: what the variable {MIRRORS} names)',
    )
    return parse(parser, arguments)


def mirrors(words: list[str]) -> dict[str, str]:
    """Read --mirror."""
    found = dict(word.partition('=')[::2] for word in words)
    for begin, place in found.items():
        if not all(url.startswith(('http://', 'https://')) for url in (begin, place)):
            raise ValueError(
                f'--mirror {begin}={place} names no two addresses: give FROM=TO, both with https://.'
            )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; bad input is one sentence and exit code 2.

    Returns:
        1 while something is missing, else 0.
    """
    args = parse_args(arguments)
    with Faults(args.traceback, __name__):
        from mmseg_semi_rs.dataprep.experiments import choose, read_config
        from mmseg_semi_rs.dataprep.weights import merged, named, needed, table

        configs = [name for name in args.what if name.endswith('.py')]
        names = [name for name in args.what if name not in configs]
        if args.method:
            configs += [str(one.config) for one in choose(args.method)]
        wanted = [needed(read_config(path, args.cfg_options)) for path in configs]
        whole = not configs and not names
        wanted.append(named(table() if whole else names, Path(args.folder)))
        places = mirrors(args.mirror)
        files = merged(wanted)
        if args.download and whole:
            raise ValueError(
                'The whole table is more than anybody needs: name a config, a --method or files '
                'with --download.'
            )
        failed = []
        for one in files:
            if args.download and not one.ready:
                print(f'fetching {one.name}', file=sys.stderr, flush=True)
                try:
                    one.download(places)
                except (ValueError, FileNotFoundError) as error:
                    failed.append(str(error))
                except KeyboardInterrupt:
                    print('interrupted: the same command goes on from here.', file=sys.stderr)
                    return INTERRUPTED
            state = one.state
            print(f'{one.name}   {state}')
            if state != 'here' or whole:
                print('\n'.join(one.lines(places)))
        for message in failed:  # together at the end, where they are seen
            print(f'error: {message}', file=sys.stderr)
        missing = [one for one in files if not one.here]
        if missing and not args.download and not whole:
            print(f'{len(missing)} of {len(files)} are missing: give --download to fetch them.')
        if failed:
            return 2
        return 1 if missing and not whole else 0


if __name__ == '__main__':
    sys.exit(main())

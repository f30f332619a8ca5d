# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Options that many tools have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmengine.config import DictAction


def parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    config: bool = True,
    launcher: bool = False,
) -> argparse.Namespace:
    """Add the common options to a tool's own, and read the command line.

    Args:
        parser: With the options of the tool; changed in place.
        arguments: Words of the command line; None takes those of the process.
        config: Whether the tool reads a config, and has ``--cfg-options``. Defaults to True.
        launcher: Whether several processes may run it, by ``--launcher``; the local rank that a
            launcher hands over is then set in the environment. Defaults to False.

    Returns:
        What was given.
    """
    if config:
        parser.add_argument(
            '--cfg-options',
            nargs='+',
            action=DictAction,
            metavar='KEY=VALUE',
            help='settings of the config to override, e.g. train_cfg.max_iters=1000',
        )
    if launcher:
        parser.add_argument(
            '--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher'
        )
        parser.add_argument(
            '--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS
        )
    parser.add_argument(
        '--traceback', action='store_true', help='show where an error about bad input comes from'
    )
    args = parser.parse_args(arguments)
    if launcher:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Shared parts of the command line tools, without any import of torch or mmseg."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import mmseg_semi_rs

from .commands import COMMANDS, command, find_checkpoint_file, find_config
from .errors import RunStoppedError

#: Exit code of a tool for a wrong config, wrong data or wrong weights.
BAD_INPUT = 2
_DISK_FAULTS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR),
}

_OPENMMLAB = ('mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmdet')


def command_parser(name: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """Create an argument parser whose usage names the command as the user has typed it.

    Args:
        name: A key of :data:`~mmseg_semi_rs.utils.commands.COMMANDS`, or ``'convert DATASET'``.
        description: What the command does; ``python tools/<file>.py`` in it is replaced.
        **options: Further arguments of :class:`argparse.ArgumentParser`.
    """
    return argparse.ArgumentParser(command(name), description=as_typed(description), **options)


def as_typed(text: str | None) -> str:
    """Replace ``python tools/<file>.py`` in a text by the command as the user types it."""
    names = {file: name for name, (file, _) in COMMANDS.items()}

    def typed(match: re.Match[str]) -> str:
        name = f'convert {match[2]}' if match[1] else names.get(match[2])
        return match[0] if name is None else command(name)

    return re.sub(r'python tools/(dataset_converters/)?(\w+)\.py', typed, text or '')


def parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    config: bool = True,
    launcher: bool = False,
) -> argparse.Namespace:
    """Add the common options to a tool's parser, and parse the command line.

    Args:
        parser: Parser with the tool's own options, changed in place.
        arguments: Words of the command line. None takes those of the process.
        config: Whether the tool reads a config, and so has ``--cfg-options``.
        launcher: Whether several processes may run it, by ``--launcher``. The local rank passed by
            a launcher is then set in the environment.

    Returns:
        The parsed options. A missing config or checkpoint is reported at once, before any slow
        import.
    """
    if config:
        parser.add_argument(
            '--cfg-options',
            nargs='+',
            action='extend',
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
    with Faults(args.traceback):
        _find_files(args)
    if config and args.cfg_options:
        args.cfg_options = _overrides(parser, args.cfg_options)
    return args


def _overrides(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` words as mmengine does, into values by dotted config key."""
    bare = [word for word in words if '=' not in word]
    if bare:
        parser.error(f'--cfg-options {bare[0]!r} is no KEY=VALUE: write no blanks around the sign')
    try:
        from mmengine.config import DictAction
    except ImportError:
        mmseg_semi_rs.register_all()  # raises an error that says what to install
        raise
    reader = argparse.ArgumentParser()
    reader.add_argument('--cfg-options', nargs='+', action=DictAction)
    read: dict[str, Any] = reader.parse_args(['--cfg-options', *words]).cfg_options
    return read


def nodata_value(text: str | None) -> float | None:
    """Parse the option ``--nodata``; None if it was not given or is ``none``.

    Raises:
        ValueError: The text is not a number.
    """
    if text is None or text.lower() == 'none':
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f'--nodata {text!r} is no value: write a number, or none.') from error


def print_next(*commands: Sequence[object]) -> None:
    """Print the commands that a user may type next.

    Args:
        *commands: Keys of :data:`~mmseg_semi_rs.utils.commands.COMMANDS`, each with its arguments.
    """
    print('next:')
    for name, *words in commands:
        print(f'  {command(str(name))} {shlex.join(map(str, words))}', flush=True)


def _find_files(args: argparse.Namespace) -> None:
    """Check that the files which a command reads exist.

    Raises:
        FileNotFoundError: A config or checkpoint does not exist.
    """
    config, checkpoints = getattr(args, 'config', None), getattr(args, 'checkpoint', None)
    if isinstance(config, str):  # a Path is a config to be written
        find_config(config)
    for checkpoint in [checkpoints] if isinstance(checkpoints, str) else checkpoints or ():
        if '://' not in checkpoint:
            find_checkpoint_file(checkpoint)


class Faults:
    """Context that reports bad input in one sentence on stderr, and exits with code 2.

    Only errors about a config, data or weight file are shortened: those that this package raises,
    whose message names path, value and remedy, and those of an OpenMMLab part about its settings.
    Any other error keeps its traceback, and so does every error after :meth:`begun`, once the
    training is under way. A full disk, a folder without write permission and a deliberately stopped
    run are always shortened.

    Characters that a console cannot show (``> log.txt`` on Windows) are replaced.

    Args:
        show_traceback: Whether to keep all tracebacks.
        tool: Module name of the tool, whose own errors are shortened too.

    Examples:
        >>> with Faults() as faults:
        ...     faults.begun()  # from here on errors keep their traceback
    """

    def __init__(self, show_traceback: bool = False, tool: str = '__main__') -> None:
        self.show_traceback, self.tool = show_traceback, tool
        self.under_way = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors='replace')

    def begun(self) -> None:
        """Declare that the training is under way."""
        self.under_way = True

    def __enter__(self) -> Faults:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self.show_traceback:
            return
        message = _disk_fault(error)
        if message is None and not isinstance(error, RunStoppedError):
            if self.under_way:
                return
            if not _is_told(error, self.tool):
                message = _refused_settings(error)
                if message is None:
                    return
        message = (message or str(error)).strip()
        if 'Original Traceback' in message:  # raised in a data loading worker
            message = message.splitlines()[-1].partition(': ')[2]
        several = int(os.environ.get('WORLD_SIZE', '1')) > 1
        where = f' (rank {os.environ.get("RANK", "0")})' if several else ''
        print(f'error{where}: {message}', file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)


def _disk_fault(error: BaseException) -> str | None:
    """Return a sentence about a full disk or a forbidden folder, or None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _DISK_FAULTS:
        return None
    if error.strerror is None:  # already a sentence
        return str(error)
    named = f'{error.filename} cannot be written: ' if error.filename else ''
    return f'{named}{error.strerror}; make room there, or choose another folder.'


def _is_told(error: BaseException, tool: str) -> bool:
    """Return whether this package or the tool raised an error as a message to the user."""
    if not isinstance(error, (ValueError, TypeError, FileNotFoundError, ImportError)):
        return False
    origin = _modules(error)[-1:]
    return origin == [tool] or any(name.split('.')[0] == 'mmseg_semi_rs' for name in origin)


def _refused_settings(error: BaseException) -> str | None:
    """Return what a registry, or an OpenMMLab part it builds, says of wrong settings, or None."""
    modules, building = _modules(error), 'mmengine.registry.build_functions'
    kinds = (ValueError, KeyError, AssertionError, NotImplementedError)
    by_part = isinstance(error, kinds) and modules[-1:] and modules[-1].split('.')[0] in _OPENMMLAB
    wrong_argument = isinstance(error, TypeError) and '__init__() ' in str(error)
    if building not in modules or not (by_part or wrong_argument) or not str(error):
        return None
    said = ' '.join(str(error.args[0]).split()).rstrip('.')
    if isinstance(error, KeyError) and modules[-1] == building:  # an unregistered name
        return f'{said}.'
    return f'{said}: correct the config (--traceback shows what refuses it).'


def _modules(error: BaseException) -> list[str]:
    """Return the modules that an error passed through; the last one raised it."""
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals.get('__name__', '')) for frame, _ in frames]

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What the command line tools share; neither torch nor mmseg is imported here."""

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
from pathlib import Path
from types import TracebackType
from typing import Any

import mmseg_semi_rs

from .commands import COMMANDS, command, find_checkpoint_file, find_config
from .errors import RunStoppedError

#: Exit code of a tool whose config, data or weights are wrong.
BAD_INPUT = 2
_DISK_FAULTS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR),
}

_OPENMMLAB = ('mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmdet')


def command_parser(name: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """An argument parser that calls a command as its user does.

    Args:
        name: A key of :data:`~mmseg_semi_rs.utils.commands.COMMANDS`, or ``'convert DATASET'``.
        description: What the command does; ``python tools/<file>.py`` in it is replaced.
        **options: Further arguments of :class:`argparse.ArgumentParser`.
    """
    return argparse.ArgumentParser(command(name), description=as_typed(description), **options)


def as_typed(text: str | None) -> str:
    """Replace ``python tools/<file>.py`` in a text by what this process's user types."""
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
    """Add the common options to a tool's own, and read the command line.

    Args:
        parser: With the options of the tool; changed in place.
        arguments: Words of the command line; None takes those of the process.
        config: Whether the tool reads a config, and has ``--cfg-options``.
        launcher: Whether several processes may run it, by ``--launcher``; the local rank that a
            launcher hands over is then set in the environment.

    Returns:
        What was given. A config or a checkpoint that does not exist is told at once, before
        anything that takes seconds is imported.
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
    """Values by the dotted keys of a config, as mmengine reads them."""
    bare = [word for word in words if '=' not in word]
    if bare:
        parser.error(f'--cfg-options {bare[0]!r} is no KEY=VALUE: write no blanks around the sign')
    try:
        from mmengine.config import DictAction
    except ImportError:
        mmseg_semi_rs.register_all()  # says what to install
        raise
    reader = argparse.ArgumentParser()
    reader.add_argument('--cfg-options', nargs='+', action=DictAction)
    read: dict[str, Any] = reader.parse_args(['--cfg-options', *words]).cfg_options
    return read


def nodata_value(text: str | None) -> float | None:
    """Value of an option ``--nodata``; None if it was not given, or is ``none``.

    Raises:
        ValueError: It is no number.
    """
    if text is None or text.lower() == 'none':
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f'--nodata {text!r} is no value: write a number, or none.') from error


def print_next(*commands: Sequence[object]) -> None:
    """Print what a user may type next.

    Args:
        *commands: Keys of :data:`~mmseg_semi_rs.utils.commands.COMMANDS`, each with its words.
    """
    print('next:')
    for name, *words in commands:
        print(f'  {command(str(name))} {shlex.join(map(str, words))}', flush=True)


def _find_files(args: argparse.Namespace) -> None:
    """Look for the files that a command reads.

    Raises:
        FileNotFoundError: A config, checkpoint or image does not exist.
    """
    config, checkpoints = getattr(args, 'config', None), getattr(args, 'checkpoint', None)
    if isinstance(config, str):  # a path is one that is written
        find_config(config)
    for checkpoint in [checkpoints] if isinstance(checkpoints, str) else checkpoints or ():
        if '://' not in checkpoint:
            find_checkpoint_file(checkpoint)
    for name in getattr(args, 'input', ()):
        path = Path(name)
        elsewhere = '://' in name or name.startswith('/vsi')
        if not (elsewhere or path.exists() or any(path.parent.glob(path.name))):
            raise FileNotFoundError(f'{name} does not exist: give an image or a folder of images.')


class Faults:
    """Tells bad input in one sentence on stderr, and leaves with exit code 2.

    Only what this package raises itself, to tell the user about a config, data or weight file, is
    shortened, which ends with the path, the value and the remedy; and what a part of OpenMMLab's
    says of the settings that a config gives it. Any other error keeps its traceback, and so does
    everything after :meth:`begun`, when the training is under way. A disk that is full, a folder
    that may not be written to and a run that stopped on purpose are always told.

    What a console cannot show (``> log.txt`` on Windows) is replaced, not refused.

    Args:
        show_traceback: Never shorten.
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
        """Say that the training is under way."""
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
        if 'Original Traceback' in message:  # from a data loading worker
            message = message.splitlines()[-1].partition(': ')[2]
        several = int(os.environ.get('WORLD_SIZE', '1')) > 1
        where = f' (rank {os.environ.get("RANK", "0")})' if several else ''
        print(f'error{where}: {message}', file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)


def _disk_fault(error: BaseException) -> str | None:
    """A sentence on a full disk or a forbidden folder, None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _DISK_FAULTS:
        return None
    if error.strerror is None:  # a sentence already
        return str(error)
    named = f'{error.filename} cannot be written: ' if error.filename else ''
    return f'{named}{error.strerror}; make room there, or choose another folder.'


def _is_told(error: BaseException, tool: str) -> bool:
    """Whether an error is meant to be read: raised here."""
    if not isinstance(error, (ValueError, TypeError, FileNotFoundError, ImportError)):
        return False
    origin = _modules(error)[-1:]
    return origin == [tool] or any(name.split('.')[0] == 'mmseg_semi_rs' for name in origin)


def _refused_settings(error: BaseException) -> str | None:
    """What a registry, or a part of OpenMMLab's that it builds, says of its settings; else None."""
    modules, building = _modules(error), 'mmengine.registry.build_functions'
    kinds = (ValueError, KeyError, AssertionError, NotImplementedError)
    by_part = isinstance(error, kinds) and modules[-1:] and modules[-1].split('.')[0] in _OPENMMLAB
    wrong_argument = isinstance(error, TypeError) and '__init__() ' in str(error)
    if building not in modules or not (by_part or wrong_argument) or not str(error):
        return None
    said = ' '.join(str(error.args[0]).split()).rstrip('.')
    if isinstance(error, KeyError) and modules[-1] == building:  # a name that is not registered
        return f'{said}.'
    return f'{said}: correct the config (--traceback shows what refuses it).'


def _modules(error: BaseException) -> list[str]:
    """The modules that an error came through, the one that raised it last."""
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals.get('__name__', '')) for frame, _ in frames]

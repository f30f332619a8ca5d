# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""``rsseg``: each of its commands runs a file of ``tools``, from the checkout or from the wheel."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import __version__
from .utils.commands import COMMANDS, SCRIPT, converters, resources, starter

_USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command and its arguments. Defaults to those of the process.

    Returns:
        Exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else '--help'
    if name in ('-h', '--help', 'help'):
        print(_listing())
        return 0
    if name in ('-V', '--version'):
        print(f'{SCRIPT} {__version__}')
        return 0
    if name not in COMMANDS:
        return _unknown(name, list(COMMANDS), 'command')
    path = resources() / 'tools' / COMMANDS[name].file
    if name == 'convert':
        data_sets = converters()
        if words[1:2] in ([], ['-h'], ['--help']):
            print(f'usage: {starter() or SCRIPT} convert DATASET ...\n\nDATASET: ', end='')
            print(', '.join(data_sets))
            return 0
        if words[1] not in data_sets:
            return _unknown(words[1], data_sets, 'data set')
        path, words = path / words[1], words[1:]
    return _load(path.with_suffix('.py')).main(words[1:]) or 0


def _listing() -> str:
    width = max(map(len, COMMANDS))
    lines = [f'  {name:<{width}}  {about}' for name, (_, about) in COMMANDS.items()]
    start = starter() or SCRIPT
    return '\n'.join([
        f'usage: {start} COMMAND ...',
        '',
        'Semi-supervised semantic segmentation of remote-sensing images.',
        '',
        *lines,
        '',
        f'{start} COMMAND --help explains a command; the configs that come with the package lie in',
        f'{resources() / "configs"}',
    ])  # fmt: skip


def _unknown(word: str, known: list[str], kind: str) -> int:
    near = difflib.get_close_matches(word, known)
    choice = f'did you mean {" or ".join(near)}?' if near else f'choose one of {", ".join(known)}.'
    print(f'error: There is no {kind} {word!r}: {choice}', file=sys.stderr)
    return _USAGE_ERROR


def _load(path: Path) -> ModuleType:
    """Import a tool as if it were run as a script, with its helper modules on the path."""
    sys.path.insert(0, str(resources() / 'tools'))
    spec = importlib.util.spec_from_file_location(f'{SCRIPT}_{path.stem}', path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f'{path} does not exist: install the package again.')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

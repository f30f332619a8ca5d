# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Run commands in sequence, and skip those already done."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .commands import PACKAGE, SCRIPT, command, starter
from .errors import RunStoppedError
from .files import write_atomic

RSSEG = 'rsseg'
"""Placeholder for the package's command, however it is started."""

_INTERRUPTED = 130  # exit status of a shell after an interrupt


class Step(NamedTuple):
    """A command, and how to tell that it is done.

    Attributes:
        name: Name of the step in messages.
        words: The command; :data:`RSSEG` stands for the package's own.
        done: Returns whether the step is already done.
        mark: File to create when the command has succeeded.
    """

    name: str
    words: list[str]
    done: Callable[[], bool]
    mark: Path | None = None


def shown(words: Sequence[str]) -> str:
    """Format a command as a user types it."""
    words = list(words)
    if RSSEG in words:
        at = words.index(RSSEG)
        name = words[at + 1 : at + (3 if words[at + 1] == 'convert' else 2)]
        words[at : at + 1 + len(name)] = command(' '.join(name)).split()
    return ' '.join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Quote a word except for what a shell shall expand: ``*`` and a leading ``~/``."""
    parts = re.split(r'(\*|^~/)', word)
    return ''.join(p if p in ('', '*', '~/') else shlex.quote(p) for p in parts) or "''"


def start(words: Sequence[str]) -> int:
    """Run a command, wait for its end and return its exit status."""
    found: list[str] = []
    for word in words:
        if word == RSSEG:  # as this process was started, whose name the command will print
            found += [sys.argv[0]] if starter() == SCRIPT else [sys.executable, '-m', PACKAGE.name]
        else:
            found.append(word)
    return subprocess.run(found).returncode


def expanded(words: Iterable[str]) -> list[str]:
    """Replace patterns by the newest matching file, and ``~`` by the home folder.

    Raises:
        FileNotFoundError: No file matches a pattern.
    """
    found = []
    for word in words:
        path = Path(word)
        if '*' in path.name:
            files = sorted(path.parent.glob(path.name), key=lambda file: file.stat().st_mtime)
            if not files:
                raise FileNotFoundError(
                    f'{word} does not exist: the training was not validated, so let it run longer.'
                )
            word = str(files[-1])
        found.append(str(Path(word).expanduser()) if word.startswith('~') else word)
    return found


def overriding(options: Mapping[str, Any]) -> list[str]:
    """Return the words that override settings, given by dotted key, on a command line."""
    return ['--cfg-options', *(f'{k}={v}' for k, v in options.items())] if options else []


def trained(folder: Path, iters: int) -> Callable[[], bool]:
    """Return a function that tells whether a training has finished.

    Args:
        folder: ``work_dir`` of the training.
        iters: Number of iterations of the training.
    """

    def done() -> bool:
        try:
            named = (folder / 'last_checkpoint').read_text(encoding='utf-8').strip()
        except OSError:
            return False
        return Path(named).name == f'iter_{iters}.pth'

    return done


def carry_out(steps: Sequence[Step]) -> None:
    """Run the steps that are not done. An interrupt exits the process with a shell's status.

    Raises:
        RunStoppedError: A command failed.
    """
    for number, step in enumerate(steps, start=1):
        line = f'[{number}/{len(steps)}] {step.name}'
        if step.done():
            print(f'{line}: done already', flush=True)
            continue
        print(f'{line}: {shown(step.words)}', flush=True)
        try:
            status = start(expanded(step.words))
        except KeyboardInterrupt:
            print('interrupted: the same command goes on from here.', file=sys.stderr)
            sys.exit(_INTERRUPTED)
        if status == 0 and step.mark is not None:
            write_atomic(step.mark, b'')
        if status or not step.done():
            raise RunStoppedError(
                f'The step "{step.name}" is not finished (exit status {status}): see what it said '
                'above; the same command goes on from here.'
            )

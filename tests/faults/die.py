# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A training that dies while it writes a file, and the same again with --resume.

    python -m tests.faults.die    # all 36 deaths; exit code 0 if none loses more

Each death is in a process of its own, forked from one that has imported everything.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from mmseg_semi_rs.engine.checkpoints import find_checkpoint
from tests._support.processes import exit_code
from tests._support.tiny_training import run_here, write_dual, write_training

INTERVAL = 2
STEPS = 8
WRITES = range(1, 7)
WAYS = ('killed half-way', 'killed before', 'disk full')
METHODS = ('mean teacher', 'two students')
KILLED = 137


@dataclass
class Death:
    """What was seen of a training that died and was resumed.

    Attributes:
        code: Exit code of the process that died.
        reached: Last step that was taken.
        kept: Step of the checkpoint that is gone on from, 0 for none.
        resumed: Exit code of the process that went on.
        equal: Whether its last weights are those of an uninterrupted training, bit by bit.
        files: Checkpoints in the end.
        said: What both processes printed.
    """

    code: int
    reached: int
    kept: int
    resumed: int
    equal: bool
    files: set[str]
    said: str


class _Dying:
    """A file that dies in the middle of what is written to it."""

    def __init__(self, file: Any, way: str) -> None:
        self.file, self.way = file, way

    def __enter__(self) -> _Dying:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, contents: Any) -> None:
        self.file.write(contents[: len(contents) // 2])
        self.file.flush()
        if self.way == 'disk full':
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os._exit(KILLED)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write(''.join(lines))


def die_at(number: int, way: str, concerns: Callable[[str], bool]) -> None:
    """Let this process die at one of the files that it opens for writing.

    Args:
        number: Which of them, from 1.
        way: One of :data:`WAYS`.
        concerns: Whether a name of a file counts.
    """
    count = 0

    def counting(open_it: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = 'r', *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            writes = isinstance(file, (str, Path)) and set(mode) & set('wax')
            if not writes or not concerns(Path(file).name):
                return open_it(file, mode, *args, **kwargs)
            count += 1
            if count != number:
                return open_it(file, mode, *args, **kwargs)
            if way == 'killed before':
                os._exit(KILLED)
            return _Dying(open_it(file, mode, *args, **kwargs), way)

        return opened

    builtins.open = counting(builtins.open)  # type: ignore[assignment]
    Path.open = counting(Path.open)  # type: ignore[method-assign]


def is_checkpoint(name: str) -> bool:
    """Whether a file is a checkpoint, or on its way to become one."""
    return '.pth' in name


def train(config: Path, work_dir: Path, *words: object) -> None:
    """Train with a checkpoint and a validation every other step, of which one is kept."""
    options = (
        f'train_cfg.max_iters={STEPS}',
        f'train_cfg.val_interval={INTERVAL}',
        f'default_hooks.checkpoint.interval={INTERVAL}',
        'default_hooks.checkpoint.save_best=mIoU',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        'optim_wrapper.optimizer.lr=0.01',
    )
    run_here('train', config, '--work-dir', work_dir, *words, '--cfg-options', *options)


def train_and_die(config: Path, work_dir: Path, number: int, way: str) -> None:
    """Train until a write of a checkpoint."""
    die_at(number, way, is_checkpoint)
    train(config, work_dir)


def write_configs(folder: Path) -> dict[str, Path]:
    """Write the data and a config of each method."""
    tiny = write_training(folder)
    text = tiny.read_text()
    assert "dict(type='BN', requires_grad=True)" in text
    # without running statistics, so that so short a training has more than one best
    tiny.write_text(
        text.replace("dict(type='BN', requires_grad=True)", "dict(type='GN', num_groups=2)")
    )
    return dict(zip(METHODS, (tiny, write_dual(tiny)), strict=True))


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint."""
    return torch.load(work_dir / f'iter_{STEPS}.pth', weights_only=True)['state_dict']


def undisturbed(config: Path, work_dir: Path) -> None:
    """Train without a death."""
    log = work_dir.with_suffix('.log')
    assert exit_code(train, config, work_dir, log=log) == 0, log.read_text()


def death(config: Path, whole: Path, work_dir: Path, number: int, way: str) -> Death:
    """Let a training die at a write, and go on with it.

    Args:
        config: Of the training.
        whole: Work folder of the same training without a death.
        work_dir: A new one.
        number: Which write of a checkpoint.
        way: How.
    """
    log = work_dir.with_suffix('.log')

    code = exit_code(train_and_die, config, work_dir, number, way, log=log)
    steps = [0]
    for scalars in work_dir.glob('*/vis_data/scalars.json'):
        lines = scalars.read_text().splitlines()
        steps += [int(json.loads(line)['step']) for line in lines if '"loss"' in line]
    found = find_checkpoint(work_dir)
    kept = 0 if found is None else int(found.path.stem.split('_')[1])
    resumed = exit_code(train, config, work_dir, '--resume', log=log)
    equal = resumed == 0 and all(
        torch.equal(value, other)
        for value, other in zip(weights(whole).values(), weights(work_dir).values(), strict=True)
    )
    files = {path.name for path in work_dir.rglob('*') if is_checkpoint(path.name)}
    return Death(code, max(steps), kept, resumed, equal, files, log.read_text())


def deaths(folder: Path) -> Iterator[tuple[str, int, str, Death, set[str]]]:
    """All of them: method, write, way, what was seen, and the files without a death."""
    configs = write_configs(folder / 'data')
    for method in METHODS:
        whole = folder / f'whole of {method}'
        undisturbed(configs[method], whole)
        files = {path.name for path in whole.glob('*.pth')}
        for number, way in product(WRITES, WAYS):
            work_dir = folder / f'{method}, {number}, {way}'
            yield method, number, way, death(configs[method], whole, work_dir, number, way), files


def main() -> None:
    """Run all and print a table."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for method, number, way, seen, files in deaths(Path(folder)):
            fine = seen.reached - seen.kept <= INTERVAL and seen.equal and seen.files == files
            bad += not fine
            print(
                f'{method:12}  write {number}  {way:15}  exit {seen.code:3}  reached {seen.reached}'
                f'  kept {seen.kept}  {"equal" if seen.equal else "DIFFERENT"}'
                f'{"" if fine else "  LOST"}',
                flush=True,
            )
    print(f'{bad} of {len(METHODS) * len(WRITES) * len(WAYS)} lost more than one interval')
    sys.exit(bad > 0)


if __name__ == '__main__':
    main()

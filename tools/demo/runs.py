# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Trainings of the demo: each a process on one core, some at a time, one of them interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = {
    'student': 'student',
    'teacher': 'EMA',
    'a': 'student a',
    'b': 'student b',
    'fused': 'both',
}
ON_ONE_CORE = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}


def command(tool: str, *words: object, options: Mapping[str, Any]) -> list[str]:
    """The words that run one of the other tools with settings of the config overridden."""
    overridden = ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    script = str(ROOT / 'tools' / f'{tool}.py')
    return [sys.executable, '-W', 'ignore', script, *map(str, words), *overridden]


def run_tool(tool: str, *words: object, options: Mapping[str, Any]) -> str:
    """Run one of the other tools to its end.

    Returns:
        What it printed.

    Raises:
        RuntimeError: It has failed.
    """
    done = subprocess.run(
        command(tool, *words, options=options),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ON_ONE_CORE},
    )
    if done.returncode:
        tail = done.stderr.splitlines()[-15:]
        raise RuntimeError('\n'.join([f'{tool} failed:', *tail]))
    return done.stdout.rstrip()


@dataclass
class Run:
    """One training: its config, its folder, and the process that does it."""

    title: str
    config: Path
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, resume: bool = False) -> None:
        """Start, or go on from the latest checkpoint."""
        words = [self.config, '--work-dir', self.folder, *(['--resume'] if resume else [])]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(
                command('train', *words, options=self.options),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **ON_ONE_CORE},
            )

    def clear(self) -> None:
        """Remove an earlier run.

        Raises:
            ValueError: The folder holds something else.
        """
        if self.folder.exists() and not self.log.is_file():
            raise ValueError(
                f'{self.folder} exists and holds no earlier demo ({self.log.name} is missing): '
                'give another --out, or remove it.'
            )
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def log(self) -> Path:
        """What the training printed."""
        return self.folder / 'train.log'

    @property
    def checkpoint(self) -> Path | None:
        """The latest checkpoint, None before the first."""
        note = self.folder / 'last_checkpoint'
        if not note.is_file():
            return None
        return self.folder / note.read_text(encoding='utf-8').strip()

    def records(self) -> list[dict[str, Any]]:
        """The logged scalars so far, of all starts of this run."""
        lines = [
            line
            for path in sorted(self.folder.glob('*/vis_data/scalars.json'))
            for line in path.read_text(encoding='utf-8').splitlines()
        ]
        # The last line may be half written.
        return [json.loads(line) for line in lines if line.endswith('}')]

    def iteration(self) -> int:
        """How far it is, as far as logged."""
        return max((int(record.get('step', 0)) for record in self.records()), default=0)

    def metrics(self) -> dict[str, float]:
        """The last validation's metrics, with the network in front: ``student/mIoU``."""
        return [record for record in self.records() if 'mIoU' in record][-1]

    def networks(self) -> list[str]:
        """Names of the networks that were validated."""
        metrics = self.metrics()
        return [name for name in NETWORKS if f'{name}/mIoU' in metrics]

    def is_running(self) -> bool:
        """Whether it works.

        Raises:
            RuntimeError: It has failed.
        """
        if self.process is None or self.process.poll() is None:
            return self.process is not None
        if self.process.returncode:
            tail = self.log.read_text(encoding='utf-8', errors='replace').splitlines()[-15:]
            raise RuntimeError('\n'.join([f'{self.title} failed; the end of {self.log}:', *tail]))
        return False

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def train(runs: Sequence[Run], iterations: int, at_once: int, console: Console) -> str:
    """Do all trainings, some at a time; the first one is killed half-way and resumed.

    Returns:
        What happened to the first.
    """
    first, story = runs[0], 'was too short to be interrupted'
    interrupted = False
    waiting, working = list(runs), list[Run]()
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        tasks = {run.title: bars.add_task(run.title, total=iterations) for run in runs}
        try:
            while waiting or working:
                while waiting and len(working) < at_once:
                    working.append(waiting.pop(0))
                    working[-1].start()
                time.sleep(0.3)
                for run in working:
                    bars.update(tasks[run.title], completed=run.iteration())
                working = [run for run in working if run.is_running()]
                if not interrupted and first.checkpoint and first in working:
                    interrupted = True
                    at = first.checkpoint.stem.removeprefix('iter_')
                    story = f'was killed after iteration {first.iteration()} and resumed at {at}'
                    first.kill()
                    first.start(resume=True)
        finally:
            for run in runs:
                run.kill()
    return story

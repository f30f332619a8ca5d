# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Records that a training leaves in its folder: scalars, config, pictures and log."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

Series = dict[int, float]
"""Values of one scalar by iteration."""

GUARD = 'Pseudo label guard'
"""Beginning of the messages of ``PseudoLabelGuardHook`` in a log."""

_FINDING = re.compile(rf"- {GUARD}(?: of '(.+)')? at iteration (\d+): (.+)$")
_STAMP = re.compile(r'^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - mmengine - ')
_VERSIONS = {
    name: re.compile(rf'^\s+{name}: (\S+)') for name in ('Python', 'PyTorch', 'OpenCV', 'MMEngine')
}
_GPU = re.compile(r'^\s+GPU [\d,]+: (.+?)\s*$')
_NO_GPU = re.compile(r'^\s+CUDA available: False')
_COUNTS = ('hit', 'truth', 'predicted')
_PICTURE = re.compile(r'^(.+)_(\d+)$')


@dataclass(frozen=True)
class Picture:
    """A picture saved by a run's visualizer.

    Attributes:
        name: Name without the iteration.
        step: Iteration.
        path: The file.
    """

    name: str
    step: int
    path: Path


@dataclass(frozen=True)
class Finding:
    """A message of ``PseudoLabelGuardHook``.

    Attributes:
        network: Network whose pseudo labels it is about; empty if there is only one.
        step: Iteration.
        said: The sentence, which begins with the class it is about, if any.
    """

    network: str
    step: int
    said: str

    @property
    def about(self) -> tuple[str, str]:
        """Network and class; later messages about the same supersede earlier ones."""
        return self.network, self.said.split(' is ')[0]


@dataclass(frozen=True)
class Tested:
    """Result of ``tools/test.py``.

    Attributes:
        checkpoint: File name of the checkpoint.
        network: Network that predicts; empty if there is only one.
        data: List or folder of the images.
        classes: Names of the K classes.
        averaged: Names of the classes in the mean.
        matrix: Number of pixels by ground truth (rows) and prediction (columns).
        scores: IoU, F1, precision and recall of each class in percent; None where undefined.
        images: Correct, true and predicted pixels of each class, (3, K), by image name, without the
            pixels of classes that are ignored in the ground truth.
        pictures: Pictures of the worst images, worst first.
    """

    checkpoint: str
    network: str
    data: str
    classes: list[str]
    averaged: list[str]
    matrix: list[list[int]]
    scores: dict[str, list[float | None]]
    images: dict[str, list[list[int]]]
    pictures: list[Path]


@dataclass
class Run:
    """A finished, running, killed or resumed training.

    Attributes:
        folder: ``work_dir`` of the run.
        name: Name, unique among the runs that were read together.
        config: Config of the latest start, as plain dicts and lists; empty if there is none.
        train: Training scalars by name.
        val: Validation scalars by name.
        findings: Messages of the pseudo-label guard, oldest first.
        pictures: Latest picture of each name, newest first.
        starts: Number of starts; 2 or more if it was resumed.
        duration: Wall-clock time from the first to the last line of each log, summed over all
            starts; None without logs.
        environment: ``device`` and versions from the log.
        checkpoint: Iteration of the latest checkpoint, 0 if there is none.
        tests: Tests of its checkpoints, oldest first.
        faults: A message for each thing that could not be read.
    """

    folder: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Series] = field(default_factory=dict)
    val: dict[str, Series] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    starts: int = 0
    duration: timedelta | None = None
    environment: dict[str, str] = field(default_factory=dict)
    checkpoint: int = 0
    tests: list[Tested] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int | None:
        """Seed of the latest start."""
        found = (self.config.get('randomness') or {}).get('seed')
        return found if isinstance(found, int) else None

    @property
    def data(self) -> tuple[str, ...]:
        """Identification of the validation data: type, folders, list and classes."""
        found: Any = (self.config.get('val_dataloader') or {}).get('dataset') or {}
        while isinstance(found.get('dataset'), dict):  # a wrapper
            found = found['dataset']
        parts = found.get('datasets') or [found]
        named: list[list[Any]] = [
            [part.get(key) for part in parts] for key in ('type', 'data_root', 'ann_file')
        ]
        named.append([(part.get('data_prefix') or {}).get('img_path') for part in parts])
        classes = (parts[0].get('metainfo') or {}).get('classes') or ()
        return (*(', '.join(map(str, dict.fromkeys(each))) for each in named), *map(str, classes))

    @property
    def supervised(self) -> bool:
        """Whether the config trains on a person's labels alone."""
        data = (self.config.get('train_dataloader') or {}).get('dataset') or {}
        return bool(data) and not (data.get('unlabelled') or self.config.get('labelled_by'))

    @property
    def planned(self) -> int | None:
        """Number of iterations in the config."""
        found = (self.config.get('train_cfg') or {}).get('max_iters')
        return found if isinstance(found, int) else None

    @property
    def reached(self) -> int:
        """Last iteration with a log entry or a checkpoint."""
        steps = [step for part in (self.train, self.val) for kept in part.values() for step in kept]
        return max([*steps, self.checkpoint])

    @property
    def networks(self) -> list[str]:
        """Validated networks, that of ``predict_on`` first; empty if there is only one."""
        found = [key.removesuffix('/mIoU') for key in self.val if key.endswith('/mIoU')]
        return found[::-1]

    @property
    def headline(self) -> str | None:
        """Name of the scalar to judge the run by; None without validation."""
        if 'mIoU' in self.val:
            return 'mIoU'
        return next((key for key in self.val if key.endswith('mIoU')), None)

    @property
    def diverged(self) -> int | None:
        """First iteration whose loss is not finite; None if all are."""
        steps = sorted(self.train.get('loss', {}).items())
        return next((step for step, value in steps if not math.isfinite(value)), None)

    @property
    def last_step(self) -> int | None:
        """Iteration of the last validation."""
        return None if self.headline is None else max(self.val[self.headline])

    @property
    def best_step(self) -> int | None:
        """Iteration of the first validation with the highest mIoU."""
        if self.headline is None:
            return None
        scores = self.val[self.headline]
        return max(sorted(scores), key=lambda step: (scores[step] == scores[step], scores[step]))


def find_runs(folders: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Read the runs in some folders.

    Args:
        folders: Folders that are each the ``work_dir`` of a run, or contain several.

    Returns:
        The runs, and a message for each folder without one.
    """
    paths: dict[Path, Path] = {}
    faults = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            faults.append(f'{folder} is no folder: give the work_dir of a training.')
            continue
        found = sorted(
            {file.parents[2] for file in folder.rglob('*/vis_data/scalars.json')}
            | {file.parents[1] for file in folder.rglob('test/*.json')}
        )
        for path in found:  # a run counts once, however often and by whatever path it is named
            paths.setdefault(path.resolve(), path)
        if not found:
            faults.append(
                f'{folder} holds no run (no */vis_data/scalars.json, which LocalVisBackend writes '
                'at the first log): give the work_dir of a training.'
            )
    names = _names(list(paths))
    return [read_run(path, name) for path, name in zip(paths.values(), names, strict=True)], faults


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Read one run, leaving out what is damaged.

    If a run was killed and resumed, what the first start logged after the checkpoint is replaced by
    the log of the second.

    Args:
        folder: ``work_dir`` of the run.
        name: Name of the run. Defaults to that of the folder.
    """
    folder = Path(folder)
    run = Run(folder, name or folder.resolve().name)
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        train, val = _read_scalars(file, run.faults)
        begin = min((step for kept in train.values() for step in kept), default=None)
        if begin is None and not val:
            continue
        run.starts += 1
        run.findings = [said for said in run.findings if begin is None or said.step < begin]
        run.findings += _read_findings(file.parents[1])
        for part, added in ((run.train, train), (run.val, val)):
            for key, kept in part.items():
                part[key] = {s: v for s, v in kept.items() if begin is None or s < begin}
            for key, kept in added.items():
                part.setdefault(key, {}).update(kept)
    for part in (run.train, run.val):
        for key in [key for key, kept in part.items() if not kept]:
            del part[key]
    run.config = _read_config(folder, run.faults)
    run.pictures = _find_pictures(folder)
    for log in _of_trainings(folder, '*.log'):
        _read_log(log, run)
    run.checkpoint = _last_checkpoint(folder)
    run.tests = list(_read_tests(folder, run.faults))
    return run


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that are all different."""
    parts = 1
    while True:
        names = ['/'.join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names) or parts > max(len(path.parts) for path in paths):
            return names
        parts += 1


def _read_scalars(path: Path, faults: list[str]) -> tuple[dict[str, Series], dict[str, Series]]:
    """Read the scalars of one start: of training (lines with ``iter``), and of validation."""
    train: dict[str, Series] = {}
    val: dict[str, Series] = {}
    damaged = []
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            step = values['step']
            kept = {
                key: float(value)
                for key, value in values.items()
                if isinstance(value, int | float) and key not in ('step', 'iter', 'epoch')
            }
            if not isinstance(step, int):
                raise TypeError('a step is a whole number')
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            damaged.append(str(number))
            continue
        part = train if 'iter' in values else val
        for key, value in kept.items():
            part.setdefault(key, {})[step] = value
    if damaged:
        which = ', '.join(damaged[:8]) + (', ...' if len(damaged) > 8 else '')
        lines_are = 'line {} is' if len(damaged) == 1 else 'lines {} are'
        faults.append(f'{path}: {lines_are.format(which)} damaged and left out.')
    return train, val


def _of_trainings(folder: Path, pattern: str) -> list[Path]:
    """Return the files of the starts that trained, oldest first, or of all starts if none did.

    A test also leaves a config and a log, but no scalars.
    """
    starts = [file.parents[1] for file in folder.glob('*/vis_data/scalars.json')]
    return sorted(file for start in starts or folder.glob('*') for file in start.glob(pattern))


def _read_config(folder: Path, faults: list[str]) -> dict[str, Any]:
    """Return the config dumped by the latest training, else one next to the checkpoints.

    A config is Python but is not executed, so that folders from others can be read safely.
    """
    files = [*_of_trainings(folder, 'vis_data/config.py')[::-1], *folder.glob('*.py')]
    for file in files:
        try:
            lines = ast.parse(file.read_text(encoding='utf-8')).body
            return {
                line.targets[0].id: _plain(line.value)
                for line in lines
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
            }
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
            reason = ' '.join(str(error).split())[:200]
            faults.append(f'{file} cannot be read as a config ({reason}) and is left out.')
    if not files:
        faults.append(f'{folder} holds no config (*/vis_data/config.py): it is compared by name.')
    return {}


def _plain(node: ast.expr) -> Any:
    """Evaluate an expression of dicts, lists and literals; anything else becomes text."""
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            str(_plain(key)): _plain(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict':
        named = {word.arg: _plain(word.value) for word in node.keywords if word.arg is not None}
        if not node.args and len(named) == len(node.keywords):
            return named
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _whole(pixels: Any, classes: Sequence[str]) -> list[int]:
    """Check and return the number of pixels of each class."""
    if len(pixels) != len(classes):
        raise ValueError(f'{len(classes)} classes and {len(pixels)} counts of an image')
    return [int(number) for number in pixels]


def _read_tests(folder: Path, faults: list[str]) -> Iterator[Tested]:
    """Yield the records of tests, oldest first."""
    for file in sorted(folder.glob('test/*.json'), key=lambda file: file.stat().st_mtime):
        try:
            about = json.loads(file.read_text(encoding='utf-8'))
            network, found = list(about['networks'].items())[-1]
            scores = {str(key): list(values) for key, values in found['scores'].items()}
            classes = [str(name) for name in found['classes']]
            matrix = [[int(pixels) for pixels in row] for row in found['matrix']]
            sizes = {len(matrix), *map(len, matrix), *map(len, scores.values())}
            if sizes != {len(classes)} or not {*found['averaged']} <= {*classes}:
                raise ValueError(f'{len(classes)} classes and tables of {sorted(sizes)}')
            yield Tested(
                Path(about['checkpoint']).name,
                str(network),
                str(about['data']),
                classes,
                [str(name) for name in found['averaged']],
                matrix,
                scores,
                {
                    str(i['name']): [_whole(i[part], classes) for part in _COUNTS]
                    for i in found['images']
                },
                sorted(file.with_suffix('').glob('*.png')),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            reason = ' '.join(str(error).split())[:200]
            faults.append(f'{file} is no record of a test ({reason}) and is left out.')


def _find_pictures(folder: Path) -> list[Picture]:
    """Return the latest picture of each name that a training, not a test, has drawn."""
    latest: dict[str, Picture] = {}
    for file in sorted(folder.glob('*/vis_data/vis_image/**/*.png')):
        parts = _PICTURE.match(file.stem)
        found = Picture(parts[1], int(parts[2]), file) if parts else Picture(file.stem, 0, file)
        if found.name.startswith('test_'):
            continue
        if found.name not in latest or latest[found.name].step <= found.step:
            latest[found.name] = found
    return sorted(latest.values(), key=lambda picture: (-picture.step, picture.name))


def _read_log(path: Path, run: Run) -> None:
    """Read duration and environment from a text log."""
    begin = end = None
    environment: dict[str, str] = {}
    with path.open(encoding='utf-8', errors='replace') as file:
        for line in file:
            if stamp := _STAMP.match(line):
                end = stamp[1]
                begin = begin or end
            elif line.startswith(' '):
                for name, pattern in _VERSIONS.items():
                    if found := pattern.match(line):
                        environment.setdefault(name, found[1])
                if found := _GPU.match(line):
                    environment.setdefault('device', found[1])
                elif _NO_GPU.match(line):
                    environment.setdefault('device', 'CPU')
    run.environment |= environment
    if begin and end:
        first, last = (datetime.strptime(stamp, '%Y/%m/%d %H:%M:%S') for stamp in (begin, end))
        run.duration = (run.duration or timedelta()) + (last - first)


def _read_findings(start: Path) -> list[Finding]:
    """Return the messages of the pseudo-label guard in one start."""
    return [
        Finding(found[1] or '', int(found[2]), found[3])
        for log in sorted(start.glob('*.log'))
        for line in log.read_text(encoding='utf-8', errors='replace').splitlines()
        if (found := _FINDING.search(line))
    ]


def _last_checkpoint(folder: Path) -> int:
    try:
        name = Path((folder / 'last_checkpoint').read_text(encoding='utf-8').strip()).stem
    except OSError:
        return 0
    found = re.fullmatch(r'iter_(\d+)', name)
    return int(found[1]) if found else 0

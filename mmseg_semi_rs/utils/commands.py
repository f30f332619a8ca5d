# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The commands: which file each of them runs, and what a user types to start it.

Only the standard library is imported here, since this runs before any argument is read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]
SCRIPT = 'rsseg'


class Command(NamedTuple):
    """A command.

    Attributes:
        file: File below ``tools`` without suffix; for ``convert``, the folder of the converters.
        about: What it does, in one line.
    """

    file: str
    about: str


COMMANDS = {
    'init': Command('init_dataset', 'write lists and a config for a folder of images and masks'),
    'convert': Command('dataset_converters', 'cut a published data set into tiles'),
    'suggest': Command('suggest', 'suggest which tiles a person should label'),
    'splits': Command('make_splits', 'draw the lists of labelled and unlabelled tiles'),
    'weights': Command('weights', 'say which weight files are missing, and fetch them if told to'),
    'train': Command('train', 'train a config'),
    'test': Command('test', 'evaluate a checkpoint or a verifier on the test set of a config'),
    'calibrate': Command('calibrate', 'fit the confidence of maps to validation images'),
    'predict': Command('predict', 'make maps of images, folders and rasters of any size'),
    'autolabel': Command('autolabel', 'label all images, and write a config for a student'),
    'export': Command('export_student', 'write one network as plain mmseg config, and as ONNX'),
    'reproduce': Command('reproduce', 'make a row of a published table, from archives to numbers'),
    'compare': Command('compare', 'train configs and supervised training, and say which is better'),
    'report': Command('report', 'make one HTML page from trainings'),
    'browse': Command('browse_dataset', 'draw training batches as the model sees them'),
    'annotate': Command('vlm_annotate', 'let the verifier of a config look at all its tiles'),
    'audit': Command('audit_purification', 'show what purification does to pseudo labels'),
    'demo': Command('demo', 'train and compare on fabricated scenes, on the CPU'),
    'demo-data': Command('make_demo_data', 'fabricate aerial scenes in the layout of Potsdam'),
    'demo-teachers': Command(
        'make_demo_teachers', "train the demo's stand-ins for DINOv2 and CLIP"
    ),
    'benchmark': Command('benchmark', 'measure the training of a config'),
    'benchmark-predict': Command('benchmark_predict', 'measure the prediction of rasters'),
    'startup': Command('startup', 'measure what the start of each tool costs'),
}


def resources() -> Path:
    """Return the folder with ``configs`` and ``tools``: ``.mim`` of a wheel, else the checkout."""
    installed = PACKAGE / '.mim'
    return installed if installed.is_dir() else PACKAGE.parent


def find_config(path: str | Path) -> Path:
    """Find a config file; ``configs/...`` may be one that comes with the package.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    if not path.is_file() and (resources() / path).is_file():
        path = resources() / path
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob('*.py'))[:8]
        hint = f'{path.parent} has {", ".join(near)}' if near else f'{path.parent} has no config'
        raise FileNotFoundError(f'The config {path} does not exist: {hint}.')
    return path


def find_checkpoint_file(path: str | Path) -> Path:
    """Check that a checkpoint exists, and return its path.

    Raises:
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob('*.pth'))[:8]
        hint = f'{path.parent} has {", ".join(near)}' if near else f'{path.parent} has none'
        raise FileNotFoundError(
            f'The checkpoint {path} does not exist: {hint}; {command("train")} writes them into '
            'the work_dir of a training.'
        )
    return path


def converters() -> list[str]:
    """List the names of the datasets that ``convert`` supports."""
    folder = resources() / 'tools' / COMMANDS['convert'].file
    return sorted(path.stem for path in folder.glob('*.py'))


def starter() -> str | None:
    """Return how this process was started, if by the console script or as a module.

    Returns:
        ``'rsseg'`` or ``'python -m mmseg_semi_rs'``; None for everything else.
    """
    first = (sys.argv or [''])[0]
    if first == '-m':  # python is still searching the module, and imports its package for that
        words = sys.orig_argv[1:]
        after = words[words.index('-m') + 1 :] if '-m' in words else []
        return f'python -m {PACKAGE.name}' if after[:1] == [PACKAGE.name] else None
    if Path(first).name in (SCRIPT, f'{SCRIPT}.exe'):
        return SCRIPT
    return f'python -m {PACKAGE.name}' if Path(first) == PACKAGE / '__main__.py' else None


def registers_itself() -> bool:
    """Return whether this process is one of the commands, which register parts only if needed.

    Processes that a command starts by ``multiprocessing`` count too: they have its ``sys.argv``.
    """
    if starter() is not None:
        return True
    script = Path((sys.argv or [''])[0])
    if script.suffix != '.py':
        return False
    tools = resources() / 'tools'
    files = {tools / f'{command.file}.py' for command in COMMANDS.values()}
    files |= {tools / COMMANDS['convert'].file / f'{name}.py' for name in converters()}
    return script.resolve() in files


def command(name: str) -> str:
    """Return what a user types to start a command.

    Args:
        name: A key of :data:`COMMANDS`; ``'convert potsdam'`` is one converter, ``'convert'`` any.

    Returns:
        ``'rsseg train'`` if this process was started that way or there is no checkout; else
        ``'python tools/train.py'``.
    """
    first, _, data_set = name.partition(' ')
    start = starter()
    if first == 'convert':
        data_set = data_set or 'DATASET'
        name = f'{first} {data_set}'
    if start is None and resources() == PACKAGE.parent:
        path = Path('tools') / COMMANDS[first].file / data_set
        return f'python {path.as_posix()}.py'
    return f'{start or SCRIPT} {name}'

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The configs that come with the package, by method, data set and labelled share."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from ..utils.commands import find_config, resources

_NAME = re.compile(
    r'(?P<variant>\w+?)_(?P<data_set>[a-z0-9]+)_(?P<share>\d+-\d+|\d+pct|full)(?P<rest>_\w+)?'
)
_SHARED = 'baselines'  # the folder of several methods, whose configs begin with their names


@dataclass(frozen=True)
class Experiment:
    """A config and what its name says.

    Attributes:
        method: The folder, or the begin of the name in ``configs/baselines``.
        data_set: Such as ``'potsdam'``.
        share: Labelled share: ``'1-4'``, ``'1pct'``, or ``'full'`` for all labels.
        variant: What else tells it from others, such as ``'clip_dinov3'``.
        config: The file.
    """

    method: str
    data_set: str
    share: str
    variant: str
    config: Path


def experiments() -> list[Experiment]:
    """All configs whose names say what they train."""
    found = []
    for path in sorted((resources() / 'configs').glob('*/*.py')):
        said = _NAME.fullmatch(path.stem)
        if said is None or path.parent.name.startswith('_'):
            continue
        method, variant = path.parent.name, said['variant'] + (said['rest'] or '')
        if method == _SHARED:
            method, _, variant = variant.partition('_')
        variant = variant.removeprefix(f'{method}_')
        found.append(Experiment(method, said['data_set'], said['share'], variant, path))
    return found


def choose(
    method: str, data_set: str | None = None, share: str | None = None, variant: str | None = None
) -> list[Experiment]:
    """The configs of a method, of a data set, of a share, of a variant.

    Raises:
        ValueError: There is none; the message names those that there are.
    """
    found = experiments()
    wanted = {'method': method, 'data_set': data_set, 'share': share, 'variant': variant}
    told: list[str] = []
    for key, value in wanted.items():
        if value is None:
            continue
        there = list(dict.fromkeys(getattr(one, key) for one in found))
        found = [one for one in found if getattr(one, key) == value]
        if not found:
            of = f' of {" ".join(told)}' if told else ''
            raise ValueError(
                f'There is no config{of} for the {key.replace("_", " ")} {value!r}: choose one of '
                f'{", ".join(there)}.'
            )
        told.append(value)
    return found


def choose_one(method: str, data_set: str, share: str, variant: str | None = None) -> Experiment:
    """One config; of several variants that which most configs of the method are of.

    Raises:
        ValueError: See :func:`choose`.
    """
    found = choose(method, data_set, share, variant)
    usual = Counter(one.variant for one in choose(method))
    return max(found, key=lambda one: usual[one.variant])  # the first of equals


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config without building, registering or importing anything.

    Args:
        path: See :func:`~mmseg_semi_rs.utils.commands.find_config`.
        options: Values by dotted key.

    Raises:
        FileNotFoundError: It does not exist.
        ValueError: It cannot be read.
    """
    path = find_config(path)
    try:
        cfg = Config.fromfile(str(path), import_custom_modules=False)
        cfg.merge_from_dict(dict(options or {}))
    except (SyntaxError, LookupError, NameError, AttributeError, OSError, TypeError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'The config {path} cannot be read ({type(error).__name__}: {reason}): correct it, or '
            'the --cfg-options.'
        ) from error
    return cfg


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how each protocol wants it cut.

    Attributes:
        title: Its name.
        url: Page that gives it.
        terms: What may be done with it.
        files: What to download.
        converter: Name for ``rsseg convert``.
        options: Options of the converter by split; ``'all'`` for every one.
    """

    title: str
    url: str
    terms: str
    files: str
    converter: str
    options: Mapping[str, Sequence[str]]

    def cut(self, split: str) -> list[str]:
        """Options of the converter for a split."""
        return [*self.options.get('all', ()), *self.options.get(split, ())]


def source(data_set: str) -> Source:
    """Where a data set comes from, as ``configs/published.yml`` says."""
    return Source(**{'options': {}, **_published(resources() / 'configs')['data_sets'][data_set]})


def published(data_set: str, split: str, share: str) -> list[tuple[str, float, str]]:
    """Figures of others on the same lists' protocol.

    Args:
        data_set: Such as ``'potsdam'``.
        split: Name of the lists, such as ``'dwl'``.
        share: Labelled share.

    Returns:
        Method, mIoU in percent, and who says so, in the order of the table.
    """
    return [
        (method, figures[share], block['origin'])
        for block in _published(resources() / 'configs')['results']
        if block['data_set'] == data_set and split in block['splits']
        for method, figures in block['miou'].items()
        if share in figures
    ]


@functools.cache
def _published(configs: Path) -> dict[str, Any]:
    tables: dict[str, Any] = yaml.safe_load((configs / 'published.yml').read_text('utf-8'))
    return tables

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The configs that come with the package, by method, dataset and labelled share."""

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
_SHARED = 'baselines'  # folder of several methods, whose config names begin with the method


@dataclass(frozen=True)
class Experiment:
    """A config and what its name tells.

    Attributes:
        method: Name of the folder, or in ``configs/baselines`` the beginning of the file name.
        data_set: Name of the dataset, such as ``'potsdam'``.
        share: Labelled share: ``'1-4'``, ``'1pct'``, or ``'full'`` for all labels.
        variant: The rest of the name, such as ``'clip_dinov3'``.
        config: Path of the config.
    """

    method: str
    data_set: str
    share: str
    variant: str
    config: Path


def experiments() -> list[Experiment]:
    """List all configs whose names tell dataset and labelled share."""
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
    """Select the configs of a method, and of a dataset, share and variant if given.

    Raises:
        ValueError: There are none; the message lists the available ones.
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
    """Select one config; among several variants, the most common one of the method.

    Raises:
        ValueError: See :func:`choose`.
    """
    found = choose(method, data_set, share, variant)
    usual = Counter(one.variant for one in choose(method))
    return max(found, key=lambda one: usual[one.variant])  # the first of equal ones


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config without building, registering or importing anything.

    Args:
        path: See :func:`~mmseg_semi_rs.utils.commands.find_config`.
        options: Values to override, by dotted key.

    Raises:
        FileNotFoundError: The config does not exist.
        ValueError: The config cannot be read.
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
    """Origin of a dataset, and how each protocol wants it cut.

    Attributes:
        title: Name of the dataset.
        url: Page to download it from.
        terms: Terms of use.
        files: Files to download.
        converter: Name for ``rsseg convert``.
        options: Options of the converter by split; those of ``'all'`` apply to every split.
    """

    title: str
    url: str
    terms: str
    files: str
    converter: str
    options: Mapping[str, Sequence[str]]

    def cut(self, split: str) -> list[str]:
        """Return the options of the converter for a split."""
        return [*self.options.get('all', ()), *self.options.get(split, ())]


def source(data_set: str) -> Source:
    """Return the origin of a dataset from ``configs/published.yml``."""
    return Source(**{'options': {}, **_published(resources() / 'configs')['data_sets'][data_set]})


def published(data_set: str, split: str, share: str) -> list[tuple[str, float, str]]:
    """Return results that were published for the protocol of a split.

    Args:
        data_set: Name of the dataset, such as ``'potsdam'``.
        split: Name of the split, such as ``'dwl'``.
        share: Labelled share.

    Returns:
        Method, mIoU in percent and origin of each result, in the order of the table.
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

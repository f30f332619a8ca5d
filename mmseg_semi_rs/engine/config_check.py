# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Detects settings that are changed without effect.

A config file is evaluated on its own, before the files that use it as a base. If it computes
further settings from one of its values, these do not follow when a later file, or the command line,
changes the value: ``labelled = dict(ann_file=...)`` in a leaf does not change ``train_dataloader``.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

__all__ = ['check_config']

# Top-level keys that the runner, prediction and launchers read from the finished config. All other
# keys only serve to define these.
_READ = {
    *inspect.signature(Runner.__init__).parameters,
    *('window_size', 'raster', 'test_pipeline', 'model_wrapper_cfg', 'find_unused_parameters'),
}


def check_config(path: str | Path, cfg: Config, options: Mapping[str, Any] | None = None) -> None:
    """Refuse values that a config or the command line changes without any effect.

    Args:
        path: The config file.
        cfg: Its content, ``options`` included.
        options: ``--cfg-options``: values by dotted key.

    Raises:
        ValueError: If a file, or an option, changes a value from which the base has already
            computed other settings, without using it itself; or if crops have another size than
            ``model.data_preprocessor.size``.
    """
    if Path(path).suffix == '.py':
        leaf = _File.read(Path(path))
        _check_files(leaf, frozenset())
        for key in options or {}:
            name = key.split('.')[0]
            if made := leaf.made_of(name):
                raise ValueError(
                    f'--cfg-options {key} changes nothing: {path} has made {_listed(made)} of '
                    f'{name} already. Edit {name} in the file that sets it, or give the settings '
                    f'made of it by their own keys, which begin with {made[0]}.'
                )
    _check_crop_size(path, cfg)


@dataclass
class _File:
    """One config file, analysed as text.

    Attributes:
        path: Its path.
        bases: The files of its ``_base_``.
        sets: Top-level names that it assigns.
        uses: Names that it reads without ``_base_``.
        uses_of_bases: Names ``x`` that it reads as ``_base_.x``.
        origins: For each name, also of its bases, the names that its value was computed from.
    """

    path: Path
    bases: list[_File] = field(default_factory=list)
    sets: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    uses_of_bases: set[str] = field(default_factory=set)
    origins: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _File:
        """Analyse a file and its bases."""
        file = cls(path)
        for statement in ast.parse(path.read_text(encoding='utf-8')).body:
            targets = _targets(statement)
            if '_base_' in targets and isinstance(statement, ast.Assign):
                named = ast.literal_eval(statement.value)
                paths = [  # `mmseg::...` refers to that package
                    Path(Config._get_cfg_path(name, str(path))[0])
                    for name in ([named] if isinstance(named, str) else named)
                ]
                file.bases = [cls.read(base) for base in paths if base.suffix == '.py']
                for base in file.bases:
                    for name, origins in base.origins.items():
                        file.origins.setdefault(name, set()).update(origins)
                continue
            made_of = set()
            for node in ast.walk(statement):
                if isinstance(node, ast.Attribute) and getattr(node.value, 'id', '') == '_base_':
                    file.uses_of_bases.add(node.attr)
                    made_of |= {node.attr} | file.origins.get(node.attr, set())
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                    file.uses.add(node.id)
                    made_of |= {node.id} | file.origins.get(node.id, set())
            file.sets |= targets
            for target in targets:
                file.origins.setdefault(target, set()).update(made_of)
        return file

    def made_of(self, name: str) -> list[str]:
        """Effective settings that were computed from a name that has no effect itself."""
        if name in _READ:
            return []
        return sorted(key for key in _READ & {*self.origins} if name in self.origins[key])


def _targets(statement: ast.stmt) -> set[str]:
    """Names that a statement assigns as a whole."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _check_files(file: _File, used_above: frozenset[str]) -> None:
    """Refuse a name that a file sets after its base has used it, if nothing else uses it.

    Args:
        file: Checked together with its bases.
        used_above: Names that the files with this base read from it.
    """
    for base in file.bases:
        for name in sorted(file.sets - file.uses - used_above):
            made = base.made_of(name)
            if made and _value(file.path, name) != _value(base.path, name):
                raise ValueError(
                    f'{file.path} sets {name}, which changes nothing: {base.path} has made '
                    f'{_listed(made)} of it already. Set those, or say there what they become with '
                    f'the new {name}.'
                )
        _check_files(base, used_above | file.uses_of_bases)


def _value(path: Path, name: str) -> Any:
    return Config.fromfile(str(path), import_custom_modules=False).get(name)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:-1]) + ' and ' * (len(names) > 1) + names[-1]


def _check_crop_size(path: str | Path, cfg: Config) -> None:
    """Refuse crops whose size differs from that to which batches are padded."""
    size = (cfg.get('model') or {}).get('data_preprocessor', {}).get('size')
    if size is None:
        return
    for crop in _crop_sizes((cfg.get('train_dataloader') or {}).get('dataset')):
        if _pair(crop) != _pair(size):
            raise ValueError(
                f'{path} trains on crops of {_pair(crop)} pixels, but '
                f'model.data_preprocessor.size={_pair(size)}: give both the same size, and '
                'crop_size of test_cfg too where windows slide.'
            )


def _crop_sizes(node: Any) -> Iterator[Any]:
    """Yield ``crop_size`` of each ``RandomCrop`` in a dataset's config."""
    if isinstance(node, Mapping):
        if node.get('type') == 'RandomCrop' and 'crop_size' in node:
            yield node['crop_size']
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _crop_sizes(part)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)

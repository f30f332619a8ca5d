# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Loads a weight file into a backbone, whole or not at all."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .files import WeightFile, read_weight_file
from .translation import Translation, translate
from .widening import widened


class Loadable(Protocol):
    """Interface of a backbone as :func:`load_pretrained` uses it.

    Attributes:
        family: One of the families of :data:`~mmseg_semi_rs.models.weights.FORMATS`.
        label: Name of this model in messages.
        origin: File, project and licence of its public weights.
        depth: Number of blocks of the whole architecture.
        block_prefix: Name of the list of blocks, with the final dot.
        position_name: Name of the position embedding; empty if none is stored.
        name_aliases: Further replacements in names, where this model's layers are named differently
            than in the format's table.
        widening: ``bands`` and ``widen`` of :func:`~mmseg_semi_rs.models.weights.widened`, for more
            input channels than three.
    """

    family: str
    label: str
    origin: str
    depth: int
    block_prefix: str
    position_name: str
    name_aliases: Mapping[str, str]
    widening: Mapping[str, Any]

    def fit_position(self, embedding: Tensor) -> Tensor:
        """Resize a file's position embedding to this model's own grid."""
        ...

    def check_weights(self, file: WeightFile, format_name: str) -> None:
        """Refuse weights that fit by shape but were trained with other settings."""
        ...

    def adapt_weights(self, translation: Translation, path: Path) -> None:
        """Convert translated tensors to the form that this model stores, without loss."""
        ...

    def state_dict(self, *, keep_vars: bool) -> dict[str, Tensor]:
        """All tensors of the model, by name."""
        ...


@dataclass
class LoadReport:
    """What happened to the tensors of a file.

    Attributes:
        path: The file.
        format: The project whose key names it has.
        loaded: Names of the tensors that were set, which are all that the model has.
        resized: Those that were resized or widened; all others are bit-equal to the file.
        dropped: Names in the file that were left out, by reason.
    """

    path: Path
    format: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f'{len(self.loaded)} tensors from {self.path.name}']
        if self.resized:
            parts.append(f'resized: {_first(self.resized, 1)}')
        if self.dropped:
            unused = [f'{why} ({len(keys)})' for why, keys in self.dropped.items()]
            parts.append(f'left out: {", ".join(unused)}')
        return '; '.join(parts)

    @property
    def details(self) -> str:
        """Path of the file, and what was resized and left out, name by name."""
        parts = [f'{self.path} ({self.format} names)', *self.resized]
        parts += [f'left out, {why}: {", ".join(keys)}' for why, keys in self.dropped.items()]
        return '; '.join(parts)


def load_pretrained(backbone: Loadable, path: str | Path, prefix: str | None = None) -> LoadReport:
    """Set every tensor of a backbone from a public weight file.

    Every tensor of the file is used, or reported as left out with a reason. If anything does not
    fit, nothing is changed.

    Args:
        backbone: ``DINOv2``, ``DINOv3``, ``CLIPVision`` or ``EfficientNetLite``.
        path: See :func:`~mmseg_semi_rs.models.weights.read_weight_file`.
        prefix: Prefix of the backbone's names in the file; None finds it.

    Returns:
        What was set, resized and left out.

    Raises:
        FileNotFoundError: If there is no such file; the message tells where to get it.
        ValueError: If the file is unreadable, is of another model, or does not fit; the message
            names the first keys that differ.
    """
    file = read_weight_file(path, backbone.origin)
    targets = backbone.state_dict(keep_vars=True)
    translation = translate(file.tensors, backbone.family, file.path, prefix, wanted=targets)
    backbone.check_weights(file, translation.format.name)
    backbone.adapt_weights(translation, file.path)
    report = LoadReport(file.path, translation.format.name, dropped=translation.dropped)
    blocks = _count_blocks(backbone, targets)

    values: dict[str, Tensor] = {}
    unexpected: list[str] = []
    misshaped: list[str] = []
    for name, tensor in translation.tensors.items():
        source = translation.sources[name]
        for old, new in backbone.name_aliases.items():
            name = name.replace(old, new)
        target = targets.get(name)
        if target is None:
            if blocks <= _block_index(backbone, name) < backbone.depth:
                translation.drop('blocks behind the last one that is read', source)
            else:
                unexpected.append(source)
            continue
        while tensor.dim() > target.dim() and tensor.shape[0] == 1:
            tensor = tensor[0]
        if name == backbone.position_name and tensor.shape != target.shape:
            resized = backbone.fit_position(tensor) if _is_grid(tensor, target) else tensor
            if resized.shape == target.shape:
                report.resized.append(f'{name} {tuple(tensor.shape)} -> {tuple(target.shape)}')
                tensor = resized
        wide = widened(tensor, target, **backbone.widening)
        if wide is not tensor:
            report.resized.append(f'{name} {tuple(tensor.shape)} -> {tuple(target.shape)}')
            tensor = wide
        if tensor.shape != target.shape:
            misshaped.append(
                f'{source} is {tuple(tensor.shape)}, the model has {tuple(target.shape)}'
            )
        values[name] = tensor
    missing = [name for name in targets if name not in values]
    if missing or unexpected or misshaped:
        raise ValueError(_misfit(backbone, file, translation, missing, unexpected, misshaped))
    with torch.no_grad():
        for name, tensor in values.items():
            targets[name].copy_(tensor)
    report.loaded = list(values)
    if file.other_entries:
        report.dropped['not weights'] = list(file.other_entries)
    print_log(f'{backbone.label}: {report}', logger='current', level=logging.INFO)
    print_log(f'{backbone.label}: {report.details}', logger='current', level=logging.DEBUG)
    return report


def _block_index(backbone: Loadable, name: str) -> int:
    match = re.match(re.escape(backbone.block_prefix) + r'(\d+)\.', name)
    return int(match[1]) if match else -1


def _count_blocks(backbone: Loadable, names: Mapping[str, Tensor]) -> int:
    return 1 + max(_block_index(backbone, name) for name in names)


def _is_grid(embedding: Tensor, target: Tensor) -> bool:
    """Whether only the (square) number of patches differs."""
    if embedding.dim() != target.dim() or embedding.shape[-1] != target.shape[-1]:
        return False
    patches = embedding.shape[-2] - 1
    return patches > 0 and round(patches**0.5) ** 2 == patches


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(names[:count]) + more


def _misfit(
    backbone: Loadable,
    file: WeightFile,
    translation: Translation,
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
) -> str:
    parts = []
    if misshaped:
        parts.append(f'of other shape: {_first(misshaped)}')
    if missing:
        parts.append(f'missing in the file: {_first(missing)}')
    if unexpected:
        parts.append(f'not in the model: {_first(unexpected)}')
    known = translation.format
    return (
        f'The weight file {file.path} ({known.family}, {known.name} names) does not '
        f'fit {backbone.label}; {"; ".join(parts)}: set arch to the model that the file holds, or '
        'give the file of this one.'
    )


def check_pretrained(module: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    """Check that a file covers a whole module, before mmengine loads it without being strict.

    If a tensor is missing in the file, mmengine's ``Pretrained`` initialiser keeps it random with
    only a warning, which is never wanted for a frozen network.

    Args:
        module: Any module.
        init_cfg: ``dict(type='Pretrained', checkpoint=..., prefix=...)``. Only local files are
            checked, not those that mmengine downloads (``torchvision://`` ...).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a tensor of the module is missing in the file or has another shape there.
    """
    checkpoint = str(init_cfg['checkpoint'])
    if '://' in checkpoint:
        return
    file = read_weight_file(checkpoint)
    prefix = str(init_cfg.get('prefix') or '')
    prefix += '.' if prefix and not prefix.endswith('.') else ''
    stored = {
        key.removeprefix('module.').removeprefix(prefix): value
        for key, value in file.tensors.items()
        if key.removeprefix('module.').startswith(prefix)
    }
    missing, misshaped = [], []
    for name, target in module.state_dict().items():
        if name not in stored:
            if not name.endswith('num_batches_tracked'):
                missing.append(name)
        elif stored[name].shape != target.shape:
            misshaped.append(
                f'{name} is {tuple(stored[name].shape)}, the model has {tuple(target.shape)}'
            )
    if missing or misshaped:
        parts = [f'of other shape: {_first(misshaped)}'] if misshaped else []
        parts += [f'missing in the file: {_first(missing)}'] if missing else []
        raise ValueError(
            f'The weight file {file.path} does not cover {type(module).__name__}; '
            f'{"; ".join(parts)}: give the file of this very network, and set prefix in init_cfg '
            f'where its names (first {_first(list(file.tensors), 1)}) begin with something else.'
        )

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Recognises the key names of a weight file, and translates them to those of this package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .formats import FORMATS, KeyFormat


@dataclass
class Translation:
    """A file's tensors under the names of this package's modules.

    Attributes:
        format: The recognised format.
        prefix: Prefix of the backbone's names in the file.
        tensors: Translated tensors; query, key and value are fused.
        sources: For each translated name the (first) name in the file.
        dropped: Names in the file that are left out on purpose, by reason.
    """

    format: KeyFormat
    prefix: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, key: str) -> None:
        """Record a name that is left out."""
        self.dropped.setdefault(reason, []).append(key)


def translate(
    tensors: Mapping[str, Tensor],
    family: str,
    path: Path,
    prefix: str | None = None,
    wanted: Collection[str] = (),
) -> Translation:
    """Recognise the format of a file by its key names, and translate them.

    Args:
        tensors: The tensors of the file by name.
        family: The wanted backbone, one of the families of
            :data:`~mmseg_semi_rs.models.weights.FORMATS`.
        path: The file, for messages.
        prefix: Prefix of the backbone in the file, with or without the final dot; None finds it.
        wanted: Translated names of the tensors that the model has. They are kept even if the format
            usually drops them.

    Returns:
        All names of the file, translated or dropped with a reason.

    Raises:
        ValueError: If a DINOv2 file has registers, if the file is of another family or of no known
            format, or if it holds several such backbones.
    """
    form, at = _recognise(tensors, family, path, prefix)
    result = Translation(form, at)
    parent = at[: at.rstrip('.').rfind('.') + 1]
    siblings = {parent + name: target for name, target in form.siblings}
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        inside = key.startswith(at)
        name = form.translate(key[len(at) :]) if inside else siblings.get(key, '')
        target, _, part = name.partition('#')
        if target not in wanted:
            outside = f'outside the backbone ({key.split(".")[0]})'
            reason = form.drop_reason(key[len(at) :]) if inside else outside
            if reason is not None:
                result.drop(reason, key)
                continue
        result.sources.setdefault(target, key)
        if part.isdigit():
            thirds.setdefault(target, {})[int(part)] = tensor
        else:
            result.tensors[target] = tensor.T if part else tensor
    for target, parts in thirds.items():
        # An incomplete set is too short, and is reported as a tensor of another shape.
        result.tensors[target] = torch.cat([parts[i] for i in sorted(parts)])
    return result


def _recognise(
    tensors: Mapping[str, Tensor], family: str, path: Path, prefix: str | None
) -> tuple[KeyFormat, str]:
    """Find the format of a file and the prefix of the backbone in it, see :func:`translate`."""
    matches = [(form, at) for form in FORMATS for at in form.prefixes(tensors.keys())]
    ours = [(form, at) for form, at in matches if form.family == family]
    if prefix is not None:
        place = prefix if not prefix or prefix.endswith('.') else prefix + '.'
        ours = [(form, at) for form, at in ours if at == place]
    registers = [
        key
        for key in tensors
        for _, at in ours
        if key.startswith(at) and key.endswith(('register_tokens', 'reg_token'))
    ]
    if registers and family == 'DINOv2':
        raise ValueError(
            f'The weight file {path} is a DINOv2 with registers ({registers[0]}), which is another '
            'model: give the file without registers (its name lacks "_reg4" or "-with-registers").'
        )
    if not ours:
        what = 'other names'
        if matches:
            what = f'{matches[0][0].family} weights ({matches[0][0].name} names)'
        names = ', '.join(form.name for form in FORMATS if form.family == family)
        where = '' if prefix is None else f' under the prefix {prefix!r}'
        raise ValueError(
            f'The weight file {path} holds {what}, first {", ".join(list(tensors)[:3])}, where '
            f'{family} weights were expected{where}: give a {family} file with the names of '
            f'{names}.'
        )
    if len(ours) > 1:
        places = ', '.join(repr(at.rstrip('.')) for _, at in ours)
        raise ValueError(
            f'The weight file {path} holds {len(ours)} {family} backbones, under {places}: choose '
            "one with init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)."
        )
    return ours[0]

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Settings that users give as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Settings of mmdet's semi-supervised configs, with their counterparts here.
_OF_MMDET = {
    'detector': 'student=...',
    'pseudo_label_initial_score_thr': 'conf_thresh=...',
    'cls_pseudo_thr': 'conf_thresh=...',
    'sup_weight': 'loss_weight=dict(sup=...)',
    'unsup_weight': 'loss_weight=dict(unsup=...)',
    'freeze_teacher': 'always so, leave it out',
}


def read_cfg(cfg: Mapping | None, defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Fill in defaults, and refuse unknown keys.

    Args:
        cfg: The user's settings.
        defaults: All keys with their defaults.
        name: Name of the setting, for the message.

    Raises:
        ValueError: If it is no dict, or has a key without a default.
    """
    if not isinstance(cfg, Mapping | None):
        raise ValueError(f'{name}={cfg!r} must be None or a dict of {sorted(defaults)}.')
    cfg = dict(cfg or {})
    unknown = sorted(set(cfg) - set(defaults))
    if unknown:
        raise ValueError(
            f'{name} has unknown keys {unknown}; known are {sorted(defaults)}{of_mmdet(unknown)}.'
        )
    return {**defaults, **cfg}


def of_mmdet(names: Sequence[str]) -> str:
    """End of a sentence that translates setting names of mmdet; empty for other names."""
    known = [f'{name} of mmdet is {_OF_MMDET[name]}' for name in names if name in _OF_MMDET]
    return ''.join(f'; {part}' for part in known)

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Settings that users give as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: What mmdet's semi-supervised configs say, and what that is here.
_OF_MMDET = {
    'detector': 'student=...',
    'pseudo_label_initial_score_thr': 'conf_thresh=...',
    'cls_pseudo_thr': 'conf_thresh=...',
    'sup_weight': 'loss_weight=dict(sup=...)',
    'unsup_weight': 'loss_weight=dict(unsup=...)',
    'freeze_teacher': 'always so, leave it out',
}


def read_cfg(cfg: Mapping | None, defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Fill in defaults, and refuse keys that nothing would read.

    Args:
        cfg: What the user gave.
        defaults: All keys with their defaults.
        name: Where the user gave it, for the message.

    Raises:
        ValueError: If there is a key without a default.
    """
    cfg = dict(cfg or {})
    unknown = sorted(set(cfg) - set(defaults))
    if unknown:
        raise ValueError(
            f'{name} has unknown keys {unknown}; known are {sorted(defaults)}{of_mmdet(unknown)}.'
        )
    return {**defaults, **cfg}


def of_mmdet(names: Sequence[str]) -> str:
    """What names of mmdet's are called here, as the end of a sentence; empty for other names."""
    known = [f'{name} of mmdet is {_OF_MMDET[name]}' for name in names if name in _OF_MMDET]
    return ''.join(f'; {part}' for part in known)

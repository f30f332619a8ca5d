# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Settings that users give as dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
        raise ValueError(f'{name} has unknown keys {unknown}; known are {sorted(defaults)}.')
    return {**defaults, **cfg}

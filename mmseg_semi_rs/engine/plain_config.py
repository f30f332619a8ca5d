# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Converts pure Python configs (``read_base()``, types as classes) to configs with type names."""

from __future__ import annotations

from typing import Any

import mmseg.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

_REGISTRIES = [part for part in vars(mmseg.registry).values() if isinstance(part, Registry)]


def name_types(cfg: Config) -> Config:
    """Replace classes by type names in a config that was written with classes.

    Args:
        cfg: As read by ``Config.fromfile``.

    Returns:
        The same config if types are names already; else a copy whose ``type`` values are the names
        in mmseg's registries, or import paths for unregistered classes.
    """
    if not getattr(cfg, '_imported_names', None):
        return cfg
    return Config(_named(cfg.to_dict()), filename=cfg.filename)


def _named(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _name(value) if key == 'type' and isinstance(value, str) else _named(value)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return type(node)(_named(part) for part in node)
    return node


def _name(path: str) -> str:
    """Registered name of the object with an import path, else the path."""
    found = get_object_from_string(path) if '.' in path else None
    name = getattr(found, '__name__', None)
    known = any(registry.get(name) is found for registry in _REGISTRIES) if name else False
    return str(name) if known else path

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Configs in pure Python (``read_base()``, types as classes) read as those with names of types."""

from __future__ import annotations

from typing import Any

import mmseg.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

_REGISTRIES = [part for part in vars(mmseg.registry).values() if isinstance(part, Registry)]


def name_types(cfg: Config) -> Config:
    """Name the types of a config that was written with classes.

    Args:
        cfg: As ``Config.fromfile`` has read it.

    Returns:
        The same where types are names already; else a config whose ``type`` values are the names
        that mmseg's registries know the classes by, or import paths of those that they do not know.
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
    """The registered name of what an import path leads to."""
    found = get_object_from_string(path) if '.' in path else None
    name = getattr(found, '__name__', None)
    known = any(registry.get(name) is found for registry in _REGISTRIES) if name else False
    return str(name) if known else path

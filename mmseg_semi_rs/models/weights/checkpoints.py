# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints: read safely in every case, and loaded into a model whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ...utils.commands import command
from .files import check_numbers, read_torch_file


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint; mmengine calls this for every local file (resume, load_from, Pretrained).

    Args:
        filename: File written by ``torch.save``; ``~`` is expanded.
        map_location: As in ``torch.load``.

    Returns:
        Content of the file: ``state_dict``, ``meta``, ``optimizer`` and more from a training, or a
        bare state dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds objects other than tensors and plain containers, holds
            no weights by name, or holds weights that are NaN.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'The checkpoint {filename} does not exist: correct its path; {command("train")} '
            'writes checkpoints into the work_dir of a training.'
        )
    checkpoint = read_torch_file(path, map_location)
    weights = checkpoint
    if isinstance(checkpoint, Mapping):
        if 'model' in checkpoint and 'state_dict' not in checkpoint:  # of Swin, MAE, DeiT
            checkpoint = {'state_dict': checkpoint['model']}
        weights = checkpoint.get('state_dict', checkpoint)
    if not isinstance(weights, Mapping) or not any(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(
            f'The checkpoint {path} holds no weights by name: give a .pth file that '
            f'{command("train")} wrote.'
        )
    check_numbers(path, {k: v for k, v in weights.items() if isinstance(v, Tensor)})
    return checkpoint


def differences(model: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Compare a state dict with a model.

    Args:
        model: Any module.
        weights: Tensors by name, with or without ``module.`` in front of all names.

    Returns:
        A short description of each mismatch; empty if every tensor fits.
    """
    weights = unwrapped(weights)
    wanted = model.state_dict()
    return [
        *(f'{name} is missing' for name in wanted if name not in weights),
        *(f'{name} is not known' for name in weights if name not in wanted),
        *(
            f'{name} has shape {tuple(weights[name].shape)} for {tuple(tensor.shape)}'
            for name, tensor in wanted.items()
            if name in weights and weights[name].shape != tensor.shape
        ),
    ]


def unwrapped(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove the prefix that a wrapper module of PyTorch adds to all names."""
    if all(name.startswith('module.') for name in weights):
        return {name.removeprefix('module.'): tensor for name, tensor in weights.items()}
    return weights


def load_weights(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load a checkpoint into a model, all of it or none.

    Args:
        model: Changed in place.
        path: A checkpoint of mmengine, or a plain state dict.

    Returns:
        The checkpoint's ``meta``; empty for a plain state dict.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or its weights do not fit the model.
    """
    checkpoint = load_from_local(str(path))
    weights = unwrapped(checkpoint.get('state_dict', checkpoint))
    check_fit(model, weights, path)
    model.load_state_dict(weights)
    return checkpoint.get('meta', {}) if 'state_dict' in checkpoint else {}


@contextmanager
def foreign_weights_refused(network: nn.Module) -> Iterator[None]:
    """While a network is initialised, refuse files from which one of its parts would load nothing.

    Without this, mmengine and mmseg's backbones load what fits and keep the rest random.

    Args:
        network: Network whose parts may have ``init_cfg=dict(type='Pretrained', ...)``.

    Raises:
        ValueError: If not a single weight of a file fits; the message names the file.
    """
    handles = []
    for part in network.modules():
        start: Any = getattr(part, 'init_cfg', None)
        if isinstance(start, Mapping) and start.get('type') == 'Pretrained':
            refuse = partial(_refuse_foreign, part, start)
            handles.append(part._register_load_state_dict_pre_hook(refuse))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _refuse_foreign(part: nn.Module, start: Mapping, state: Mapping, prefix: str, *_: Any) -> None:
    wanted = part.state_dict()
    if not prefix and not state.keys() & wanted.keys():
        raise ValueError(
            f'Not one weight of {start.get("checkpoint")} (pretrained or init_cfg) fits '
            f'{type(part).__name__}: its names begin like {next(iter(state), None)!r}, and one '
            f'wanted is {next(iter(wanted))!r}; set prefix, such as "backbone.", or give the file '
            'of this network.'
        )


def check_fit(model: nn.Module, weights: Mapping[str, Any], path: Path | str) -> None:
    """Refuse weights that do not fit a model.

    Args:
        model: Any module.
        weights: See :func:`differences`.
        path: Their file, for the message.

    Raises:
        ValueError: If weights do not fit; the message tells how many and names up to three.
    """
    faults = differences(model, weights)
    if faults:
        raise ValueError(
            f'The checkpoint {path} does not belong to the config: {len(faults)} of '
            f'{len(model.state_dict())} weights do not fit, such as: {"; ".join(faults[:3])}.'
        )

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Reads weight files of all common kinds, and only tensors from them."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

# Keys under which DINO, mmengine, open_clip and plain PyTorch training loops store weights.
_WRAPPERS = ('state_dict', 'model_state_dict', 'model', 'teacher', 'student', 'module')
_MOST_UNPACKED = 4  # times the size of the file; torch.save itself does not compress
# Weight files in a snapshot folder of the Hugging Face hub, in the order of preference.
_IN_FOLDER = (
    'model.safetensors',
    'open_clip_model.safetensors',
    'pytorch_model.bin',
    'open_clip_pytorch_model.bin',
)


@dataclass(frozen=True)
class WeightFile:
    """The tensors of one file.

    Attributes:
        path: The file that was read.
        kind: ``'safetensors'`` or ``'torch'``.
        tensors: Tensors on the CPU in the file's dtypes, possibly memory-mapped (read-only).
        other_entries: Entries of the file other than weights, which were not read (optimizer,
            iteration, ...).
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    other_entries: tuple[str, ...] = ()


def read_weight_file(path: str | Path, origin: str = '') -> WeightFile:
    """Read a weight file without running any code that it may contain.

    Args:
        path: A ``.safetensors`` file, a file of ``torch.save`` (``.pth``, ``.pt``, ``.bin``), or a
            snapshot folder of the Hugging Face hub. ``~`` is expanded. Nothing is ever downloaded.
        origin: Source and licence of the file, for the message if it is missing.

    Returns:
        The tensors, taken out of any nesting.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds objects other than tensors, holds no tensor, holds
            NaN, or is a program (TorchScript).
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = next((path / name for name in _IN_FOLDER if (path / name).exists()), path / 'model')
    if not path.is_file():
        hint = f' {origin};' if origin else ''
        raise FileNotFoundError(
            f'The weight file {path} does not exist:{hint} nothing is downloaded automatically, so '
            'fetch the file and give its path as checkpoint.'
        )
    if path.suffix == '.safetensors':
        try:
            file = _unwrap(path, 'safetensors', safetensors.torch.load_file(str(path)))
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise _unreadable(path, error) from error
    else:
        file = _unwrap(path, 'torch', read_torch_file(path, mapped=True))
    check_numbers(path, file.tensors)
    return file


def read_torch_file(path: Path, map_location: Any = 'cpu', mapped: bool = False) -> Any:
    """Read a file of ``torch.save`` as tensors and plain containers, without running its code.

    Args:
        path: An existing file.
        map_location: As in ``torch.load``.
        mapped: Whether tensors may be memory-mapped, which saves a second copy in memory; they must
            not be written to, nor the file while they are in use.

    Returns:
        Its content.

    Raises:
        ValueError: If the file is damaged, holds other objects, unpacks to more than four times its
            size, or is a TorchScript archive, which is a program.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
            if any(entry.filename.endswith('/constants.pkl') for entry in entries):
                raise ValueError(_program(path))
            unpacked, packed = sum(entry.file_size for entry in entries), path.stat().st_size
            if unpacked > _MOST_UNPACKED * packed:
                raise ValueError(
                    f'The weight file {path} of {packed} bytes unpacks to {unpacked}, and at most '
                    f'{_MOST_UNPACKED} times the size of the file is read: fetch it again from '
                    'where it was published.'
                )
        # Only the zip layout can be memory-mapped.
        return torch.load(
            str(path), map_location=map_location, weights_only=True, mmap=mapped and zipped
        )
    except (
        *(RuntimeError, OSError, EOFError, KeyError, AttributeError, TypeError, IndexError),
        *(pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError),
    ) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    code = re.search(r'GLOBAL (\S+)', str(error))
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')
    if code is not None:
        reason = f'it asks for {code[1]}, which is code'
    return ValueError(
        f'The weight file {path} cannot be read as tensors alone, since it is damaged or holds '
        f'other objects ({reason}): fetch it again, or save its bare state dict with torch.save.'
    )


def _program(path: Path) -> str:
    return (
        f'The weight file {path} is a TorchScript archive, which is a program that runs when it is '
        'loaded: if you trust where it comes from, turn it into plain weights, in place, with '
        f'`python -c "import torch; path = {str(path)!r}; '
        "torch.save(torch.jit.load(path, 'cpu').state_dict(), path)\"`."
    )


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN, which a diverged training leaves behind.

    The averages of a gate are NaN before its first step and are not checked.

    Args:
        path: Their file, for the message.
        tensors: Tensors by name.

    Raises:
        ValueError: If there is a NaN; the message names the first such tensor.
    """
    for name, tensor in tensors.items():
        counted = {'gate', 'gates'}.isdisjoint(name.split('.'))
        if counted and tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(
                f'The weights of {path} are not all numbers ({name} has NaN): its training '
                'diverged, so take an earlier checkpoint.'
            )


def _unwrap(path: Path, kind: str, content: Any) -> WeightFile:
    other_entries: list[str] = []
    while isinstance(content, Mapping):
        inner = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        other_entries += [str(key) for key in content if key != inner]
        content = content[inner]
    entries = content if isinstance(content, Mapping) else {}
    tensors = {str(key): value for key, value in entries.items() if isinstance(value, Tensor)}
    other_entries += [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if not tensors:
        found = ', '.join(other_entries[:5]) or type(content).__name__
        raise ValueError(
            f'The weight file {path} holds no tensors (found: {found}): give a file with a state '
            'dict, bare or under "state_dict", "model" or "teacher".'
        )
    return WeightFile(path, kind, tensors, tuple(other_entries))


def read_neighbour(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON file next to a weight file, as the Hugging Face hub stores a model's config.

    Args:
        path: The weight file.
        name: File name of the neighbour, e.g. ``'config.json'``.

    Returns:
        Its content; empty if there is no such readable file.
    """
    try:
        content = json.loads(path.with_name(name).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

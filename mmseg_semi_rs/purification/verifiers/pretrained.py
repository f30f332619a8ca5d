# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Models of the Hugging Face hub: finding, loading and identifying them on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError

from ...utils.files import model_weights

# Errors from loading a model of transformers whose folder does not fit or is damaged.
_LOAD_ERRORS = (ValueError, OSError, KeyError, TypeError, AttributeError, SafetensorError)

_DESCRIPTIONS = ('.json', '.txt', '.jinja', '.model')
# Number and length in bytes of the pieces of each weight file that the digest covers.
_PIECES, _PIECE = 16, 4096

# Beginning of a model's name -> licence of its weights.
_LICENCES = {
    'qwen2.5-vl-3b': 'the Qwen research licence, non-commercial',
    'qwen2.5-vl-72b': 'the Qwen licence',
    'qwen2.5-vl': 'Apache-2.0',
    'qwen3-vl': 'Apache-2.0',
    'sam-vit': 'Apache-2.0',
    'sam2': 'Apache-2.0',
    'sam3': 'the SAM licence of Meta, to be accepted on its page',
}


def import_transformers() -> ModuleType:
    """Import transformers, which is optional.

    Raises:
        ImportError: If it is not installed, too old or broken.
    """
    try:
        import transformers
        from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401
    except ImportError as error:
        reason = ' '.join(str(error).split())
        raise ImportError(
            f'Models of the Hugging Face hub need transformers ({reason}): '
            "run pip install 'mmseg_semi_rs[vlm]'."
        ) from error
    return transformers


def short_name(model: str) -> str:
    """Return a model's name without its owner or folder, the same on every machine."""
    return Path(model).name


def find_model(model: str, revision: str | None, download: bool = False) -> Path | None:
    """Find the folder of a model.

    Args:
        model: A folder, or ``owner/name`` on the hub.
        revision: Branch, tag or commit on the hub; None for its main branch.
        download: Whether to download missing files.

    Returns:
        The folder, or None if the model is not on this machine, and the hub does not give it.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=not download))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        return None


def need_model(model: str, revision: str | None, download: bool = False) -> Path:
    """Find the folder of a model that must exist; see :func:`find_model`.

    A complete model on this machine is never replaced by a newer one of the hub.

    Raises:
        FileNotFoundError: If it does not exist; the message says where to get the model.
    """
    for may_download in (False, True) if download else (False,):
        folder = find_model(model, revision, may_download)
        if folder and (folder / 'config.json').is_file() and model_weights(folder):
            return folder
    name = short_name(model)
    licence = next(
        (text for start, text in _LICENCES.items() if name.lower().startswith(start)),
        'the licence on its page',
    )
    if model.startswith(('/', '.', '~')) or model.count('/') != 1:
        remedy = f'save {name} (its weights come from https://huggingface.co under {licence}) there'
    else:
        at = f' --revision {revision}' if revision else ''
        remedy = (
            f'its weights come from https://huggingface.co/{model} under {licence}; get them with '
            f'`hf download {model}{at}`, or name a folder that has them'
        )
    raise FileNotFoundError(
        f'The model {model} (revision {revision or "main"}) is not on this machine, or not '
        f'complete: {remedy}.'
    )


def load_model(
    folder: Path, model: Any, processor: Any, what: str, dtype: torch.dtype | str = torch.float32
) -> tuple[Any, Any]:
    """Load a model and its processor from disk.

    Args:
        folder: From :func:`need_model`.
        model: Class of transformers that loads the model.
        processor: Class of transformers that loads its processor.
        what: End of the message for a folder with another model: what it should be, with
            ``{reason}`` for the reason, and what to give instead.
        dtype: Dtype of the computation; 'auto' takes that of the file.

    Returns:
        The model, frozen and in evaluation mode, and the processor.

    Raises:
        ValueError: If the folder holds another model, or is damaged.
    """
    try:
        loaded = model.from_pretrained(folder, local_files_only=True, dtype=dtype)
        reader = processor.from_pretrained(folder, local_files_only=True)
    except _LOAD_ERRORS as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{folder} cannot be loaded as {what.format(reason=reason)}') from error
    return loaded.eval().requires_grad_(False), reader


def model_digest(folder: Path | None) -> str | None:
    """Digest of a model: its small files, and names, sizes and samples of its weight files.

    Args:
        folder: From :func:`find_model`.

    Returns:
        64 hexadecimal digits; None if the model is not on this machine, or not complete.
    """
    weights = model_weights(folder) if folder is not None else []
    if folder is None or not weights:
        return None
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _DESCRIPTIONS and p.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f'{path.name} {content}\n'.encode())
    for path in weights:
        size = path.stat().st_size
        digest.update(f'{path.name} {size}\n'.encode())
        with path.open('rb') as file:
            for piece in range(_PIECES):
                file.seek(max(0, size - _PIECE) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()

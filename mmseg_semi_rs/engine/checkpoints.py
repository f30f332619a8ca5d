# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Selection and checks of the checkpoint from which a training continues."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from torch import nn

from ..models.segmentors import SemiSegmentor
from ..models.weights import load_weights
from ..models.weights.checkpoints import check_fit, differences, unwrapped
from ..models.weights.files import check_numbers, read_torch_file
from ..utils.runner import unwrap

LAST = 'last_checkpoint'  # this file names the newest checkpoint, relative to its own folder
_NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint to resume from.

    Attributes:
        path: The file.
        why: One sentence that says which checkpoint it is and why.
    """

    path: Path
    why: str


def checkpoints_of(work_dir: Path) -> list[Path]:
    """List the checkpoints of a training that can be resumed, newest first, complete or not.

    Args:
        work_dir: A work folder; its ``last_checkpoint`` may point to another folder.

    Returns:
        By iteration or epoch, highest first. The best ones, which have no optimizer, are left out.
    """
    by_name = {path.name: path for path in _numbered(work_dir)}
    named = _last(work_dir)
    if named is not None and named.parent.resolve() != work_dir.resolve():
        # out_dir of the checkpoint hook, or the old place of a moved folder
        by_name = {path.name: path for path in _numbered(named.parent)} | by_name
    return sorted(by_name.values(), key=_number, reverse=True)


def find_checkpoint(work_dir: Path) -> ResumePoint | None:
    """Find the newest complete checkpoint of a work folder.

    The files themselves are checked; ``last_checkpoint`` and the old place of a moved folder are
    not trusted.

    Args:
        work_dir: A work folder.

    Returns:
        The checkpoint; None if the folder has none.

    Raises:
        ValueError: If it has some, but none can be resumed; the message says what is wrong with
            each.
    """
    candidates = checkpoints_of(work_dir)
    named = _last(work_dir)
    unusable: list[str] = []
    for path in candidates:
        try:
            _check_whole(path)
        except (ValueError, OSError) as error:
            unusable.append(f'{path.name}: {" ".join(str(error).split())}')
            continue
        why = f'Going on from {path}, the newest checkpoint that reads whole'
        if unusable:
            why += f'; passed over: {" | ".join(unusable)}'
        elif named is None:
            why += f'; {work_dir / LAST}, which would name it, is missing or empty'
        elif named.name != path.name or not named.exists():
            why += f'; {work_dir / LAST} names {named}, which is stale'
        return ResumePoint(path, f'{why}.' if why[-1] != '.' else why)
    if unusable:
        raise ValueError(
            f'{work_dir} has checkpoints, but none that a training can go on from: '
            f'{" | ".join(unusable)} Restore one, or start anew with another --work-dir.'
        )
    return None


def load_to_test(model: nn.Module, checkpoint: str, metainfo: Mapping[str, Any]) -> None:
    """Load a whole checkpoint, while mmengine would keep missing weights random.

    Args:
        model: The runner's model; changed in place.
        checkpoint: The file.
        metainfo: Metainfo of the test set.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is of another model or other classes; the message names
            the differences.
    """
    meta = load_weights(unwrap(model), Path(checkpoint))
    _check_classes(checkpoint, meta, metainfo, 'give the config of its training')


def check_start(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint to start from (``load_from``) if none of its weights would be used.

    Args:
        runner: The runner that loads the checkpoint.
        checkpoint: Its content.

    Raises:
        ValueError: If not a single weight fits the model.
    """
    model = unwrap(runner.model)
    weights = dict(unwrapped(checkpoint.get('state_dict', checkpoint)))
    if isinstance(model, SemiSegmentor):
        with suppress(ValueError):
            model.fill_networks(weights, '')  # the checkpoint of one network is accepted too
    wrong = {text.split(' ')[0] for text in differences(model, weights)}
    if not weights.keys() - wrong:
        raise ValueError(
            f'Not one weight of the checkpoint {runner._load_from} (load_from) fits the model '
            f'({sorted(wrong)[0]} does not, for one): give the config of its training, or set '
            'load_from=None.'
        )


def check_resumable(
    runner: Runner, checkpoint: Mapping[str, Any], images: Mapping[str, str]
) -> None:
    """Refuse to resume from a checkpoint of another training, and say what differs.

    Args:
        runner: The runner that loads the checkpoint.
        checkpoint: Its content.
        images: The training images, see :func:`~mmseg_semi_rs.engine.data_checks.image_lists`.

    Raises:
        ValueError: If the model, optimizer, end of the schedule, list of classes or list of images
            differs.
    """
    path, meta = runner._load_from, checkpoint.get('meta', {})
    check_fit(unwrap(runner.model), checkpoint.get('state_dict', checkpoint), path)
    metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None)
    _check_classes(path, meta, metainfo, 'resume with its own config')
    for name, trained in meta.get('images', images).items():
        if trained != images.get(name):
            raise ValueError(
                f'The checkpoint {path} was trained on {name} {trained}, not on '
                f'{images.get(name, "none")}: resume with its own lists, or begin another training '
                'from its weights (load_from) in another work_dir.'
            )
    groups, others = (
        [len(group['params']) for group in state.get('param_groups', [])]
        for state in (checkpoint.get('optimizer', {}), runner.optim_wrapper.state_dict())
    )
    if groups != others:
        raise ValueError(
            f'The checkpoint {path} has an optimizer of {len(groups)} parameter groups with '
            f'{sum(groups)} parameters, the config one of {len(others)} with {sum(others)}: '
            'resume with its own config.'
        )
    _check_schedule(path, checkpoint.get('param_schedulers'), runner.param_schedulers)


def _check_schedule(path: Path | str, saved: Any, schedulers: Any) -> None:
    """Refuse a schedule of another length, which would be followed instead of the config's."""
    listed, ours = (
        [one for part in found.values() for one in part] if isinstance(found, dict) else found
        for found in (saved or [], schedulers or [])
    )
    before = [state.get('end') for state in listed]
    now = [scheduler.end for scheduler in ours]
    if before and before != now:
        raise ValueError(
            f'The checkpoint {path} has a learning rate that ends at iteration '
            f'{", ".join(map(str, before))}, the config one that ends at '
            f'{", ".join(map(str, now)) or "none"}, and what follows would be trained with the '
            'last one: resume with its own max_iters, begin anew in another work_dir, or give '
            'param_scheduler that end if this is wanted.'
        )


def _check_classes(path: Path | str, meta: Mapping[str, Any], metainfo: Any, remedy: str) -> None:
    """Refuse data of other classes than a checkpoint was trained on, if both are known."""
    trained, ours = (
        [str(name) for name in (part or {}).get('classes') or ()]
        for part in (meta.get('dataset_meta'), metainfo)
    )
    if trained and ours and trained != ours:
        raise ValueError(
            f'The checkpoint {path} was trained on the classes {", ".join(trained)}, not on '
            f'{", ".join(ours)} of the data: {remedy}.'
        )


def _numbered(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name))


def _number(path: Path) -> int:
    match = _NUMBERED.fullmatch(path.name)
    return int(match[1]) if match else -1


def _last(work_dir: Path) -> Path | None:
    try:
        text = (work_dir / LAST).read_text(encoding='utf-8', errors='replace').strip()
    except OSError:
        return None
    return work_dir / text if text else None


def _check_whole(path: Path) -> None:
    """Read a whole checkpoint.

    Raises:
        ValueError: If it is damaged, or cannot be resumed.
    """
    content = read_torch_file(path, mapped=True)
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # PyTorch does not check checksums
        if damaged is not None:
            raise ValueError(f'its part {damaged} is damaged.')
    missing = {'meta', 'state_dict', 'optimizer'} - (
        content.keys() if isinstance(content, Mapping) else set()
    )
    if missing:
        raise ValueError(f'it holds no {" and no ".join(sorted(missing))}.')
    check_numbers(path, content['state_dict'])

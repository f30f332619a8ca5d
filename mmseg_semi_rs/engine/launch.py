# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Preparation of a config by the command line tools before a Runner is built from it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config, ConfigDict
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmseg.registry import MODELS

from ..utils.commands import command, find_config
from ..utils.errors import one_line
from ..utils.files import held
from .checkpoints import checkpoints_of, find_checkpoint
from .config_check import check_config
from .data_checks import check_dataset_paths
from .plain_config import name_types

__all__ = [
    'BegunHook',
    'batch_summary',
    'check_paths',
    'leave_process_group',
    'load_config',
    'section',
    'set_amp',
    'set_launcher',
    'set_resume',
    'set_safe_checkpoints',
    'work_folder',
]

_WEIGHT_SUFFIXES = ('.pth', '.pt', '.bin', '.ckpt', '.safetensors', '.npz', '.tar')


class BegunHook(Hook):
    """Calls a function after every iteration, first when the training has really begun.

    Args:
        begun: The function.
    """

    priority = 'VERY_HIGH'

    def __init__(self, begun: Callable[[], None]) -> None:
        self.begun = begun

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Call the function."""
        self.begun()


def load_config(
    path: str | Path,
    options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
    seed: int | None = None,
) -> Config:
    """Read a config and apply the command line to it.

    Args:
        path: The config file; ``configs/...`` may be one that comes with the package.
        options: ``--cfg-options``: values by dotted key.
        work_dir: Folder of logs and checkpoints. Defaults to the config's own, else to
            ``work_dirs/<name of the config>``.
        seed: Replaces ``randomness.seed``.

    Returns:
        The config, with ``work_dir`` set.

    Raises:
        FileNotFoundError: If the config or one of its bases does not exist.
        ValueError: If the config cannot be read, an option does not fit it, or a value is changed
            without any effect.
    """
    path = find_config(path)
    try:
        cfg = name_types(Config.fromfile(str(path)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'The config {path} names a base that does not exist ({error}): correct _base_.'
        ) from error
    except (SyntaxError, NameError, KeyError, OSError, TypeError, AttributeError) as error:
        raise ValueError(
            f'The config {path} cannot be read ({type(error).__name__}: {one_line(error)}): '
            'correct it.'
        ) from error
    if options:
        try:
            cfg.merge_from_dict(dict(options))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f'--cfg-options {" ".join(f"{k}={v}" for k, v in options.items())} does not fit '
                f'{path} ({one_line(error)}): use the dotted keys of the config, '
                'list entries by number.'
            ) from error
    check_config(path, cfg, options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / path.stem)
    if seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
    return cfg


def section(cfg: Config | ConfigDict, *keys: str) -> ConfigDict:
    """Return a nested part of a config, and create it if it is absent or None.

    ``cfg.setdefault(key, {})`` would return a dict that the config does not hold.

    Args:
        cfg: The config; changed in place.
        *keys: The path to the part.

    Returns:
        The part itself: changes to it are changes to the config.
    """
    node = cfg
    for key in keys:
        if node.get(key) is None:
            node[key] = ConfigDict()
        node = node[key]
    return node


def has_gpu() -> bool:
    """Whether training would run on a CUDA device."""
    return torch.cuda.is_available()


def set_launcher(cfg: Config, launcher: str) -> None:
    """Set the launcher; on a CPU machine, also start the process group.

    mmengine's launchers select a CUDA device for every backend. Without a GPU the group is
    therefore started here, with gloo, and the model is wrapped without device ids.

    Args:
        cfg: The config; changed in place.
        launcher: ``'none'``, ``'pytorch'`` (torchrun) or ``'slurm'``.

    Raises:
        ValueError: If the launcher's environment variables are missing.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    needed = {'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), 'slurm': ('SLURM_PROCID',)}[launcher]
    missing = [name for name in needed if name not in os.environ]
    if missing:
        command = {'pytorch': 'torchrun (tools/dist_train.sh)', 'slurm': 'srun'}[launcher]
        raise ValueError(
            f'--launcher {launcher} needs the environment variables {missing}: start through '
            f'{command}, or leave --launcher out for one process.'
        )
    if has_gpu():
        return
    if launcher == 'slurm':
        os.environ.update(_slurm_environment(os.environ))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    section(cfg, 'env_cfg', 'dist_cfg').update(backend='gloo')
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **cfg.get('model_wrapper_cfg', {}),
        'device_ids': None,
    }


def leave_process_group() -> None:
    """End the process group, if there is one, once all its processes are done.

    Without waiting, the first to leave would close connections that others still use.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _slurm_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Translate the variables of a SLURM task to those of torchrun."""
    variables = {
        'RANK': env['SLURM_PROCID'],
        'WORLD_SIZE': env.get('SLURM_NTASKS', '1'),
        'LOCAL_RANK': env.get('SLURM_LOCALID', '0'),
        'MASTER_PORT': env.get('MASTER_PORT', '29500'),
    }
    if 'MASTER_ADDR' not in env:
        listing = subprocess.run(
            ['scontrol', 'show', 'hostnames', env.get('SLURM_NODELIST', '')],
            capture_output=True,
            text=True,
            check=True,
        )
        variables['MASTER_ADDR'] = listing.stdout.split()[0]
    return variables


def set_amp(cfg: Config, amp: bool) -> str | None:
    """Switch mixed precision on, or off if there is no GPU.

    bfloat16 is used where the GPU supports it, also for frozen teachers without a ``dtype``. It has
    the range of float32 and needs no loss scaling, whose check for infinities makes the host wait
    in each step. Other GPUs get float16 with dynamic scaling, or float32 for two students.

    Args:
        cfg: The config; changed in place.
        amp: Whether ``--amp`` was given.

    Returns:
        A warning, or None.

    Raises:
        ValueError: If ``--amp`` is used with an optimizer wrapper other than mmengine's two.
    """
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        return None
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        if amp:
            raise ValueError(
                f'--amp replaces OptimWrapper, but optim_wrapper.type is {kind!r}: give it its '
                'precision in the config.'
            )
        return None
    if not has_gpu():
        for key in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper.type = 'OptimWrapper'
        if amp or kind == 'AmpOptimWrapper':
            return 'Mixed precision needs a GPU, and there is none: training in float32.'
        return None
    if not amp or kind == 'AmpOptimWrapper':
        return None
    wrapper.type = 'AmpOptimWrapper'
    for _, node in _nodes(cfg.get('model', {})):  # frozen teachers do half of a step's work
        if node.get('type') == 'FrozenTeacher':
            node.setdefault('dtype', 'bfloat16')
    if torch.cuda.get_device_capability()[0] >= 8:
        wrapper.update(dtype='bfloat16', loss_scale={'enabled': False})
        return None
    if 'students' in cfg.get('model', {}):  # early gradients cannot be scaled
        wrapper.type = 'OptimWrapper'
        return (
            f'{torch.cuda.get_device_name()} computes no bfloat16, which two students need for '
            'mixed precision: training in float32.'
        )
    wrapper.update(dtype='float16', loss_scale='dynamic')
    return (
        f'{torch.cuda.get_device_name()} computes no bfloat16: training in float16 with dynamic '
        'loss scaling.'
    )


def set_resume(cfg: Config, resume: str | None) -> str | None:
    """Tell the Runner which checkpoint to resume from, and refuse to overwrite another training.

    Args:
        cfg: The config with its ``work_dir``; changed in place.
        resume: A checkpoint, ``'auto'`` for the newest complete one in the work folder, or None to
            start anew unless the config itself has ``resume = True``.

    Returns:
        A message for the user, or None.

    Raises:
        FileNotFoundError: If the named checkpoint does not exist.
        ValueError: If the work folder has only unusable checkpoints, or has some although no resume
            was requested.
    """
    work_dir = Path(cfg.work_dir)
    if resume is None and cfg.get('resume') and cfg.get('load_from') is None:
        resume = 'auto'
    if resume is None:
        before = checkpoints_of(work_dir)
        if before and not cfg.get('resume'):
            raise ValueError(
                f'{work_dir} holds a training already ({before[0].name}): go on with it by '
                '--resume, give the new one another --work-dir, or delete the old one.'
            )
        return None
    if resume != 'auto':
        if not Path(resume).is_file():
            raise FileNotFoundError(
                f'--resume {resume} does not exist: name a checkpoint, or use --resume alone for '
                f'the latest one in {cfg.work_dir}.'
            )
        cfg.resume, cfg.load_from = True, resume
        return None
    resume_point = find_checkpoint(work_dir)
    if resume_point is None:
        cfg.resume = False
        return f'{cfg.work_dir} has no checkpoint to resume from: starting from the beginning.'
    # This replaces load_from of the config, from which the Runner would resume instead.
    cfg.resume, cfg.load_from = True, str(resume_point.path)
    return resume_point.why


def set_safe_checkpoints(cfg: Config) -> None:
    """Replace mmengine's checkpoint hook on a local disk by :class:`SafeCheckpointHook`.

    Args:
        cfg: The config; changed in place.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if hook and hook.get('type') == 'CheckpointHook' and '://' not in str(hook.get('out_dir')):
        hook.type = 'SafeCheckpointHook'
        hook.setdefault('by_epoch', True)  # mmengine's default


@contextlib.contextmanager
def work_folder(work_dir: str | Path) -> Iterator[None]:
    """Lock a work folder for one training; only the first of its processes takes the lock.

    Args:
        work_dir: The folder; created if it does not exist.

    Raises:
        InUseError: If another training uses it.
    """
    if get_rank() == 0:
        with held(Path(work_dir) / '.lock', f'A training in {work_dir}'):
            yield
    else:
        yield


def _nodes(node: Any, at: str = '') -> Iterator[tuple[str, Any]]:
    """Yield all dicts of a config with their dotted keys."""
    if isinstance(node, Mapping):
        yield at, node
        for key, value in node.items():
            yield from _nodes(value, f'{at}.{key}' if at else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _nodes(value, f'{at}.{index}')


def check_paths(
    cfg: Config,
    loaders: Sequence[str] = ('train_dataloader', 'val_dataloader', 'test_dataloader'),
    weights: bool = True,
) -> list[Path]:
    """Check that the folders, lists and weight files that a config names exist.

    Args:
        cfg: The config.
        loaders: The dataloaders that will be used.
        weights: Whether the model's pretrained weights will be loaded (not for testing).

    Returns:
        The weight files found.

    Raises:
        FileNotFoundError: If one does not exist; the message names its key.
    """
    for loader in loaders:
        if cfg.get(loader) is not None:
            check_dataset_paths(cfg[loader]['dataset'], f'{loader}.dataset')
    weight_files = []
    for key, node in _nodes(cfg.get('model'), 'model') if weights else ():
        checkpoint = node.get('checkpoint')
        if isinstance(checkpoint, (str, Path)) and _is_local_file(str(checkpoint)):
            path = Path(checkpoint).expanduser()
            if not path.exists():
                raise FileNotFoundError(
                    f'The weight file {checkpoint} ({key}.checkpoint) does not exist:'
                    f'{_origin(node)} put it there (`{command("weights")} CONFIG --download` '
                    f'fetches what can be fetched), or set another path by --cfg-options '
                    f'{key}.checkpoint=PATH, or None for random weights.'
                )
            weight_files.append(path)
    start = cfg.get('load_from')
    if start and _is_local_file(str(start)):
        if not Path(start).is_file():
            raise FileNotFoundError(
                f'The checkpoint {start} (load_from) does not exist: correct the path, or set '
                'load_from=None.'
            )
        weight_files.append(Path(start))
    return weight_files


def _is_local_file(name: str) -> bool:
    """Whether a checkpoint is a file name, and neither a URL nor the name of a hub model."""
    if '://' in name or name.startswith('hf-hub:'):
        return False
    return name.endswith(_WEIGHT_SUFFIXES) or name.startswith(('.', '/', '~'))


def _origin(node: Mapping[str, Any]) -> str:
    """Source and licence of a backbone's weights, as the backbone itself describes them."""
    origin = ''
    with contextlib.suppress(Exception), torch.device('meta'):
        origin = str(getattr(MODELS.build(dict(node)), 'origin', ''))
    return f' {origin};' if origin else ''


def batch_summary(cfg: Config, world_size: int) -> str:
    """Describe the batch of one optimizer step, and the length of the training.

    The released codes keep learning rate and epochs for any number of GPUs, so that the recipe
    changes with it. Here the length is fixed and the batch is reported.

    Args:
        cfg: The config.
        world_size: Number of processes.

    Returns:
        One line.
    """
    loader = cfg.train_dataloader
    per_process = int(loader.batch_size)
    accumulate = int(cfg.get('optim_wrapper', {}).get('accumulative_counts', 1))
    total = per_process * world_size * accumulate
    parts = f'{per_process} per process x {world_size} process{"es" if world_size > 1 else ""}'
    if accumulate > 1:
        parts += f' x {accumulate} accumulated steps'
    data = loader.get('dataset')
    both = isinstance(data, dict) and data.get('unlabelled')
    ratio = loader.get('sampler', {}).get('source_ratio', [1, 1] if both else None)
    if ratio:
        labelled = total * ratio[0] // sum(ratio)
        parts += f' ({labelled} labelled + {total - labelled} unlabelled)'
    text = f'Effective batch: {parts} = {total} images'
    iterations = cfg.get('train_cfg', {}).get('max_iters')
    if iterations:
        text += f', {iterations} iterations'
    scale = cfg.get('auto_scale_lr') or {}
    base = scale.get('base_batch_size')
    if base and base != total:
        text += (
            f'; the learning rate is scaled by {total / base:g} (auto_scale_lr)'
            if scale.get('enable')
            else f'; the recipe was written for {base}, its learning rate is kept (auto_scale_lr '
            'is off)'
        )
    return text + '.'

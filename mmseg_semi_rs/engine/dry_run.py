# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Runs a training up to and including its first step, and reports on it."""

from __future__ import annotations

import math
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..models.teachers import FrozenTeacher
from ..utils.runner import unwrap
from ..visualization import save_picture
from .batch_painter import BatchPainter
from .console import ConsoleRunner
from .data_checks import check_disjoint, check_segmentation_dataset, check_semi_dataset
from .launch import batch_summary, section

__all__ = ['dry_run', 'parameter_counts', 'peak_memory']

_DRAWN = 4  # number of drawn images of each source


def peak_memory() -> int:
    """Peak memory in bytes so far, of the CUDA device if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def frozen_teachers(model: nn.Module) -> Iterator[tuple[str, FrozenTeacher]]:
    """Find the teachers that a model's heads keep outside its parameters and modules.

    Args:
        model: The model to search.

    Yields:
        Name and teacher, each teacher once.
    """
    seen: set[int] = set()
    for module in model.modules():
        for attribute in list(vars(module).values()):
            for name, entry in attribute.items() if type(attribute) is dict else ():
                if isinstance(entry, FrozenTeacher) and id(entry) not in seen:
                    seen.add(id(entry))
                    yield str(name), entry


def parameter_counts(model: nn.Module) -> list[tuple[str, int, int]]:
    """Count the parameters of each part of a model.

    Args:
        model: A segmentor.

    Returns:
        (part, trainable, frozen) for each child with parameters, then for each frozen teacher that
        is built.
    """
    rows = []
    for name, child in model.named_children():
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in child.parameters()]
        if sizes:
            trainable = sum(size for size, trains in sizes if trains)
            rows.append((name, trainable, sum(size for size, _ in sizes) - trainable))
    for name, teacher in frozen_teachers(model):
        if teacher.is_built:
            size = sum(parameter.numel() for parameter in teacher.module.parameters())
            rows.append((f'frozen teacher {name}', 0, size))
    return rows


class _OneStep(Hook):
    """Draws the first batch, times its step and ends the training after it."""

    def __init__(self, picture: Path) -> None:
        self.picture, self.drawn = picture, False
        self.seconds = 0.0
        self.losses: dict[str, float] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        meta = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        if isinstance(data_batch, dict) and meta.get('classes') and meta.get('palette'):
            preprocessor = deepcopy(unwrap(runner.model).data_preprocessor).cpu()
            painter = BatchPainter(preprocessor, meta, None, images=_DRAWN)
            save_picture(painter(deepcopy(data_batch)), self.picture)
            self.drawn = True
        self.started = self._now()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.seconds = self._now() - self.started
        self.losses = {
            name: float(value.detach().float().mean())
            for name, value in (outputs or {}).items()
            if isinstance(value, Tensor)
        }
        runner.train_loop.stop_training = True

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def _one_step_config(cfg: Config, work_dir: str) -> Config:
    """Copy a config so that it trains in one process, writes to ``work_dir`` and saves nothing."""
    cfg = deepcopy(cfg)
    cfg.work_dir = work_dir
    hooks = section(cfg, 'default_hooks')
    hooks.pop('visualization', None)
    hooks.checkpoint = None
    cfg.log_level = 'WARNING'
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is not None:  # so that errors come from here and not from a worker
            loader.update(num_workers=0, persistent_workers=False)
            loader.pop('prefetch_factor', None)
    cfg.train_cfg.val_begin = sys.maxsize
    if cfg.train_cfg.get('type') == 'SemiTrainLoop':
        cfg.train_cfg.check_data = False
    return cfg


def _sources(name: str, dataset: Any) -> Iterator[str]:
    """Yield lines that say where the images of a dataset come from."""
    parts = {
        key: part
        for key in ('labelled', 'unlabelled')
        if (part := getattr(dataset, key, None)) is not None
    } or {name: dataset}
    for key, part in parts.items():
        where = getattr(part, 'ann_file', '') or (getattr(part, 'data_prefix', None) or {}).get(
            'img_path', ''
        )
        yield f'{key:<12}{len(part):>8} images  {type(part).__name__}  {where}'


def _check_data(datasets: dict[str, Any]) -> list[str]:
    """Open all files of all datasets; return lines with the results, and notes on overlaps."""
    summaries: dict[str, None] = {}  # validation and test may be the same list
    for dataset in datasets.values():
        if hasattr(dataset, 'labelled'):
            summaries[str(check_semi_dataset(dataset))] = None
        else:
            with_labels = 'seg_map_path' in (getattr(dataset, 'data_prefix', None) or {})
            summaries[str(check_segmentation_dataset(dataset, with_labels))] = None
    lines = [line for summary in summaries for line in summary.splitlines()]
    names = list(datasets)
    for first, second in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        if 'training' in (first, second):
            try:
                check_disjoint({name: datasets[name] for name in (first, second)})
            except ValueError as overlap:
                lines.append(f'NOTE {overlap}')
    return lines


def dry_run(cfg: Config, weight_files: list[Path]) -> str:
    """Build a training, check its data, take one step, and describe the results.

    Writes no checkpoint and no log, but a picture of the first batch, ``first_batch.png`` in the
    work folder.

    Args:
        cfg: The config, ready for a Runner.
        weight_files: The files that the model starts from.

    Returns:
        The report. Its first part is printed before the step, which may take long.

    Raises:
        ValueError: If something in config, data or weights is wrong.
        FileNotFoundError: If a file is missing.
    """
    report: list[str] = []

    def tell(title: str, lines: list[str]) -> None:
        text = '\n'.join([title, *(f'  {line}' for line in lines)])
        report.append(text)
        print(text, flush=True)

    with tempfile.TemporaryDirectory(prefix='mmseg_semi_rs_check_') as folder:
        runner = ConsoleRunner.from_cfg(_one_step_config(cfg, folder))
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
        tell(
            'Environment',
            [
                f'Python {platform.python_version()}, torch {torch.__version__}, {device}, '
                f'world size {get_world_size()}, seed {runner.seed}'
            ],
        )
        datasets = {'training': runner.train_dataloader.dataset}
        if runner._val_loop is not None:
            datasets['validation'] = runner.val_loop.dataloader.dataset
        if runner._test_loop is not None:
            datasets['test'] = runner.test_loop.dataloader.dataset
        tell('Data', [line for name, data in datasets.items() for line in _sources(name, data)])
        tell('Checks', _check_data(datasets))
        model = unwrap(runner.model)
        tell(
            'Weights',
            [f'{path}  {path.stat().st_size / 2**20:.1f} MiB' for path in weight_files]
            or ['no file is named: networks start from installed packages, or from random weights'],
        )
        tell('Step', [batch_summary(cfg, get_world_size())])
        step = _OneStep(Path(cfg.work_dir) / 'first_batch.png')
        runner.register_hook(step, priority='LOWEST')
        runner.train()
        tell(
            'Parameters (millions)',
            [
                f'{name:<26} trainable {trainable / 1e6:8.2f}   frozen {frozen / 1e6:8.2f}'
                for name, trainable, frozen in parameter_counts(model)
            ],
        )
        optimizer = runner.optim_wrapper.optimizer
        saved = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        saved += sum(
            t.numel() * t.element_size()
            for state in optimizer.state.values()
            for t in state.values()
            if isinstance(t, Tensor)
        )
        pace = timedelta(seconds=math.ceil(step.seconds * runner.max_iters))
        kind = 'GPU' if torch.cuda.is_available() else 'process'
        tell(
            'First step',
            [
                ', '.join(f'{name} {value:.4f}' for name, value in step.losses.items()),
                f'{step.seconds:.2f} s (the first one, with everything that is done once; so '
                f'{runner.max_iters:,} steps take less than {pace}), '
                f'peak {kind} memory {peak_memory() / 2**30:.2f} GiB, '
                f'a checkpoint has about {saved / 2**20:.0f} MiB',
                f'{type(runner.optim_wrapper).__name__}, {type(optimizer).__name__} with '
                f'{len(optimizer.param_groups)} parameter groups',
            ],
        )
        for handler in list(runner.logger.handlers):
            handler.close()
    if step.drawn:
        tell('Picture', [f'{step.picture}: do the masks lie on their images?'])
    tell('Nothing else was written. Start the training without --check.', [])
    return '\n'.join(report)

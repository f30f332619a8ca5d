# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Iteration-based training that starts and resumes without delay."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmengine.runner.utils import calc_dynamic_intervals
from mmseg.registry import LOOPS
from torch.utils.data import DataLoader

from ...datasets.semi_dataset import SemiDataset
from ...models.protocols import RatioSampler
from ...models.segmentors import SemiSegmentor
from ...utils.randomness import seed_step
from ...utils.runner import unwrap
from ..data_checks import (
    check_segmentation_dataset,
    check_semi_dataset,
    check_views,
    leaves_of,
)


@LOOPS.register_module()
class SemiTrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` with checked data, O(1) resume and reproducible steps.

    * Before the first step the data is checked (files, sizes, label ids). A fault stops the run
      with a one-sentence message.
    * A resumed run tells the sampler at which step to continue, instead of reading all data that
      was already trained on, and only then starts its workers.
    * Every step is seeded by (seed, iteration, rank), so that CutMix and dropout of a resumed run
      equal those of an uninterrupted one.

    Args:
        runner: The runner.
        dataloader: Training data. To resume in O(1) its sampler needs a method ``skip(steps)``, as
            ``SemiSampler`` has.
        max_iters: Length of the training in iterations.
        val_begin: Iteration from which validation runs.
        val_interval: Iterations between validations.
        dynamic_intervals: See ``IterBasedTrainLoop``.
        check_data: Whether to check the data before training.
        **inherited: Not accepted, such as settings in epochs.

    Raises:
        ValueError: If the sampler and the dataloader disagree on the batch size, or the length is
            not given in iterations.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_iters: int | None = None,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        check_data: bool = True,
        **inherited: Any,
    ) -> None:
        if max_iters is None or inherited:
            raise ValueError(
                f'SemiTrainLoop got max_iters={max_iters} and {inherited}: it counts iterations, '
                'so give max_iters and val_interval in iterations, and where train_cfg inherits '
                'others, _delete_=True.'
            )
        # The parent's __init__ would start the workers at step 0, before a resume is known.
        BaseLoop.__init__(self, runner, dataloader)
        self._max_iters = int(max_iters)
        self._max_epochs = 1
        self._epoch = 0
        self._iter = 0
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.stop_training = False
        self.check_data = check_data
        self.runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            self.val_interval, dynamic_intervals
        )
        promised = getattr(self.dataloader.sampler, 'batch_size', self.dataloader.batch_size)
        if promised != self.dataloader.batch_size:
            raise ValueError(
                f'train_dataloader.batch_size={self.dataloader.batch_size} but its sampler has '
                f'batch_size={promised}: set both to the number of samples of a batch on one GPU.'
            )

    def run(self) -> object:
        """Train until ``max_iters``.

        Returns:
            nn.Module: The trained model.
        """
        # Checked before the hooks run, since some of them read the data.
        self._check_model()
        if self.check_data:
            self._check_data()
        dataset = self.dataloader.dataset
        if isinstance(unwrap(self.runner.model), SemiSegmentor) and isinstance(
            dataset, SemiDataset
        ):
            check_views(dataset)
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._start_data()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            data_batch = next(self.dataloader_iterator)
            seed_step(self.runner.seed, self._iter, get_rank())
            self.run_iter(data_batch)
            self._decide_current_val_interval()
            if (
                self.runner.val_loop is not None
                and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
            ):
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _check_data(self) -> None:
        """Check the data once, on the first rank, and stop every rank if something is wrong."""
        dataset = self.dataloader.dataset
        problem: list[Exception | None] = [None]
        if is_main_process():
            try:
                if isinstance(dataset, SemiDataset):
                    summary = str(check_semi_dataset(dataset))
                else:
                    summary = str(check_segmentation_dataset(dataset))
                print_log(summary, logger='current')
            except (ValueError, FileNotFoundError) as error:
                problem[0] = error
        broadcast_object_list(problem)
        if problem[0] is not None:
            raise problem[0]

    def _check_model(self) -> None:
        """Check that the model has the classes of the data, and that its setup is consistent.

        On a GPU a label without a class would crash the device.
        """
        model = unwrap(self.runner.model)
        count = getattr(model, 'num_classes', None)
        classes = self.dataloader.dataset.metainfo.get('classes')
        if isinstance(count, int) and classes and count != len(classes):
            raise ValueError(
                f'The model has num_classes={count}, but the training data has {len(classes)} '
                f'classes ({", ".join(classes)}): set num_classes of every head to {len(classes)}.'
            )
        if self.runner.val_loop is not None:
            theirs = self.runner.val_loop.dataloader.dataset.metainfo.get('classes')
            if classes and theirs and list(classes) != list(theirs):
                raise ValueError(
                    f'The training data has the classes {", ".join(classes)}, but the validation '
                    f'data {", ".join(theirs)}: give both the same metainfo.'
                )
        self._check_schedule()
        dataset, sampler = self.dataloader.dataset, self.dataloader.sampler
        both = isinstance(dataset, SemiDataset) and dataset.source_sizes[1] > 0
        if both and not isinstance(sampler, RatioSampler):
            raise ValueError(
                f'{type(sampler).__name__} would put labelled and unlabelled images into batches '
                "by chance: set train_dataloader.sampler to dict(type='SemiSampler', "
                'batch_size=..., source_ratio=[1, 1]).'
            )
        if isinstance(model, SemiSegmentor):
            self._check_ignored(model)
            trained = self._iter > 0 or self.runner._load_from is not None
            model.validate_setup(sampler, self.runner.hooks, self._max_iters, trained)

    def _check_ignored(self, model: SemiSegmentor) -> None:
        """Check that the students ignore the same label as the labelled data."""
        ignored = next(iter(model.students.values())).decode_head.ignore_index
        for leaf in leaves_of(
            getattr(self.dataloader.dataset, 'labelled', self.dataloader.dataset)
        ):
            theirs = getattr(leaf, 'ignore_index', ignored)
            if theirs != ignored:
                raise ValueError(
                    f'{type(leaf).__name__} has ignore_index={theirs}, but the decode_head of the '
                    f'student {ignored}: set both, and seg_pad_val of the data_preprocessor, alike.'
                )

    def _check_schedule(self) -> None:
        """Refuse schedulers by epoch, which would never step, and warn of checkpoints by epoch."""
        schedulers = self.runner.param_schedulers or []
        listed = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        for scheduler in (one for some in listed for one in some):
            if scheduler.by_epoch:
                raise ValueError(
                    f'{type(scheduler).__name__} of param_scheduler has by_epoch=True, and would '
                    'do nothing in a training that counts iterations: set by_epoch=False and give '
                    'begin, end and milestones in iterations, or set convert_to_iter_based=True.'
                )
        for hook in self.runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.by_epoch:
                print_log(
                    f'{type(hook).__name__} has by_epoch=True, and writes a checkpoint at the end '
                    'only of a training that counts iterations: set default_hooks.checkpoint.'
                    'by_epoch=False, and its interval in iterations.',
                    logger='current',
                    level=logging.WARNING,
                )

    def _start_data(self) -> None:
        """Start the workers at the current iteration."""
        skip = getattr(self.dataloader.sampler, 'skip', None)
        if skip is not None:
            skip(self._iter)
        self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
        if skip is None and self._iter > 0:
            print_log(
                f'{type(self.dataloader.sampler).__name__} cannot skip: reading {self._iter} '
                'batches to get back to where the training was. SemiSampler does this at once.',
                logger='current',
            )
            for _ in range(self._iter):
                next(self.dataloader_iterator)

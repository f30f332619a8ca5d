# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Training by iterations that starts and resumes at once."""

from __future__ import annotations

from mmengine.dist import broadcast_object_list, get_rank, is_main_process
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
from ..data_checks import check_segmentation_dataset, check_semi_dataset


@LOOPS.register_module()
class SemiTrainLoop(IterBasedTrainLoop):
    """``IterBasedTrainLoop`` with checked data, O(1) resume and reproducible steps.

    * Before the first step the data is checked (files, sizes, label ids); what is wrong stops the
      run in one sentence.
    * A resumed run tells the sampler at which step to go on, instead of reading all the data that
      was already trained on, and starts its workers only then.
    * Every step is seeded from (seed, iteration, rank), so that CutMix and dropout of a resumed run
      equal those of an uninterrupted one.

    Args:
        runner: The runner.
        dataloader: Of training data; a sampler with ``skip(steps)``, such as ``SemiSampler``, is
            needed to resume in O(1).
        max_iters: Length of the training.
        val_begin: Iteration from which on validation happens.
        val_interval: Iterations between validations.
        dynamic_intervals: See ``IterBasedTrainLoop``.
        check_data: Whether to check the data before training.

    Raises:
        ValueError: If the sampler and the dataloader disagree on the batch size.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        check_data: bool = True,
    ) -> None:
        # The parent's __init__ would start the workers on step 0 before a resume is known.
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
        # First, so that hooks that read the data themselves find it in order.
        self._check_model()
        if self.check_data:
            self._check_data()
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
        """Make sure that the model has the data's classes, and can do what it is asked to.

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
        dataset, sampler = self.dataloader.dataset, self.dataloader.sampler
        both = isinstance(dataset, SemiDataset) and dataset.source_sizes[1] > 0
        if both and not isinstance(sampler, RatioSampler):
            raise ValueError(
                f'{type(sampler).__name__} would put labelled and unlabelled images into batches '
                "by chance: set train_dataloader.sampler to dict(type='SemiSampler', "
                'batch_size=..., source_ratio=[1, 1]).'
            )
        if isinstance(model, SemiSegmentor):
            trained = self._iter > 0 or self.runner._load_from is not None
            model.validate_setup(sampler, self.runner.hooks, self._max_iters, trained)

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

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints that survive any end of the training."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size, is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ...utils.errors import RunStoppedError
from ...utils.files import write_atomic
from ...utils.runner import logger_interval
from ..checkpoints import LAST, check_resumable, check_start, find_checkpoint
from ..data_checks import image_lists
from ..launch import leave_process_group
from ..stop_signals import StopSignals

_BACKEND = 'mmseg_semi_rs.atomic'
_VALIDATED = 'last_validation'


@register_backend(_BACKEND, force=True)
class AtomicBackend(LocalBackend):
    """Local disk backend whose files are either complete or absent."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write to a temporary file, flush it to disk, and rename it.

        Raises:
            RunStoppedError: If the disk is full, or the folder is not writable.
        """
        path = Path(filepath)
        try:
            write_atomic(path, obj, durable=True)
        except OSError as error:
            raise RunStoppedError(
                f'The checkpoint {path} cannot be written ({os.strerror(error.errno or 0)}): the '
                'ones before it are as they were; make room, and go on with --resume.'
            ) from error


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """``CheckpointHook`` with which a crash at any moment loses at most one interval.

    * A checkpoint is written to a temporary file, flushed to disk and renamed; only then is the
      superseded one removed. The same holds for the best one. ``last_checkpoint`` names the newest
      relative to its own folder, which may therefore be moved.
    * A resumed run takes the newest complete checkpoint, and refuses one of another model, list of
      images or list of classes.
    * If the training died while a validation was due, it is run before the training continues.
    * On SIGTERM and SIGINT the current step is finished, a checkpoint is written, and the process
      exits with code 143 or 130. Several processes agree on the step at the logger's interval.

    Args:
        by_epoch: As in ``CheckpointHook``.
        **kwargs: The other settings of ``CheckpointHook``; ``out_dir`` must be a local folder.

    Raises:
        ValueError: If ``out_dir`` is not local, or a setting is unknown; or, before training, if
            the checkpoint to resume from is of another training.
    """

    def __init__(self, by_epoch: bool = False, **kwargs: Any) -> None:
        if '://' in str(kwargs.get('out_dir') or '') or kwargs.get('backend_args'):
            raise ValueError(
                f'SafeCheckpointHook out_dir={kwargs.get("out_dir")!r} must be a local folder: '
                "use mmengine's CheckpointHook for other places."
            )
        super().__init__(by_epoch=by_epoch, backend_args={'backend': _BACKEND}, **kwargs)
        if self.args:
            raise ValueError(
                f'The checkpoint hook has no settings {sorted(self.args)}: correct their names.'
            )
        self._signals = StopSignals()
        self._saved_step = -1
        self._images: dict[str, str] = {}

    # ------------------------------------------------------------------------------- resuming

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from if none is named."""
        if runner._resume and runner._load_from is None:
            resume_point = find_checkpoint(Path(runner.work_dir))
            if resume_point is not None:
                runner.logger.info(resume_point.why)
                runner._load_from = str(resume_point.path)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of another training, and say what differs."""
        if not runner._resume:
            check_start(runner, checkpoint)
            return
        self._images = image_lists(runner.train_dataloader.dataset)
        check_resumable(runner, checkpoint, self._images)

    def before_train(self, runner: Runner) -> None:
        """Adjust paths of a moved work folder, catch up on a validation, and listen to signals."""
        super().before_train(runner)
        self._images = self._images or image_lists(runner.train_dataloader.dataset)
        if is_main_process():
            for partial in Path(self.out_dir).glob('.*.pth.part'):  # of a run that was killed
                partial.unlink(missing_ok=True)
        if runner._resume:
            self._follow(runner)
        self._signals.listen()
        self._make_up_validation(runner)
        self._signals.block()

    def _follow(self, runner: Runner) -> None:
        """Look for the files of the resumed training where its folder is now."""
        here = Path(self.out_dir)
        last = runner.message_hub.runtime_info.get('last_ckpt')
        self.last_ckpt = last and str(here / Path(last).name)
        if self.save_best is None:
            return
        best = {key: path and str(here / Path(path).name) for key, path in self._best().items()}
        self._set_best(best)
        if is_main_process():
            for path in best.values():
                self._remove_earlier_best(path)

    def _make_up_validation(self, runner: Runner) -> None:
        """Validate if the training died between the step at which it was due and its end."""
        loop: Any = runner.train_loop
        step = runner.iter
        if self.by_epoch or not runner._resume or step == 0 or runner.val_loop is None:
            return
        if hasattr(loop, '_decide_current_val_interval'):
            loop._decide_current_val_interval()
        due = step >= loop.val_begin and (step % loop.val_interval == 0 or step == runner.max_iters)
        if due and runner.message_hub.runtime_info.get(_VALIDATED) != step:
            runner.logger.info(f'Making up the validation of iteration {step}.')
            runner.val_loop.run()

    # --------------------------------------------------------------------------------- saving

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the lists of training images."""
        checkpoint['meta']['images'] = dict(self._images)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Record that the validation is done, and keep the best checkpoint."""
        runner.message_hub.update_info(_VALIDATED, runner.iter)
        wrong = {*(self.key_indicators if self.save_best else ())} - {'auto', *metrics}
        if wrong:
            raise RunStoppedError(
                f'save_best of the checkpoint hook names {sorted(wrong)}, but the validation gives '
                f'{sorted(metrics)}: correct it, and go on with --resume.'
            )
        super().after_val_epoch(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write a checkpoint, and only then remove the superseded ones."""
        outdated: list[int] = []
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            kept = [number for number in self.keep_ckpt_ids if number != step]
            first = max(0, len(kept) + 1 - self.max_keep_ckpts)
            outdated, kept = kept[:first], [*kept[first:], step]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._saved_step = meta['iter']
        if is_main_process():
            last = os.path.relpath(self.last_ckpt, runner.work_dir)
            self.file_backend.put(last.encode(), Path(runner.work_dir) / LAST)
            for number in outdated:
                Path(self.out_dir, self.filename_tmpl.format(number)).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Write a new best checkpoint, and only then remove the previous one."""
        if not self.save_best:
            return
        before = self._best()
        self._set_best(dict.fromkeys(before))  # so that the parent does not remove it first
        super()._save_best_checkpoint(runner, metrics)
        after = {key: path or before.get(key) for key, path in self._best().items()}
        self._set_best(after)
        if is_main_process() and after != before:
            for path in after.values():
                self._remove_earlier_best(path)

    def _remove_earlier_best(self, best: str | None) -> None:
        """Remove earlier best checkpoints of the same metric, including any left by a crash."""
        if best is None or not Path(best).is_file():
            return
        before, after = self.filename_tmpl.split('{}')
        prefix, _, number = Path(best).name.removesuffix(after).rpartition(before)
        for path in Path(best).parent.glob(f'{prefix}{before}*{after}'):
            other = path.name.removesuffix(after).removeprefix(prefix + before)
            if other.isdecimal() and int(other) < int(number):
                path.unlink(missing_ok=True)

    def _best(self) -> dict[str, str | None]:
        """Files of the best checkpoints, by metric."""
        if len(self.key_indicators) == 1:
            return {self.key_indicators[0]: self.best_ckpt_path}
        return {key: self.best_ckpt_path_dict.get(key) for key in self.key_indicators}

    def _set_best(self, paths: Mapping[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            (self.best_ckpt_path,) = paths.values()
        else:
            self.best_ckpt_path_dict.update(paths)

    # -------------------------------------------------------------------------------- signals

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Unblock signals; the data workers have started."""
        self._signals.unblock()

    def before_val(self, runner: Runner) -> None:
        """Block signals; the data workers are about to start."""
        self._signals.block()

    def before_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Unblock signals; the data workers have started."""
        self._signals.unblock()

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Stop during a validation if a signal came; the validation is repeated after a resume."""
        if self._signals.received is not None:
            self._leave(runner, runner.iter, training=False)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save if it is due, and stop if a signal came."""
        super().after_train_iter(runner, *args, **kwargs)
        if self._to_stop(runner):
            self._leave(runner, runner.iter + 1)

    def _to_stop(self, runner: Runner) -> bool:
        """Whether any process got a signal; processes only compare at the logger's interval."""
        if get_world_size() == 1:
            return self._signals.received is not None
        if not self.every_n_train_iters(runner, logger_interval(runner)):
            return False
        self._signals.agree(next(runner.model.parameters()).device)
        return self._signals.received is not None

    def _leave(self, runner: Runner, step: int, training: bool = True) -> None:
        """Write a checkpoint, log how to continue, and exit with the signal's code."""
        number = self._signals.received or signal.SIGTERM
        if self._saved_step != step and not self.by_epoch:
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=step))
        runner.logger.warning(
            f'{signal.Signals(number).name} came: stopped after iteration {step}; '
            f'{self.last_ckpt} is written, and the same command with --resume goes on from there.'
        )
        self.after_run(runner)
        if training:
            leave_process_group()
        raise SystemExit(128 + number)

    def after_run(self, runner: Runner) -> None:
        """Restore the signal handlers, and let the data workers end by themselves."""
        self._signals.restore()
        for loop in (runner._train_loop, runner._val_loop):
            if hasattr(loop, 'dataloader'):
                vars(loop).pop('dataloader_iterator', None)
                loop.dataloader._iterator = None

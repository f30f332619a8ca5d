# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Warns early when pseudo labels leave a class out or contain far too much of another."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from torch import Tensor

from ...models.segmentors import SemiSegmentor
from ...structures import PseudoLabel
from ...utils.runner import unwrap
from ...visualization.run_records import GUARD
from ..pseudo_label_counts import count_labels, sum_by_class
from .semi_segmentor import semi_segmentor

_INFO = 'pseudo_label_guard'
_LONGEST_WINDOW = 50
_SPARSE = 0.1  # below this labelled share of the pixels, labels count as clicks, not areas
_NOTHING = 0.01  # below this kept share of the valid pixels, classes are not compared
_RELEASE = 1.5  # hysteresis: factor on a limit before a class counts as fine again
_HELP = {
    'dropped': 'the threshold drops it, and semi_train_cfg.gate=dict(type="ClassQuantileGate") '
    'keeps the surest pixels of every class',
    'new': 'the teacher does not know it yet, and a later semi_train_cfg.unsup_start gives it '
    'time; mild photometry of the strong views leaves it its colours',
    'flooded': 'a later semi_train_cfg.unsup_start or '
    'semi_train_cfg.gate=dict(type="ClassQuantileGate") holds it back',
}


@HOOKS.register_module()
class PseudoLabelGuardHook(Hook):
    """Compare each class's share of the kept pseudo labels with its share of the ground truth.

    A fixed confidence threshold keeps the easy classes. The others fade, although the accuracy of
    the kept labels looks high. From the first step with pseudo labels on, this hook evaluates every
    ``window`` steps of all ranks together, and logs, once per change and network, which class is

    - **starved**: its share of the kept weight is below ``starved`` times its share of the labelled
      pixels; it is fine again from 1.5 times that limit on;
    - **flooded**: its share of the kept weight is above ``flooded`` times its share of the labelled
      pixels, and by more than ``excess``; it is fine again once either value is below two thirds of
      its limit.

    If less than 1 % of the valid pixels is kept, it only logs that nothing is kept yet.

    A class can become starved only if, by its share of the labels, the kept pixels of the window
    should contain at least ``min_images`` whole images of it (8 images per step of which half is
    kept make 200 in 50 steps, so classes from 0.5 % on are judged), and flooded only if ``excess``
    corresponds to that many. Otherwise its state does not change.

    The reference is the labels trained on so far, including a supervised burn-in. A sampler that
    prefers rare classes (``RareClassSemiSampler``) raises their share, so lower ``starved`` with
    it. Unlabelled images that really lack a class starve it as well. Sparse labels, on less than a
    tenth of the pixels, do not show how frequent a class is: this is logged, and nothing is
    compared.

    At the end of each window ``labelled_share/<class>`` is logged and, prefixed by the network's
    name if there are several, ``guard/<class>``, the ratio of kept to labelled share. The counts
    are saved in checkpoints, so that a resumed run behaves like an uninterrupted one. The host
    waits for the device only at the end of a window and when a checkpoint is saved.

    Args:
        window: Steps that are evaluated together, 1 to 50.
        starved: See above, in (0, 0.5].
        flooded: See above, 2 or more. Defaults to 3.
        excess: See above, in (0, 1).
        min_images: See above, more than 0. Defaults to 1.
        lower: Factor of the unsupervised losses while any class of any network is starved or
            flooded, in [0, 1); it sets the model's ``unsup_scale``. Defaults to None, only logging.

    Raises:
        ValueError: If an argument is out of its range; or, when the training starts, if the model
            has no pseudo labels.
    """

    def __init__(
        self,
        window: int = 50,
        starved: float = 0.2,
        flooded: float = 3.0,
        excess: float = 0.1,
        min_images: float = 1.0,
        lower: float | None = None,
    ) -> None:
        for name, value, allowed, fine in (
            ('window', window, '1 to 50 steps', 1 <= window <= _LONGEST_WINDOW),
            ('starved', starved, 'in (0, 0.5]', 0 < starved <= 0.5),
            ('flooded', flooded, '2 or more', flooded >= 2),
            ('excess', excess, 'in (0, 1)', 0 < excess < 1),
            ('min_images', min_images, 'more than 0', min_images > 0),
            ('lower', lower, 'None or in [0, 1)', lower is None or 0 <= lower < 1),
        ):
            if not fine:
                raise ValueError(f'PseudoLabelGuardHook {name}={value} must be {allowed}.')
        self.window, self.starved, self.flooded = window, starved, flooded
        self.excess, self.min_images, self.lower = excess, min_images, lower
        self._restore({})

    # State.

    def _restore(self, saved: dict[str, Any]) -> None:
        """Restore the state from :meth:`before_save_checkpoint`, or reset it."""
        self._steps: int = saved.get('steps', 0)
        self._pixels: int = saved.get('pixels', 0)
        self._sparse: bool = saved.get('sparse', False)
        self._labelled = torch.tensor(saved.get('labelled', 0.0), dtype=torch.float64)
        self._counts: dict[str, Tensor] = {
            name: torch.tensor(counts, dtype=torch.float64)
            for name, counts in saved.get('counts', {}).items()
        }
        self._idle: list[str] = list(saved.get('idle', []))
        self._verdicts: dict[str, dict[str, str]] = {
            name: dict(verdicts) for name, verdicts in saved.get('verdicts', {}).items()
        }

    def before_train(self, runner: Runner) -> None:
        """Restore the state of a checkpoint.

        Raises:
            ValueError: If the model has no pseudo labels.
        """
        model = semi_segmentor(runner, self)
        self._restore(runner.message_hub.get_info(_INFO) or {})
        self._set_scale(model)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the counts, which are the same on every rank."""
        saved = {
            'steps': self._steps,
            'pixels': self._pixels,
            'sparse': self._sparse,
            'labelled': self._labelled.tolist(),
            'counts': {name: counts.tolist() for name, counts in self._counts.items()},
            'idle': list(self._idle),
            'verdicts': {name: dict(verdicts) for name, verdicts in self._verdicts.items()},
        }
        runner.message_hub.update_info(_INFO, saved)
        if 'message_hub' in checkpoint:
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _set_scale(self, model: SemiSegmentor) -> None:
        """Lower the unsupervised losses, or restore them."""
        if self.lower is not None:
            model.unsup_scale = self.lower if any(self._verdicts.values()) else 1.0

    # Steps.

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Count labels and pseudo labels; evaluate them at the end of a window."""
        model = unwrap(runner.model)
        classes = runner.train_dataloader.dataset.metainfo['classes']
        labels = model.last_step.titled
        table = torch.stack([
            count_labels(model.last_step.labelled, len(classes)),
            *(row for pseudo in labels.values() for row in _count(pseudo, len(classes))),
        ])  # fmt: skip
        all_reduce(table)
        self._labelled = self._labelled.to(table.device) + table[0]
        labelled = model.last_step.labelled
        self._pixels += sum(s.gt_sem_seg.data.numel() for s in labelled) * get_world_size()
        for name, counts in zip(labels, table[1:].view(len(labels), 2, len(classes)), strict=True):
            before = self._counts.get(name)
            self._counts[name] = counts if before is None else before.to(counts.device) + counts
        self._steps += bool(labels)
        if self._steps >= self.window:
            image = next(iter(labels.values())).labels[0].numel()
            self._judge(runner, classes, image)
            self._steps, self._counts = 0, {}
            self._set_scale(model)

    def _judge(self, runner: Runner, classes: list[str], image: int) -> None:
        """Compare the shares of each network in the window, and log them and every change.

        Args:
            runner: The runner.
            classes: Class names.
            image: Number of pixels of one image.
        """
        share = float(self._labelled.sum()) / max(self._pixels, 1)
        if share < _SPARSE:
            if not self._sparse:
                self._sparse = True
                print_log(
                    f'{GUARD} at iteration {runner.iter + 1}: only {_percent(share)} of the pixels '
                    'of labelled images have a label, which does not tell how frequent a class '
                    'is, so that nothing is compared.',
                    logger='current',
                    level=logging.INFO,
                )
            return
        labelled = (self._labelled / self._labelled.sum().clamp(min=1)).tolist()
        for name, due in zip(classes, labelled, strict=True):
            runner.message_hub.update_scalar(f'train/labelled_share/{name}', due)
        for network, counts in self._counts.items():
            predicted, kept = counts.tolist()
            pixels, weight = max(sum(predicted), 1.0), sum(kept)
            of = f' of {network!r}' if network else ''
            said = f'{GUARD}{of} at iteration {runner.iter + 1}: '
            idle = weight < _NOTHING * pixels
            if idle and network not in self._idle:
                print_log(
                    f'{said}nothing is kept yet ({_percent(weight / pixels)} of the pixels), so '
                    'unlabelled images teach nothing: the threshold is too high for this teacher, '
                    'or it needs more steps.',
                    logger='current',
                    level=logging.WARNING,
                )
            self._idle = [name for name in self._idle if name != network] + [network] * idle
            verdicts = self._verdicts.setdefault(network, {})
            for number, name in enumerate(classes if not idle else []):
                share, due, predicted_share = (
                    kept[number] / weight,
                    labelled[number],
                    predicted[number] / pixels,
                )
                if due:
                    key = f'train/{network}/guard/{name}' if network else f'train/guard/{name}'
                    runner.message_hub.update_scalar(key, share / due)
                before = verdicts.pop(name, '')
                now = self._verdict(share, due, weight / image, before)
                if now:
                    verdicts[name] = now
                if now != before:
                    change = self._describe(name, before, now, share, due, predicted_share)
                    level = logging.WARNING if now else logging.INFO
                    print_log(said + change, logger='current', level=level)

    def _verdict(self, share: float, due: float, images: float, before: str) -> str:
        """Judge a class: 'starved', 'flooded', or '' for fine.

        Args:
            share: Its share of the kept weight.
            due: Its share of the labelled pixels.
            images: Kept weight in units of whole images.
            before: Its previous verdict.
        """
        enough = {
            'starved': due * images >= self.min_images,
            'flooded': self.excess * images >= self.min_images,
        }
        if not enough.get(before, True):
            return before
        hold = _RELEASE if before == 'starved' else 1.0
        if enough['starved'] and share < self.starved * due * hold:
            return 'starved'
        hold = _RELEASE if before == 'flooded' else 1.0
        much = share > self.flooded * due / hold and share - due > self.excess / hold
        return 'flooded' if enough['flooded'] and much else ''

    def _describe(
        self, name: str, before: str, now: str, share: float, due: float, predicted_share: float
    ) -> str:
        """Describe the change of a class in one sentence, with the numbers and a remedy."""
        numbers = f'{_percent(share)} of the kept weight, {_percent(due)} of the labels'
        if not now:
            return f'{name} is no longer {before} ({numbers}).'
        known = predicted_share >= self.starved * due
        help_for = now if now == 'flooded' else 'dropped' if known else 'new'
        return (
            f'{name} is {now} ({numbers}, predicted on {_percent(predicted_share)} of the pixels): '
            f'{_HELP[help_for]}.'
        )


def _count(pseudo: PseudoLabel, classes: int) -> Tensor:
    """Valid pixels and kept weight of each class, (2, K) float64."""
    valid = pseudo.valid.float()
    return sum_by_class(pseudo.labels, torch.stack([valid, pseudo.weight * valid]), classes)


def _percent(share: float) -> str:
    return f'{100 * share:.1f} %'

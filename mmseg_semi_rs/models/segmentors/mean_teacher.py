# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One student, and its exponential moving average (EMA) that labels its unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ...structures import PseudoLabel
from ..gates import Gate
from ..losses import RankSum
from ..utils import keep_running_statistics, read_cfg
from .semi_segmentor import SemiBatch, SemiSegmentor, SemiSettings
from .strong_views import ComplementaryDropout, StrongView
from .student import (
    Decoded,
    build_student,
    forward_student,
    make_teacher,
    mean_over_images,
)


@dataclass
class MeanTeacherSettings(SemiSettings):
    """The ``semi_train_cfg`` of :class:`MeanTeacherSegmentor`, in addition to the common settings.

    Attributes:
        loss_reduce: ``'mean'`` or ``'sum'`` over the groups of losses ``sup``, ``unsup`` and
            ``distill``. Their factors ``loss_weight`` default to 1.
        feature_dropout: Arguments of
            :class:`~mmseg_semi_rs.models.segmentors.strong_views.ComplementaryDropout`, which
            divides the channels of the encoder's features between two strong views (UniMatch V2). A
            distilling decode head gets the remaining channels. None switches it off.
        norm: ``'joint'``: one forward pass; batch norm layers normalise and track labelled and
            strong images as one batch. ``'separate'``: two passes, each with its own batch
            statistics; running statistics, which evaluation and the EMA teacher use, follow the
            clean labelled images only. Without batch norm only feature losses differ: they are the
            mean over all tokens that are distilled, or the mean of both passes weighted by their
            images, where a pass without such tokens (``loss_distill.views``) counts as 0.
    """

    loss_reduce: str = 'mean'
    feature_dropout: Mapping[str, Any] | None = None
    norm: str = 'joint'

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, allowed in (('loss_reduce', ('mean', 'sum')), ('norm', ('joint', 'separate'))):
            value = getattr(self, key)
            if value not in allowed:
                raise ValueError(f'semi_train_cfg.{key}={value!r} is none of {allowed}.')

    def build_feature_dropout(self) -> ComplementaryDropout | None:
        """Build the module that ``feature_dropout`` describes; None if it is switched off."""
        settings, name = self.feature_dropout, 'semi_train_cfg.feature_dropout'
        if settings is None:
            return None
        return ComplementaryDropout(**read_cfg(settings, {'keep': 0.5, 'shared': True}, name))


@MODELS.register_module()
class MeanTeacherSegmentor(SemiSegmentor):
    r"""FixMatch with an EMA teacher for any mmseg ``EncoderDecoder``.

    In one step the teacher labels the weak views, purifiers correct these pseudo labels, and CutMix
    mixes the strong views with their labels. The student's forward pass on labelled and strong
    images then gives

    .. math:: L = (w_x L_x + w_u L_u + w_d L_d) / n

    where L_x is the student's own supervised loss (auxiliary heads included), L_u the consistency
    loss, averaged over the strong views, and L_d the feature losses of the decode head, if it has
    any (RS-MTDF's ``MultiTeacherDistillHead``). n is the number of these groups for
    ``loss_reduce='mean'`` and 1 for ``'sum'``.

    Batches without unlabelled images, and all batches before ``unsup_start``, train the student by
    L_x (and L_d) alone.

    Args:
        student: Config of an ``EncoderDecoder`` without ``data_preprocessor``.
        ema: Whether an EMA copy of the student, updated by ``MeanTeacherHook``, labels the images.
            If False, the student itself does, in eval mode.
        semi_train_cfg: See :class:`MeanTeacherSettings`.
        semi_test_cfg: ``predict_on`` is 'teacher' or 'student'. Defaults to 'teacher' with ``ema``,
            else to 'student'.
        data_preprocessor: Config of a ``SemiDataPreprocessor``.
        **misplaced: See :class:`SemiSegmentor`.

    Raises:
        ValueError: On unknown or contradictory settings.
    """

    settings_type = MeanTeacherSettings

    def __init__(
        self,
        student: dict | None = None,
        ema: bool = True,
        semi_train_cfg: dict | None = None,
        semi_test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        **misplaced: Any,
    ) -> None:
        super().__init__(
            semi_train_cfg,
            data_preprocessor,
            **misplaced,
        )
        if student is None:
            raise ValueError(
                f'{type(self).__name__} has no student: give it the config of an EncoderDecoder.'
            )
        if 'data_preprocessor' in student:
            raise ValueError(
                'The student has a data_preprocessor, which would never run: give it to '
                f'{type(self).__name__} instead.'
            )
        self.student: Any = build_student(student, type(self).__name__, self.data_preprocessor)
        self.teacher: Any = make_teacher(self.student) if ema else None
        self.gate: Gate = self.build_gate()
        self.feature_dropout = self.settings.build_feature_dropout()
        default = {'predict_on': 'teacher' if ema else 'student'}
        self.predict_on = read_cfg(semi_test_cfg, default, 'semi_test_cfg')['predict_on']
        if self.predict_on not in ('teacher', 'student'):
            raise ValueError(
                f"semi_test_cfg.predict_on={self.predict_on!r} must be 'teacher' or 'student'."
            )
        if self.predict_on == 'teacher' and not ema:
            raise ValueError("predict_on='teacher' needs ema=True: there is no teacher without it.")

    @property
    def students(self) -> dict[str, Any]:
        """The student, under the name ``'student'``."""
        return {'student': self.student}

    @property
    def teachers(self) -> dict[str, Any]:
        """The teacher, under the name ``'student'``; empty without ``ema``."""
        return {} if self.teacher is None else {'student': self.teacher}

    @property
    def gates(self) -> dict[str, Gate]:
        """The gate, under the name ``'student'``."""
        return {'student': self.gate}

    @property
    def predictors(self) -> dict[str, Any]:
        """The student and, with ``ema``, the teacher."""
        return ({} if self.teacher is None else {'teacher': self.teacher}) | self.students

    def draw_views(self, inputs: Mapping[str, Tensor]) -> list[StrongView]:
        """Mix the strong views by CutMix.

        Raises:
            ValueError: If there is feature dropout and not exactly two strong views.
        """
        views = super().draw_views(inputs)
        if self.feature_dropout is not None and len(views) != 2:
            raise ValueError(
                f'A batch has {len(views)} strong view(s), but semi_train_cfg.feature_dropout '
                "shares channels out between two: name two branches of MultiBranch 'strong_1' and "
                "'strong_2', or set feature_dropout=None."
            )
        return views

    def learn(self, batch: SemiBatch, pseudo: Mapping[str, PseudoLabel]) -> dict[str, Tensor]:
        """Compute the losses of a batch, see :meth:`SemiSegmentor.learn`."""
        unsup: dict[str, Tensor] = {}
        if pseudo:
            targets = [view.mix(pseudo['student']) for view in batch.views]
            counts = [RankSum(target.valid.sum()) for target in targets]
            decoded, strong_logits = self._forward_views(batch, targets)
            loss = self.unsupervised_loss('student', strong_logits, targets, counts)
            unsup['loss_unsup'] = batch.unsup_weight * loss
        else:
            decoded = self._forward_labelled(batch)
        sup = self.supervised_loss('student', decoded, batch.samples)
        groups = {'sup': sup, 'unsup': unsup, 'distill': decoded.feature_losses}
        groups = {name: losses for name, losses in groups.items() if losses}
        return self.weigh(groups, len(groups) if self.settings.loss_reduce == 'mean' else 1)

    def _forward_labelled(self, batch: SemiBatch) -> Decoded:
        return forward_student(self.student, batch.sup, batch.valid, {'sup': slice(None)})

    def _forward_views(
        self, batch: SemiBatch, targets: list[PseudoLabel]
    ) -> tuple[Decoded, Tensor]:
        """Run the student on labelled and strong images, in one pass or in two.

        Returns:
            The output for labelled images, with the feature losses of all, and the strong logits.
        """
        count = len(batch.sup)
        strong = torch.cat([view.images for view in batch.views])
        strong_valid = torch.cat([target.valid for target in targets])
        if self.settings.norm == 'joint':
            decoded = forward_student(
                self.student,
                torch.cat([batch.sup, strong]),
                torch.cat([batch.valid, strong_valid]),
                {'sup': slice(0, count), 'strong': slice(count, None)},
                perturb=self._perturb(count),
            )
            return decoded.rows(slice(0, count)), decoded.logits[count:]
        decoded = self._forward_labelled(batch)
        with keep_running_statistics(self.student):
            more = forward_student(
                self.student,
                strong,
                strong_valid,
                {'strong': slice(None)},
                aux=False,
                perturb=self._perturb(0),
            )
        distill = mean_over_images(
            decoded.feature_losses, more.feature_losses, (count, len(strong))
        )
        return decoded._replace(feature_losses=distill), more.logits

    def _perturb(self, clean: int) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None:
        """Feature dropout for a batch that begins with ``clean`` labelled images, or None."""
        return None if self.feature_dropout is None else partial(self.feature_dropout, clean=clean)

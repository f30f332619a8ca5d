# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One student and the exponential moving average of it that labels its unlabelled images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from mmseg.models import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from ...structures import PseudoLabel
from ..data_preprocessor import stack_valid
from ..gates import Gate, build_gate
from ..losses import RankSum
from ..protocols import Purifier
from ..utils import CutMix, keep_running_statistics
from .schedule import UnsupervisedSchedule
from .strong_views import ComplementaryDropout, draw_views, loss_of_views
from .student import (
    Decoded,
    SampleList,
    average_into,
    build_student,
    decode_in_eval,
    forward_student,
    make_teacher,
    mean_over_images,
    read_cfg,
    refuse_misplaced,
    supervised_losses,
    upsample,
)

_TRAIN_DEFAULTS: dict[str, Any] = {
    'conf_thresh': 0.95,
    'gate': None,
    'loss_reduce': 'mean',
    'loss_weight': {'sup': 1.0, 'unsup': 1.0, 'distill': 1.0},
    'cutmix': {},
    'feature_dropout': None,
    'norm': 'joint',
    'unsup_start': 0,
    'unsup_ramp': 0,
}


@MODELS.register_module()
class MeanTeacherSegmentor(BaseSegmentor):
    r"""FixMatch with an EMA teacher for any mmseg ``EncoderDecoder``.

    One step: the teacher labels the weak views, purifiers correct the labels, CutMix mixes the
    strong views with their labels, and one student forward over labelled and strong images gives

    .. math:: L = (w_x L_x + w_u L_u + w_d L_d) / n

    with L_x the student's own supervised loss (auxiliary heads included), L_u the consistency loss,
    the mean over the strong views if there are several, and L_d the feature losses of the decode
    head, if it has any (RS-MTDF's ``MultiTeacherDistillHead``). n is the number of these groups for
    ``loss_reduce='mean'`` and 1 for ``'sum'``.

    A batch without unlabelled images trains the student by L_x (and L_d) alone, and so does every
    batch before ``unsup_start``.

    Args:
        student (dict): Config of an ``EncoderDecoder`` without ``data_preprocessor``.
        ema (bool): Whether a copy of the student, averaged by ``MeanTeacherHook``, labels the
            images. False: the student does, in eval mode. Defaults to True.
        semi_train_cfg (dict, optional):

            - conf_thresh (float | list[float]): Confidence in [0, 1] from which a pixel gets weight
              1; a list has one entry per class. The short form of
              ``gate=dict(type='FixedGate', threshold=...)``. Defaults to 0.95.
            - gate (dict | None): How pseudo labels get their weights: config of a
              :class:`~mmseg_semi_rs.models.gates.Gate`, which replaces ``conf_thresh``. Defaults to
              None.
            - loss_reduce (str): ``'mean'`` or ``'sum'`` over the loss groups. Defaults to 'mean'.
            - loss_weight (dict): Factors ``sup``, ``unsup``, ``distill``. Default to 1.
            - cutmix (dict | None): Arguments of
              :class:`~mmseg_semi_rs.models.utils.CutMix`; each strong view draws its own boxes.
              None switches it off. Defaults to {}.
            - feature_dropout (dict | None): Arguments of
              :class:`~mmseg_semi_rs.models.segmentors.strong_views.ComplementaryDropout`, by which
              two strong views share out the channels of the encoder's features (UniMatch V2); what
              a decode head distils is what is left of them. Defaults to None, off.
            - norm (str): ``'joint'``: one forward, batch norm layers see labelled and strong images
              as one batch and remember both. ``'separate'``: two forwards, each with its own batch
              statistics, and only those of the clean labelled images are remembered for evaluation
              and the EMA teacher. No difference for students without batch norm. Defaults to
              'joint'.
            - unsup_start (int | float): Supervised burn-in: iterations before the first pseudo
              label, or below 1 their share of the training. The average goes on through it.
              Defaults to 0.
            - unsup_ramp (int | float): Iterations after the start over which the weight of L_u
              grows linearly from 0, or their share of the training. Defaults to 0.
        semi_test_cfg (dict, optional): ``predict_on``: 'teacher' or 'student'. Defaults to teacher
            with ``ema``, else student.
        data_preprocessor (dict, optional): Config of a ``SemiDataPreprocessor``.
        init_cfg (None): Must be None, like the next two, which mmseg's ``init_model`` sets: they
            belong to the student.
        pretrained (None): See above.
        train_cfg (None): See above.

    Attributes:
        purifiers (list[Purifier]): Called in turn on the pseudo labels of every step.
        last_step (dict): Of the last training step, for hooks to look at: ``labelled`` (the
            samples of the labelled images) and, unless it was supervised, ``pseudo`` (PseudoLabel
            of the weak views, before CutMix) and ``samples`` (theirs).
        unsup_scale (float): Another factor of L_u, 1 unless a hook lowers it.

    Raises:
        ValueError: On unknown or contradictory settings.
    """

    def __init__(
        self,
        student: dict,
        ema: bool = True,
        semi_train_cfg: dict | None = None,
        semi_test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: None = None,
        pretrained: None = None,
        train_cfg: None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        refuse_misplaced(
            type(self).__name__, init_cfg=init_cfg, pretrained=pretrained, train_cfg=train_cfg
        )
        if 'data_preprocessor' in student:
            raise ValueError(
                'The student has a data_preprocessor, which would never run: give it to '
                f'{type(self).__name__} instead.'
            )
        self.student: Any = build_student(student, type(self).__name__)
        self.teacher: Any = make_teacher(self.student) if ema else None
        self.train_settings = read_cfg(semi_train_cfg, _TRAIN_DEFAULTS, 'semi_train_cfg')
        self.predict_on = read_cfg(
            semi_test_cfg, {'predict_on': 'teacher' if ema else 'student'}, 'semi_test_cfg'
        )['predict_on']
        self._check_settings()
        cutmix = self.train_settings['cutmix']
        self.cutmix: CutMix | None = None if cutmix is None else CutMix(**cutmix)
        self.feature_dropout = self._build_feature_dropout()
        self.purifiers: list[Purifier] = []
        self.last_step: dict[str, Any] = {}
        self.unsup_scale = 1.0
        if hasattr(self.student.decode_head, 'bind_source'):
            mean = getattr(self.data_preprocessor, 'mean', torch.zeros(3))
            std = getattr(self.data_preprocessor, 'std', torch.ones(3))
            self.student.decode_head.bind_source(mean.flatten().tolist(), std.flatten().tolist())

    def _check_settings(self) -> None:
        settings = self.train_settings
        for key, allowed in (('loss_reduce', ('mean', 'sum')), ('norm', ('joint', 'separate'))):
            if settings[key] not in allowed:
                raise ValueError(f'semi_train_cfg.{key}={settings[key]!r} is none of {allowed}.')
        settings['loss_weight'] = read_cfg(
            settings['loss_weight'], _TRAIN_DEFAULTS['loss_weight'], 'semi_train_cfg.loss_weight'
        )
        self.gate: Gate = build_gate(settings['gate'], settings['conf_thresh'], self.num_classes)
        self.schedule = UnsupervisedSchedule(settings['unsup_start'], settings['unsup_ramp'])
        if self.predict_on not in ('teacher', 'student'):
            raise ValueError(
                f"semi_test_cfg.predict_on={self.predict_on!r} must be 'teacher' or 'student'."
            )
        if self.predict_on == 'teacher' and self.teacher is None:
            raise ValueError("predict_on='teacher' needs ema=True: there is no teacher without it.")

    def _build_feature_dropout(self) -> ComplementaryDropout | None:
        settings = self.train_settings['feature_dropout']
        if settings is None:
            return None
        name = 'semi_train_cfg.feature_dropout'
        if not isinstance(settings, Mapping):
            raise ValueError(f'{name}={settings!r} must be None or a dict such as dict(keep=0.5).')
        return ComplementaryDropout(**read_cfg(settings, {'keep': 0.5}, name))

    @property
    def num_classes(self) -> int:
        """Number of classes of the student's decode head."""
        return self.student.decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """Channels of the logits, one per class; test-time augmentation asks for it."""
        return self.num_classes

    @property
    def align_corners(self) -> bool:
        """How the decode head's logits are resized."""
        return self.student.decode_head.align_corners

    @property
    def needs_burn_in(self) -> bool:
        """Whether the gate is led astray by a teacher that nothing has trained."""
        return self.gate.needs_burn_in

    def gate_of(self, network: str) -> Gate:
        """The gate of the labels that a network makes."""
        return self.gate

    @property
    def averages(self) -> list[tuple[Any, Any]]:
        """The teacher with its student; empty without ``ema``."""
        return [] if self.teacher is None else [(self.teacher, self.student)]

    @property
    def predictor(self) -> Any:
        """The network that predicts: teacher or student."""
        return self.teacher if self.predict_on == 'teacher' else self.student

    def init_weights(self) -> None:
        """Initialise the student, then make the teacher an exact copy of it."""
        self.student.init_weights()
        if self.teacher is not None:
            self.teacher.load_state_dict(self.student.state_dict())
        self._is_init = True

    def train(self, mode: bool = True) -> MeanTeacherSegmentor:
        """Set the student's mode; the teacher always stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student, see :func:`average_into`.

        Args:
            momentum (float): In [0, 1].
        """
        for teacher, student in self.averages:
            average_into(teacher, student, momentum)

    @torch.no_grad()
    def pseudo_label(self, images: Tensor, samples: SampleList) -> PseudoLabel:
        """Label the weak views and let the purifiers correct the labels.

        Args:
            images (Tensor): Weak views, shape (B, 3, H, W).
            samples (list[SegDataSample]): Their samples, with ``valid``.

        Returns:
            PseudoLabel: Targets of shape (B, H, W).
        """
        logits = decode_in_eval(self.teacher or self.student, images)
        valid = stack_valid(samples, images.shape[-2:], images.device)
        pseudo = self.gate(logits, valid)
        for purifier in self.purifiers:
            pseudo = purifier(pseudo, samples)
        return pseudo

    def loss(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> dict:
        """Compute the losses of one training step.

        Args:
            inputs (dict[str, Tensor]): ``sup`` and, unless training is supervised only, ``weak``
                and one or more views whose names begin with ``strong``, each (B, 3, H, W),
                normalised.
            data_samples (dict[str, list[SegDataSample]]): The same keys; ``sup`` with
                ``gt_sem_seg``.

        Returns:
            dict[str, Tensor]: Scalars; mmengine adds up those with 'loss' in the name.

        Raises:
            ValueError: If there is no strong view, or not the two that ``feature_dropout`` needs.
        """
        images, samples = inputs['sup'], data_samples['sup']
        self.last_step = {'labelled': samples}
        valid = stack_valid(samples, images.shape[-2:], images.device)
        self.gate.observe(samples)
        unsup_weight = self.schedule.weight()
        if 'weak' not in inputs or unsup_weight is None:
            decoded = forward_student(self.student, images, valid, {'sup': slice(None)})
            return self._reduce({
                'sup': supervised_losses(
                    self.student, decoded.logits, decoded.aux_logits, samples
                ),
                'distill': decoded.feature_losses,
            })  # fmt: skip
        pseudo = self.pseudo_label(inputs['weak'], data_samples['weak'])
        self.last_step |= {'pseudo': pseudo, 'samples': data_samples['weak']}
        views = draw_views(inputs, self.cutmix)
        if self.feature_dropout is not None and len(views) != 2:
            raise ValueError(
                f'A batch has {len(views)} strong view(s), but semi_train_cfg.feature_dropout '
                "shares channels out between two: name two branches of MultiBranch 'strong_1' and "
                "'strong_2', or set feature_dropout=None."
            )
        targets = [view.mix(pseudo) for view in views]
        counts = [RankSum(target.valid.sum()) for target in targets]
        strong = torch.cat([view.images for view in views])
        strong_valid = torch.cat([target.valid for target in targets])
        decoded, strong_logits = self._forward_views(images, valid, strong, strong_valid)
        unsup = loss_of_views(upsample(self.student, strong_logits, strong), targets, counts)
        return self._reduce({
            'sup': supervised_losses(self.student, decoded.logits, decoded.aux_logits, samples),
            'unsup': {'loss_unsup': self.unsup_scale * unsup_weight * unsup},
            'distill': decoded.feature_losses,
        })  # fmt: skip

    def _forward_views(
        self, images: Tensor, valid: Tensor, strong: Tensor, strong_valid: Tensor
    ) -> tuple[Decoded, Tensor]:
        """Run the student on labelled and strong images, by one pass or by two.

        Returns:
            tuple[Decoded, Tensor]: What the labelled images gave, with the feature losses of all;
            and the logits of the strong ones.
        """
        count = len(images)
        if self.train_settings['norm'] == 'joint':
            decoded = forward_student(
                self.student,
                torch.cat([images, strong]),
                torch.cat([valid, strong_valid]),
                {'sup': slice(0, count), 'strong': slice(count, None)},
                perturb=self._perturb(count),
            )
            labelled = decoded._replace(
                logits=decoded.logits[:count],
                aux_logits=[aux[:count] for aux in decoded.aux_logits],
            )
            return labelled, decoded.logits[count:]
        decoded = forward_student(self.student, images, valid, {'sup': slice(None)})
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
        """What happens to the features of a batch whose first ``clean`` images are labelled."""
        return None if self.feature_dropout is None else partial(self.feature_dropout, clean=clean)

    def _reduce(self, groups: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Weigh the loss groups and flatten them into one dict; empty groups do not count."""
        present = {group: losses for group, losses in groups.items() if losses}
        count = len(present) if self.train_settings['loss_reduce'] == 'mean' else 1
        return {
            name: value * (self.train_settings['loss_weight'][group] / count)
            if 'loss' in name
            else value
            for group, losses in present.items()
            for name, value in losses.items()
        }

    def predict_each(self, inputs: Tensor, data_samples: SampleList) -> dict[str, SampleList]:
        """Predict with every network there is.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list[SegDataSample]): With metainfo; left as they are.

        Returns:
            dict[str, list[SegDataSample]]: Of ``'student'`` and ``'teacher'`` if there is one, that
            of ``predict_on`` last.
        """
        networks = {'student': self.student, 'teacher': self.teacher}
        names = sorted(networks, key=lambda name: name == self.predict_on)
        return {
            name: networks[name].predict(inputs, [sample.clone() for sample in data_samples])
            for name in names
            if networks[name] is not None
        }

    def predict(self, inputs: Tensor, data_samples: SampleList | None = None) -> SampleList:
        """Predict with the network ``predict_on`` names, by the student's own test_cfg.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list[SegDataSample], optional): With metainfo; see ``EncoderDecoder``.

        Returns:
            list[SegDataSample]: With ``seg_logits`` and ``pred_sem_seg`` at original size.
        """
        return self.predictor.predict(inputs, data_samples)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the predicting network's features."""
        return self.predictor.extract_feat(inputs)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return the predicting network's logits (B, K, H, W) by its test_cfg, whole or slide."""
        return self.predictor.inference(inputs, batch_img_metas)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[dict]) -> Tensor:
        """Return the predicting network's logits (B, K, H, W)."""
        return self.predictor.encode_decode(inputs, batch_data_samples)

    def _forward(self, inputs: Tensor, data_samples: SampleList | None = None) -> Tensor:
        """Return the predicting network's raw logits (``mode='tensor'``)."""
        return self.predictor._forward(inputs, data_samples)

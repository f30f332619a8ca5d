# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One student and the exponential moving average of it that labels its unlabelled images."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmseg.models import BaseSegmentor
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...structures import PseudoLabel
from ..data_preprocessor import stack_valid
from ..losses import RankSum, consistency_loss
from ..protocols import HeadWithFeatureLosses, Purifier
from ..utils import CutMix, keep_running_statistics

SampleList = list[SegDataSample]

_TRAIN_DEFAULTS: dict[str, Any] = {
    'conf_thresh': 0.95,
    'loss_reduce': 'mean',
    'loss_weight': {'sup': 1.0, 'unsup': 1.0, 'distill': 1.0},
    'cutmix': {},
    'norm': 'joint',
    'unsup_ramp': 0,
}


def _read_cfg(cfg: dict | None, defaults: dict[str, Any], name: str) -> dict[str, Any]:
    """Fill in defaults, and refuse keys that nothing would read."""
    cfg = dict(cfg or {})
    unknown = sorted(set(cfg) - set(defaults))
    if unknown:
        raise ValueError(f'{name} has unknown keys {unknown}; known are {sorted(defaults)}.')
    return {**defaults, **cfg}


@MODELS.register_module()
class MeanTeacherSegmentor(BaseSegmentor):
    r"""FixMatch with an EMA teacher for any mmseg ``EncoderDecoder``.

    One step: the teacher labels the weak views, purifiers correct the labels, CutMix mixes the
    strong views with their labels, and one student forward over labelled and strong images gives

    .. math:: L = (w_x L_x + w_u L_u + w_d L_d) / n

    with L_x the student's own supervised loss (auxiliary heads included), L_u the consistency loss
    and L_d the feature losses of the decode head, if it has any (RS-MTDF's
    ``MultiTeacherDistillHead``). n is the number of these groups for ``loss_reduce='mean'`` and 1
    for ``'sum'``.

    A batch without unlabelled images trains the student by L_x (and L_d) alone.

    Args:
        student (dict): Config of an ``EncoderDecoder`` without ``data_preprocessor``.
        ema (bool): Whether a copy of the student, averaged by ``MeanTeacherHook``, labels the
            images. False: the student does, in eval mode. Defaults to True.
        semi_train_cfg (dict, optional):

            - conf_thresh (float | list[float]): Confidence in [0, 1] from which a pixel gets weight
              1; a list has one entry per class. Defaults to 0.95.
            - loss_reduce (str): ``'mean'`` or ``'sum'`` over the loss groups. Defaults to 'mean'.
            - loss_weight (dict): Factors ``sup``, ``unsup``, ``distill``. Default to 1.
            - cutmix (dict | None): Arguments of
              :class:`~mmseg_semi_rs.models.utils.CutMix`; None switches it off. Defaults to {}.
            - norm (str): ``'joint'``: one forward, batch norm layers see labelled and strong images
              as one batch and remember both. ``'separate'``: two forwards, each with its own batch
              statistics, and only those of the clean labelled images are remembered for evaluation
              and the EMA teacher. No difference for students without batch norm. Defaults to
              'joint'.
            - unsup_ramp (int): Iterations over which the weight of L_u grows linearly from 0.
              Defaults to 0.
        semi_test_cfg (dict, optional): ``predict_on``: 'teacher' or 'student'. Defaults to teacher
            with ``ema``, else student.
        data_preprocessor (dict, optional): Config of a ``SemiDataPreprocessor``.
        init_cfg (dict, optional): See mmengine's BaseModule.
        pretrained (None): Must be None; mmseg's ``init_model`` sets it.
        train_cfg (None): Likewise.

    Attributes:
        purifiers (list[Purifier]): Called in turn on the pseudo labels of every step.
        last_step (dict): ``pseudo`` (PseudoLabel of the weak views, before CutMix) and
            ``samples`` of the last training step, for hooks to look at.

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
        init_cfg: dict | None = None,
        pretrained: None = None,
        train_cfg: None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        if pretrained is not None or train_cfg is not None:
            raise ValueError(
                f'{type(self).__name__} takes no pretrained={pretrained!r} and no '
                f'train_cfg={train_cfg!r}: give them to the student.'
            )
        if 'data_preprocessor' in student:
            raise ValueError(
                'The student has a data_preprocessor, which would never run: give it to '
                f'{type(self).__name__} instead.'
            )
        self.student: Any = MODELS.build(student)
        if isinstance(self.student.decode_head, nn.ModuleList):
            raise ValueError(
                f'student type {student["type"]!r} has a cascade of decode heads; '
                f'{type(self).__name__} works with one decode_head.'
            )
        self.teacher: Any = None
        if ema:
            self.teacher = deepcopy(self.student).eval().requires_grad_(False)
        self.train_settings = _read_cfg(semi_train_cfg, _TRAIN_DEFAULTS, 'semi_train_cfg')
        self.predict_on = _read_cfg(
            semi_test_cfg, {'predict_on': 'teacher' if ema else 'student'}, 'semi_test_cfg'
        )['predict_on']
        self._check_settings()
        cutmix = self.train_settings['cutmix']
        self.cutmix: CutMix | None = None if cutmix is None else CutMix(**cutmix)
        self.purifiers: list[Purifier] = []
        self.last_step: dict[str, Any] = {}
        if hasattr(self.student.decode_head, 'bind_source'):
            mean = getattr(self.data_preprocessor, 'mean', torch.zeros(3))
            std = getattr(self.data_preprocessor, 'std', torch.ones(3))
            self.student.decode_head.bind_source(mean.flatten().tolist(), std.flatten().tolist())

    def _check_settings(self) -> None:
        settings = self.train_settings
        for key, allowed in (('loss_reduce', ('mean', 'sum')), ('norm', ('joint', 'separate'))):
            if settings[key] not in allowed:
                raise ValueError(f'semi_train_cfg.{key}={settings[key]!r} is none of {allowed}.')
        settings['loss_weight'] = _read_cfg(
            settings['loss_weight'], _TRAIN_DEFAULTS['loss_weight'], 'semi_train_cfg.loss_weight'
        )
        thresholds = settings['conf_thresh']
        listed = list(thresholds) if isinstance(thresholds, (list, tuple)) else [thresholds]
        if not all(0 <= threshold <= 1 for threshold in listed):
            raise ValueError(f'semi_train_cfg.conf_thresh={thresholds} must be within [0, 1].')
        if len(listed) not in (1, self.num_classes):
            raise ValueError(
                f'semi_train_cfg.conf_thresh has {len(listed)} entries for {self.num_classes} '
                'classes: give one number or one per class.'
            )
        threshold = torch.tensor(listed, dtype=torch.float32).expand(self.num_classes).clone()
        self.register_buffer('conf_thresh', threshold, persistent=False)
        if self.predict_on not in ('teacher', 'student'):
            raise ValueError(
                f"semi_test_cfg.predict_on={self.predict_on!r} must be 'teacher' or 'student'."
            )
        if self.predict_on == 'teacher' and self.teacher is None:
            raise ValueError("predict_on='teacher' needs ema=True: there is no teacher without it.")

    @property
    def num_classes(self) -> int:
        """Number of classes of the student's decode head."""
        return self.student.decode_head.num_classes

    @property
    def align_corners(self) -> bool:
        """How the decode head's logits are resized."""
        return self.student.decode_head.align_corners

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

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: t <- momentum * t + (1 - momentum) * s.

        Averages every trainable parameter and floating-point buffer in one fused call; integer
        buffers are copied. ``momentum=0`` copies the student exactly.

        Args:
            momentum (float): In [0, 1].
        """
        if self.teacher is None:
            return
        pairs: list[tuple[Tensor, Tensor]] = [
            (mean, new)
            for mean, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            if new.requires_grad
        ]
        buffers = list(zip(self.teacher.buffers(), self.student.buffers(), strict=True))
        pairs += [pair for pair in buffers if pair[0].is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in pairs], [new for _, new in pairs], 1.0 - momentum)
        for mean, new in buffers:
            if not mean.is_floating_point():
                mean.copy_(new)

    def decode(self, model: Any, images: Tensor) -> Tensor:
        """Return a network's logits at the images' size.

        Args:
            model (nn.Module): The student or the teacher.
            images (Tensor): Shape (B, 3, H, W).

        Returns:
            Tensor: Shape (B, K, H, W).
        """
        return self._upsample(model.decode_head(model.extract_feat(images)), images)

    def _upsample(self, logits: Tensor, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        return resize(logits, size=size, mode='bilinear', align_corners=self.align_corners)

    @torch.no_grad()
    def pseudo_label(self, images: Tensor, samples: SampleList) -> PseudoLabel:
        """Label the weak views and let the purifiers correct the labels.

        Args:
            images (Tensor): Weak views, shape (B, 3, H, W).
            samples (list[SegDataSample]): Their samples, with ``valid``.

        Returns:
            PseudoLabel: Targets of shape (B, H, W).
        """
        if self.teacher is not None:
            logits = self.decode(self.teacher, images)
        else:
            training = self.student.training
            self.student.eval()
            logits = self.decode(self.student, images)
            self.student.train(training)
        valid = stack_valid(samples, images.shape[-2:], images.device)
        pseudo = PseudoLabel.from_logits(logits, valid, self.conf_thresh)
        for purifier in self.purifiers:
            pseudo = purifier(pseudo, samples)
        return pseudo

    def loss(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> dict:
        """Compute the losses of one training step.

        Args:
            inputs (dict[str, Tensor]): ``sup`` and, unless training is supervised only, ``weak``
                and ``strong``, each (B, 3, H, W), normalised.
            data_samples (dict[str, list[SegDataSample]]): The same keys; ``sup`` with
                ``gt_sem_seg``.

        Returns:
            dict[str, Tensor]: Scalars; mmengine adds up those with 'loss' in the name.
        """
        images, samples = inputs['sup'], data_samples['sup']
        valid = stack_valid(samples, images.shape[-2:], images.device)
        if 'strong' not in inputs:
            logits, aux_logits, distill = self._forward_student(images, valid, {'sup': slice(None)})
            return self._reduce({'sup': self._supervised(logits, aux_logits, samples),
                                 'distill': distill})  # fmt: skip
        pseudo = self.pseudo_label(inputs['weak'], data_samples['weak'])
        self.last_step = {'pseudo': pseudo, 'samples': data_samples['weak']}
        strong, target = inputs['strong'], pseudo
        if self.cutmix is not None:
            strong, target = self.cutmix(strong, pseudo)
        denominator = RankSum(target.valid.sum())
        count = len(images)
        if self.train_settings['norm'] == 'joint':
            logits, aux_logits, distill = self._forward_student(
                torch.cat([images, strong]),
                torch.cat([valid, target.valid]),
                {'sup': slice(0, count), 'strong': slice(count, None)},
            )
            logits, strong_logits = logits[:count], logits[count:]
            aux_logits = [aux[:count] for aux in aux_logits]
        else:
            logits, aux_logits, distill = self._forward_student(images, valid, {'sup': slice(None)})
            with keep_running_statistics(self.student):
                strong_logits, _, more = self._forward_student(
                    strong, target.valid, {'strong': slice(None)}, aux=False
                )
            share = count / (count + len(strong))
            distill = {
                name: share * value + (1 - share) * more[name] for name, value in distill.items()
            }
        strong_logits = self._upsample(strong_logits, strong)
        unsup = consistency_loss(strong_logits, target.labels, target.weight, denominator)
        return self._reduce({
            'sup': self._supervised(logits, aux_logits, samples),
            'unsup': {'loss_unsup': self._ramp() * unsup},
            'distill': distill,
        })  # fmt: skip

    def _forward_student(
        self, images: Tensor, valid: Tensor, branches: dict[str, slice], aux: bool = True
    ) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Return logits, the auxiliary heads' logits, and the decode head's feature losses."""
        feats = self.student.extract_feat(images)
        head = self.student.decode_head
        if isinstance(head, HeadWithFeatureLosses):
            logits, feature_losses = head.forward_train(feats, valid, branches)
        else:
            logits, feature_losses = head(feats), {}
        aux_heads = self._auxiliary_heads() if aux else []
        return logits, [aux_head(feats) for aux_head in aux_heads], feature_losses

    def _auxiliary_heads(self) -> list[Any]:
        if not self.student.with_auxiliary_head:
            return []
        heads = self.student.auxiliary_head
        return list(heads) if isinstance(heads, nn.ModuleList) else [heads]

    def _supervised(
        self, logits: Tensor, aux_logits: list[Tensor], samples: SampleList
    ) -> dict[str, Tensor]:
        losses = _head_losses(self.student.decode_head, logits, samples, 'decode')
        for index, (head, aux) in enumerate(zip(self._auxiliary_heads(), aux_logits, strict=True)):
            losses.update(_head_losses(head, aux, samples, f'aux_{index}'))
        return losses

    def _ramp(self) -> float:
        """Weight of the unsupervised loss at the current iteration, in [0, 1]."""
        length = self.train_settings['unsup_ramp']
        if not length:
            return 1.0
        iteration = MessageHub.get_current_instance().runtime_info.get('iter', length)
        return min(iteration / length, 1.0)

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

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[dict]) -> Tensor:
        """Return the predicting network's logits (B, K, H, W)."""
        return self.predictor.encode_decode(inputs, batch_data_samples)

    def _forward(self, inputs: Tensor, data_samples: SampleList | None = None) -> Tensor:
        """Return the predicting network's raw logits (``mode='tensor'``)."""
        return self.predictor._forward(inputs, data_samples)


def _head_losses(head: Any, logits: Tensor, samples: SampleList, prefix: str) -> dict[str, Tensor]:
    """Compute a decode head's supervised losses.

    Heads that keep mmseg's ``loss_by_feat`` are followed step by step without its accuracy, whose
    boolean indexing makes the host wait for the device; heads with their own are called.
    """
    inner: Any = getattr(head, 'decode_head', head)
    if type(inner).loss_by_feat is not BaseDecodeHead.loss_by_feat:
        losses = inner.loss_by_feat(logits, samples)
        return {f'{prefix}.{name}': value for name, value in losses.items()}
    labels = torch.stack([sample.gt_sem_seg.data for sample in samples])
    logits = resize(
        logits, size=labels.shape[-2:], mode='bilinear', align_corners=inner.align_corners
    )
    weight = None if inner.sampler is None else inner.sampler.sample(logits, labels)
    labels = labels.squeeze(1)
    parts = inner.loss_decode
    losses = {}
    for part in parts if isinstance(parts, nn.ModuleList) else [parts]:
        value = part(logits, labels, weight=weight, ignore_index=inner.ignore_index)
        name = f'{prefix}.{part.loss_name}'
        losses[name] = losses[name] + value if name in losses else value
    return losses

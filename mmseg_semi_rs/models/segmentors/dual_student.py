# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Two students that pseudo-label the unlabelled images and teach each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...structures import PseudoLabel
from ..gates import FixedGate
from ..losses import RankSum, consistency_loss, stability_loss, stability_ramp, taught_pixels
from ..protocols import RatioSampler
from ..utils import Renormalise, early_backward, keep_running_statistics, read_cfg
from ..utils.fusion import FUSIONS, fuse, fuse_logits
from .semi_segmentor import SemiBatch, SemiSegmentor, SemiSettings, check_weight
from .strong_views import StrongView, draw_views, perturb_features
from .student import (
    SampleList,
    build_student,
    decode_in_eval,
    forward_student,
    main_logits,
    make_teacher,
    upsample,
)


@dataclass
class DualStudentSettings(SemiSettings):
    """The ``semi_train_cfg`` of :class:`DualStudentSegmentor`, in addition to the common settings.

    The groups of ``loss_weight`` are ``sup``, ``strong`` (mean over the strong views), ``fp``
    (feature perturbation) and ``distill`` (feature losses of a head); they default to 0.5, 0.25,
    0.25 and 0.5. Each student has its own gate, and may teach where that gate's weight is above 0.

    Attributes:
        donors: How many unlabelled images, taken from the end of the batch, are pseudo-labelled but
            only provide pixels for CutMix and are not trained on. At least one is needed if a
            single image is left to train on. With 0 every image is trained on and provides pixels.
        fp_drop: Share of channels dropped from the features of the weak views, in (0, 1). None
            switches L_fp off.
        stability: Settings of the stability loss; None switches it off. **weight**: peak of w_t,
            0.5. **ramp**: share of the training from ``unsup_start`` to that peak, 0.2. **grad**:
            whether the loss has a gradient (True; release False). **ties**: whether equally
            confident students teach each other (False; release True). **mask**: 'valid' leaves
            padding out; the release uses 'all'.
    """

    LOSS_WEIGHT: ClassVar[Mapping[str, float]] = {
        'sup': 0.5,
        'strong': 0.25,
        'fp': 0.25,
        'distill': 0.5,
    }
    STABILITY: ClassVar[Mapping[str, Any]] = {
        'weight': 0.5,
        'ramp': 0.2,
        'grad': True,
        'ties': False,
        'mask': 'valid',
    }

    donors: int = 0
    fp_drop: float | None = 0.5
    stability: Mapping[str, Any] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        drop, donors = self.fp_drop, self.donors
        if drop is not None and not 0 < drop < 1:
            raise ValueError(f'semi_train_cfg.fp_drop={drop} must be within (0, 1), or None.')
        if not isinstance(donors, int) or donors < 0 or (donors and self.cutmix is None):
            raise ValueError(
                f'semi_train_cfg.donors={donors} must be a number of images, and 0 without cutmix.'
            )
        partner = (self.cutmix or {}).get('partner', 'roll')
        if donors and partner != 'roll':
            raise ValueError(
                f'semi_train_cfg.donors={donors} give their pixels in turn: remove '
                f'partner={partner!r} from cutmix.'
            )
        if self.stability is not None:
            name = 'semi_train_cfg.stability'
            stability = self.stability = read_cfg(self.stability, self.STABILITY, name)
            if stability['mask'] not in ('valid', 'all') or not 0 <= stability['ramp'] <= 1:
                raise ValueError(
                    f"{name}={stability} must have a ramp within [0, 1] and a mask 'valid' or "
                    "'all'."
                )
            check_weight(stability['weight'], 'stability.weight')
            for key in ('grad', 'ties'):
                if not isinstance(stability[key], bool):
                    raise ValueError(f'{name}.{key}={stability[key]!r} must be True or False.')


@dataclass(frozen=True)
class _WeakPrediction:
    """Prediction of one student for the n weak views that are trained on.

    Attributes:
        own: Its pseudo labels before purification, (n, H, W).
        probabilities: Class probabilities, shape (n, K, H, W), float32.
    """

    own: PseudoLabel
    probabilities: Tensor


@MODELS.register_module()
class DualStudentSegmentor(SemiSegmentor):
    """Co2S (arXiv 2512.23035) for any two mmseg ``EncoderDecoder`` networks.

    Both students get the same batch. Each pseudo-labels the weak views for itself. It learns from
    labelled images, from strong views mixed by CutMix, from weak views with dropped feature
    channels (UniMatch), and, where its partner is more confident, from the partner's probabilities:

    .. math:: L = w_x L_x + w_s (L_s1 + L_s2) / 2 + w_p L_fp + w_t(t) L_sta

    for each student separately (``(L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 + L_sta`` in the
    paper). The student, or its EMA copy, predicts the pseudo labels in eval mode without gradient.

    Gradients are computed pass by pass, so that memory holds only the activations of one student's
    clean images, or of its strong views, at a time
    (:func:`~mmseg_semi_rs.models.utils.early_backward`). Batches without unlabelled images, and all
    batches before ``unsup_start``, train both students by L_x alone.

    Args:
        students: Two ``EncoderDecoder`` configs by name, ``dict(a=..., b=...)``. A student may have
            its own ``data_preprocessor`` (``SegDataPreProcessor``), by which its images are then
            normalised.
        ema: Whether EMA copies of the students, updated by ``MeanTeacherHook``, pseudo-label the
            images and predict at inference.
        semi_train_cfg: See :class:`DualStudentSettings`.
        semi_test_cfg: ``predict_on`` is the name of a student, or 'fused' (default). ``fusion`` is
            'mean_prob' (default), the mean of both probabilities, or 'confidence', the
            probabilities of the more confident student at each pixel.
        data_preprocessor: Config of a ``SemiDataPreprocessor``.
        **misplaced: See :class:`SemiSegmentor`.

    Raises:
        ValueError: On unknown or contradictory settings.
    """

    settings_type = DualStudentSettings

    def __init__(
        self,
        students: dict[str, dict] | None = None,
        ema: bool = False,
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
        owner, students = type(self).__name__, students or {}
        if len(students) != 2 or not all(
            name.isidentifier() and name != 'fused' and 'loss' not in name for name in students
        ):
            raise ValueError(
                f'{owner} has two students, whose names are not "fused" and do not contain "loss", '
                f'got {list(students)}: give students=dict(a=..., b=...).'
            )
        # Sorted by name: an optimizer is resumed by the order of the parameters, and mmengine
        # sorts the keys of the config that it saves.
        self.students: Any = nn.ModuleDict(
            {
                name: build_student(students[name], owner, self.data_preprocessor)
                for name in sorted(students)
            }
        )
        self.teachers: Any = nn.ModuleDict(
            {name: make_teacher(student) for name, student in self.students.items()} if ema else {}
        )
        for name, student in self.students.items():
            if any(getattr(module, 'with_cp', False) for module in student.modules()):
                raise ValueError(
                    f'The student {name!r} has with_cp=True, whose backward pass cannot run inside '
                    f'the forward one, as {owner} needs: set with_cp=False, since only one pass of '
                    'one student is in memory at a time.'
                )
        heads: dict[str, Any] = {
            name: student.decode_head for name, student in self.students.items()
        }
        counts = {name: head.num_classes for name, head in heads.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f'The students have num_classes {counts}: give both the same.')
        self.gates: Any = nn.ModuleDict({name: self.build_gate() for name in self.students})
        if (self.settings.stability or {}).get('mask') == 'all' and not all(
            isinstance(gate, FixedGate) for gate in self.gates.values()
        ):
            raise ValueError(
                "semi_train_cfg.stability.mask='all' is the release's, whose gate is fixed: "
                "choose mask='valid', or gate=None."
            )
        self.renormalise: Any = nn.ModuleDict(
            {name: self._renormalise(name, student) for name, student in self.students.items()}
        )
        test = read_cfg(
            semi_test_cfg, {'predict_on': 'fused', 'fusion': 'mean_prob'}, 'semi_test_cfg'
        )
        self.predict_on, self.fusion = test['predict_on'], test['fusion']
        known = (*self.students, 'fused')
        if self.predict_on not in known or self.fusion not in FUSIONS:
            raise ValueError(
                f'semi_test_cfg has predict_on={self.predict_on!r} and fusion={self.fusion!r}, '
                f'which must be one of {known} and one of {FUSIONS}.'
            )
        self._weak: dict[str, _WeakPrediction] = {}

    def _renormalise(self, name: str, student: Any) -> nn.Module:
        """Choose how the images of a student are normalised."""
        shared, own = self.data_preprocessor, student.data_preprocessor
        if isinstance(own, SegDataPreProcessor):
            if not isinstance(shared, SegDataPreProcessor):
                raise ValueError(
                    f'The student {name!r} has a data_preprocessor, whose statistics cannot be '
                    f'reached from {type(shared).__name__}: give {type(self).__name__} a '
                    'SemiDataPreprocessor.'
                )
            return Renormalise(shared, own)
        if type(own) is not BaseDataPreprocessor:
            raise ValueError(
                f'The student {name!r} has a data_preprocessor of type {type(own).__name__}, whose '
                'statistics are not known: give it a SegDataPreProcessor.'
            )
        return nn.Identity()

    def adapt(self, network: str, images: Tensor) -> Tensor:
        """Normalise the images of a batch for one student."""
        return self.renormalise[network](images)

    # Training.

    def validate_setup(
        self, sampler: object, hooks: Sequence[Hook], max_iters: int, trained: bool
    ) -> None:
        """Call :meth:`SemiSegmentor.validate_setup`, and check that CutMix has a partner."""
        if isinstance(sampler, RatioSampler):
            self._check_batch(sampler.per_batch[1])
        super().validate_setup(sampler, hooks, max_iters, trained)

    def _check_batch(self, unlabelled: int) -> None:
        """Check that CutMix has a partner image and that an image is left to train on."""
        donors = self.settings.donors
        if unlabelled and (unlabelled <= donors or (self.cutmix is not None and unlabelled == 1)):
            raise ValueError(
                f'A batch has {unlabelled} unlabelled images, of which semi_train_cfg.donors='
                f'{donors} only give pixels to CutMix: give the sampler more unlabelled images '
                '(batch_size, source_ratio), or set cutmix=None.'
            )

    def draw_views(self, inputs: Mapping[str, Tensor]) -> list[StrongView]:
        """Mix the strong views of all images except the donors."""
        self._check_batch(len(inputs['weak']))
        return draw_views(inputs, self.cutmix, self.settings.donors)

    def label(self, name: str, images: Tensor, valid: Tensor) -> PseudoLabel:
        """Call :meth:`SemiSegmentor.label`, and keep the prediction to teach the partner."""
        logits = decode_in_eval(self.predictors[name], self.adapt(name, images))
        pseudo = self.gates[name](logits, valid)
        count = len(images) - self.settings.donors
        probabilities = logits[:count].float().softmax(dim=1)
        self._weak[name] = _WeakPrediction(pseudo.first(count), probabilities)
        return pseudo

    def learn(self, batch: SemiBatch, pseudo: Mapping[str, PseudoLabel]) -> dict[str, Tensor]:
        """Compute the losses and gradients of a batch, one student after the other.

        Returns:
            Scalars prefixed by the student's name; ``<name>.taught`` is the share of valid pixels
            on which the partner teaches this student.
        """
        losses: dict[str, Tensor] = {}
        names = list(self.students)
        for name, partner in zip(names, reversed(names), strict=True):
            params = [param for param in self.students[name].parameters() if param.requires_grad]
            parts = self._parts(name, partner, batch, pseudo[name]) if pseudo else None
            own_losses = early_backward(parts or [partial(self._supervise, name, batch)], params)
            losses.update({f'{name}.{key}': value for key, value in own_losses.items()})
        self._weak = {}
        return losses

    def _supervise(self, name: str, batch: SemiBatch) -> dict[str, Tensor]:
        images = self.adapt(name, batch.sup)
        decoded = forward_student(self.students[name], images, batch.valid, {'sup': slice(None)})
        sup = self.supervised_loss(name, decoded, batch.samples)
        return self.weigh({'sup': sup, 'distill': decoded.feature_losses})

    def _parts(
        self, name: str, partner: str, batch: SemiBatch, pseudo: PseudoLabel
    ) -> list[Callable[[], dict[str, Tensor]]]:
        """Return the two parts of a student's loss: clean images, then strong views."""
        targets = [view.mix(pseudo) for view in batch.views]
        counts = [RankSum(target.valid.sum()) for target in targets]
        own_count = RankSum(self._weak[name].own.valid.sum())
        # Feature losses are averaged over the images of both parts.
        share = len(batch.sup) / (len(batch.sup) + len(batch.views) * len(batch.weak))
        return [
            lambda: self._learn_clean(name, partner, batch, pseudo, own_count, share),
            lambda: self._learn_strong(name, batch, targets, counts, 1.0 - share),
        ]

    def _learn_clean(
        self,
        name: str,
        partner: str,
        batch: SemiBatch,
        pseudo: PseudoLabel,
        valid: RankSum,
        share: float,
    ) -> dict[str, Tensor]:
        """Losses of labelled images and weak views, which pass through the student together."""
        student, own = self.students[name], pseudo.first(len(batch.weak))
        labelled, weak = slice(0, len(batch.sup)), slice(len(batch.sup), None)
        images = self.adapt(name, torch.cat([batch.sup, batch.weak]))
        size = images.shape[-2:]
        decoded = forward_student(
            student,
            images,
            torch.cat([batch.valid, own.valid]),
            {'sup': labelled, 'weak': weak},
        )
        groups = {
            'sup': self.supervised_loss(name, decoded.rows(labelled), batch.samples),
            'distill': {key: share * value for key, value in decoded.feature_losses.items()},
        }
        if self.settings.fp_drop is not None:
            drop = partial(F.dropout2d, p=self.settings.fp_drop)
            feats = perturb_features(decoded.feats, drop, weak)
            with keep_running_statistics(student):
                logits = main_logits(student.decode_head, student.decode_head(feats))
                logits = upsample(student, logits, size)
            loss = consistency_loss(logits, own.labels, own.weight, valid, own.soft)
            groups['fp'] = {'loss_fp': batch.unsup_weight * loss}
        losses = self.weigh(groups)
        if self.settings.stability is not None:
            logits = upsample(student, decoded.logits[weak], size)
            losses.update(self._stabilise(name, partner, logits, valid))
        return losses

    def _learn_strong(
        self,
        name: str,
        batch: SemiBatch,
        targets: list[PseudoLabel],
        counts: list[RankSum],
        share: float,
    ) -> dict[str, Tensor]:
        """Losses of the strong views."""
        student = self.students[name]
        images = self.adapt(name, torch.cat([view.images for view in batch.views]))
        valid = torch.cat([target.valid for target in targets])
        with keep_running_statistics(student):
            decoded = forward_student(student, images, valid, {'strong': slice(None)}, aux=False)
        loss = self.unsupervised_loss(name, decoded.logits, targets, counts)
        return self.weigh({
            'strong': {'loss_strong': batch.unsup_weight * loss},
            'distill': {key: share * value for key, value in decoded.feature_losses.items()},
        })  # fmt: skip

    def _stabilise(
        self, name: str, partner: str, logits: Tensor, valid: RankSum
    ) -> dict[str, Tensor]:
        """Stability loss of one student, and the share of valid pixels on which it is taught."""
        settings = self.settings.stability
        own, other = self._weak[name].own, self._weak[partner].own
        weighed = own
        if settings['mask'] == 'all':
            weighed, other = (
                each.replace(
                    weight=(each.confidence >= self.gates[name].threshold[each.labels]).float(),
                    valid=torch.ones_like(each.valid),
                )
                for each in (own, other)
            )
        taught = taught_pixels(weighed, other, settings['ties'])
        denominator = RankSum(taught.sum())
        if not settings['grad']:
            logits = logits.detach()
        loss = stability_loss(logits, self._weak[partner].probabilities, taught, denominator)
        hub = MessageHub.get_current_instance().runtime_info
        peak = self.unsup_scale * settings['weight']
        if 'max_iters' in hub:
            since = hub['iter'] - self.schedule.begin()
            peak *= stability_ramp(since, hub['max_iters'], settings['ramp'])
        share = (taught & own.valid).sum() / valid.per_rank()
        return {'loss_stability': peak * loss, 'taught': share}

    # Inference.

    def predict_each(
        self, inputs: Tensor, data_samples: SampleList | None
    ) -> dict[str, SampleList]:
        """Predict with each network and fuse both, see :meth:`SemiSegmentor.predict_each`."""
        samples = super().predict_each(inputs, data_samples)
        both = [samples[name] for name in self.students]
        samples['fused'] = [
            fuse(first, second, self.fusion) for first, second in zip(*both, strict=True)
        ]
        return dict(sorted(samples.items(), key=lambda item: item[0] == self.predict_on))

    def predict(self, inputs: Tensor, data_samples: SampleList | None = None) -> SampleList:
        """Predict, see :meth:`SemiSegmentor.predict`; fused logits are log probabilities."""
        if self.predict_on != 'fused':
            return super().predict(inputs, data_samples)
        return self.predict_each(inputs, data_samples)['fused']

    def _call(self, method: str, name: str, inputs: Tensor, *arguments: Any) -> Any:
        """Call a method of one network, or, for ``'fused'``, of both, and fuse the logits."""
        if name != 'fused':
            return super()._call(method, name, inputs, *arguments)
        first, second = (
            super(DualStudentSegmentor, self)._call(method, each, inputs, *deepcopy(arguments))
            for each in self.students
        )
        if method == 'extract_feat':
            return (*first, *second)
        return fuse_logits(first, second, self.fusion)

    def _forward(self, inputs: Tensor, data_samples: SampleList | None = None) -> Tensor:
        """Return logits at the images' size (``mode='tensor'``)."""
        metas = [dict(img_shape=tuple(inputs.shape[-2:]))] * len(inputs)
        return self.encode_decode(inputs, metas)

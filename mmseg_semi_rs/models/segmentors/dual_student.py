# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Two students that label unlabelled images for themselves and teach each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmseg.models import BaseSegmentor, SegDataPreProcessor
from mmseg.registry import MODELS
from torch import Tensor, nn

from ...structures import PseudoLabel
from ..data_preprocessor import stack_valid
from ..gates import FixedGate, Gate, build_gate
from ..losses import RankSum, consistency_loss, stability_loss, stability_ramp, taught_pixels
from ..protocols import Purifier
from ..utils import CutMix, Renormalise, early_backward, keep_running_statistics
from ..utils.fusion import FUSIONS, fuse, fuse_logits
from .schedule import UnsupervisedSchedule
from .strong_views import StrongView, draw_views, loss_of_views, perturb_features
from .student import (
    SampleList,
    average_into,
    build_student,
    decode_in_eval,
    forward_student,
    make_teacher,
    read_cfg,
    refuse_misplaced,
    supervised_losses,
    upsample,
)

_TRAIN_DEFAULTS: dict[str, Any] = {
    'conf_thresh': 0.95,
    'gate': None,
    'loss_weight': {'sup': 0.5, 'strong': 0.25, 'fp': 0.25, 'distill': 0.5},
    'cutmix': {},
    'donors': 0,
    'fp_drop': 0.5,
    'stability': {},
    'unsup_start': 0,
    'unsup_ramp': 0,
}
_STABILITY_DEFAULTS: dict[str, Any] = {
    'weight': 0.5,
    'ramp': 0.2,
    'grad': True,
    'ties': False,
    'mask': 'valid',
}


@dataclass(frozen=True)
class _Opinion:
    """What one student says about the weak views.

    Attributes:
        pseudo: Its targets, purified, of all B unlabelled images.
        own: Its targets as they were, of the n images that are trained on.
        probabilities: Of the same, shape (n, K, H, W), float32.
    """

    pseudo: PseudoLabel
    own: PseudoLabel
    probabilities: Tensor


@dataclass(frozen=True)
class _Batch:
    """A training batch: labelled images, the n unlabelled ones that train, and strong views.

    ``unsup_weight`` is how much the latter count at this step, in [0, 1].
    """

    sup: Tensor
    samples: SampleList
    valid: Tensor
    weak: Tensor
    views: Sequence[StrongView]
    unsup_weight: float


@MODELS.register_module()
class DualStudentSegmentor(BaseSegmentor):
    r"""Co2S (arXiv 2512.23035) for any two mmseg ``EncoderDecoder``.

    Both students see the same batch. Each labels the weak views for itself and learns from labelled
    images, from strong views mixed by CutMix, and from weak views whose features lose channels
    (UniMatch); and where the partner is surer than it is, from the partner's probabilities:

    .. math:: L = w_x L_x + w_s \overline{L_s} + w_p L_{fp} + w_t(t) L_{sta}

    separately for each student (spec: ``(L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 + L_sta``).
    Labels come from each student itself in eval mode without gradient, or from its EMA. Gradients
    are computed pass by pass, so that the activations of one student's clean images, or of its
    strong views, are in memory at a time (:func:`~mmseg_semi_rs.models.utils.early_backward`).

    A batch without unlabelled images trains both students by L_x alone, and so does every batch
    before ``unsup_start``.

    Args:
        students (dict): Two ``EncoderDecoder`` configs by name, ``dict(a=..., b=...)``. A student
            may have its own ``data_preprocessor`` (``SegDataPreProcessor``); its images are then
            normalised as that one does.
        ema (bool): Whether copies of the students, averaged by ``MeanTeacherHook``, label the
            images, and predict. Defaults to False.
        semi_train_cfg (dict, optional):

            - conf_thresh (float | list[float]): Confidence in [0, 1] from which a pixel gets weight
              1, and from which a student may teach; a list has one entry per class. The short
              form of ``gate=dict(type='FixedGate', threshold=...)``. Defaults to 0.95.
            - gate (dict | None): How pseudo labels get their weights: config of a
              :class:`~mmseg_semi_rs.models.gates.Gate`, of which each student has its own, and
              which replaces ``conf_thresh``. A student may teach where its weight is above 0.
              Defaults to None.
            - loss_weight (dict): ``sup``, ``strong`` (on the mean of the strong views), ``fp`` and
              ``distill`` (feature losses of a head). Default to 0.5, 0.25, 0.25 and 0.5.
            - cutmix (dict | None): Arguments of :class:`~mmseg_semi_rs.models.utils.CutMix`; each
              strong view draws its own boxes. None switches it off. Defaults to {}.
            - donors (int): How many of the unlabelled images, the last of the batch, are labelled
              but not trained on: they give their pixels to CutMix. With one image to train on
              there must be one. Defaults to 0, all train and give.
            - fp_drop (float | None): Share of the channels that the features of the weak views
              lose, in (0, 1); None switches L_fp off. Defaults to 0.5.
            - stability (dict | None): **weight**, peak of w_t, 0.5; **ramp**, share of the training
              from ``unsup_start`` to the peak, 0.2; **grad**, **ties** and **mask** are True, False
              and 'valid', and False, True and 'all' in the release: whether the loss has a
              gradient, whether equally confident students teach each other, whether padding is left
              out. None switches the loss off.
            - unsup_start (int | float): Supervised burn-in: iterations before the first pseudo
              label, or below 1 their share of the training. Defaults to 0.
            - unsup_ramp (int | float): Iterations after the start over which L_s and L_fp grow
              linearly from 0, or their share of the training. Defaults to 0.
        semi_test_cfg (dict, optional): ``predict_on``: a student's name or 'fused', the default;
            ``fusion``: 'mean_prob', the mean of both probabilities, or 'confidence', at each pixel
            those of the student that is surer. Defaults to 'mean_prob'.
        data_preprocessor (dict, optional): Config of a ``SemiDataPreprocessor``.
        init_cfg (None): Must be None, like the next two, which mmseg's ``init_model`` sets: they
            belong to the student.
        pretrained (None): See above.
        train_cfg (None): See above.

    Attributes:
        students (nn.ModuleDict): By name, sorted.
        teachers (nn.ModuleDict): Their averages, empty without ``ema``.
        purifiers (list[Purifier]): Called in turn on each student's pseudo labels in every step.
        last_step (dict): Of the last step, ``labelled`` (the samples of the labelled images) and,
            unless it was supervised, ``pseudo`` (by student, before CutMix) and ``samples`` (of the
            weak views).
        unsup_scale (float): Another factor of L_s, L_fp and L_sta, 1 unless a hook lowers it.

    Raises:
        ValueError: On unknown or contradictory settings.
    """

    def __init__(
        self,
        students: dict[str, dict],
        ema: bool = False,
        semi_train_cfg: dict | None = None,
        semi_test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: None = None,
        pretrained: None = None,
        train_cfg: None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        owner = type(self).__name__
        refuse_misplaced(owner, init_cfg=init_cfg, pretrained=pretrained, train_cfg=train_cfg)
        if len(students) != 2 or not all(
            name.isidentifier() and name != 'fused' and 'loss' not in name for name in students
        ):
            raise ValueError(
                f'{owner} has two students, whose names are not "fused" and do not contain "loss", '
                f'got {list(students)}: give students=dict(a=..., b=...).'
            )
        # By name: mmengine sorts the keys of the config that it saves, and the order of the
        # parameters, by which an optimizer is resumed, must not change with it.
        self.students: Any = nn.ModuleDict(
            {name: build_student(students[name], owner) for name in sorted(students)}
        )
        self.teachers: Any = nn.ModuleDict(
            {name: make_teacher(student) for name, student in self.students.items()} if ema else {}
        )
        self.settings = read_cfg(semi_train_cfg, _TRAIN_DEFAULTS, 'semi_train_cfg')
        test = read_cfg(
            semi_test_cfg, {'predict_on': 'fused', 'fusion': 'mean_prob'}, 'semi_test_cfg'
        )
        self.predict_on, self.fusion = test['predict_on'], test['fusion']
        self._check_settings()
        cutmix = self.settings['cutmix']
        self.cutmix: CutMix | None = None if cutmix is None else CutMix(**cutmix)
        self.renormalise: Any = nn.ModuleDict(
            {name: self._bind_inputs(name, student) for name, student in self.students.items()}
        )
        self.purifiers: list[Purifier] = []
        self.last_step: dict[str, Any] = {}
        self.unsup_scale = 1.0

    def _check_settings(self) -> None:
        counts = {name: student.decode_head.num_classes for name, student in self.students.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f'The students have num_classes {counts}: give both the same.')
        settings = self.settings
        settings['loss_weight'] = read_cfg(
            settings['loss_weight'], _TRAIN_DEFAULTS['loss_weight'], 'semi_train_cfg.loss_weight'
        )
        self.gates: Any = nn.ModuleDict(
            {
                name: build_gate(settings['gate'], settings['conf_thresh'], self.num_classes)
                for name in self.students
            }
        )
        self.schedule = UnsupervisedSchedule(settings['unsup_start'], settings['unsup_ramp'])
        drop, donors = settings['fp_drop'], settings['donors']
        if drop is not None and not 0 < drop < 1:
            raise ValueError(f'semi_train_cfg.fp_drop={drop} must be within (0, 1), or None.')
        if not isinstance(donors, int) or donors < 0 or (donors and settings['cutmix'] is None):
            raise ValueError(
                f'semi_train_cfg.donors={donors} must be a number of images, and 0 without cutmix.'
            )
        for name, weight in settings['loss_weight'].items():
            _check_weight(weight, f'loss_weight.{name}')
        if donors and settings['cutmix'].get('partner', 'roll') != 'roll':
            raise ValueError(
                f'semi_train_cfg.donors={donors} give their pixels in turn: remove '
                f'partner={settings["cutmix"]["partner"]!r} from cutmix.'
            )
        if settings['stability'] is not None:
            stability = settings['stability'] = read_cfg(
                settings['stability'], _STABILITY_DEFAULTS, 'semi_train_cfg.stability'
            )
            if stability['mask'] not in ('valid', 'all') or not 0 <= stability['ramp'] <= 1:
                raise ValueError(
                    f'semi_train_cfg.stability={stability} must have a ramp within [0, 1] and a '
                    "mask 'valid' or 'all'."
                )
            fixed = all(isinstance(gate, FixedGate) for gate in self.gates.values())
            if stability['mask'] == 'all' and not fixed:
                raise ValueError(
                    "semi_train_cfg.stability.mask='all' is the release's, whose gate is fixed: "
                    "choose mask='valid', or gate=None."
                )
            _check_weight(stability['weight'], 'stability.weight')
            for name in ('grad', 'ties'):
                if not isinstance(stability[name], bool):
                    raise ValueError(
                        f'semi_train_cfg.stability.{name}={stability[name]!r} must be True or '
                        'False.'
                    )
        known = (*self.students, 'fused')
        if self.predict_on not in known or self.fusion not in FUSIONS:
            raise ValueError(
                f'semi_test_cfg has predict_on={self.predict_on!r} and fusion={self.fusion!r}, '
                f'which must be one of {known} and one of {FUSIONS}.'
            )

    def _bind_inputs(self, name: str, student: Any) -> nn.Module:
        """Settle how a student's images are normalised."""
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
        for network in (student, self.teachers[name] if self.teachers else None):
            if network is not None and hasattr(network.decode_head, 'bind_source'):
                mean = getattr(shared, 'mean', torch.zeros(3)).flatten().tolist()
                std = getattr(shared, 'std', torch.ones(3)).flatten().tolist()
                network.decode_head.bind_source(mean, std)
        return nn.Identity()

    @property
    def num_classes(self) -> int:
        """Number of classes of both students."""
        return next(iter(self.students.values())).decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """Channels of the logits, one per class; test-time augmentation asks for it."""
        return self.num_classes

    @property
    def align_corners(self) -> bool:
        """How the first student's logits are resized."""
        return next(iter(self.students.values())).decode_head.align_corners

    @property
    def needs_burn_in(self) -> bool:
        """Whether the gates are led astray by students that nothing has trained."""
        return any(gate.needs_burn_in for gate in self.gates.values())

    def gate_of(self, network: str) -> Gate:
        """The gate of the labels that a student makes; of both together, the first one's."""
        return self.gates[network if network in self.gates else next(iter(self.gates))]

    @property
    def averages(self) -> list[tuple[Any, Any]]:
        """Each teacher with its student; empty without ``ema``."""
        return [(teacher, self.students[name]) for name, teacher in self.teachers.items()]

    @property
    def predictors(self) -> Any:
        """The networks that label and predict: the averages, or the students themselves."""
        return self.teachers if self.teachers else self.students

    def init_weights(self) -> None:
        """Initialise the students, then make the teachers exact copies of them."""
        for student in self.students.values():
            student.init_weights()
        self.teachers.load_state_dict(self.students.state_dict() if self.teachers else {})
        self._is_init = True

    def train(self, mode: bool = True) -> DualStudentSegmentor:
        """Set the students' mode; teachers always stay in eval mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def update_teacher(self, momentum: float) -> None:
        """Move each teacher towards its student, see :func:`average_into`.

        Args:
            momentum (float): In [0, 1].
        """
        for teacher, student in self.averages:
            average_into(teacher, student, momentum)

    # Training.

    def loss(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> dict:
        """Compute the losses of one training step, and already their gradients.

        Args:
            inputs (dict[str, Tensor]): ``sup`` and, unless training is supervised only, ``weak``
                and one or more views whose names begin with ``strong``, each (B, 3, H, W).
            data_samples (dict[str, list[SegDataSample]]): The same keys; ``sup`` with
                ``gt_sem_seg``.

        Returns:
            dict[str, Tensor]: Scalars with the student's name in front; mmengine adds up those with
            'loss' in the name. ``<name>.taught`` is the share of valid pixels on which the partner
            teaches.

        Raises:
            ValueError: If CutMix finds a single unlabelled image, all are donors, or there is no
                strong view.
        """
        sup, samples = inputs['sup'], data_samples['sup']
        self.last_step = {'labelled': samples}
        valid = stack_valid(samples, sup.shape[-2:], sup.device)
        names = list(self.students)
        opinions: dict[str, _Opinion] = {}
        for gate in self.gates.values():
            gate.observe(samples)
        unsup_weight = self.schedule.weight()
        if 'weak' in inputs and unsup_weight is not None:
            batch = self._make_batch(inputs, samples, valid, self.unsup_scale * unsup_weight)
            opinions = self._ask(inputs['weak'], data_samples['weak'], len(batch.weak))
        else:
            batch = _Batch(sup, samples, valid, sup[:0], [], 0.0)
        losses: dict[str, Tensor] = {}
        for name, partner in zip(names, reversed(names), strict=True):
            student = self.students[name]

            params = [param for param in student.parameters() if param.requires_grad]
            if opinions:
                parts = self._learn(name, batch, opinions[name], opinions[partner])
            else:
                parts = [partial(self._supervise, name, batch)]
            found = early_backward(parts, params)
            losses.update({f'{name}.{key}': value for key, value in found.items()})
        return losses

    def check_batch(self, unlabelled: int) -> None:
        """Make sure that CutMix finds a partner, and that an image is left to train on.

        Args:
            unlabelled (int): Unlabelled images of a batch on one rank; 0 for supervised training.

        Raises:
            ValueError: If there are too few.
        """
        donors = self.settings['donors']
        if unlabelled and (unlabelled <= donors or (self.cutmix is not None and unlabelled == 1)):
            raise ValueError(
                f'A batch has {unlabelled} unlabelled images, of which semi_train_cfg.donors='
                f'{donors} only give pixels to CutMix: give the sampler more unlabelled images '
                '(batch_size, source_ratio), or set cutmix=None.'
            )

    def _make_batch(
        self, inputs: dict[str, Tensor], samples: SampleList, valid: Tensor, unsup_weight: float
    ) -> _Batch:
        """Draw the boxes of every strong view, and mix its images."""
        weak, donors = inputs['weak'], self.settings['donors']
        self.check_batch(len(weak))
        views = draw_views(inputs, self.cutmix, donors)
        trained = weak[: len(weak) - donors]
        return _Batch(inputs['sup'], samples, valid, trained, views, unsup_weight)

    @torch.no_grad()
    def _ask(self, weak: Tensor, samples: SampleList, count: int) -> dict[str, _Opinion]:
        """Let every student label the weak views; the first ``count`` images are trained on."""
        valid = stack_valid(samples, weak.shape[-2:], weak.device)
        opinions = {}
        for name in self.students:
            logits, pseudo = self.pseudo_label(name, weak, valid)
            own = pseudo.first(count)
            for purifier in self.purifiers:
                pseudo = purifier(pseudo, samples)
            opinions[name] = _Opinion(pseudo, own, logits[:count].float().softmax(dim=1))
        self.last_step |= {
            'pseudo': {name: opinion.pseudo for name, opinion in opinions.items()},
            'samples': samples,
        }
        return opinions

    def pseudo_label(self, name: str, images: Tensor, valid: Tensor) -> tuple[Tensor, PseudoLabel]:
        """Let one student, or its average, label images.

        Args:
            name (str): The student.
            images (Tensor): Weak views, shape (B, 3, H, W).
            valid (Tensor): False on padding, shape (B, H, W), bool.

        Returns:
            tuple[Tensor, PseudoLabel]: Logits (B, K, H, W) and targets (B, H, W), not purified.
        """
        logits = decode_in_eval(self.predictors[name], self.renormalise[name](images))
        return logits, self.gates[name](logits, valid)

    def _supervise(self, name: str, batch: _Batch) -> dict[str, Tensor]:
        student = self.students[name]
        images = self.renormalise[name](batch.sup)
        decoded = forward_student(student, images, batch.valid, {'sup': slice(None)})
        return self._weigh(
            sup=supervised_losses(student, decoded.logits, decoded.aux_logits, batch.samples),
            distill=decoded.feature_losses,
        )

    def _learn(
        self, name: str, batch: _Batch, opinion: _Opinion, partner: _Opinion
    ) -> list[Callable[[], dict[str, Tensor]]]:
        """The two parts of a student's losses: of the clean images, and of the strong views."""
        targets = [view.mix(opinion.pseudo) for view in batch.views]
        counts = [RankSum(target.valid.sum()) for target in targets]
        own_count = RankSum(opinion.own.valid.sum())
        # Feature losses are means over the images of both parts.
        share = len(batch.sup) / (len(batch.sup) + len(batch.views) * len(batch.weak))
        return [
            lambda: self._learn_clean(name, batch, opinion, partner, own_count, share),
            lambda: self._learn_strong(name, batch, targets, counts, 1.0 - share),
        ]

    def _learn_clean(
        self,
        name: str,
        batch: _Batch,
        opinion: _Opinion,
        partner: _Opinion,
        valid: RankSum,
        share: float,
    ) -> dict[str, Tensor]:
        """Losses of labelled images and weak views, which go through the student together."""
        student, own = self.students[name], opinion.pseudo.first(len(batch.weak))
        labelled, weak = slice(0, len(batch.sup)), slice(len(batch.sup), None)
        images = self.renormalise[name](torch.cat([batch.sup, batch.weak]))
        decoded = forward_student(
            student,
            images,
            torch.cat([batch.valid, own.valid]),
            {'sup': labelled, 'weak': weak},
        )
        aux_logits = [aux[labelled] for aux in decoded.aux_logits]
        groups = {
            'sup': supervised_losses(student, decoded.logits[labelled], aux_logits, batch.samples),
            'distill': {key: share * value for key, value in decoded.feature_losses.items()},
        }
        if self.settings['fp_drop'] is not None:
            drop = partial(F.dropout2d, p=self.settings['fp_drop'])
            feats = perturb_features(decoded.feats, drop, weak)
            with keep_running_statistics(student):
                logits = upsample(student, student.decode_head(feats), images)
            loss = consistency_loss(logits, own.labels, own.weight, valid)
            groups['fp'] = {'loss_fp': batch.unsup_weight * loss}
        losses = self._weigh(**groups)
        if self.settings['stability'] is not None:
            logits = upsample(student, decoded.logits[weak], images)
            losses.update(self._stabilise(name, logits, opinion, partner, valid))
        return losses

    def _learn_strong(
        self,
        name: str,
        batch: _Batch,
        targets: list[PseudoLabel],
        counts: list[RankSum],
        share: float,
    ) -> dict[str, Tensor]:
        """Losses of the strong views."""
        student = self.students[name]
        images = self.renormalise[name](torch.cat([view.images for view in batch.views]))
        valid = torch.cat([target.valid for target in targets])
        with keep_running_statistics(student):
            decoded = forward_student(student, images, valid, {'strong': slice(None)}, aux=False)
        logits = upsample(student, decoded.logits, images)
        return self._weigh(
            strong={'loss_strong': batch.unsup_weight * loss_of_views(logits, targets, counts)},
            distill={key: share * value for key, value in decoded.feature_losses.items()},
        )

    def _stabilise(
        self, name: str, logits: Tensor, opinion: _Opinion, partner: _Opinion, valid: RankSum
    ) -> dict[str, Tensor]:
        """The stability loss of one student, and on which share of its pixels it is taught."""
        settings = self.settings['stability']
        own, other = opinion.own, partner.own
        if settings['mask'] == 'all':
            own, other = (
                each.replace(
                    weight=(each.confidence >= self.gates[name].threshold[each.labels]).float(),
                    valid=torch.ones_like(each.valid),
                )
                for each in (own, other)
            )
        taught = taught_pixels(own, other, settings['ties'])
        denominator = RankSum(taught.sum())
        if not settings['grad']:
            logits = logits.detach()
        loss = stability_loss(logits, partner.probabilities, taught, denominator)
        hub = MessageHub.get_current_instance().runtime_info
        peak = self.unsup_scale * settings['weight']
        if 'max_iters' in hub:
            since = hub['iter'] - self.schedule.begin()
            peak *= stability_ramp(since, hub['max_iters'], settings['ramp'])
        share = (taught & opinion.own.valid).sum() / valid.per_rank()
        return {'loss_stability': peak * loss, 'taught': share}

    def _weigh(self, **groups: dict[str, Tensor]) -> dict[str, Tensor]:
        """Multiply losses by the weight of their group."""
        weights = self.settings['loss_weight']
        return {
            name: value * weights[group] if 'loss' in name else value
            for group, losses in groups.items()
            for name, value in losses.items()
        }

    # Inference.

    def predict_each(
        self, inputs: Tensor, data_samples: SampleList | None
    ) -> dict[str, SampleList]:
        """Predict with each network by its own test_cfg, and fuse the two.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list[SegDataSample], optional): With metainfo; left as they are.

        Returns:
            dict[str, list[SegDataSample]]: Of each student and ``'fused'``, that of ``predict_on``
            last.
        """
        found = {name: self._predict_one(name, inputs, data_samples) for name in self.predictors}
        found['fused'] = [
            fuse(first, second, self.fusion) for first, second in zip(*found.values(), strict=True)
        ]
        return dict(sorted(found.items(), key=lambda item: item[0] == self.predict_on))

    def predict(self, inputs: Tensor, data_samples: SampleList | None = None) -> SampleList:
        """Predict with the student ``predict_on`` names, or with both.

        Args:
            inputs (Tensor): Shape (B, 3, H, W).
            data_samples (list[SegDataSample], optional): With metainfo; see ``EncoderDecoder``.

        Returns:
            list[SegDataSample]: With ``pred_sem_seg`` and ``seg_logits`` at original size; the
            latter are log probabilities where two networks are fused.
        """
        if self.predict_on != 'fused':
            return self._predict_one(self.predict_on, inputs, data_samples)
        return self.predict_each(inputs, data_samples)['fused']

    def _predict_one(
        self, name: str, inputs: Tensor, data_samples: SampleList | None
    ) -> SampleList:
        samples = None if data_samples is None else [sample.clone() for sample in data_samples]
        return self.predictors[name].predict(self.renormalise[name](inputs), samples)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the student ``predict_on`` names; of both if they are fused."""
        names = self.predictors if self.predict_on == 'fused' else [self.predict_on]
        return tuple(
            level
            for name in names
            for level in self.predictors[name].extract_feat(self.renormalise[name](inputs))
        )

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return logits (B, K, H, W) by each network's test_cfg; log probabilities if fused."""
        return self._fused('inference', inputs, batch_img_metas)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[dict]) -> Tensor:
        """Return logits (B, K, H, W); log probabilities if two networks are fused."""
        return self._fused('encode_decode', inputs, batch_data_samples)

    def _fused(self, method: str, inputs: Tensor, metas: list[dict]) -> Tensor:
        names = list(self.predictors) if self.predict_on == 'fused' else [self.predict_on]
        logits = [
            getattr(self.predictors[name], method)(self.renormalise[name](inputs), deepcopy(metas))
            for name in names
        ]
        return logits[0] if len(logits) == 1 else fuse_logits(logits[0], logits[1], self.fusion)

    def _forward(self, inputs: Tensor, data_samples: SampleList | None = None) -> Tensor:
        """Return logits at the images' size (``mode='tensor'``)."""
        metas = [dict(img_shape=tuple(inputs.shape[-2:]))] * len(inputs)
        return self.encode_decode(inputs, metas)


def _check_weight(value: Any, name: str) -> None:
    """Refuse what is no factor of a loss."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f'semi_train_cfg.{name}={value!r} must be a number of 0 or more.')

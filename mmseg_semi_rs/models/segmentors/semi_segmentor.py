# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Base class of all segmentors that learn from labelled and unlabelled images."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from mmseg.models import BaseSegmentor, SegDataPreProcessor
from torch import Tensor

from ...structures import PseudoLabel, StepRecord
from ...utils.step_parts import step_part
from ..data_preprocessor import stack_valid
from ..gates import Gate, build_gate
from ..losses import RankSum
from ..protocols import AverageUpdater, Purifier
from ..utils import CutMix, read_cfg
from ..weights import foreign_weights_refused
from .schedule import UnsupervisedSchedule, check_burn_in
from .strong_views import StrongView, draw_views, loss_of_views
from .student import (
    Decoded,
    SampleList,
    average_into,
    decode_in_eval,
    fits,
    parts_told,
    refuse_misplaced,
    supervised_losses,
    upsample,
)


@dataclass
class SemiSettings:
    """The ``semi_train_cfg`` of any semi-supervised segmentor.

    Attributes:
        conf_thresh: Confidence in [0, 1] from which a pixel gets weight 1; a list has one entry per
            class. Short for ``gate=dict(type='FixedGate', threshold=...)``.
        gate: Config of the :class:`~mmseg_semi_rs.models.gates.Gate` that weights pseudo labels. It
            replaces ``conf_thresh``.
        soft_labels: Number of classes per pixel, 2 or more, that keep their probability as target
            of the unsupervised losses (:class:`~mmseg_semi_rs.structures.SoftLabel`). The gate
            still sets the weights. 0 uses only the most probable class.
        loss_weight: Factor, 0 or more, of each group of losses.
        cutmix: Arguments of :class:`~mmseg_semi_rs.models.utils.CutMix`. Each strong view draws its
            own boxes. None switches it off.
        unsup_start: Supervised burn-in: iterations before the first pseudo label, or, below 1, a
            share of the training. The EMA is updated during the burn-in too.
        unsup_ramp: Iterations after the start in which the unsupervised losses grow linearly from
            0, or, below 1, a share of the training.

    Raises:
        ValueError: If a value is out of its range.
    """

    #: The groups of losses with their default weights.
    LOSS_WEIGHT: ClassVar[Mapping[str, float]] = {'sup': 1.0, 'unsup': 1.0, 'distill': 1.0}

    conf_thresh: float | Sequence[float] = 0.95
    gate: Mapping[str, Any] | None = None
    soft_labels: int = 0
    loss_weight: Mapping[str, float] = field(default_factory=dict)
    cutmix: Mapping[str, Any] | None = field(default_factory=dict)
    unsup_start: int | float = 0
    unsup_ramp: int | float = 0

    def __post_init__(self) -> None:
        soft = self.soft_labels
        if isinstance(soft, bool) or not isinstance(soft, int) or soft < 0 or soft == 1:
            raise ValueError(
                f'semi_train_cfg.soft_labels={soft!r} must be a number of classes, 2 or more, or 0 '
                'for hard labels.'
            )
        if self.cutmix is not None:
            self.cutmix = read_cfg(self.cutmix, vars(CutMix()), 'semi_train_cfg.cutmix')
        name = 'semi_train_cfg.loss_weight'
        self.loss_weight = read_cfg(self.loss_weight, self.LOSS_WEIGHT, name)
        for group, weight in self.loss_weight.items():
            check_weight(weight, f'loss_weight.{group}')

    @classmethod
    def read(cls, cfg: Mapping[str, Any] | None) -> Any:
        """Create the settings from a config dict; raise ValueError for an unknown key."""
        return cls(**read_cfg(cfg, vars(cls()), 'semi_train_cfg'))


def check_weight(value: Any, name: str) -> None:
    """Raise ValueError unless ``value``, the setting ``name``, is a number of 0 or more."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f'semi_train_cfg.{name}={value!r} must be a number of 0 or more.')


@dataclass(frozen=True)
class SemiBatch:
    """A training batch as the students receive it.

    Attributes:
        sup: Labelled images, shape (B, 3, H, W).
        samples: Data samples of the labelled images, with ``gt_sem_seg``.
        valid: False on padding of the labelled images, shape (B, H, W), bool.
        weak: Weak views of the n unlabelled images that are trained on, (n, 3, H, W).
        views: Strong views of the same images; none in a supervised step, where n is 0.
        unsup_weight: Weight of the unsupervised losses at this step, 0 or more.
    """

    sup: Tensor
    samples: SampleList
    valid: Tensor
    weak: Tensor
    views: Sequence[StrongView] = ()
    unsup_weight: float = 0.0


class SemiSegmentor(BaseSegmentor):
    """Base of segmentors whose students learn from labelled images and from pseudo labels.

    In one step (:meth:`loss`), :meth:`make_pseudo_labels` labels the weak views, :meth:`draw_views`
    mixes the strong ones, and :meth:`learn` computes the losses of both with
    :meth:`supervised_loss` and :meth:`unsupervised_loss`. Batches without unlabelled images, and
    all batches before ``unsup_start``, have neither pseudo labels nor views. A subclass builds its
    networks, exposes them (:attr:`students`, :attr:`teachers`, :attr:`gates`, :attr:`predictors`)
    and implements :meth:`learn`.

    Args:
        semi_train_cfg: Training settings, see :attr:`settings_type`.
        data_preprocessor: Config of a ``SemiDataPreprocessor``.
        **misplaced: Arguments that belong to a student. None is accepted, as mmseg's ``init_model``
            passes it. A complete model inherited from a stock config is ignored with a warning.
            Anything else is an error.

    Attributes:
        students: The trained networks by name.
        teachers: Their EMA copies by the same names; empty without ``ema``.
        gates: One :class:`~mmseg_semi_rs.models.gates.Gate` per student.
        predictors: The networks that ``predict_on`` may name.
        predict_on: Name of the network used at inference.
        purifiers: Called in turn on each student's pseudo labels in every step.
        last_step: Record of the last training step.
        unsup_scale: Extra factor of the unsupervised losses; 1 unless a hook lowers it.
        average_is_kept: Whether something updates the teachers, or has announced that it will.

    Raises:
        ValueError: On unknown or contradictory settings.
        TypeError: On an argument that mmseg's segmentors do not have either.
    """

    settings_type: ClassVar[type[SemiSettings]] = SemiSettings
    students: Any
    teachers: Any
    gates: Any
    predict_on: str

    def __init__(
        self,
        semi_train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: dict | None = None,
        **misplaced: object,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        if type(self.data_preprocessor) is SegDataPreProcessor:
            raise ValueError(
                f'{type(self).__name__} got a SegDataPreProcessor, which knows no views: give its '
                "arguments to dict(type='SemiDataPreprocessor', ...)."
            )
        refuse_misplaced(type(self).__name__, **misplaced)
        self.settings: Any = self.settings_type.read(semi_train_cfg)
        self.schedule = UnsupervisedSchedule(self.settings.unsup_start, self.settings.unsup_ramp)
        cutmix = self.settings.cutmix
        self.cutmix: CutMix | None = None if cutmix is None else CutMix(**cutmix)
        self.purifiers: list[Purifier] = []
        self.last_step = StepRecord()
        self.unsup_scale = 1.0
        self.average_is_kept = False
        self._has_stepped = self._has_learnt = False
        self._register_load_state_dict_pre_hook(self.fill_networks)

    # Networks.

    @property
    def predictors(self) -> Any:
        """The networks that label and predict: the teachers, or the students if there are none."""
        return self.teachers or self.students

    @property
    def averages(self) -> list[tuple[Any, Any]]:
        """Pairs of teacher and student; empty without ``ema``."""
        return [(teacher, self.students[name]) for name, teacher in self.teachers.items()]

    @property
    def _first_head(self) -> Any:
        return next(iter(self.students.values())).decode_head

    @property
    def num_classes(self) -> int:
        """Number of classes of the students."""
        return self._first_head.num_classes

    @property
    def out_channels(self) -> int:
        """Channels of the logits, one per class; used by test-time augmentation."""
        return self.num_classes

    @property
    def align_corners(self) -> bool:
        """Value of ``align_corners`` with which the first student's logits are resized."""
        return self._first_head.align_corners

    @property
    def needs_burn_in(self) -> bool:
        """Whether a gate would be misled by a network that has not been trained yet."""
        return any(gate.needs_burn_in for gate in self.gates.values())

    def build_gate(self) -> Gate:
        """Build a gate from the settings."""
        gate = build_gate(self.settings.gate, self.settings.conf_thresh, self.num_classes)
        gate.soft_labels = self.settings.soft_labels
        return gate

    def gate_of(self, network: str) -> Gate:
        """Return the gate of a network's pseudo labels; the first gate if the network has none."""
        return self.gates[network if network in self.gates else next(iter(self.gates))]

    def adapt(self, network: str, images: Tensor) -> Tensor:
        """Normalise the images of a batch for one network; unchanged unless overridden."""
        return images

    def init_weights(self) -> None:
        """Initialise the students, then make the teachers exact copies of them.

        Raises:
            ValueError: If none of a student's pretrained weights would fit it.
        """
        for student in self.students.values():
            with foreign_weights_refused(student):
                student.init_weights()
        for teacher, student in self.averages:
            teacher.load_state_dict(student.state_dict())
        self._is_init = True

    def fill_networks(self, state: dict[str, Any], prefix: str, *_: object) -> None:
        """Complete a checkpoint that is about to be loaded, so that every network gets weights.

        The checkpoint of a single network, such as one of mmseg, fills every student that it fits.
        A teacher without weights of its own starts from those of its student.

        Args:
            state: Weights by name; changed in place.
            prefix: Prefix of this model's names in ``state``.

        Raises:
            ValueError: If the weights belong to none of the networks.
        """
        places = {id(module): f'{prefix}{name}.' for name, module in self.named_modules()}
        homes = {name: places[id(student)] for name, student in self.students.items()}
        foreign = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
            and key.removeprefix(prefix).split('.')[0] not in self._modules
        }
        if foreign and not any(key.startswith(tuple(homes.values())) for key in state):
            fitting = [name for name in homes if fits(foreign, self.students[name])]
            if not fitting:
                raise ValueError(
                    f'The checkpoint, with weights such as {next(iter(foreign))}, is none of '
                    f'{type(self).__name__} nor of the {" or ".join(homes)} in it: give one of '
                    'such a network, or the weights of its backbone as init_cfg=dict('
                    "type='Pretrained', checkpoint=...) of the backbone."
                )
            print_log(f'The checkpoint of one network fills {fitting}.', logger='current')
            for key, value in foreign.items():
                del state[prefix + key]
                state.update({homes[name] + key: value for name in fitting})
        for name, teacher in self.teachers.items():
            home, average = homes[name], places[id(teacher)]
            if not any(key.startswith(average) for key in state):
                loaded = [key for key in state if key.startswith(home)]
                state.update({average + key.removeprefix(home): state[key] for key in loaded})

    def train(self, mode: bool = True) -> Any:
        """Set the students' mode; teachers always stay in eval mode."""
        super().train(mode)
        for teacher in self.teachers.values():
            teacher.eval()
        return self

    @step_part('EMA update')
    def update_teacher(self, keep: float) -> None:
        """Move each teacher towards its student, see :func:`average_into`.

        Args:
            keep: Share of the old weights that is kept, in [0, 1].
        """
        self.average_is_kept = True
        for teacher, student in self.averages:
            average_into(teacher, student, keep)

    # Training.

    def validate_setup(
        self, sampler: object, hooks: Sequence[Hook], max_iters: int, trained: bool
    ) -> None:
        """Raise an error before the first step if the training could not do what it is asked to.

        Args:
            sampler: Sampler of the training data.
            hooks: Hooks of the runner.
            max_iters: Length of the training in iterations.
            trained: Whether the training starts from a checkpoint.

        Raises:
            ValueError: If nothing normalises the images, no pseudo label would ever be made, or no
                hook updates the teachers.
        """
        if type(self.data_preprocessor) is BaseDataPreprocessor:
            raise ValueError(
                f'{type(self).__name__} has no data_preprocessor: give it '
                "dict(type='SemiDataPreprocessor', mean=..., std=..., bgr_to_rgb=True, size=...)."
            )
        check_burn_in(self.schedule, self.needs_burn_in, max_iters, trained)
        if not any(isinstance(hook, AverageUpdater) for hook in hooks):
            self._refuse_unkept_average()

    def _refuse_unkept_average(self) -> None:
        if self.averages:
            raise ValueError(
                f'{type(self).__name__} has ema=True, but no hook updates the average, which '
                "would stay at the initial weights: add dict(type='MeanTeacherHook') to "
                'custom_hooks, or set ema=False.'
            )

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Train one step; a second one is refused if nothing updates the teachers."""
        if self._has_stepped and not self.average_is_kept:
            self._refuse_unkept_average()
        self._has_stepped = True
        return super().train_step(data, optim_wrapper)

    def loss(self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]) -> dict:
        """Compute the losses of one training step, see :meth:`learn`.

        Args:
            inputs: ``sup`` and, unless training is supervised only, ``weak`` and one or more views
                whose names begin with ``strong``; each (B, 3, H, W), normalised.
            data_samples: Data samples by the same keys; those of ``sup`` have ``gt_sem_seg``.

        Returns:
            Scalars; mmengine adds up those with 'loss' in the name.

        Raises:
            ValueError: If the branches do not match the settings or, in the first step, if a part
                of a student fails on the batch.
        """
        if self._has_learnt:
            return self._compute_losses(inputs, data_samples)
        with parts_told(self):
            losses = self._compute_losses(inputs, data_samples)
        self._has_learnt = True
        return losses

    @step_part('student forward')
    def _compute_losses(
        self, inputs: dict[str, Tensor], data_samples: dict[str, SampleList]
    ) -> dict:
        _check_branches(inputs)
        sup, samples = inputs['sup'], data_samples['sup']
        self.last_step = StepRecord(samples)
        valid = stack_valid(samples, sup.shape[-2:], sup.device)
        for gate in self.gates.values():
            gate.observe(samples)
        unsup_weight = self.schedule.weight()
        if 'weak' not in inputs or unsup_weight is None:
            return self.learn(SemiBatch(sup, samples, valid, sup[:0]), {})
        views = self.draw_views(inputs)
        pseudo = self.make_pseudo_labels(inputs['weak'], data_samples['weak'])
        self.last_step = StepRecord(samples, data_samples['weak'], pseudo)
        weak = inputs['weak'][: len(views[0].images)]
        scale = self.unsup_scale * unsup_weight
        return self.learn(SemiBatch(sup, samples, valid, weak, views, scale), pseudo)

    def draw_views(self, inputs: Mapping[str, Tensor]) -> list[StrongView]:
        """Draw the CutMix boxes of every strong view, and mix its images."""
        return draw_views(inputs, self.cutmix)

    @torch.no_grad()
    @step_part('EMA forward')
    def make_pseudo_labels(self, images: Tensor, samples: SampleList) -> dict[str, PseudoLabel]:
        """Label the weak views for every student, and let the purifiers correct the labels.

        Args:
            images: Weak views, shape (B, 3, H, W).
            samples: Their data samples, with ``valid``.

        Returns:
            Pseudo labels (B, H, W) by student.
        """
        valid = stack_valid(samples, images.shape[-2:], images.device)
        pseudo_labels = {}
        for name in self.students:
            pseudo = self.label(name, images, valid)
            for purifier in self.purifiers:
                with step_part('purification'):
                    pseudo = purifier(pseudo, samples)
            pseudo_labels[name] = pseudo
        return pseudo_labels

    def label(self, name: str, images: Tensor, valid: Tensor) -> PseudoLabel:
        """Label images (B, 3, H, W) by a student's teacher, or by itself; not yet purified."""
        network = (self.teachers or self.students)[name]
        return self.gates[name](decode_in_eval(network, self.adapt(name, images)), valid)

    @abstractmethod
    def learn(self, batch: SemiBatch, pseudo: Mapping[str, PseudoLabel]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: Labelled images, and the strong views if there are pseudo labels.
            pseudo: Pseudo labels (B, H, W) of all B weak views by student; empty in a supervised
                step.

        Returns:
            Named scalars.
        """

    def supervised_loss(
        self, name: str, decoded: Decoded, samples: SampleList
    ) -> dict[str, Tensor]:
        """Losses of labelled images by a student's own heads, with the names that mmseg uses."""
        return supervised_losses(self.students[name], decoded, samples)

    def unsupervised_loss(
        self, name: str, logits: Tensor, targets: Sequence[PseudoLabel], counts: Sequence[RankSum]
    ) -> Tensor:
        """Loss of a student's logits (V * n, K, h, w) of V strong views, see ``loss_of_views``."""
        size = targets[0].labels.shape[-2:]
        return loss_of_views(upsample(self.students[name], logits, size), targets, counts)

    def weigh(
        self, groups: Mapping[str, Mapping[str, Tensor]], divisor: int = 1
    ) -> dict[str, Tensor]:
        """Multiply losses by their group's weight / ``divisor``, and merge the groups."""
        weights = self.settings.loss_weight
        return {
            name: value * (weights[group] / divisor) if 'loss' in name else value
            for group, losses in groups.items()
            for name, value in losses.items()
        }

    # Inference.

    def predict_each(
        self, inputs: Tensor, data_samples: SampleList | None
    ) -> dict[str, SampleList]:
        """Predict with every network, each by its own test_cfg.

        Args:
            inputs: Images, shape (B, 3, H, W).
            data_samples: Samples with metainfo; they are not changed.

        Returns:
            Predictions by the names that ``predict_on`` may have; the one of ``predict_on`` is
            last.
        """
        samples = {name: self._predict(name, inputs, data_samples) for name in self.predictors}
        return dict(sorted(samples.items(), key=lambda item: item[0] == self.predict_on))

    def predict(self, inputs: Tensor, data_samples: SampleList | None = None) -> SampleList:
        """Predict with the network that ``predict_on`` names, as ``EncoderDecoder`` does."""
        return self._predict(self.predict_on, inputs, data_samples)

    def _predict(self, name: str, inputs: Tensor, data_samples: SampleList | None) -> SampleList:
        samples = None if data_samples is None else [sample.clone() for sample in data_samples]
        return self._call('predict', name, inputs, samples)

    def _call(self, method: str, name: str, inputs: Tensor, *arguments: Any) -> Any:
        """Call a method of a network on images that are normalised for it."""
        return getattr(self.predictors[name], method)(self.adapt(name, inputs), *arguments)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the predicting network's features."""
        return self._call('extract_feat', self.predict_on, inputs)

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Return the predicting network's logits (B, K, H, W) by its test_cfg, whole or slide."""
        return self._call('inference', self.predict_on, inputs, batch_img_metas)

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[dict]) -> Tensor:
        """Return the predicting network's logits (B, K, H, W)."""
        return self._call('encode_decode', self.predict_on, inputs, batch_data_samples)

    def _forward(self, inputs: Tensor, data_samples: SampleList | None = None) -> Tensor:
        """Return the predicting network's raw logits (``mode='tensor'``)."""
        return self._call('_forward', self.predict_on, inputs, data_samples)


def _check_branches(inputs: Any) -> None:
    """Raise ValueError if a batch has no labelled images, or has images that nothing would use."""
    names = sorted(inputs) if isinstance(inputs, Mapping) else []
    known = all(name in ('sup', 'weak') or name.startswith('strong') for name in names)
    if 'sup' not in names or not known or (len(names) > 1 and 'weak' not in names):
        raise ValueError(
            f'A batch has the branches {names}, but needs "sup" for labelled images and, for '
            'unlabelled ones, "weak" and "strong", "strong_1", ...: name them so in MultiBranch, '
            'and let a SemiSampler put labelled images into every batch.'
        )

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Distillation from several frozen foundation models, around any decode head (RS-MTDF)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..data_preprocessor import stack_valid
from ..losses import RankSum
from ..utils import read_cfg
from ..utils.renormalise import image_statistics
from .decode_head_wrapper import DecodeHeadWrapper
from .distill_features import DistillFeatures
from .distill_options import BRANCHES, DistillLossOptions, positive_int, weights_by_name
from .feature_distillation import masked_feature_mse, normalise_target, valid_tokens
from .translators import TokenProjection, TokenTranslator, resample_tokens

STUDENT_VIEWS = ('resized', 'shared')


class Teacher(Protocol):
    """Interface of a teacher as the head uses it; implemented by :class:`FrozenTeacher`.

    Attributes:
        channels: Number of channels of the features.
        input_size: Long side in pixels to which images are resized; None keeps their size.
    """

    channels: int
    input_size: int | None

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image of the given size is resized."""
        ...

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the features of an image of the given size."""
        ...

    def build(self, device: torch.device) -> Any:
        """Create the network with its weights, unless this was done before."""
        ...

    def bind_source(self, mean: Sequence[float], std: Sequence[float]) -> Any:
        """Set the statistics (0-255 scale) with which incoming images are normalised."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Features of normalised images (B, 3, H, W), shape (B, channels, h, w), float32."""
        ...

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> Any: ...


@MODELS.register_module()
class MultiTeacherDistillHead(DecodeHeadWrapper):
    r"""Decode head that also lets the student predict the patch features of frozen teachers.

    For each teacher :math:`i`, :math:`F_i` are the student's tokens on the teacher's grid. A
    translator :math:`T_i` (Linear, ReLU, Linear) predicts the teacher's features :math:`G_i` from
    them, and the prediction is fused into the deepest input :math:`F` of the wrapped decode head:

    .. math::
        L_i = \frac{1}{n} \operatorname{mean}\bigl(T_i(F_i) - G_i\bigr)^2, \qquad
        F' = w_0 F + \sum_i w_i P_i\bigl(U(T_i(F_i))\bigr)

    where n is the number of teachers, :math:`P_i` a linear layer and :math:`U` bilinear resizing
    (align_corners) to the grid of :math:`F`. The student's own predictions are fused, so inference
    neither needs nor builds a teacher. Nothing is detached: the segmentation loss also trains the
    translators, the projections and, through them, the encoder (RS-MTDF, arXiv 2506.08772, and its
    release).

    The teachers are not sub-modules: they are not in ``parameters()``, ``state_dict()``, the
    optimizer, the EMA or DDP buckets, and copies of the head share them. They follow ``.to()``.

    Args:
        decode_head: Config of any registered decode head. It computes the segmentation losses and
            predictions, and provides the attributes of this head.
        teachers: Configs of ``FrozenTeacher`` by name. The name appears in ``loss_distill_<name>``
            and in the checkpoint. An empty dict leaves the plain decode head.
        translator: ``dict(hidden=1024)``, the width between the two layers of each :math:`T_i`.
        fusion: ``dict(weights=...)`` with :math:`w_0` and :math:`w_i` by name, such as
            ``dict(student=0.8, dino=0.1, clip=0.1)``. A sequence, student first, is accepted if all
            teachers have the same weight. Defaults to 0.8 for the student and equal shares of 0.2
            for the teachers (0.8 / 0.1 / 0.1 for two, as published). A teacher of weight 0 gets no
            projection; 1 / 0 / 0 means no fusion.
        student_view: Source of :math:`F_i` if the teacher uses another image size than the student.
            'resized', as published: a second pass of the student on the image at that size, with
            gradient, also at inference (needs ``DistillEncoderDecoder``). 'shared': the student's
            deepest map resampled to the teacher's grid; this needs one pass and is cheaper, but is
            a different method.
        loss_distill: Options of the distillation loss:

            - ``loss_weight`` (float): Factor on every :math:`L_i`. 0 builds and runs no teacher.
              Defaults to 1.0.
            - ``mask`` (str): 'valid' excludes every token that touches padding; 'none' keeps all
              tokens, as released. Defaults to 'valid'.
            - ``target_norm`` (str): 'none' as published, 'channel' or 'layernorm', see
              :func:`~.feature_distillation.normalise_target`. Defaults to 'none'.
            - ``views`` (sequence of str): Which images of the student's batch are distilled, out
              of 'sup' (labelled) and 'strong' (unlabelled). Defaults to both, as published.
            - ``interval`` (int): Distil in every k-th iteration only; in the others the loss is 0.
              Defaults to 1.
        deepest_index: Index of the encoder output that is distilled and fused. None takes the last
            one that the decode head reads.
        image_stats: ``dict(mean=[...], std=[...])`` per channel on the 0-255 scale, with which the
            images for the teachers are normalised. This package's segmentors fill it in (see
            :func:`with_image_stats`). Defaults to None, unknown.
        init_cfg: Initialisation of this module. None keeps PyTorch's for translators and
            projections, as published.

    Raises:
        ValueError: If an option is unknown or out of range, the weights do not match the teachers,
            a teacher has neither a loss nor a weight, or the decode head does not read
            ``deepest_index``.
    """

    def __init__(
        self,
        decode_head: dict[str, Any],
        teachers: Mapping[str, dict[str, Any]],
        translator: Mapping[str, Any] | None = None,
        fusion: Mapping[str, Any] | None = None,
        student_view: str = 'resized',
        loss_distill: Mapping[str, Any] | None = None,
        deepest_index: int | None = None,
        image_stats: Mapping[str, Sequence[float]] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(decode_head, deepest_index, init_cfg)
        if student_view not in STUDENT_VIEWS:
            raise ValueError(
                f'student_view must be one of {STUDENT_VIEWS}, got {student_view!r}: '
                "'resized' runs the student again at a teacher's size, 'shared' resamples tokens."
            )
        self.student_view = student_view
        self.options = DistillLossOptions.read(loss_distill or {})
        self.teachers = _build_teachers(teachers)
        if image_stats:
            for teacher in self.teachers.values():
                teacher.bind_source(image_stats['mean'], image_stats['std'])
        weights = read_cfg(fusion, {'weights': None}, 'fusion')['weights']
        self.fusion_weights = weights_by_name(weights, list(self.teachers))
        self.student_weight = self.fusion_weights.pop('student')
        self._check_roles()
        width = self.deepest_channels
        hidden = read_cfg(translator, {'hidden': 1024}, 'translator')['hidden']
        hidden = positive_int(hidden, 'translator.hidden')
        self.translators = nn.ModuleDict(
            {
                name: TokenTranslator(width, hidden, teacher.channels)
                for name, teacher in self.teachers.items()
            }
        )
        self.projections = nn.ModuleDict(
            {
                name: TokenProjection(self.teachers[name].channels, width)
                for name, weight in self.fusion_weights.items()
                if weight
            }
        )

    def _check_roles(self) -> None:
        """Raise ValueError for weights with which a part would have no effect."""
        idle = [name for name, weight in self.fusion_weights.items() if not weight]
        if idle and not self.options.loss_weight:
            raise ValueError(
                f'The teachers {idle} have fusion weight 0 while loss_distill.loss_weight is 0, so '
                'that nothing would train their translators: remove them from teachers.'
            )
        if len(idle) == len(self.teachers) and self.student_weight != 1:
            raise ValueError(
                'Nothing is fused where no teacher has a weight, so the weight of the student must '
                f'be 1.0, got {self.student_weight}.'
            )

    # Teachers are not registered as sub-modules, so the head itself moves and initialises them.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        for teacher in self.teachers.values():
            teacher._apply(fn)
        return self

    def init_weights(self) -> None:
        """Initialise the wrapped head and this one, then load the teachers if they are needed."""
        super().init_weights()
        self._load_teachers()

    def _load_teachers(self) -> None:
        if self.options.loss_weight:
            device = next(self.parameters()).device
            for teacher in self.teachers.values():
                teacher.build(device)

    # Forward.

    def _needed(self, distil: bool) -> list[str]:
        """Names of the teachers whose features must be predicted."""
        return [name for name, weight in self.fusion_weights.items() if distil or weight]

    def _view_size(self, teacher: Teacher, size: tuple[int, int]) -> tuple[int, int] | None:
        """Image size of the extra student pass for a teacher; None if the main pass is used."""
        if self.student_view == 'shared' or teacher.input_size is None:
            return None
        view = teacher.input_shape(*size)
        return None if view == size else view

    def view_sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the image sizes for which the student needs an extra pass.

        Args:
            size: Height and width of the images in pixels.

        Returns:
            Each size once; empty for ``student_view='shared'``. In evaluation only the sizes that
            the fusion needs.
        """
        distil = self.training and self.options.loss_weight > 0
        sizes = (self._view_size(self.teachers[name], size) for name in self._needed(distil))
        return list(dict.fromkeys(view for view in sizes if view is not None))

    def predict_teachers(self, feats: Sequence[Tensor], distil: bool) -> dict[str, Tensor]:
        """Predict the teachers' features from those of the student.

        Args:
            feats: The encoder's outputs; :class:`DistillFeatures` if any teacher is needed.
            distil: Whether to predict for all teachers, or only for those that are fused.

        Returns:
            By teacher, shape (B, C_i, h_i, w_i) on the teacher's grid.

        Raises:
            ValueError: If ``feats`` lacks the images or a view that is needed.
        """
        names = self._needed(distil)
        if not names:
            return {}
        if not isinstance(feats, DistillFeatures):
            raise ValueError(
                'MultiTeacherDistillHead needs the images beside the features but got a plain '
                f"{type(feats).__name__}: set type='DistillEncoderDecoder' for the segmentor."
            )
        size = (feats.images.shape[2], feats.images.shape[3])
        predictions = {}
        for name in names:
            teacher = self.teachers[name]
            view = self._view_size(teacher, size)
            if view is not None and view not in feats.views:
                raise ValueError(
                    f'The teacher {name!r} needs the student at {view} px but the features carry '
                    f'views at {sorted(feats.views)}: put the model in train mode before asking '
                    "for losses, or set student_view='shared'."
                )
            student = feats[self.deepest_index] if view is None else feats.views[view]
            student = resample_tokens(student, teacher.grid(*size))
            predictions[name] = self.translators[name](student)
        return predictions

    def fuse(self, feats: Sequence[Tensor], predictions: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Add the predicted teacher features to the deepest input of the decode head.

        The projection runs on the teacher's grid, before resizing. As it is affine and the weights
        of bilinear interpolation sum to one, the order does not change the result; the resized map
        then has the student's width instead of the teacher's.

        Args:
            feats: The encoder's outputs.
            predictions: Output of :meth:`predict_teachers`.

        Returns:
            ``feats`` with one level replaced.
        """
        if not self.projections or not isinstance(feats, DistillFeatures):
            return feats
        deepest = feats[self.deepest_index]
        fused = self.student_weight * deepest
        for name, projection in self.projections.items():
            projected = projection(predictions[name])
            if projected.shape[2:] != deepest.shape[2:]:
                projected = F.interpolate(
                    projected, deepest.shape[2:], mode='bilinear', align_corners=True
                )
            fused = fused + self.fusion_weights[name] * projected
        return feats.with_level(self.deepest_index, fused)

    def forward(self, feats: Sequence[Tensor]) -> Any:
        """Decode without running a teacher, as at inference.

        Args:
            feats: The encoder's outputs; :class:`DistillFeatures` if any teacher has a fusion
                weight.

        Returns:
            Output of the wrapped head, usually logits of shape (B, K, h, w).
        """
        return self.decode_head(self.fuse(feats, self.predict_teachers(feats, distil=False)))

    def predict(
        self, feats: Sequence[Tensor], batch_img_metas: list[dict], test_cfg: Any
    ) -> Tensor:
        """Predict logits at image size by the wrapped head; no teacher is built or run.

        Args:
            feats: As in :meth:`forward`.
            batch_img_metas: Metainfo of each image.
            test_cfg: Test options of the segmentor.

        Returns:
            Logits, shape (B, K, H, W).
        """
        fused = self.fuse(feats, self.predict_teachers(feats, distil=False))
        return self.decode_head.predict(fused, batch_img_metas, test_cfg)

    def forward_train(
        self,
        feats: Sequence[Tensor],
        valid: Tensor,
        branches: Mapping[str, slice] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Decode and compute the distillation losses.

        Args:
            feats: :class:`DistillFeatures` of the student's batch.
            valid: False on padding, shape (B, H, W), bool, at image size.
            branches: Rows of labelled ('sup') and unlabelled ('strong') images. Only needed if
                ``loss_distill.views`` is not both.

        Returns:
            Output of the wrapped head, usually logits (B, K, h, w), and ``loss_distill_<name>`` for
            each teacher; the sum of these losses is L_dis.
        """
        fused, losses = self._fuse_and_distil(feats, valid, branches)
        return self.decode_head(fused), losses

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: list, train_cfg: Any
    ) -> dict[str, Tensor]:
        """Compute segmentation and distillation losses of labelled images, for EncoderDecoder.

        Padding is taken from the samples' ``valid`` field or the preprocessor's metainfo. Pixels
        with the ignored label show real content and are distilled.

        Args:
            feats: :class:`DistillFeatures` of the batch.
            batch_data_samples: B samples with ``gt_sem_seg``.
            train_cfg: Training options of the segmentor.

        Returns:
            The wrapped head's losses and ``loss_distill_<name>``.
        """
        valid = None
        if isinstance(feats, DistillFeatures):
            images = feats.images
            valid = stack_valid(batch_data_samples, images.shape[2:], images.device)
        fused, losses = self._fuse_and_distil(feats, valid, {'sup': slice(None)})
        return {**self.decode_head.loss(fused, batch_data_samples, train_cfg), **losses}

    def _fuse_and_distil(
        self,
        feats: Sequence[Tensor],
        valid: Tensor | None,
        branches: Mapping[str, slice] | None,
    ) -> tuple[Sequence[Tensor], dict[str, Tensor]]:
        distil = bool(self.teachers) and self.options.loss_weight > 0
        predictions = self.predict_teachers(feats, distil)
        losses: dict[str, Tensor] = {}
        if distil and isinstance(feats, DistillFeatures) and valid is not None:
            losses = self._distillation_losses(feats.images, valid, predictions, branches)
        return self.fuse(feats, predictions), losses

    def _distillation_losses(
        self,
        images: Tensor,
        valid: Tensor,
        predictions: Mapping[str, Tensor],
        branches: Mapping[str, slice] | None,
    ) -> dict[str, Tensor]:
        """Run the teachers on the images to distil, and compute the squared errors."""
        rows = self._distilled_rows(branches)
        if not rows or not self._is_distilling_step():
            # Zeros with a gradient: every rank must use every translator in every step (I13).
            return {f'loss_distill_{name}': 0.0 * p.mean() for name, p in predictions.items()}
        self._load_teachers()
        images, valid = _take(images, rows), _take(valid, rows)
        counted, denominators = {}, {}
        for name, prediction in predictions.items():
            grid = (prediction.shape[2], prediction.shape[3])
            mask = valid if self.options.mask == 'valid' else torch.ones_like(valid)
            counted[name] = valid_tokens(mask, grid)
            denominators[name] = RankSum(counted[name].sum())
        factor = self.options.loss_weight / len(predictions)
        losses = {}
        for name, prediction in predictions.items():
            with torch.no_grad():
                target = self.teachers[name](images)
                target = normalise_target(target.float(), counted[name], self.options.target_norm)
            losses[f'loss_distill_{name}'] = factor * masked_feature_mse(
                _take(prediction, rows), target, counted[name], denominators[name]
            )
        return losses

    def _distilled_rows(self, branches: Mapping[str, slice] | None) -> list[slice]:
        if branches is None:
            if set(self.options.views) != set(BRANCHES):
                raise ValueError(
                    f'loss_distill.views={self.options.views} needs to know which images of the '
                    'batch are labelled: give forward_train its argument branches, or distil both '
                    f'views {BRANCHES}.'
                )
            return [slice(None)]
        return [branches[name] for name in self.options.views if name in branches]

    def _is_distilling_step(self) -> bool:
        """Whether this iteration distils; always true outside mmengine's training loop."""
        if self.options.interval == 1:
            return True
        iteration = MessageHub.get_current_instance().get_info('iter', 0)
        return int(iteration) % self.options.interval == 0

    def extra_repr(self) -> str:
        """Name the teachers, which ``repr`` does not list because they are not sub-modules."""
        weights = {'student': self.student_weight, **self.fusion_weights}
        return f'teachers={list(self.teachers)}, fusion={weights}, view={self.student_view!r}'


def with_image_stats(head: Any, preprocessor: nn.Module) -> Any:
    """Add the preprocessor's image statistics to the config of a distillation head.

    Args:
        head: Config of any decode head, or of a cascade of them.
        preprocessor: Normalises the images. Without ``mean`` and ``std`` it passes raw pixels.

    Returns:
        The config, with ``image_stats`` if it is a distillation head's and has none yet.
    """
    kind = head.get('type') if isinstance(head, Mapping) else None
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(kind, type) and issubclass(kind, MultiTeacherDistillHead)):
        return head
    mean, std = (values.flatten().tolist() for values in image_statistics(preprocessor))
    return {'image_stats': dict(mean=mean, std=std), **head}


def _build_teachers(configs: Mapping[str, dict[str, Any]]) -> dict[str, Teacher]:
    """Build the teachers in the order of their names.

    The sorted order keeps the order of parameters, by which an optimizer's state is resumed, since
    mmengine sorts the keys of the config that it saves. The result is a plain dict, so nn.Module
    does not register the teachers.
    """
    for name in configs:
        if not name.isidentifier() or name == 'student':
            raise ValueError(
                f"A teacher cannot be called {name!r}: give it a Python name other than 'student'."
            )
    return {
        name: MODELS.build({'type': 'FrozenTeacher', **configs[name]}) for name in sorted(configs)
    }


def _take(batch: Tensor, rows: Sequence[slice]) -> Tensor:
    taken = [batch[row] for row in rows]
    return taken[0] if len(taken) == 1 else torch.cat(taken)

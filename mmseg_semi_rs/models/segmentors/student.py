# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What semi-supervised segmentors do with one network, an mmseg ``EncoderDecoder``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmseg.models.decode_heads import (
    DAHead,
    DDRHead,
    EncHead,
    IterativeDecodeHead,
    PIDHead,
    VPDDepthHead,
)
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, FocalLoss
from mmseg.models.losses.focal_loss import py_sigmoid_focal_loss
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...compat import missing_operator
from ..backbones import drop_unread_stages
from ..decode_heads import with_image_stats
from ..losses import ValidCrossEntropyLoss
from ..protocols import HeadWithFeatureLosses
from ..utils import forget_recomputation
from ..utils.options import of_mmdet

SampleList = list[SegDataSample]

#: Which output of a head with several are the logits by which its own ``predict`` goes.
_MAIN_OUTPUT = {EncHead: 0, DAHead: 0, DDRHead: 0, PIDHead: 1, IterativeDecodeHead: -1}

#: Losses that give 0 where every pixel is ignored.
_PIXELWISE = (ValidCrossEntropyLoss, CrossEntropyLoss)


class Decoded(NamedTuple):
    """What one pass of a student gives.

    Attributes:
        feats: Of ``extract_feat``.
        logits: Of the decode head, shape (B, K, h, w).
        outputs: All that the decode head gives, for its own loss; the logits or several tensors.
        aux_outputs: The same of each auxiliary head.
        feature_losses: Of a head with losses on features, else empty.
    """

    feats: tuple[Tensor, ...]
    logits: Tensor
    outputs: Any
    aux_outputs: list[Any]
    feature_losses: dict[str, Tensor]

    def rows(self, rows: slice) -> Decoded:
        """What the heads gave of some images; features and their losses stay those of all."""
        return self._replace(
            logits=self.logits[rows],
            outputs=_take(self.outputs, rows),
            aux_outputs=[_take(outputs, rows) for outputs in self.aux_outputs],
        )


def _take(outputs: Any, rows: slice) -> Any:
    if isinstance(outputs, Tensor):
        return outputs[rows]
    return [_take(output, rows) for output in outputs]


_OF_A_STUDENT = (
    *('backbone', 'neck', 'decode_head', 'auxiliary_head', 'train_cfg', 'test_cfg'),
    *('pretrained', 'init_cfg'),
)


def refuse_misplaced(owner: str, **given: object) -> None:
    """Refuse what belongs to a student, unless it is all of a model that a config inherits from."""
    unknown = sorted(set(given) - set(_OF_A_STUDENT))
    if unknown:
        raise TypeError(
            f'{owner} has no arguments {unknown}: correct their names{of_mmdet(unknown)}.'
        )
    values = {name: value for name, value in given.items() if value is not None}
    if {'backbone', 'decode_head'} <= set(values):
        print_log(
            f'{owner} has {", ".join(values)} of a config that it inherits from, beside its '
            'students: they are not used, and model=dict(_delete_=True, ...) leaves them out.',
            logger='current',
            level=logging.WARNING,
        )
        return
    for name, value in values.items():
        raise ValueError(f'{owner} takes no {name}={value!r}: give it to the student.')


def build_student(cfg: dict, owner: str, preprocessor: nn.Module) -> Any:
    """Build an ``EncoderDecoder`` that one map of logits can be taken from.

    Stages of its backbone behind the last level that a head reads are dropped, see
    :func:`~mmseg_semi_rs.models.backbones.drop_unread_stages`.

    Args:
        cfg: Its config.
        owner: Of the segmentor, for the message.
        preprocessor: What normalises its images, unless it has one of its own.

    Raises:
        ValueError: If it is no ``EncoderDecoder``, has a cascade of heads, one that does not
            classify pixels or as many logits as no softmax over its classes can take, or needs a
            compiled operator that is not there.
    """
    _check_kind(cfg, owner)
    own = cfg.get('data_preprocessor')
    source = MODELS.build(own) if isinstance(own, Mapping) else own or preprocessor
    head_cfg = with_image_stats(cfg['decode_head'], source)
    student: Any = MODELS.build({**cfg, 'decode_head': head_cfg})
    head = student.decode_head
    missing = missing_operator(student)
    if missing is not None:
        raise ValueError(
            f'The student has a {missing}, whose operator is compiled code that mmcv-lite does not '
            'have: install the full mmcv (built for your PyTorch), or choose a network that needs '
            'no compiled operator.'
        )
    channels = getattr(head, 'out_channels', head.num_classes)
    if channels != head.num_classes:
        raise ValueError(
            f'The student has out_channels={channels} for num_classes={head.num_classes}; {owner} '
            'takes a softmax over the classes: leave out_channels away (two classes have two).'
        )
    for part in (head, *auxiliary_heads(student)):
        padded = getattr(preprocessor, 'seg_pad_val', part.ignore_index)
        if part.ignore_index != padded:
            raise ValueError(
                f'The {type(part).__name__} of the student ignores the label {part.ignore_index}, '
                f'but data_preprocessor pads labels with seg_pad_val={padded}: set both alike.'
            )
    drop_unread_stages(student.backbone, last_level_read(student))
    forget_recomputation(student)
    return student


def _check_kind(cfg: Mapping[str, Any], owner: str) -> None:
    """Refuse, before it is built, a network that makes no map of logits from its images alone."""
    if not {'backbone', 'decode_head'} <= set(cfg):
        raise ValueError(
            f'{owner} got a student with {sorted(cfg)}: give it the backbone and decode_head of an '
            'EncoderDecoder.'
        )
    kind, heads = _class_of(cfg), cfg['decode_head']
    if isinstance(heads, (list, tuple)):
        raise ValueError(
            f'student type {kind.__name__!r} has a cascade of decode heads; {owner} works with one '
            'decode_head.'
        )
    if not issubclass(kind, EncoderDecoder):
        raise ValueError(
            f'student type {kind.__name__!r} is no EncoderDecoder, which {owner} works with: '
            'choose a network that is one.'
        )
    auxiliary = cfg.get('auxiliary_head') or []
    for head in (heads, *(auxiliary if isinstance(auxiliary, (list, tuple)) else [auxiliary])):
        part = _class_of(head)
        # A mask classifier makes no logits by pixel, and depth has no classes.
        own_loss = getattr(part, 'loss', None) is not BaseDecodeHead.loss
        wraps = hasattr(part, 'forward_train')
        if (own_loss and not wraps) or issubclass(part, VPDDepthHead):
            raise ValueError(
                f'The student has a {part.__name__}, whose loss needs more than logits of each '
                f"pixel: {owner} works with heads that keep the loss of mmseg's BaseDecodeHead."
            )
        if wraps and 'decode_head' in head:
            _check_kind({**cfg, 'decode_head': head['decode_head'], 'auxiliary_head': None}, owner)


def _class_of(cfg: Mapping[str, Any]) -> Any:
    """The class that a config names, by its name or by itself."""
    kind = cfg.get('type')
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ValueError(f'type={kind!r} is no registered part of a network: correct its name.')
    return found


def last_level_read(student: Any) -> int:
    """Find the last level of an ``EncoderDecoder``'s backbone that its heads read.

    Returns:
        Counted from 0; -1 where it is the last there is, or cannot be told: with a neck, and with a
        head that does not say what it reads or counts from the end.
    """
    if student.with_neck:
        return -1
    levels: list[int] = []
    for head in (student.decode_head, *auxiliary_heads(student)):
        # A head may wrap or hold others, which read for themselves.
        read = [part.in_index for part in head.modules() if hasattr(part, 'in_index')]
        flat = [level for at in read for level in ([at] if isinstance(at, int) else at)]
        if not flat or min(flat) < 0:
            return -1
        levels += flat
    return max(levels)


def upsample(student: Any, logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a student's logits (B, K, h, w) to ``size``, (H, W), as its decode head does."""
    align_corners = student.decode_head.align_corners
    return resize(logits, size=tuple(size), mode='bilinear', align_corners=align_corners)


def main_logits(head: Any, outputs: Any) -> Tensor:
    """Of all that a decode head gives, the logits by which its own ``predict`` goes.

    Raises:
        ValueError: If it gives several tensors and is not known to this package.
    """
    if isinstance(outputs, Tensor):
        return outputs
    head = getattr(head, 'decode_head', head)
    for kind, position in _MAIN_OUTPUT.items():
        if isinstance(head, kind):
            return outputs[position]
    raise ValueError(
        f'The decode head {type(head).__name__} gives {len(outputs)} outputs, of which it is not '
        'known which are the logits: choose a head that gives these alone.'
    )


def decode(network: Any, images: Tensor) -> Tensor:
    """Return a network's logits (B, K, H, W) of images (B, 3, H, W)."""
    outputs = network.decode_head(network.extract_feat(images))
    return upsample(network, main_logits(network.decode_head, outputs), images.shape[-2:])


@torch.no_grad()
def decode_in_eval(network: Any, images: Tensor) -> Tensor:
    """Like :func:`decode`, in eval mode and without gradient; the network's mode is kept."""
    training = network.training
    network.eval()
    logits = decode(network, images)
    network.train(training)
    # Autocast keeps the casts that it makes of weights. In torch before 2.10 or so those made here
    # have no gradient, and used again in the training pass they would leave the weights without
    # one, silently.
    torch.clear_autocast_cache()
    return logits


def auxiliary_heads(student: Any) -> list[Any]:
    """List a student's auxiliary heads."""
    if not student.with_auxiliary_head:
        return []
    heads = student.auxiliary_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def forward_student(
    student: Any,
    images: Tensor,
    valid: Tensor,
    branches: dict[str, slice],
    aux: bool = True,
    perturb: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None = None,
) -> Decoded:
    """Run a student once.

    Args:
        student: In training mode.
        images: Shape (B, 3, H, W).
        valid: False on padding, shape (B, H, W), bool.
        branches: Where in the batch the images of each branch are.
        aux: Whether to run the auxiliary heads.
        perturb: Changes the features before any head sees them.

    Raises:
        ValueError: The decode head gives several outputs, see :func:`main_logits`.
    """
    feats = student.extract_feat(images)
    if perturb is not None:
        feats = perturb(feats)
    head = student.decode_head
    if isinstance(head, HeadWithFeatureLosses):
        outputs, feature_losses = head.forward_train(feats, valid, branches)
    else:
        outputs, feature_losses = head(feats), {}
    aux_outputs = [aux_head(feats) for aux_head in auxiliary_heads(student)] if aux else []
    return Decoded(feats, main_logits(head, outputs), outputs, aux_outputs, feature_losses)


def mean_over_images(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], counts: tuple[int, int]
) -> dict[str, Tensor]:
    """Mean of the feature losses of two passes, weighted by their numbers of images."""
    share = counts[0] / sum(counts)
    return {name: share * value + (1 - share) * second[name] for name, value in first.items()}


def supervised_losses(student: Any, decoded: Decoded, samples: SampleList) -> dict[str, Tensor]:
    """Losses of labelled images by the student's own decode and auxiliary heads.

    Args:
        student: The student.
        decoded: What it gave of B images.
        samples: The B samples, with ``gt_sem_seg``.

    Returns:
        Scalars named as mmseg does: ``decode.loss_ce`` and ``decode.acc_seg``, the percentage of
        labelled pixels that are right; ``aux.loss_ce``, in a list of heads ``aux_0.loss_ce``.
    """
    losses = _head_losses(student.decode_head, decoded.outputs, samples, 'decode')
    heads = auxiliary_heads(student)
    several = heads and isinstance(student.auxiliary_head, nn.ModuleList)
    for index, (head, aux) in enumerate(zip(heads, decoded.aux_outputs, strict=True)):
        losses.update(_head_losses(head, aux, samples, f'aux_{index}' if several else 'aux'))
    return losses


def _head_losses(head: Any, outputs: Any, samples: SampleList, prefix: str) -> dict[str, Tensor]:
    """Compute a decode head's supervised losses.

    Heads that keep mmseg's ``loss_by_feat`` are followed step by step without its boolean indexing,
    which makes the host wait for the device; heads with their own are called. Images without a
    labelled pixel, as crops of sparse labels are, are kept from mmseg's other losses and samplers,
    which fail or give NaN.
    """
    inner: Any = getattr(head, 'decode_head', head)
    if type(inner).loss_by_feat is not BaseDecodeHead.loss_by_feat:
        if isinstance(inner, PIDHead) and 'gt_edge_map' not in samples[0]:
            raise ValueError(
                'PIDHead learns edges, which the labelled samples lack: add '
                "dict(type='GenerateEdge', edge_width=4) to the branch 'sup' of MultiBranch, "
                'before PackSemiInputs.'
            )
        own = inner.loss_by_feat(outputs, samples)
        return {f'{prefix}.{name}': value for name, value in own.items()}
    labels = torch.stack([sample.gt_sem_seg.data for sample in samples])
    logits = resize(
        main_logits(inner, outputs),
        size=labels.shape[-2:],
        mode='bilinear',
        align_corners=inner.align_corners,
    )
    parts = inner.loss_decode
    parts = list(parts) if isinstance(parts, nn.ModuleList) else [parts]
    if inner.sampler is not None or not all(isinstance(part, _PIXELWISE) for part in parts):
        labelled = (labels != inner.ignore_index).flatten(1).any(1)
        if not labelled.any():
            return {f'{prefix}.{part.loss_name}': 0.0 * logits.sum() for part in parts}
        logits, labels = logits[labelled], labels[labelled]
    weight = None if inner.sampler is None else inner.sampler.sample(logits, labels)
    labels = labels.squeeze(1)
    losses: dict[str, Tensor] = {}
    for part in parts:
        options = _loss_options(part, logits, labels, inner.ignore_index)
        call = partial(_focal_loss, part) if isinstance(part, FocalLoss) else part
        value = call(logits, labels, weight=weight, ignore_index=inner.ignore_index, **options)
        name = f'{prefix}.{part.loss_name}'
        losses[name] = losses[name] + value if name in losses else value
    counted = labels != inner.ignore_index
    right = (logits.detach().argmax(dim=1) == labels) & counted
    losses[f'{prefix}.acc_seg'] = 100.0 * right.sum() / counted.sum().clamp(min=1)
    return losses


def _loss_options(part: nn.Module, logits: Tensor, labels: Tensor, ignored: int) -> dict[str, Any]:
    """What mmseg's cross entropy needs to be told, which stumbles over ignored pixels."""
    if not isinstance(part, CrossEntropyLoss) or part.use_sigmoid or part.class_weight is None:
        return {}
    # It would look up the class weight of ignored pixels for its denominator.
    weights, counted = logits.new_tensor(part.class_weight), labels != ignored
    return {'avg_factor': (weights[labels.masked_fill(~counted, 0)] * counted).sum()}


def _focal_loss(
    part: Any, logits: Tensor, labels: Tensor, weight: Tensor | None, ignore_index: int
) -> Tensor:
    """Compute mmseg's ``FocalLoss`` by its formula in PyTorch.

    Called itself it takes wrong targets on a CPU, and an operator of the full mmcv on a GPU.
    """
    counted = labels != ignore_index
    classes = logits.shape[1]
    targets = F.one_hot(labels.masked_fill(~counted, 0), classes).reshape(-1, classes)
    loss = py_sigmoid_focal_loss(
        logits.float().movedim(1, -1).reshape(-1, classes),
        targets,
        weight=None if weight is None else weight.flatten(),
        gamma=part.gamma,
        alpha=part.alpha,
        class_weight=part.class_weight,
        valid_mask=counted.reshape(-1, 1),
        reduction=part.reduction,
    )
    return part.loss_weight * loss


@torch.no_grad()
def average_into(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """Move a teacher towards its student: t <- keep * t + (1 - keep) * s.

    Averages every trainable parameter and floating-point buffer in one fused call; integer buffers
    are copied. ``keep=0`` copies the student exactly.
    """
    pairs: list[tuple[Tensor, Tensor]] = [
        (mean, new)
        for mean, new in zip(teacher.parameters(), student.parameters(), strict=True)
        if new.requires_grad
    ]
    buffers = list(zip(teacher.buffers(), student.buffers(), strict=True))
    pairs += [pair for pair in buffers if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in pairs], [new for _, new in pairs], 1.0 - keep)
    for mean, new in buffers:
        if not mean.is_floating_point():
            mean.copy_(new)


def fits(weights: Mapping[str, Any], network: nn.Module) -> bool:
    """Whether weights are a network's: most of the fewer of the two are in both, of one shape."""
    own = network.state_dict()
    same = sum(
        name in own and own[name].shape == getattr(value, 'shape', None)
        for name, value in weights.items()
    )
    return 2 * same > min(len(weights), len(own))


def is_copy(teacher: nn.Module, student: nn.Module) -> bool:
    """Whether a teacher has exactly its student's parameters and buffers."""
    pairs = zip(teacher.state_dict().values(), student.state_dict().values(), strict=True)
    return all(torch.equal(mean, new) for mean, new in pairs)


def make_teacher(student: nn.Module) -> Any:
    """Copy a student into an EMA teacher: eval mode, no gradients."""
    return deepcopy(student).eval().requires_grad_(False)

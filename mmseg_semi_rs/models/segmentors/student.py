# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Functions of the semi-supervised segmentors for one network, an mmseg ``EncoderDecoder``."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.models.decode_heads import (
    DAHead,
    DDRHead,
    EncHead,
    IterativeDecodeHead,
    PIDHead,
    STDCHead,
    VPDDepthHead,
)
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...compat import missing_operator
from ...utils.errors import one_line
from ..backbones import drop_unread_stages
from ..decode_heads import with_image_stats
from ..losses import ValidCrossEntropyLoss
from ..protocols import HeadWithFeatureLosses
from ..utils import forget_recomputation
from ..utils.options import of_mmdet

SampleList = list[SegDataSample]

#: For heads with several outputs: index of the logits that the head's own ``predict`` uses.
_MAIN_OUTPUT = {EncHead: 0, DAHead: 0, DDRHead: 0, PIDHead: 1, IterativeDecodeHead: -1}

#: Losses that are 0 if every pixel is ignored.
_PIXELWISE = (ValidCrossEntropyLoss, CrossEntropyLoss)


class Decoded(NamedTuple):
    """Output of one forward pass of a student.

    Attributes:
        feats: Features from ``extract_feat``.
        logits: Main logits of the decode head, shape (B, K, h, w).
        outputs: Full output of the decode head for its own loss: logits, or several tensors.
        aux_outputs: Full output of each auxiliary head.
        feature_losses: Feature losses of the decode head; empty if it has none.
    """

    feats: tuple[Tensor, ...]
    logits: Tensor
    outputs: Any
    aux_outputs: list[Any]
    feature_losses: dict[str, Tensor]

    def rows(self, rows: slice) -> Decoded:
        """Select the head outputs of some images; features and feature losses are kept."""
        return self._replace(
            logits=self.logits[rows],
            outputs=_take(self.outputs, rows),
            aux_outputs=[_take(outputs, rows) for outputs in self.aux_outputs],
        )


def _take(outputs: Any, rows: slice | Tensor) -> Any:
    if isinstance(outputs, Tensor):
        return outputs[rows]
    return [_take(output, rows) for output in outputs]


_OF_A_STUDENT = (
    *('backbone', 'neck', 'decode_head', 'auxiliary_head', 'train_cfg', 'test_cfg'),
    *('pretrained', 'init_cfg'),
)


def refuse_misplaced(owner: str, **given: object) -> None:
    """Refuse arguments of a student; a whole inherited model is only ignored with a warning.

    Raises:
        TypeError: If an argument is unknown to mmseg's segmentors.
        ValueError: If an argument belongs to a student.
    """
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
    """Build an ``EncoderDecoder`` whose decode head gives one map of logits.

    Backbone stages behind the last level that a head reads are dropped, see
    :func:`~mmseg_semi_rs.models.backbones.drop_unread_stages`.

    Args:
        cfg: Config of the network.
        owner: Class name of the segmentor, for error messages.
        preprocessor: Normalises the images, unless the student has its own preprocessor.

    Raises:
        ValueError: If it is not an ``EncoderDecoder``, has a cascade of heads, has a head that does
            not classify pixels or that has a wrong number of logits, has a loss that would not be
            counted, has windows without a size, or needs a compiled operator that is missing.
    """
    _check_kind(cfg, owner)
    own = cfg.get('data_preprocessor')
    source = MODELS.build(own) if isinstance(own, Mapping) else own or preprocessor
    head_cfg = with_image_stats(cfg['decode_head'], source)
    test_cfg = cfg.get('test_cfg') or ConfigDict(mode='whole')
    student: Any = MODELS.build({**cfg, 'decode_head': head_cfg, 'test_cfg': test_cfg})
    head = student.decode_head
    missing = missing_operator(student)
    if missing is not None:
        raise ValueError(
            f'The student has a {missing}, whose operator is compiled code that mmcv-lite does not '
            'have: install the full mmcv (built for your PyTorch), or choose a network that needs '
            'no compiled operator.'
        )
    _check_inference(student.test_cfg)
    for part in (head, *auxiliary_heads(student)):
        classes, channels = part.num_classes, getattr(part, 'out_channels', part.num_classes)
        edges = isinstance(part, STDCHead)  # learns two classes of its own: edge or not
        if channels != classes or classes < 2 or not (edges or classes == head.num_classes):
            raise ValueError(
                f'The {type(part).__name__} of the student has out_channels={channels} for '
                f'num_classes={classes}, and {owner} takes a softmax over its {head.num_classes} '
                'classes: give every head their number, two or more, and leave out_channels away.'
            )
        for loss in _losses_of(part):
            if 'loss' not in loss.loss_name:
                raise ValueError(
                    f'{type(loss).__name__} of the {type(part).__name__} has loss_name='
                    f'{loss.loss_name!r}, which would count for nothing: begin it with "loss_".'
                )
        padded = getattr(preprocessor, 'seg_pad_val', part.ignore_index)
        if part.ignore_index != padded:
            raise ValueError(
                f'The {type(part).__name__} of the student ignores the label {part.ignore_index}, '
                f'but data_preprocessor pads labels with seg_pad_val={padded}: set both alike.'
            )
    drop_unread_stages(student.backbone, last_level_read(student))
    forget_recomputation(student)
    return student


def _check_inference(test_cfg: Any) -> None:
    """Raise ValueError for sliding windows without a size, which would fail in validation."""
    mode = test_cfg.get('mode', 'whole')
    windows = mode == 'slide' and {'crop_size', 'stride'} <= set(test_cfg)
    if mode != 'whole' and not windows:
        raise ValueError(
            f'The student has test_cfg={dict(test_cfg)}: give it mode="whole", or mode="slide" '
            'with crop_size and stride.'
        )


def _check_kind(cfg: Mapping[str, Any], owner: str) -> None:
    """Raise ValueError, before building, for a network that does not map images alone to logits."""
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
        # Mask classifiers make no logits for each pixel, and depth heads have no classes.
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
    """Return the class that a config names, by its registered name or directly."""
    kind = cfg.get('type')
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ValueError(f'type={kind!r} is no registered part of a network: correct its name.')
    return found


def last_level_read(student: Any) -> int:
    """Find the last backbone level that the heads of an ``EncoderDecoder`` read.

    Returns:
        Index from 0; -1 if it is the last level or cannot be told: with a neck, or with a head that
        does not say what it reads or that counts from the end.
    """
    if student.with_neck:
        return -1
    levels: list[int] = []
    for head in (student.decode_head, *auxiliary_heads(student)):
        # A head may wrap or hold other heads that read levels themselves.
        read = [part.in_index for part in head.modules() if hasattr(part, 'in_index')]
        flat = [level for at in read for level in ([at] if isinstance(at, int) else at)]
        if not flat or min(flat) < 0:
            return -1
        levels += flat
    return max(levels)


@contextmanager
def parts_told(model: nn.Module) -> Iterator[None]:
    """Turn an error into one sentence that names the part of the model that failed on a batch.

    Errors raised by this package, and lack of GPU memory, pass unchanged.

    Args:
        model: The model whose part is named.

    Raises:
        ValueError: Any other error was raised; it is the cause.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if str(frames[-1].f_globals.get('__name__')).startswith('mmseg_semi_rs'):
            raise
        names = {id(part): name for name, part in model.named_modules() if name}
        owners = (frame.f_locals.get('self') for frame in reversed(frames))
        part = next((part for part in owners if id(part) in names), model)
        raise ValueError(
            f'{type(part).__name__} ({names.get(id(part), "model")}) fails on the first batch '
            f'({type(error).__name__}: {one_line(error)}): correct its settings in the config.'
        ) from error


def upsample(student: Any, logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a student's logits (B, K, h, w) to ``size``, (H, W), as its decode head does."""
    align_corners = student.decode_head.align_corners
    return resize(logits, size=tuple(size), mode='bilinear', align_corners=align_corners)


def main_logits(head: Any, outputs: Any) -> Tensor:
    """Select, from the outputs of a decode head, the logits that its own ``predict`` uses.

    Raises:
        ValueError: If there are several outputs and the type of head is not known here.
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
    """Compute a network's logits (B, K, H, W) of images (B, 3, H, W)."""
    outputs = network.decode_head(network.extract_feat(images))
    return upsample(network, main_logits(network.decode_head, outputs), images.shape[-2:])


@torch.no_grad()
def decode_in_eval(network: Any, images: Tensor) -> Tensor:
    """Call :func:`decode` in eval mode and without gradient, then restore the network's mode."""
    training = network.training
    network.eval()
    logits = decode(network, images)
    network.train(training)
    # Autocast caches the casts of weights. In torch before about 2.10 those made here have no
    # gradient; if the training pass used them again, the weights would silently get no gradient.
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
    """Run the student once.

    Args:
        student: The network, in training mode.
        images: Normalised images, shape (B, 3, H, W).
        valid: False on padding, shape (B, H, W), bool.
        branches: Rows of the batch that belong to each branch.
        aux: Whether to run the auxiliary heads.
        perturb: Changes the features before the heads read them.

    Raises:
        ValueError: If the decode head has several outputs of unknown kind, see :func:`main_logits`.
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
        student: The network.
        decoded: Its output for B images.
        samples: The B samples, with ``gt_sem_seg``.

    Returns:
        Scalars named as in mmseg: ``decode.loss_ce`` and ``decode.acc_seg`` (pixel accuracy in
        percent), and ``aux.loss_ce``, or ``aux_0.loss_ce`` and so on with a list of heads.
    """
    losses = _head_losses(student.decode_head, decoded.outputs, samples, 'decode')
    heads = auxiliary_heads(student)
    several = heads and isinstance(student.auxiliary_head, nn.ModuleList)
    for index, (head, aux) in enumerate(zip(heads, decoded.aux_outputs, strict=True)):
        losses.update(_head_losses(head, aux, samples, f'aux_{index}' if several else 'aux'))
    return losses


def _first_stage(head: Any) -> Any:
    """Return the head without its wrapper; for K-Net, the first stage, which has the settings."""
    head = getattr(head, 'decode_head', head)
    return head.kernel_generate_head if isinstance(head, IterativeDecodeHead) else head


def _losses_of(head: Any) -> list[Any]:
    losses = _first_stage(head).loss_decode
    return list(losses) if isinstance(losses, nn.ModuleList) else [losses]


def _with_two_labels(sample: SegDataSample, ignore_index: int) -> SegDataSample:
    """Copy a sample, and label its first two pixels."""
    labels = sample.gt_sem_seg.data.clone()
    labels[..., 0, :2] = int(ignore_index == 0)
    copy = sample.clone()
    copy.gt_sem_seg = PixelData(data=labels)
    return copy


def _head_losses(head: Any, outputs: Any, samples: SampleList, prefix: str) -> dict[str, Tensor]:
    """Compute a decode head's supervised losses.

    For heads that keep mmseg's ``loss_by_feat``, its steps are repeated here without its boolean
    indexing, which makes the host wait for the device; other heads are called. Images with fewer
    than two labelled pixels (crops of sparse labels) are left out for losses and samplers that
    would fail or return NaN on them.
    """
    inner: Any = getattr(head, 'decode_head', head)
    parts, first = _losses_of(inner), _first_stage(inner)
    if first.sampler is not None or not all(isinstance(part, _PIXELWISE) for part in parts):
        labels = torch.stack([sample.gt_sem_seg.data for sample in samples])
        labelled = (labels != first.ignore_index).flatten(1).sum(1) > 1
        if not labelled.any():  # 0, by the same names as on other ranks, which average their logs
            samples = [_with_two_labels(sample, first.ignore_index) for sample in samples]
            found = _head_losses(head, outputs, samples, prefix)
            return {name: 0.0 * value for name, value in found.items()}
        outputs = _take(outputs, labelled)
        samples = [sample for sample, kept in zip(samples, labelled, strict=True) if kept]
    own = type(inner).loss_by_feat is not BaseDecodeHead.loss_by_feat
    if own and getattr(inner, 'use_se_loss', True):  # without SE loss, EncHead has one output
        if isinstance(inner, PIDHead) and 'gt_edge_map' not in samples[0]:
            raise ValueError(
                'PIDHead learns edges, which the labelled samples lack: add '
                "dict(type='GenerateEdge', edge_width=4) to the branch 'sup' of MultiBranch, "
                'before PackSemiInputs.'
            )
        of_head = inner.loss_by_feat(outputs, samples)
        return {f'{prefix}.{name}': value for name, value in of_head.items()}
    labels = torch.stack([sample.gt_sem_seg.data for sample in samples])
    logits = resize(
        main_logits(inner, outputs),
        size=labels.shape[-2:],
        mode='bilinear',
        align_corners=inner.align_corners,
    )
    weight = None if inner.sampler is None else inner.sampler.sample(logits, labels)
    labels = labels.squeeze(1)
    losses: dict[str, Tensor] = {}
    for part in parts:
        value = part(logits, labels, weight=weight, ignore_index=inner.ignore_index)
        name = f'{prefix}.{part.loss_name}'
        losses[name] = losses[name] + value if name in losses else value
    counted = labels != inner.ignore_index
    right = (logits.detach().argmax(dim=1) == labels) & counted
    losses[f'{prefix}.acc_seg'] = 100.0 * right.sum() / counted.sum().clamp(min=1)
    return losses


@torch.no_grad()
def average_into(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """Move a teacher towards its student: t <- keep * t + (1 - keep) * s.

    One fused call averages all trainable parameters and floating-point buffers. Integer buffers are
    copied. ``keep=0`` copies the student exactly.
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
    """Whether weights fit a network: more than half of the smaller set agree in name and shape."""
    own = network.state_dict()
    same = sum(
        name in own and own[name].shape == getattr(value, 'shape', None)
        for name, value in weights.items()
    )
    return 2 * same > min(len(weights), len(own))


def is_copy(teacher: nn.Module, student: nn.Module) -> bool:
    """Whether a teacher has exactly the parameters and buffers of its student."""
    pairs = zip(teacher.state_dict().values(), student.state_dict().values(), strict=True)
    return all(torch.equal(mean, new) for mean, new in pairs)


def make_teacher(student: nn.Module) -> Any:
    """Copy a student into an EMA teacher in eval mode and without gradients."""
    return deepcopy(student).eval().requires_grad_(False)

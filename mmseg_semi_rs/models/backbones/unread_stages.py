# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Removes backbone stages whose outputs are not used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mmseg.models.backbones import (
    MixVisionTransformer,
    MobileNetV2,
    MobileNetV3,
    ResNet,
    SwinTransformer,
)
from torch import Tensor, nn

from .pretrained import PretrainedBackbone


def drop_unread_stages(backbone: nn.Module, last: int) -> None:
    """Remove, in place, the stages of a backbone after the last output that is read.

    They would cost time in every pass, and their parameters would get no gradient. The remaining
    outputs are unchanged. Checkpoints and pretrained files with the tensors of these stages still
    load, even strictly; those tensors are ignored silently. Supported are the backbones of this
    package, mmseg's ResNet family, MobileNetV2, MobileNetV3, Swin and MixVisionTransformer, and
    mmpretrain's ConvNeXt; others are left unchanged.

    Args:
        backbone: Any backbone.
        last: Index, from 0, of the last output that is read. A negative index leaves the backbone
            unchanged.
    """
    taps = sorted(getattr(backbone, 'out_indices', ()))
    if not 0 <= last < len(taps) - 1:
        return
    before = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    if isinstance(backbone, PretrainedBackbone):
        backbone.keep_first_taps(last + 1)
    else:
        cut = _find_cut(type(backbone))
        if cut is None:
            return
        network: Any = backbone
        cut(network, taps[last] + 1, taps[last + 1 :])
        network.out_indices = tuple(taps[: last + 1])
        if last == 0:
            network.register_forward_hook(_in_a_tuple)
    left = backbone.state_dict().keys()
    unread = {name: shape for name, shape in before.items() if name not in left}
    if unread:
        backbone.unread_tensors = unread  # type: ignore[assignment]
        backbone._register_load_state_dict_pre_hook(partial(_leave_out, tuple(unread)))


def unread_tensors(backbone: nn.Module) -> dict[str, tuple[int, ...]]:
    """List the tensors that :func:`drop_unread_stages` removed.

    Args:
        backbone: Any backbone.

    Returns:
        Shapes of the tensors by their names in the state dict.
    """
    found: Any = getattr(backbone, 'unread_tensors', {})
    return found


def _leave_out(names: Iterable[str], state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in names:
        state.pop(prefix + name, None)


def _in_a_tuple(_module: nn.Module, _images: Any, maps: Any) -> Any:
    """Wrap a single map in a tuple, so that heads do not take its batch for a list of levels."""
    return (maps,) if isinstance(maps, Tensor) else maps


def _find_cut(kind: type[nn.Module]) -> Callable[[Any, int, list[int]], None] | None:
    """Find the function that drops all but the first stages; None for an unknown backbone."""
    # Subclasses with another forward may need the later stages.
    for known, cut in _CUTS.items():
        if known.forward is kind.forward:
            return cut
    theirs = sys.modules.get('mmpretrain.models.backbones')  # else there is no ConvNeXt
    return _cut_convnext if theirs and theirs.ConvNeXt.forward is kind.forward else None


def _cut_resnet(backbone: Any, stages: int, _unread: list[int]) -> None:
    _delete(backbone, backbone.res_layers[stages:])
    del backbone.res_layers[stages:]
    backbone.frozen_stages = min(backbone.frozen_stages, stages)


def _cut_mobilenet(backbone: Any, stages: int, _unread: list[int]) -> None:
    _delete(backbone, backbone.layers[stages:])
    del backbone.layers[stages:]
    # MobileNetV2 counts its stages from 1, after the stem; the stem of V3 is its layer 0.
    most = stages if isinstance(backbone, MobileNetV2) else stages - 1
    backbone.frozen_stages = min(backbone.frozen_stages, most)


def _cut_mix_vision_transformer(backbone: Any, stages: int, _unread: list[int]) -> None:
    del backbone.layers[stages:]


def _cut_swin(backbone: Any, stages: int, unread: list[int]) -> None:
    del backbone.stages[stages:]
    backbone.stages[-1].downsample = None
    _delete(backbone, [f'norm{index}' for index in unread])
    backbone.frozen_stages = min(backbone.frozen_stages, stages)


def _cut_convnext(backbone: Any, stages: int, unread: list[int]) -> None:
    del backbone.stages[stages:]
    del backbone.downsample_layers[stages:]
    _delete(backbone, [f'norm{index}' for index in unread])
    backbone.frozen_stages = min(backbone.frozen_stages, stages)


def _delete(module: nn.Module, names: Iterable[str]) -> None:
    for name in names:
        delattr(module, name)


_CUTS: dict[type[nn.Module], Callable[[Any, int, list[int]], None]] = {
    ResNet: _cut_resnet,
    MobileNetV2: _cut_mobilenet,
    MobileNetV3: _cut_mobilenet,
    MixVisionTransformer: _cut_mix_vision_transformer,
    SwinTransformer: _cut_swin,
}

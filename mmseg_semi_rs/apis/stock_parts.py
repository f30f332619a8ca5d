# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Equivalents in mmseg and mmpretrain of the parts of this package.

=========================== ========================================================================
part                        in a plain config
=========================== ========================================================================
``ValidCrossEntropyLoss``   ``CrossEntropyLoss(avg_non_ignore=True)``
``DistillEncoderDecoder``   ``EncoderDecoder``, unless its head encodes the image at other sizes
``MultiTeacherDistillHead`` the head that it wraps, if nothing is fused (weights 1 / 0 / 0). With
                            fusion there is no equivalent, since w_0 F + sum_i w_i P_i(U(T_i(F_i)))
                            is not linear in F: the translator T_i has a ReLU between its two
                            layers, so only its second layer and the projection P_i would fold into
                            one matrix, B_i relu(A_i F_i); and F_i encodes the image at another
                            size, a second pass that no stock segmentor makes
``DINOv2``                  ``mmpretrain.VisionTransformer``, if only the output of the last built
                            block is used: the stock network normalises no other. For another input
                            size than the training's, the stored positions are resized in advance
``CLIPVision``              ``mmpretrain.VisionTransformer``, without ``value_path`` and ``dense``
=========================== ========================================================================

All other parts, such as ``SizeMatchedDPTHead`` and ``VLGHead``, have no equivalent; see
:data:`NO_STOCK_PART`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor

from ..models.backbones import PretrainedBackbone, unread_tensors
from ..models.decode_heads import MultiTeacherDistillHead

State = dict[str, Tensor]

#: Why a part has no equivalent; mmseg has nothing similar to parts that are not listed.
NO_STOCK_PART = {
    'SizeMatchedDPTHead': "mmseg's DPTHead doubles each map, and reads the class tokens that only "
    "mmseg's own VisionTransformer hands out",
    'MultiTeacherDistillHead': 'what it fuses goes through a ReLU and comes from a second look at '
    'the image, which no stock head does',
    'DINOv2': "of several maps, mmpretrain's VisionTransformer normalises the last only",
    'CLIPVision': "mmpretrain's VisionTransformer has neither value path nor embedded maps",
    'DINOv3': "timm's wrapper hands out maps that are not normalised",
    'EfficientNetLite': "timm's wrapper builds all stages, those too that nothing reads",
}
_PACKAGE = __name__.split('.')[0]
_CLIP_NAMES = (
    (r'^conv1\.', 'patch_embed.projection.'),
    (r'^class_embedding$', 'cls_token'),
    (r'^positional_embedding$', 'pos_embed'),
    (r'^ln_pre\.', 'pre_norm.'),
    (r'^transformer\.resblocks\.(\d+)\.', r'layers.\1.'),
    (r'\.ln_([12])\.', r'.ln\1.'),
    (r'\.attn\.in_proj_(weight|bias)$', r'.attn.qkv.\1'),
    (r'\.attn\.out_proj\.', '.attn.proj.'),
    (r'\.mlp\.c_fc\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.c_proj\.', '.ffn.layers.1.'),
)


def nodes(tree: Any, without: str = '') -> Iterator[dict[str, Any]]:
    """Yield all dicts of a config, outer ones first, except those below the key ``without``."""
    if isinstance(tree, dict):
        yield tree
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list, tuple)) and key != without:
            yield from nodes(value, without)


def package_parts(tree: Any) -> list[str]:
    """List the registered parts of this package that a config uses, except in its teachers.

    Args:
        tree: A config, or a part of it.

    Returns:
        Names of the parts, sorted, each once.
    """
    names = {node['type'] for node in nodes(tree, 'teachers') if 'type' in node}
    found = {name: MODELS.get(name) or TRANSFORMS.get(name) for name in names}
    return sorted(
        name
        for name, part in found.items()
        if part is not None and part.__module__.split('.')[0] == _PACKAGE
    )


def for_prediction(cfg: dict[str, Any]) -> None:
    """Remove from a network's config what only training needs, such as initial weights.

    Args:
        cfg: Config of an ``EncoderDecoder``, changed in place.
    """
    for key in ('auxiliary_head', 'train_cfg', 'pretrained', 'init_cfg'):
        cfg.pop(key, None)
    for node in nodes(cfg):
        for key in ('init_cfg', 'checkpoint', 'cache_dir'):
            if key in node:
                node[key] = None
        if str(node.get('type', '')).endswith('TIMMBackbone'):
            node.update(pretrained=False, checkpoint_path='')
        elif 'pretrained' in node:
            node['pretrained'] = None
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
        if node.get('type') == 'ValidCrossEntropyLoss':
            node.update(type='CrossEntropyLoss', avg_non_ignore=True)


def complete_backbone(cfg: dict[str, Any], state: State, network: Any) -> None:
    """Account for backbone stages that were not built because no head reads them.

    Backbones of this package omit them by ``out_indices``. Stock backbones always build them; they
    get zeros, which take no space in the file.

    Args:
        cfg: Config of the network, changed in place.
        state: Its weights, changed in place.
        network: The network itself.
    """
    unread = unread_tensors(network.backbone)
    if isinstance(network.backbone, PretrainedBackbone):
        if unread:
            cfg['backbone']['out_indices'] = list(network.backbone.out_indices)
        return
    for name, shape in unread.items():
        state[f'backbone.{name}'] = torch.zeros(()).expand(shape)


def unwrap_distillation(cfg: dict[str, Any], state: State, network: Any) -> None:
    """Remove the teachers of a network, and the distillation head where it has no effect.

    Args:
        cfg: Config of the network, changed in place.
        state: Its weights, changed in place.
        network: The network itself.
    """
    head = network.decode_head
    if isinstance(head, MultiTeacherDistillHead):
        wrapper = cfg['decode_head']
        fused = [name for name, weight in head.fusion_weights.items() if weight]
        for name in head.teachers.keys() - set(fused):
            _drop(state, f'decode_head.translators.{name}.')
        if fused:
            wrapper['teachers'] = {name: wrapper['teachers'][name] for name in fused}
            weights = {'student': head.student_weight, **head.fusion_weights}
            wrapper['fusion'] = {'weights': {name: weights[name] for name in ('student', *fused)}}
            wrapper['loss_distill'] = {'loss_weight': 0.0}  # so that no teacher is ever built
        else:
            cfg['decode_head'] = wrapper['decode_head']
            _rename(state, partial(re.sub, r'^decode_head\.decode_head\.', 'decode_head.'))
    if cfg['type'] == 'DistillEncoderDecoder' and (
        cfg['decode_head']['type'] != 'MultiTeacherDistillHead'
    ):
        cfg['type'] = 'EncoderDecoder'
        cfg.pop('view_resize', None)


def use_stock_backbone(
    cfg: dict[str, Any], state: State, network: Any, size: tuple[int, int]
) -> bool | None:
    """Replace the backbone by mmpretrain's vision transformer where the two are equivalent.

    Args:
        cfg: Config of the network, changed in place.
        state: Its weights, changed in place.
        network: The network itself.
        size: Height and width in pixels of the images for which they are equivalent.

    Returns:
        Whether the stored positions were resized to ``size``; None if there is no equivalent
        backbone and nothing was changed.
    """
    backbone = network.backbone
    translate = _BACKBONES.get(cfg['backbone']['type'])
    settings = translate(backbone) if translate else None
    if settings is None:
        return None
    grid = (size[0] // backbone.patch_size, size[1] // backbone.patch_size)
    cfg['backbone'] = {
        'type': 'mmpretrain.VisionTransformer',
        'img_size': tuple(size),
        'patch_size': backbone.patch_size,
        'out_indices': list(backbone.out_indices),
        'out_type': 'featmap',
        **settings,
    }
    positions = backbone.position_embedding(grid)
    resized = positions is not getattr(backbone, backbone.position_name)
    if positions.dim() == 2:  # CLIP's position embedding has no batch axis
        for pattern, name in _CLIP_NAMES:
            _rename(state, partial(_renamed_backbone, pattern, name))
        state['backbone.cls_token'] = state['backbone.cls_token'].reshape(1, 1, -1)
        positions = positions[None]
    state['backbone.pos_embed'] = positions.detach().clone()
    return resized


def _dinov2(backbone: Any) -> dict[str, Any] | None:
    """Return the arguments of mmpretrain's class for a DINOv2 backbone, or None."""
    if backbone.out_indices != (len(backbone.blocks) - 1,):
        return None
    swiglu = bool(backbone.name_aliases)
    return {
        'arch': dict(backbone.arch_settings),
        'in_channels': backbone.patch_embed.projection.in_channels,
        'norm_cfg': {'type': 'LN', 'eps': 1e-6},
        'layer_scale_init_value': 1.0,
        'layer_cfgs': {'ffn_type': 'swiglu_fused' if swiglu else 'origin'},
    }


def _clip(backbone: Any) -> dict[str, Any] | None:
    if backbone.value_path or backbone.dense:
        return None
    block = backbone.blocks[0]
    return {
        'in_channels': backbone.conv1.in_channels,
        'arch': {
            'embed_dims': backbone.embed_dims,
            'num_layers': len(backbone.blocks),
            'num_heads': block.attn.num_heads,
            'feedforward_channels': block.mlp.c_fc.out_features,
        },
        'norm_cfg': {'type': 'LN', 'eps': block.ln_1.eps},
        'pre_norm': True,
        'final_norm': False,
        'layer_cfgs': {
            'act_cfg': {'type': 'mmpretrain.QuickGELU' if backbone.quick_gelu else 'GELU'}
        },
    }


_BACKBONES: Mapping[str, Callable[[Any], dict[str, Any] | None]] = {
    'DINOv2': _dinov2,
    'CLIPVision': _clip,
}


def _renamed_backbone(pattern: str, name: str, key: str) -> str:
    prefix = 'backbone.'
    if not key.startswith(prefix):
        return key
    return prefix + re.sub(pattern, name, key.removeprefix(prefix))


def _rename(state: State, rename: Callable[[str], str]) -> None:
    for key in list(state):
        state[rename(key)] = state.pop(key)


def _drop(state: State, prefix: str) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]

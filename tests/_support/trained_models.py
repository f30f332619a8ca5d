# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny models as a training leaves them: a config, and a checkpoint with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmseg.registry import MODELS

CLASSES = ('grass', 'road', 'roof')
PALETTE = [[0, 255, 0], [90, 90, 90], [200, 0, 0]]
BN = dict(type='BN', requires_grad=True)
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CLIP = dict(mean=[122.77, 116.75, 104.09], std=[68.5, 66.63, 70.32], bgr_to_rgb=True)
WHOLE = dict(mode='whole')
VALID_CE = dict(type='ValidCrossEntropyLoss', class_weight=[1.0, 2.0, 3.0])
SEGFORMER_HEAD = dict(
    type='SegformerHead', channels=8, num_classes=3, norm_cfg=BN, loss_decode=VALID_CE
)
TEXT_ARCH = dict(embed_dim=16, width=16, layers=1, heads=2)
TINY = dict(embed_dims=16, num_layers=2, num_heads=2)
TINY_CLIP = dict(width=16, layers=3, heads=2, patch_size=8, image_size=32, embed_dim=16)
VLG = dict(
    type='VLGHead',
    in_channels=[16, 16, 16],
    num_classes=3,
    channels=32,
    text_channels=16,
    up_channels=[16, 16],
    skip_channels=[8, 8],
    heads=2,
    reasoning_layers=1,
    loss_decode=VALID_CE,
)


def encoder_decoder(backbone, head, **kwargs):
    return dict(
        type='EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=WHOLE, **kwargs
    )


def resnet(aux=False):
    head = dict(SEGFORMER_HEAD, in_channels=[4, 8, 16, 32], in_index=[0, 1, 2, 3])
    backbone = dict(
        type='ResNet',
        depth=18,
        base_channels=4,
        stem_channels=4,
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'),
    )
    more = dict(auxiliary_head=dict(head, in_channels=[8, 16], in_index=[1, 2])) if aux else {}
    return encoder_decoder(backbone, head, **more)


def mobilenet(levels=4):
    backbone = dict(type='MobileNetV2', out_indices=(1, 2, 4, 6), norm_cfg=BN)
    channels = [24, 32, 96, 320][:levels]
    head = dict(SEGFORMER_HEAD, in_channels=channels, in_index=list(range(levels)))
    return encoder_decoder(backbone, head)


def lite(levels=4):
    head = dict(SEGFORMER_HEAD, in_channels=[24, 40, 112, 320][:levels], in_index=[*range(levels)])
    return encoder_decoder(dict(type='EfficientNetLite', checkpoint='imagenet'), head)


def mit():
    backbone = dict(
        type='MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 4],
        sr_ratios=[8, 4, 2, 1],
        patch_sizes=[7, 3, 3, 3],
    )
    head = dict(SEGFORMER_HEAD, in_channels=[8, 8, 16, 32], in_index=[0, 1, 2, 3])
    return encoder_decoder(backbone, head)


def dinov2(out_indices=(0, 1)):
    return dict(
        type='DINOv2',
        arch=dict(TINY),
        img_size=56,
        out_indices=out_indices,
        checkpoint='checkpoints/absent.pth',
    )


def dinov2_dpt():
    head = dict(
        type='SizeMatchedDPTHead',
        in_channels=[16] * 4,
        post_process_channels=[8] * 4,
        channels=8,
        in_index=(0, 0, 1, 1),
        num_classes=3,
        loss_decode=VALID_CE,
    )
    return encoder_decoder(dinov2(), head)


def dinov2_fcn():
    head = dict(
        type='FCNHead', in_channels=16, channels=8, num_convs=1, norm_cfg=BN, num_classes=3,
        in_index=0, loss_decode=VALID_CE,
    )  # fmt: skip
    return encoder_decoder(dinov2(out_indices=(1,)), head)


def clip_segformer():
    backbone = dict(type='CLIPVision', arch=dict(TINY_CLIP, quick_gelu=True), out_indices=(0, 2))
    head = dict(SEGFORMER_HEAD, in_channels=[16, 16], in_index=[0, 1])
    return encoder_decoder(backbone, head)


def rsmtdf(weights=(0.8, 0.1, 0.1)):
    """A SegFormer-like student with two teachers, one of which looks at another size."""
    plain = resnet(aux=True)
    teacher = dict(type='DINOv2', arch=dict(TINY), img_size=56, checkpoint='checkpoints/no.pth')
    clip = dict(type='CLIPVision', arch=TINY_CLIP, checkpoint='checkpoints/no_clip.pt')
    plain['type'] = 'DistillEncoderDecoder'
    plain['decode_head'] = dict(
        type='MultiTeacherDistillHead',
        decode_head=plain['decode_head'],
        teachers=dict(
            dino=dict(type='FrozenTeacher', backbone=teacher, input_stats=_stats(IMAGENET)),
            clip=dict(type='FrozenTeacher', backbone=clip, input_size=40, input_stats=_stats(CLIP)),
        ),
        translator=dict(hidden=8),
        fusion=dict(weights=dict(zip(('student', 'dino', 'clip'), weights, strict=True))),
    )
    return plain


def _stats(cfg):
    return dict(mean=cfg['mean'], std=cfg['std'])


def clip_vlg():
    backbone = dict(
        type='CLIPVision', arch=TINY_CLIP, out_indices=(0, 1, 2), value_path=True, dense=True
    )
    embedding = dict(
        type='TextEmbedding',
        concepts=[['grass', 'lawn'], ['road'], ['roof']],
        arch=TEXT_ARCH,
        checkpoint='checkpoints/absent_clip.pt',
    )
    return encoder_decoder(backbone, dict(VLG, class_embedding=embedding))


def dinov3_vlg():
    backbone = dict(type='DINOv3', arch=dict(TINY, num_layers=3), out_indices=(0, 1, 2))
    embedding = dict(type='LearnableQueries', channels=16)
    return encoder_decoder(backbone, dict(VLG, class_embedding=embedding))


def mean_teacher(student, size=(64, 64), **kwargs):
    stats = dict(type='SemiDataPreprocessor', size=size, **IMAGENET)
    return dict(type='MeanTeacherSegmentor', data_preprocessor=stats, student=student, **kwargs)


def dual(a, b, size=(64, 64), **kwargs):
    """Two students, the first with statistics of its own."""
    a = dict(a, data_preprocessor=dict(type='SegDataPreProcessor', **CLIP))
    stats = dict(type='SemiDataPreprocessor', size=size, **IMAGENET)
    students = dict(a=a, b=b)
    return dict(type='DualStudentSegmentor', data_preprocessor=stats, students=students, **kwargs)


def write_model(folder: Path, model: dict, name: str = 'tiny', **more) -> tuple[Path, Path]:
    """Write a model's config, and a checkpoint of it with random weights.

    Returns:
        Config and checkpoint.
    """
    metainfo = dict(classes=CLASSES, palette=PALETTE)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(type='PackSemiInputs'),
    ]
    cfg = Config(dict(
        default_scope='mmseg',
        custom_imports=dict(imports=['mmseg_semi_rs'], allow_failed_imports=False),
        model=model,
        test_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='BaseSegDataset', metainfo=metainfo, pipeline=pipeline),
        ),
        visualizer=dict(
            type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')],
            name='visualizer',
        ),
    ))  # fmt: skip
    cfg.merge_from_dict(more)
    folder.mkdir(parents=True, exist_ok=True)
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    config.write_text(cfg.pretty_text)
    weights = random_weights(MODELS.build(cfg.model))
    meta = dict(dataset_meta=metainfo, iter=4)
    torch.save(dict(meta=meta, state_dict=weights, message_hub={}), checkpoint)
    return config, checkpoint


def random_weights(model) -> dict[str, torch.Tensor]:
    """Weights with which every tensor matters and activations keep their scale."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():  # counters, and the fingerprint of text embeddings
            weights[key] = tensor
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            weights[key] = noise * tensor[0].numel() ** -0.5
        elif key.endswith(('running_var', 'weight')):
            weights[key] = 1 + 0.2 * noise.tanh()
        else:
            weights[key] = 0.1 * noise
    return weights

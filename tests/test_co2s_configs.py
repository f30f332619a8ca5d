# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Every config of Co2S: parses, is consistent with its protocol, builds, and steps."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import CheckpointLoader, Runner
from mmseg.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, METRICS, MODELS

from mmseg_semi_rs.dataprep.splits.files import Tiles
from mmseg_semi_rs.dataprep.splits.make import SplitOptions, make_split
from mmseg_semi_rs.utils.randomness import seeded
from tests.config_zoo import (
    CLIP,
    CONFIGS,
    IMAGENET,
    ROOT,
    build,
    build_model,
    build_optimizer,
    class_names,
    load,
    make_folder,
    name,
)

CO2S = CONFIGS / 'co2s'
LEAVES = sorted(CO2S.glob('*.py'))
FRACTIONS = ('1-4', '1-8', '1-16', '1-24')
RATIOS = {
    'whdld': (*FRACTIONS, '1-32'),
    'loveda': (*FRACTIONS, '1-40'),
    'potsdam': (*FRACTIONS, '1-32'),
    'gid15': ('1-4', '1-8'),
    'mer': ('1-4', '1-8'),
    'msl': ('1-4', '1-8'),
}
ABLATIONS = (
    'clip_clip_potsdam_1-4',
    'clip_dinov2_potsdam_1-4',
    'clip_dinov3_potsdam_1-4_released',
    'clip_rsmtdf_potsdam_1-4',
    'dinov3_dinov3_potsdam_1-4',
)
EXPECTED = {
    f'clip_dinov3_{data}_{ratio}': (data, ratio) for data in RATIOS for ratio in RATIOS[data]
}
EXPECTED |= dict.fromkeys(ABLATIONS, ('potsdam', '1-4'))

MAIN, RELEASED = (CO2S / f'clip_dinov3_potsdam_1-4{end}.py' for end in ('', '_released'))
CLIP_CLIP, CLIP_DINOV2, _, CLIP_RSMTDF, DINOV3_DINOV3 = (CO2S / f'{stem}.py' for stem in ABLATIONS)
ONE_PER_SET = [CO2S / f'clip_dinov3_{data}_1-4.py' for data in RATIOS]

# tiles of each set as the authors divide them, and the share of training
TILES = {
    'whdld': (4940, 90),
    'loveda': (2522 + 1669, 90),
    'potsdam': (38 * 144, 90),
    'gid15': (10 * 18 * 19, 80),
    'mer': (1064, 80),
    'msl': (3927, 80),
}
CLASSES = {'whdld': 6, 'loveda': 7, 'potsdam': 6, 'gid15': 15, 'mer': 9, 'msl': 9}

leaves = pytest.mark.parametrize('path', LEAVES, ids=name)


def described(path: Path) -> tuple[str, str]:
    return EXPECTED[path.stem]


def crop_of(path: Path) -> int:
    """256 for WHDLD; whole patches of 14 and of 16 px where DINOv2 takes part; else 512."""
    if path in (CLIP_DINOV2, CLIP_RSMTDF):
        return 448
    return 256 if described(path)[0] == 'whdld' else 512


@cache
def published_sets(data: str) -> dict[str, tuple[list[str], list[str]]]:
    """Labelled and unlabelled lists that the tool draws from as many tiles as there really are."""
    count, _ = TILES[data]
    tiles = Tiles([f'train/{n}_0' for n in range(count)], [], labels={})
    options = SplitOptions(data, Path('data'), preset='co2s', no_coverage=True)
    return make_split(options, tiles, progress=False).sets


def test_every_promised_config_is_there():
    assert sorted(path.stem for path in LEAVES) == sorted(EXPECTED)
    assert len(EXPECTED) == 3 * 5 + 3 * 2 + 5


@leaves
def test_leaf_is_short_and_registers_the_plugin(path: Path):
    lines = path.read_text(encoding='utf-8').splitlines()
    longest = {CLIP_RSMTDF: 40, RELEASED: 25}.get(path, 15)
    assert len([line for line in lines if line and not line.startswith('#')]) <= longest
    assert load(path).default_scope == 'mmseg'
    assert load(path).custom_imports == dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)


@leaves
def test_lists_are_those_of_its_name(path: Path):
    cfg, (data, ratio) = load(path), described(path)
    train = cfg.train_dataloader.dataset
    assert train.labelled.ann_file == f'splits/co2s/{ratio}/labeled.txt'
    assert train.unlabelled.ann_file == f'splits/co2s/{ratio}/unlabeled.txt'
    assert cfg.val_dataloader.dataset.ann_file == 'splits/co2s/val.txt'
    assert cfg.test_dataloader.dataset.ann_file == 'splits/co2s/test.txt'
    labelled = [train.labelled, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset]
    assert all(s.data_prefix == dict(img_path='img_dir', seg_map_path='ann_dir') for s in labelled)
    # C5: no folder of label files, so none can be opened
    assert train.unlabelled.data_prefix == dict(img_path='img_dir')
    assert all('Annotations' not in step.type for step in train.unlabelled.pipeline)
    folder = 'data/loveda_1024' if data == 'loveda' else f'data/{data}'
    sources = [*labelled, train.unlabelled]
    assert {source.data_root for source in sources} == {folder}
    assert {source.type.lower() for source in sources} == {f'{data}dataset'}


@leaves
def test_length_is_that_of_the_published_four_gpu_run(path: Path):
    data, ratio = described(path)
    sets = published_sets(data)
    assert set(sets) == set(RATIOS[data])
    labelled, unlabelled = map(len, sets[ratio])
    count, percent = TILES[data]
    part, whole = map(int, ratio.split('-'))
    assert labelled + unlabelled == count * percent // 100
    assert labelled == (labelled + unlabelled) * part // whole
    batch, epochs = (2 if data == 'whdld' else 1), (150 if data == 'mer' else 80)
    assert load(path).train_cfg.max_iters == math.ceil(unlabelled / 4) // batch * epochs
    if path.stem.startswith('clip_dinov3') and path != RELEASED:
        text = path.read_text(encoding='utf-8')
        assert f'{labelled + unlabelled:,} training tiles' in text
        assert f'labelled: {labelled:,}, unlabelled U = {unlabelled:,}' in text
        assert f'floor(ceil({unlabelled} / 4) / {batch}) * {epochs}' in text


@pytest.mark.parametrize(
    ('data', 'iterations'),
    [
        ('whdld', {'1-24': 42640, '1-4': 33360}),
        ('loveda', {'1-40': 73600, '1-4': 56640}),
        ('potsdam', {'1-32': 95440, '1-4': 73920}),
        ('gid15', {'1-8': 47920, '1-4': 41040}),
        ('mer', {'1-8': 28050, '1-4': 24000}),
        ('msl', {'1-8': 55040, '1-4': 47120}),
    ],
)
def test_published_iterations(data: str, iterations: dict[str, int]):
    found = {r: load(CO2S / f'clip_dinov3_{data}_{r}.py').train_cfg.max_iters for r in iterations}
    assert found == iterations


@leaves
def test_batch_has_something_to_paste_from(path: Path):
    cfg, (data, _) = load(path), described(path)
    loader, settings = cfg.train_dataloader, cfg.model.semi_train_cfg
    labelled, unlabelled = loader.sampler.source_ratio
    assert loader.batch_size == loader.sampler.batch_size == labelled + unlabelled
    trained = unlabelled - settings.donors
    assert (labelled, trained) == ((2, 2) if data == 'whdld' else (1, 1))
    assert unlabelled > 1  # C4: the partner is another image
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=4 * loader.batch_size)
    assert cfg.val_dataloader.batch_size == cfg.test_dataloader.batch_size == 1


@leaves
def test_sizes_agree(path: Path):
    cfg, (data, _) = load(path), described(path)
    side = crop_of(path)
    train = cfg.train_dataloader.dataset
    for source in (train.labelled, train.unlabelled):
        (geometry,) = (step for step in source.pipeline if step.type == 'TrackGeometry')
        resize, crop, flip = geometry.transforms
        assert (resize.type, resize.ratio_range, resize.keep_ratio) == (
            'RandomResize',
            (0.5, 2.0),
            True,
        )
        assert resize.scale == ((1024, 1024) if data == 'loveda' else (2048, 512))
        assert (crop.type, crop.crop_size, crop.cat_max_ratio) == ('RandomCrop', (side, side), 1.0)
        assert (flip.type, flip.prob) == ('RandomFlip', 0.5)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.size == (side, side)
    assert (preprocessor.pad_val, preprocessor.seg_pad_val) == (0, 255)
    for student in cfg.model.students.values():
        stride = int(side * 5 / 6)
        assert student.test_cfg == dict(
            mode='slide', crop_size=(side, side), stride=(stride, stride)
        )
    for student in build(path).students.values():
        assert side % student.backbone.patch_size == 0
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        steps = loader.dataset.pipeline
        kinds = [step.type for step in steps]
        if data == 'loveda':  # at its own 1024 px
            assert kinds == ['LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs']
            continue
        # the label is loaded after the resize, hence keeps its own size (C15)
        assert kinds == ['LoadImageFromFile', 'Resize', 'LoadAnnotations', 'PackSegInputs']
        assert steps[1] == dict(type='Resize', scale=(512, 512), keep_ratio=False)


@pytest.mark.parametrize(('path', 'low', 'high'), [(MAIN, 256, 1024), (ONE_PER_SET[1], 512, 2048)])
@pytest.mark.parametrize('side', [32, 96])
def test_square_tiles_get_the_same_sides_whatever_their_own(
    path: Path, low: int, high: int, side: int
):
    resize = Compose([load(path).geometry.transforms[0]])
    tile = np.zeros((side, side), np.uint8)
    sides = []
    for seed in range(60):
        with seeded(seed):
            shape = resize(dict(img=tile, img_shape=tile.shape))['img'].shape
        assert shape[0] == shape[1]
        sides.append(shape[0])
    assert low <= min(sides) < low * 1.25
    assert high * 0.9 < max(sides) < high


@leaves
def test_classes_agree_with_the_data_in_their_order(path: Path):
    cfg, model, (data, _) = load(path), build(path), described(path)
    classes = class_names(cfg)
    assert model.num_classes == len(classes) == CLASSES[data]
    words = [word.replace('_', ' ').replace('agricultural', 'agriculture') for word in classes]
    for student in model.students.values():
        assert student.decode_head.num_classes == len(classes)
        embedding = getattr(student.decode_head, 'class_embedding', None)
        for prompts, word in zip(getattr(embedding, 'prompts', ()), words, strict=False):
            found = prompts[0].replace('_', ' ') if path == RELEASED else prompts[0]
            assert found == f'a photo of a {word}'
    embedding = model.students['b' if path == DINOV3_DINOV3 else 'a'].decode_head.class_embedding
    assert embedding.num_classes == len(classes)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        metric = METRICS.build(evaluator)
        metric.dataset_meta = dict(classes=classes)
        assert tuple(metric.averaged) == tuple(classes)


@leaves
def test_loops_hooks_and_settings_exist(path: Path):
    cfg = load(path)
    assert cfg.train_cfg.type == 'SemiTrainLoop'
    for section in ('train_cfg', 'val_cfg', 'test_cfg'):
        assert LOOPS.get(cfg[section].type) is not None
    kinds = [hook.type for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]]
    assert all(HOOKS.get(kind) is not None for kind in kinds)
    assert 'MeanTeacherHook' not in kinds  # no average
    assert not cfg.model.get('ema', False)
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval == 5000
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert cfg.param_scheduler == dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)
    settings = cfg.model.semi_train_cfg
    # (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 + L_sta, with the mean of L_s1 and L_s2
    assert settings.loss_weight == dict(sup=1 / 2, strong=(0.25 + 0.25) / 2, fp=0.5 / 2)
    assert (settings.conf_thresh, settings.fp_drop) == (0.95, 0.5)
    assert (settings.stability.weight, settings.stability.ramp) == (0.5, 0.2)
    assert settings.cutmix == dict(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3))
    if path == RELEASED:
        assert cfg.model.semi_test_cfg.predict_on == 'a'
    else:
        assert cfg.model.semi_test_cfg == dict(predict_on='fused', fusion='mean_prob')


@leaves
def test_model_builds_without_opening_a_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f'a weight file was opened: {args[:1]}')

    monkeypatch.setattr('torch.load', refuse)
    monkeypatch.setattr('safetensors.torch.load_file', refuse)
    model = build(path)
    assert {p.device.type for p in model.parameters()} == {'meta'}
    # neither text tower nor distilled foundation models
    assert sum(value.numel() for value in model.state_dict().values()) < 180e6


def total(module: Any, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def millions(*counts: int) -> tuple[float, ...]:
    return tuple(round(count / 1e6, 2) for count in counts)


def test_students_have_the_published_sizes():
    clip, dino = build(MAIN).students['a'], build(MAIN).students['b']
    assert millions(total(clip), total(clip, True)) == (88.41, 30.57)
    assert millions(total(clip.backbone), total(clip.backbone, True)) == (86.19, 28.35)
    assert millions(total(clip.decode_head)) == (2.22,)
    # Meta's file also has a mask token and biases of the keys, which are masked: neither is here,
    # 10 k of 87.92 M, of which 9 k would train.
    key_biases, mask_token = 12 * 768, 768
    assert total(dino) == 87_914_209
    assert millions(total(dino) + key_biases + mask_token) == (87.92,)
    assert millions(total(dino, True) + key_biases) == (30.60,)
    assert millions(total(dino.backbone, True) + key_biases) == (28.35,)
    # query, key and value; output; weight and bias each
    assert sum(p.requires_grad for p in clip.backbone.parameters()) == 4 * 12
    assert len(list(clip.decode_head.parameters())) == 68
    assert dino.decode_head.class_embedding.queries.shape == (6, 768)


ATTENTION = {
    'CLIPVision': ('.attn.in_proj_', '.attn.out_proj.'),
    'DINOv2': ('.attn.qkv.', '.attn.proj.'),
    'DINOv3': ('.attn.qkv.', '.attn.q_bias', '.attn.v_bias', '.attn.proj.'),
}


@leaves
def test_learning_rates_are_the_published_ones(path: Path):
    model = build(path)
    optimizer = build_optimizer(model, load(path))
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    for key, parameter in model.named_parameters():
        _, name, part, *_ = key.split('.')
        kind = type(model.students[name].backbone).__name__
        if (path, name) == (CLIP_RSMTDF, 'b'):  # those of its own method
            wanted = 5e-6 if part == 'backbone' else 2e-4
        elif part == 'backbone':
            wanted = 1e-6 if any(infix in key for infix in ATTENTION[kind]) else None
        else:
            wanted = 1e-4 if '.class_embedding.' in key else 1e-3
        assert parameter.requires_grad == (wanted is not None), key
        assert rates.get(id(parameter)) == pytest.approx(wanted), key
    assert {group['weight_decay'] for group in optimizer.param_groups} == {0.01}
    assert {group['betas'] for group in optimizer.param_groups} == {(0.9, 0.999)}


def test_rate_of_the_queries_is_not_that_of_clips_class_token():
    """CLIP's backbone calls its class token ``class_embedding``: if it trains, it does slowly."""
    cfg = Config(load(MAIN).to_dict())
    cfg.model.students.a.backbone.trainable = None
    model = build_model(repr(cfg.model.to_dict()))
    token = model.students['a'].backbone.class_embedding
    groups = build_optimizer(model, cfg).param_groups
    (rate,) = (group['lr'] for group in groups if any(p is token for p in group['params']))
    assert rate == pytest.approx(1e-6)


def test_C7_C8_each_student_gets_what_it_was_trained_with():
    pixels = torch.rand(2, 3, 8, 8) * 255
    for path in (MAIN, RELEASED):
        model = build(path)
        shared, (mean, std) = model.data_preprocessor, IMAGENET
        assert (shared.mean.flatten().tolist(), shared.std.flatten().tolist()) == (
            pytest.approx(mean),
            pytest.approx(std),
        )
        assert load(path).model.data_preprocessor.bgr_to_rgb
        batch = (pixels - shared.mean) / shared.std
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in CLIP)
        wanted = (pixels / 255 - mean) / std if path == MAIN else batch
        assert torch.allclose(model.renormalise['a'](batch), wanted, atol=1e-4)
        assert torch.equal(model.renormalise['b'](batch), batch)
        a, b = (model.students[name].backbone for name in 'ab')
        assert a.quick_gelu == (path == MAIN)
        norms = [m for s in (a, b) for m in s.modules() if isinstance(m, torch.nn.LayerNorm)]
        assert {norm.eps for norm in norms} == {1e-5 if path == MAIN else 1e-6}


def test_released_preset_has_the_released_switches():
    released, corrected = build(RELEASED), build(MAIN)
    stability = dict(weight=0.5, ramp=0.2)
    assert corrected.settings['stability'] == dict(stability, grad=True, ties=False, mask='valid')
    assert released.settings['stability'] == dict(stability, grad=False, ties=True, mask='all')
    prompts = [
        [
            prompt
            for known in model.students['a'].decode_head.class_embedding.prompts
            for prompt in known
        ]
        for model in (released, corrected)
    ]
    assert prompts[0][0] == 'a photo of a impervious_surface'
    assert [prompt.replace('_', ' ') for prompt in prompts[0]] == prompts[1]
    assert (released.predict_on, corrected.predict_on) == ('a', 'fused')


def test_ablations_differ_in_a_student_alone():
    students = {path: load(path).model.students for path in (MAIN, CLIP_CLIP, DINOV3_DINOV3)}
    clip, dinov3 = students[MAIN].a, students[MAIN].b
    assert students[CLIP_CLIP] == dict(a=clip, b=clip)
    assert students[DINOV3_DINOV3] == dict(a=dinov3, b=dinov3)
    b = load(CLIP_DINOV2).model.students.b
    assert b.decode_head == dinov3.decode_head
    assert (b.backbone.type, b.backbone.arch, b.backbone.out_indices) == (
        'DINOv2',
        'base',
        (2, 7, 11),
    )
    own = load(CONFIGS / 'rsmtdf/dinov2_clip_potsdam_1-4.py').model.student
    inside = load(CLIP_RSMTDF).model.students.b
    assert {**inside, 'test_cfg': None} == {**own, 'test_cfg': None}  # RS-MTDF word for word
    assert load(CLIP_RSMTDF).model.students.a.backbone == clip.backbone


def test_checkpoints_can_be_taken_out_by_name():
    keys = [
        'model.students.a.backbone.checkpoint',
        'model.students.a.decode_head.class_embedding.checkpoint',
        'model.students.b.backbone.checkpoint',
    ]
    base = (CONFIGS / '_base_/models/co2s_clip_dinov3-b.py').read_text(encoding='utf-8')
    assert all(f'{key}=None' in base for key in keys)
    cfg = Config(load(MAIN).to_dict())
    cfg.merge_from_dict(dict.fromkeys(keys))
    assert "'checkpoints/" not in repr(cfg.model.to_dict())


# The real pipelines, and one real step, on a small folder in the real layout.


@pytest.mark.parametrize('path', [*ONE_PER_SET, CLIP_DINOV2], ids=name)
def test_batch_of_the_real_pipelines(path: Path, tmp_path: Path):
    cfg, side = Config(load(path).to_dict()), crop_of(path)
    make_folder(tmp_path, cfg, images=8, side=256)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    loader = cfg.train_dataloader
    sampler = DATA_SAMPLERS.build({**loader.sampler, 'dataset': dataset, 'seed': 0})
    draws = [draw for draw, _ in zip(iter(sampler), range(4 * loader.batch_size), strict=False)]
    batches = []
    for start in range(0, len(draws), loader.batch_size):
        samples = [dataset[draw] for draw in draws[start : start + loader.batch_size]]
        preprocessor = MODELS.build(cfg.model.data_preprocessor)
        batches.append(preprocessor(pseudo_collate(samples), training=True))
    labelled, unlabelled = loader.sampler.source_ratio
    distinct = {'strong_1': 0, 'strong_2': 0, 'between': 0}
    for batch in batches:
        assert {key: tuple(value.shape) for key, value in batch['inputs'].items()} == {
            'sup': (labelled, 3, side, side),
            **dict.fromkeys(('weak', 'strong_1', 'strong_2'), (unlabelled, 3, side, side)),
        }
        for sample in batch['data_samples']['sup']:
            ids = set(sample.gt_sem_seg.data.unique().tolist())
            assert ids <= {*range(CLASSES[described(path)[0]]), 255}
            assert len(ids) > 2
        weak, first, second = (
            batch['data_samples'][key] for key in ('weak', 'strong_1', 'strong_2')
        )
        images = batch['inputs']
        for index in range(unlabelled):
            for strong in (first[index], second[index]):
                assert strong.geometry == weak[index].geometry
                assert torch.equal(strong.valid.data, weak[index].valid.data)
            views = [images[key][index] for key in ('weak', 'strong_1', 'strong_2')]
            # bright places stay bright, as they would not in an image that is flipped or moved
            greys = torch.stack([view.mean(dim=0).flatten() for view in views])
            assert torch.corrcoef(greys)[0].min() > 0.5
            distinct['strong_1'] += not torch.equal(views[0], views[1])
            distinct['strong_2'] += not torch.equal(views[0], views[2])
            distinct['between'] += not torch.equal(views[1], views[2])
    # 92 % of the views are changed by something, and hardly any two in the same way
    assert min(distinct.values()) >= 0.7 * len(batches) * unlabelled


TINY_CLIP = dict(
    width=16, layers=3, heads=2, patch_size=16, image_size=64, embed_dim=16, quick_gelu=True
)
TINY_DINO = dict(embed_dims=16, num_layers=3, num_heads=2)
TINY_VLG = dict(
    in_channels=[16, 16, 16],
    channels=16,
    text_channels=16,
    up_channels=(16, 16),
    skip_channels=(4, 4),
    dilations=(1, 2, 3),
)
TINY_DPT = dict(arch=None, in_channels=[16] * 4, post_process_channels=[8, 8, 8, 8], channels=8)


def shrink_student(student: Any) -> None:
    backbone, head = student.backbone, student.decode_head
    backbone.update(checkpoint=None)
    if head.type == 'VLGHead':
        backbone.update(arch=TINY_CLIP if backbone.type == 'CLIPVision' else TINY_DINO)
        backbone.update(out_indices=(0, 1, 2))
        head.update(TINY_VLG)
        if head.class_embedding.type == 'TextEmbedding':
            arch = dict(width=16, layers=1, heads=2, embed_dim=16, quick_gelu=True)
            head.class_embedding.update(arch=arch, checkpoint=None, cache_dir=None)
        else:
            head.class_embedding.update(channels=16)
        return
    backbone.update(arch={**TINY_DINO, 'num_layers': 4}, out_indices=(0, 1, 2, 3))
    head.decode_head.update(TINY_DPT)
    teacher_clip = dict(width=16, layers=1, heads=2, patch_size=14, image_size=224)
    for teacher in head.teachers.values():
        small = teacher_clip if teacher.backbone.type == 'CLIPVision' else TINY_DINO
        teacher.backbone.update(arch=small, out_indices=(0,), checkpoint=None)


def shrink(path: Path, side: int) -> Config:
    """The same config with networks of a few thousand parameters and crops of ``side`` px."""
    cfg = Config(load(path).to_dict())
    for student in cfg.model.students.values():
        shrink_student(student)
        stride = int(side * 5 / 6)
        student.test_cfg.update(crop_size=(side, side), stride=(stride, stride))
    cfg.model.data_preprocessor.size = (side, side)
    cfg.model.semi_train_cfg.conf_thresh = 0.0  # untrained students are sure of nothing
    train = cfg.train_dataloader.dataset
    for source in (train.labelled, train.unlabelled):
        (geometry,) = (step for step in source.pipeline if step.type == 'TrackGeometry')
        geometry.transforms[0].scale = (4 * side, side)
        geometry.transforms[1].crop_size = (side, side)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[1].scale = (side, side)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.default_hooks.logger.interval = 1
    cfg.log_level = 'ERROR'
    return cfg


@pytest.mark.parametrize(
    ('path', 'side'),
    [
        pytest.param(path, side, id=path.stem)
        for path, side in ((MAIN, 64), (CLIP_DINOV2, 112), (CLIP_RSMTDF, 112))
    ],
)
def test_config_trains_validates_and_saves(path: Path, side: int, tmp_path: Path):
    cfg = shrink(path, side)
    make_folder(tmp_path / 'data', cfg, images=4, side=128)
    cfg.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.train()
    scalars = runner.message_hub.log_scalars
    logged = {key.removeprefix('train/') for key in scalars if key.startswith('train/')}
    wanted = {'decode.loss_ce', 'loss_strong', 'loss_fp', 'loss_stability', 'taught'}
    distilled = {'loss_distill_dino', 'loss_distill_clip'}
    assert {f'{student}.{key}' for student in 'ab' for key in wanted} <= logged
    assert ({f'b.{key}' for key in distilled} <= logged) == (path == CLIP_RSMTDF)
    assert not any(key.startswith('a.loss_distill') for key in logged)
    for key in logged:
        assert np.isfinite(scalars[f'train/{key}'].data[0]).all(), key
    # the ramp is at its peak after a fifth of the training: here in the second step
    assert sum(scalars[f'train/{student}.loss_stability'].data[0][1] for student in 'ab') > 0
    assert {f'val/{which}mIoU' for which in ('', 'a/', 'b/', 'fused/')} <= set(scalars)
    assert scalars['val/mIoU'].data[0][0] == scalars['val/fused/mIoU'].data[0][0]

    after = runner.model.state_dict()
    trained = {key for key, p in runner.model.named_parameters() if p.requires_grad}
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved <= trained
    for student in 'ab':
        for part in ('backbone', 'decode_head'):
            assert any(key.startswith(f'students.{student}.{part}.') for key in moved)
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'work' / 'iter_2.pth'))['state_dict']
    assert set(saved) == set(after)
    assert not any('teachers' in key for key in saved)


# What is written about the configs.


def test_every_config_is_listed():
    stems = {path.stem for path in LEAVES}
    metafile = yaml.safe_load((CO2S / 'metafile.yml').read_text(encoding='utf-8'))
    assert {model['Name'] for model in metafile['Models']} == stems
    collections = {collection['Name']: collection for collection in metafile['Collections']}
    for model in metafile['Models']:
        path = ROOT / model['Config']
        assert path == CO2S / f'{model["Name"]}.py'
        assert model['In Collection'] in collections
        assert model['Metadata']['Batch Size'] == load(path).auto_scale_lr.base_batch_size
    for collection in collections.values():
        assert (ROOT / collection['README']).is_file()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    assert 'configs/co2s/metafile.yml' in index['Import']


@leaves
def test_readme_table_states_the_counts(path: Path):
    readme = (CO2S / 'README.md').read_text(encoding='utf-8')
    (row,) = (line for line in readme.splitlines() if f'[{path.name}]({path.name})' in line)
    data, ratio = described(path)
    labelled, unlabelled = map(len, published_sets(data)[ratio])
    counts = (labelled, unlabelled, load(path).train_cfg.max_iters)
    assert row.split('|')[3:6] == [f' {count:,} ' for count in counts]

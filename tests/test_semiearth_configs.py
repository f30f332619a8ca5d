# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Configs of SemiEarth: complete, as published, and the hook fits the data."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmseg.registry import HOOKS, METRICS, MODELS

from mmseg_semi_rs.dataprep.splits.draw import parse_ratio
from mmseg_semi_rs.purification import EvidencePolicy, ReleasedPolicy
from tests.config_zoo import CONFIGS, build, build_optimizer, class_names, load, name

LEAVES = sorted((CONFIGS / 'semiearth').glob('*.py'))
DATA, RATIOS = ('potsdam', 'loveda', 'deepglobe'), ('1pct', '5pct', '10pct', '1-4')
RELEASED = CONFIGS / 'semiearth' / 'dinov2_qwen_potsdam_1pct_released.py'
PLAIN = [path for path in LEAVES if path != RELEASED]


def described(path: Path) -> tuple[str, str, str]:
    _, verifier, data, ratio = path.stem.removesuffix('_released').split('_')
    return verifier, data, ratio


def purify(path: Path) -> dict:
    (hook,) = (hook for hook in load(path).custom_hooks if hook.type == 'VLMPurifyHook')
    return hook


def test_every_promised_config_is_there():
    promised = {f'dinov2_{v}_{d}_{r}' for v in ('clip', 'qwen') for d in DATA for r in RATIOS}
    assert {path.stem for path in LEAVES} == promised | {RELEASED.stem}


@pytest.mark.parametrize('path', PLAIN, ids=name)
def test_leaf_is_short(path: Path):
    lines = path.read_text(encoding='utf-8').splitlines()
    assert len([line for line in lines if line and not line.startswith('#')]) <= 15


@pytest.mark.parametrize(
    ('data', 'iterations'),
    [('loveda', (6220, 5960, 5660)), ('potsdam', (5050, 4850, 4600))],
)
@pytest.mark.parametrize('verifier', ['clip', 'qwen'])
def test_published_iterations(verifier: str, data: str, iterations: tuple[int, ...]):
    for ratio, expected in zip(('1pct', '5pct', '10pct'), iterations, strict=True):
        cfg = load(CONFIGS / 'semiearth' / f'dinov2_{verifier}_{data}_{ratio}.py')
        assert cfg.train_cfg.max_iters == expected


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_length_is_that_of_eight_gpus_with_four_and_four(path: Path):
    _, data, ratio = described(path)
    cfg = load(path)
    scene = ratio == '1-4'
    patches = {'potsdam': 3312 if scene else 3283, 'loveda': 10060}.get(data)
    patches = patches or (12050 if scene else 12045)
    labelled = int(patches * parse_ratio(ratio))
    epochs = 50 if data == 'potsdam' else 20
    assert cfg.train_cfg.max_iters == -(-(patches - labelled) // 8) // 4 * epochs
    if path != RELEASED:
        text = path.read_text(encoding='utf-8')
        assert f'{patches:,} training patches' in text and f'labelled: {labelled:,},' in text
    loader = cfg.train_dataloader
    assert loader.batch_size == loader.sampler.batch_size == 8
    assert loader.sampler.source_ratio == [1, 1]
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=64)


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_S16_lists_are_disjoint_by_name_and_those_of_the_protocol(path: Path):
    _, data, ratio = described(path)
    percent = {'potsdam': 'semiearth', 'loveda': 'scene', 'deepglobe': 'dwl'}[data]
    folder = 'splits/scene' if ratio == '1-4' else f'splits/{percent}'
    cfg = load(path)
    train = cfg.train_dataloader.dataset
    assert train.labelled.ann_file == f'{folder}/{ratio}/labeled.txt'
    assert train.unlabelled.ann_file == f'{folder}/{ratio}/unlabeled.txt'
    assert cfg.val_dataloader.dataset.ann_file == f'{folder}/val.txt'
    assert cfg.test_dataloader.dataset.ann_file == f'{folder}/test.txt'
    assert train.unlabelled.data_prefix == dict(img_path='img_dir')


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_S10_S15_the_verifier_is_asked_for_the_classes_that_are_trained(path: Path):
    verifier, data, _ = described(path)
    cfg, settings = load(path), purify(path)
    hook = HOOKS.build(settings)
    classes = class_names(cfg)
    assert hook.verifier.num_classes == len(classes)
    assert build(path).num_classes == len(classes) == {'potsdam': 6, 'loveda': 7}.get(data, 6)
    never = {label for label in range(len(classes)) if label not in hook.verifier.prompts.asked}
    assert {classes[label] for label in never} <= {'clutter', 'background'}
    assert never == {'potsdam': {5}, 'loveda': {0}}.get(data, set())
    for label in hook.verifier.prompts.asked:
        words = classes[label].replace('_', ' ').split()
        assert any(
            word[:5] in ' '.join(hook.verifier.prompts.name(label).split()) for word in words
        )
    assert settings.store == f'data/evidence/{data}'
    kind = {'clip': 'CLIPVerifier', 'qwen': 'GenerativeVerifier'}[verifier]
    assert settings.verifier.type == kind
    assert MODELS.get(kind) is type(hook.verifier)
    policy = ReleasedPolicy if path == RELEASED else EvidencePolicy
    assert isinstance(hook.policy, policy)
    assert (hook.start, hook.ramp, hook.budget) == (0, 0, 0)


def test_S16_the_released_preset_counts_and_reports_as_released():
    cfg = load(RELEASED)
    assert cfg.model.semi_test_cfg.predict_on == 'student'
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dict(classes=class_names(cfg))
    assert len(metric.averaged) == 6
    hook = HOOKS.build(purify(RELEASED))
    assert hook.trust_settings is None
    assert hook.policy.conf_thresh == cfg.model.semi_train_cfg.conf_thresh


@pytest.mark.parametrize('path', PLAIN, ids=name)
def test_recipe_is_the_published_one(path: Path):
    cfg = load(path)
    model = build(path)
    optimizer = build_optimizer(model, cfg)
    rates = sorted(group['lr'] for group in optimizer.param_groups)
    assert rates == pytest.approx([5e-6, 2e-4])
    assert {group['weight_decay'] for group in optimizer.param_groups} == {0.01}
    momentum = next(hook.momentum for hook in cfg.custom_hooks if hook.type == 'MeanTeacherHook')
    assert momentum == 0.996
    assert cfg.model.semi_train_cfg.conf_thresh == 0.95
    assert cfg.model.semi_test_cfg.predict_on == 'teacher'
    backbone = sum(p.numel() for p in model.student.backbone.parameters())
    head = sum(p.numel() for p in model.student.decode_head.parameters())
    # Without the mask token and level-4 RCU1, which never train.
    unused = 2 * (64 * 64 * 9 + 64)
    assert round((backbone + 384) / 1e6, 2) == 22.06
    assert round((head + unused) / 1e6, 2) == 2.74


@pytest.mark.parametrize('data', DATA)
def test_S22_sizes_fit_the_patches(data: str):
    cfg = load(CONFIGS / 'semiearth' / f'dinov2_clip_{data}_1pct.py')
    assert cfg.crop_size == (518, 518) and 518 % 14 == 0
    assert cfg.model.data_preprocessor.size == (518, 518)

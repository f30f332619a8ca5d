# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""One contract for every config, and what is special about RS-MTDF and the baselines."""

from __future__ import annotations

import ast
import json
import logging
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop, Runner
from mmseg.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS

import mmseg_semi_rs  # noqa: F401 - registers the parts
from mmseg_semi_rs.dataprep.splits.draw import draw_partition, labelled_count
from mmseg_semi_rs.dataprep.splits.files import Tiles
from mmseg_semi_rs.dataprep.splits.make import SplitOptions, make_split
from mmseg_semi_rs.datasets.transforms.photometry import STRENGTHS
from mmseg_semi_rs.engine.config_check import check_config
from mmseg_semi_rs.utils.randomness import seeded
from tests._support.config_zoo import (
    CLIP,
    CONFIGS,
    IMAGENET,
    ROOT,
    TILES,
    Leaf,
    build,
    build_model,
    build_optimizer,
    class_names,
    leaf_sources,
    leaves,
    load,
    make_folder,
    name,
)

METHODS = ('rsmtdf', 'co2s', 'semiearth', 'baselines')
LEAVES = leaves(*METHODS)
MAIN = CONFIGS / 'rsmtdf' / 'dinov2_clip_potsdam_1-4.py'
RELEASED = CONFIGS / 'rsmtdf' / 'dinov2_clip_potsdam_1pct_released.py'
each_leaf = pytest.mark.parametrize('leaf', LEAVES, ids=name)


# ------------------------------------------------------------------------- what all of them promise


def promised() -> set[str]:
    data, percents = ('potsdam', 'loveda', 'deepglobe'), ('1pct', '5pct', '10pct')
    shares = ('1-4', '1-8', '1-16', '1-32', *percents)
    names = {f'dinov2_clip_{d}_{r}' for d in data for r in shares}
    names |= {f'{m}_dinov2_{d}_{r}' for m in ('supervised', 'fixmatch', 'unimatchv2')
              for d in data for r in ('1-4', *percents)}  # fmt: skip
    names |= {f'supervised_dinov2_{d}_full' for d in data}
    names |= {f'semiearth_dinov2_{v}_{d}_{r}' for v in ('clip', 'qwen')
              for d in data for r in ('1-4', *percents)}  # fmt: skip
    names |= {f'clip_dinov3_{d}_{r}' for d in TILES if 'co2s' in TILES[d] for r in ('1-4', '1-8')}
    for d, last in (('whdld', '1-32'), ('loveda', '1-40'), ('potsdam', '1-32')):
        names |= {f'clip_dinov3_{d}_{r}' for r in ('1-16', '1-24', last)}
    pairs = ('clip_clip', 'clip_dinov2', 'clip_lingbot', 'clip_rsmtdf', 'dinov3_dinov3')
    names |= {f'{pair}_potsdam_1-4' for pair in pairs}
    names |= {'lingbot_clip_potsdam_1-4', 'semiearth_lingbot_clip_potsdam_1pct'}
    released = ('dinov2_clip_potsdam_1pct', 'semiearth_dinov2_qwen_potsdam_1pct',
                'clip_dinov3_potsdam_1-4')  # fmt: skip
    return names | {f'{stem}_released' for stem in released}


def test_every_promised_config_is_there_and_no_two_share_a_work_folder():
    stems = Counter(path.stem for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
    assert set(stems) == promised()
    assert set(stems.values()) == {1}


def test_bases_are_self_contained():
    for path in sorted(CONFIGS.rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        assert '::' not in text
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
                bases = ast.literal_eval(node.value)
                for base in [bases] if isinstance(bases, str) else bases:
                    assert (path.parent / base).resolve().is_relative_to(CONFIGS)
                    assert (path.parent / base).is_file()


@pytest.fixture
def no_weight_file(monkeypatch: pytest.MonkeyPatch):
    """Models are built once for all tests: the first one that builds one must not open a file."""

    def refuse(*args, **kwargs):
        raise AssertionError(f'a weight file was opened: {args[:1]}')

    monkeypatch.setattr('torch.load', refuse)
    monkeypatch.setattr('safetensors.torch.load_file', refuse)


@each_leaf
def test_contract(leaf: Leaf, no_weight_file):
    cfg, text = leaf.cfg, leaf.path.read_text(encoding='utf-8')
    check_config(leaf.path, cfg)
    assert cfg.default_scope == 'mmseg'
    assert cfg.custom_imports == dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)
    short = 40 if leaf.released or leaf.parts == 'clip_rsmtdf' else 14
    assert len([line for line in text.splitlines() if line and line[0] != '#']) <= short
    lists_are_those_of_its_name(leaf)
    length_is_that_of_the_published_run(leaf, text)
    batch_is_the_published_one(leaf)
    sizes_agree(leaf)
    classes_agree(leaf)
    parts_exist(leaf)


def lists_are_those_of_its_name(leaf: Leaf) -> None:
    sources = leaf_sources(leaf.cfg)
    folder = f'splits/{leaf.preset}'
    listed = {key: source.ann_file for key, source in sources.items()}
    labelled = 'train.txt' if leaf.ratio == 'full' else f'{leaf.ratio}/labelled.txt'
    wanted = dict(labelled=labelled, val='val.txt', test='test.txt')
    if leaf.method != 'supervised':
        wanted['unlabelled'] = f'{leaf.ratio}/unlabelled.txt'
    assert listed == {key: f'{folder}/{file}' for key, file in wanted.items()}
    for key, source in sources.items():
        # R22, C5: no folder of label files, so none can be opened
        masks = {} if key == 'unlabelled' else dict(seg_map_path='ann_dir')
        assert source.data_prefix == dict(img_path='img_dir', **masks)
        loads = [step.type for step in source.pipeline if 'Annotations' in step.type]
        assert bool(loads) == (key != 'unlabelled')
    whole = leaf.method == 'co2s' and leaf.data == 'loveda'
    assert {s.data_root for s in sources.values()} == {f'data/{leaf.data}' + '_1024' * whole}
    assert {s.type.lower() for s in sources.values()} == {f'{leaf.data}dataset'}


def length_is_that_of_the_published_run(leaf: Leaf, text: str) -> None:
    """R26, C: epochs over the unlabelled tiles, on the published number of GPUs."""
    unlabelled = leaf.tiles - leaf.labelled
    if leaf.method == 'supervised':
        iterations = -(-3000 // 4) // 16 * 60
    elif leaf.method == 'co2s':
        batch, epochs = 1 + (leaf.data == 'whdld'), 150 if leaf.data == 'mer' else 80
        iterations = -(-unlabelled // 4) // batch * epochs
    elif leaf.method == 'semiearth':
        iterations = -(-unlabelled // 8) // 4 * (50 if leaf.data == 'potsdam' else 20)
    else:
        iterations = -(-unlabelled // 4) // 8 * 60
    assert leaf.cfg.train_cfg.max_iters == iterations
    ablation = leaf.method == 'co2s' and leaf.parts != 'clip_dinov3'
    if not leaf.released and not ablation:  # which inherit it
        assert f'{leaf.tiles:,} training ' in text
        assert f'labelled: {leaf.labelled:,}' in text
    readme = (leaf.path.parent / 'README.md').read_text(encoding='utf-8')
    (row,) = (line for line in readme.splitlines() if f'({leaf.path.name})' in line)
    if not leaf.released:
        assert f'| {iterations:,}' in row
    if leaf.method == 'co2s':
        assert f'| {leaf.labelled:,} | {unlabelled:,} | {iterations:,} |' in row


def batch_is_the_published_one(leaf: Leaf) -> None:
    loader = leaf.cfg.train_dataloader
    labelled, unlabelled = loader.sampler.source_ratio
    if leaf.method == 'co2s':
        pairs = 2 if leaf.data == 'whdld' else 1
        assert (labelled, unlabelled - leaf.cfg.model.semi_train_cfg.donors) == (pairs, pairs)
        assert unlabelled > 1  # C4: the partner is another image
        size, gpus = labelled + unlabelled, 4
    else:
        assert [labelled, unlabelled] == ([1, 0] if leaf.method == 'supervised' else [1, 1])
        size, gpus = (8, 8) if leaf.method == 'semiearth' else (16, 4)
    assert loader.batch_size == loader.sampler.batch_size == size
    assert leaf.cfg.auto_scale_lr == dict(enable=False, base_batch_size=gpus * size)


def crop_of(leaf: Leaf) -> int:
    """Whole patches of 14 px, of 16 px, or of both; 256 for WHDLD."""
    if leaf.method != 'co2s':
        return 512 if leaf.parts == 'lingbot_clip' and leaf.method == 'semiearth' else 518
    if leaf.parts in ('clip_dinov2', 'clip_rsmtdf'):
        return 448
    return 256 if leaf.data == 'whdld' else 512


def sizes_agree(leaf: Leaf) -> None:
    """S22, C15: crops, windows and patches fit each other; labels keep their own size."""
    cfg, side = leaf.cfg, crop_of(leaf)
    for key, source in leaf_sources(cfg).items():
        kinds = [step.type for step in source.pipeline]
        if key in ('val', 'test'):
            whole = leaf.method == 'co2s' and leaf.data == 'loveda'  # at its own 1024 px
            assert kinds == [
                'LoadImageFromFile', *['Resize'] * (not whole), 'LoadAnnotations', 'PackSegInputs',
            ]  # fmt: skip
            if not whole:
                scale = side if leaf.method != 'co2s' else 512
                assert source.pipeline[1] == dict(
                    type='Resize', scale=(scale, scale), keep_ratio=False
                )
            continue
        (geometry,) = (step for step in source.pipeline if step.type == 'TrackGeometry')
        resize, crop, flip = geometry.transforms
        scale = (512, 512)
        if leaf.method == 'co2s':
            scale = (1024, 1024) if leaf.data == 'loveda' else (2048, 512)
        wanted = dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True)
        if leaf.method != 'co2s' or leaf.data == 'loveda':  # whose releases shrink by Pillow
            wanted['resize_type'] = 'AntialiasedResize'
        assert resize == wanted
        assert crop == dict(type='RandomCrop', crop_size=(side, side), cat_max_ratio=1.0)
        assert flip == dict(type='RandomFlip', prob=0.5)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.size == (side, side)
    assert (preprocessor.pad_val, preprocessor.seg_pad_val, preprocessor.bgr_to_rgb) == (0, 255, 1)
    assert (preprocessor.mean, preprocessor.std) == IMAGENET
    students = (
        build(leaf.path).students if leaf.method == 'co2s' else {'': build(leaf.path).student}
    )
    assert all(side % student.backbone.patch_size == 0 for student in students.values())
    for student in cfg.model.get('students', {}).values():
        stride = int(side * 5 / 6)
        assert student.test_cfg == dict(
            mode='slide', crop_size=(side, side), stride=(stride, stride)
        )


CLASSES = dict(potsdam=6, loveda=7, deepglobe=6, whdld=6, gid15=15, mer=9, msl=9)


def classes_agree(leaf: Leaf) -> None:
    """R11, R12, R20: networks and data have the same classes; validation counts as the test."""
    classes = class_names(leaf.cfg)
    assert build(leaf.path).num_classes == len(classes) == CLASSES[leaf.data]
    averaged = []
    for evaluator in (leaf.cfg.val_evaluator, leaf.cfg.test_evaluator):
        metric = METRICS.build(evaluator)
        metric.dataset_meta = dict(classes=classes)
        averaged.append(set(metric.averaged))
    if leaf.released and leaf.method == 'rsmtdf':
        assert 'clutter' in averaged[1]
        return
    counted = set(classes)
    if leaf.data == 'potsdam' and leaf.method != 'co2s' and not leaf.released:
        counted.discard('clutter')
    assert averaged == [counted, counted]


def parts_exist(leaf: Leaf) -> None:
    cfg, settings = leaf.cfg, leaf.cfg.model.semi_train_cfg
    assert cfg.train_cfg.type == 'SemiTrainLoop'
    assert all(LOOPS.get(cfg[key].type) for key in ('train_cfg', 'val_cfg', 'test_cfg'))
    hooks = {hook.type: hook for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]}
    assert all(HOOKS.get(kind) for kind in hooks)
    assert {'DeferredRuntimeInfoHook', 'PseudoLabelStatsHook', 'PseudoLabelGuardHook'} <= set(hooks)
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert cfg.param_scheduler == dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False)
    cutmix = dict(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3))
    assert {**settings.cutmix, 'partner': 0} == {**cutmix, 'partner': 0}
    assert settings.conf_thresh == 0.95
    if leaf.method == 'co2s':
        assert 'MeanTeacherHook' not in hooks and not cfg.model.get('ema', False)
        return
    assert hooks['MeanTeacherHook'].momentum == 0.004
    assert settings.loss_reduce == 'mean'
    dropout = dict(keep=0.5) if leaf.method == 'unimatchv2' else None
    assert settings.get('feature_dropout') == dropout
    on = 'student' if leaf.method == 'supervised' or leaf.released else 'teacher'
    assert cfg.model.semi_test_cfg.predict_on == on


# --------------------------------------------------------------------------- models and optimizers

ATTENTION = {
    'CLIPVision': ('.attn.in_proj_', '.attn.out_proj.'),
    'DINOv2': ('.attn.qkv.', '.attn.proj.'),
    'DINOv3': ('.attn.qkv.', '.attn.q_bias', '.attn.v_bias', '.attn.proj.'),
}


def wanted_rate(leaf: Leaf, model: torch.nn.Module, key: str) -> float | None:
    """Published learning rate of a parameter; None if it is frozen or an average."""
    if leaf.method != 'co2s':
        if key.startswith('teacher.'):
            return None  # R4
        return 5e-6 if key.startswith('student.backbone.') else 2e-4
    _, student, part, *_ = key.split('.')
    if (leaf.parts, student) == ('clip_rsmtdf', 'b'):  # those of its own method
        return 5e-6 if part == 'backbone' else 2e-4
    if part == 'backbone':
        kind = type(model.students[student].backbone).__name__
        return 1e-6 if any(infix in key for infix in ATTENTION[kind]) else None
    return 1e-4 if '.class_embedding.' in key else 1e-3


def distinct(found: list[Leaf]) -> list[Leaf]:
    """One config of each model with its optimizer."""
    what = lambda leaf: repr([leaf.cfg.model.to_dict(), leaf.cfg.optim_wrapper.to_dict()])  # noqa: E731
    return list({what(leaf): leaf for leaf in found}.values())


@pytest.mark.parametrize('leaf', distinct(LEAVES), ids=name)
def test_model_learns_at_the_published_rates(leaf: Leaf, no_weight_file):
    model = build(leaf.path)
    assert {p.device.type for p in model.parameters()} == {'meta'}
    # R2: neither parameters nor state know text tower and foundation models, 390 M
    largest = 180e6 if leaf.method == 'co2s' else 60e6
    assert sum(value.numel() for value in model.state_dict().values()) < largest
    optimizer = build_optimizer(model, leaf.cfg)
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    for key, parameter in model.named_parameters():
        assert rates.get(id(parameter)) == pytest.approx(wanted_rate(leaf, model, key)), key
    assert {group['weight_decay'] for group in optimizer.param_groups} == {0.01}
    assert {group['betas'] for group in optimizer.param_groups} == {(0.9, 0.999)}
    assert len(optimizer.param_groups) == len(set(rates.values()))


def test_student_has_the_published_size():
    # 28.11 M of the release without its mask token and level-4 RCU1, which never train (R29)
    parameters = sum(p.numel() for p in build(MAIN).student.parameters())
    unused = 384 + 2 * (64 * 64 * 9 + 64)
    assert round((parameters + unused) / 1e6, 2) == 28.11


def test_dump_of_a_config_is_the_config():
    cfg = load(MAIN)
    dumped = Config.fromstring(cfg.pretty_text, '.py')
    assert dumped.to_dict() == cfg.to_dict()
    # The dump sorts the keys of dicts; neither weights nor optimizer state may depend on the order.
    first, second = build(MAIN), build_model(repr(dumped.model.to_dict()))
    names = [key for key, _ in first.named_parameters()]
    assert [key for key, _ in second.named_parameters()] == names
    heads = [model.student.decode_head for model in (first, second)]
    assert heads[0].extra_repr() == heads[1].extra_repr()  # names the weights


def test_schedule_ends_with_the_training():
    cfg = load(MAIN)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=2e-4)
    runner = SimpleNamespace(
        _train_loop=IterBasedTrainLoop.__new__(IterBasedTrainLoop),
        max_iters=cfg.train_cfg.max_iters,
        logger=logging.getLogger('test'),
        train_dataloader=[None],
    )
    (scheduler,) = Runner._build_param_scheduler(runner, cfg.param_scheduler, optimizer)
    last = cfg.train_cfg.max_iters - 1  # where mmengine reaches eta_min
    for iteration in range(cfg.train_cfg.max_iters):
        if iteration in (0, 1, last // 2, last):
            left = 1 - iteration / last
            assert optimizer.param_groups[0]['lr'] == pytest.approx(2e-4 * left**0.9, abs=1e-12)
        optimizer.step()
        scheduler.step()


# ------------------------------------------------------------------------------ published figures


def test_published_iterations():
    """Of the papers' tables; the contract derives all others by the same rule."""
    published = {
        'rsmtdf/dinov2_clip': dict(
            potsdam=(6060, 5820, 5520),
            deepglobe=(22320, 21420, 20280),
            loveda=(18720, 17940, 16980),
        ),
        'semiearth/semiearth_dinov2_clip': dict(
            loveda=(6220, 5960, 5660), potsdam=(5050, 4850, 4600)
        ),
    }
    for prefix, sets in published.items():
        for data, iterations in sets.items():
            paths = [CONFIGS / f'{prefix}_{data}_{ratio}.py' for ratio in ('1pct', '5pct', '10pct')]
            assert tuple(load(path).train_cfg.max_iters for path in paths) == iterations
    two_students = {
        'whdld_1-24': 42640, 'whdld_1-4': 33360, 'loveda_1-40': 73600, 'loveda_1-4': 56640,
        'potsdam_1-32': 95440, 'potsdam_1-4': 73920, 'gid15_1-8': 47920, 'gid15_1-4': 41040,
        'mer_1-8': 28050, 'mer_1-4': 24000, 'msl_1-8': 55040, 'msl_1-4': 47120,
    }  # fmt: skip
    for end, iterations in two_students.items():
        cfg = load(CONFIGS / f'co2s/clip_dinov3_{end}.py')
        assert cfg.train_cfg.max_iters == iterations


# Images of each set, and tiles of each.
IMAGES = dict(potsdam=(38, 144), loveda=(2522 + 1669, 4), deepglobe=(803, 25))
CO2S = dict(whdld=4940, loveda=2522 + 1669, potsdam=38 * 144, gid15=10 * 342, mer=1064, msl=3927)


def test_the_splits_have_as_many_tiles_as_the_configs_say():
    for data, (images, side) in IMAGES.items():
        names = [f'train/{image}_{tile}' for image in range(images) for tile in range(side)]
        assert len(draw_partition(names, r'(\d+)_').train) == TILES[data]['scene']
        if data != 'loveda':
            assert TILES[data]['dwl'] == images * side * 60 // 100
    assert TILES['loveda']['dwl'] == 2522 * 4


@pytest.mark.parametrize('data', CO2S)
def test_the_co2s_splits_have_as_many_tiles_as_the_configs_say(data: str):
    tiles = Tiles([f'train/{n}_0' for n in range(CO2S[data])], [], labels={})
    options = SplitOptions(data, Path('data'), preset='co2s', no_coverage=True)
    sets = make_split(options, tiles, progress=False).sets
    drawn = {(ratio, len(labelled), len(rest)) for ratio, (labelled, rest) in sets.items()}
    found = {(x.ratio, x.labelled, x.tiles - x.labelled) for x in leaves('co2s') if x.data == data}
    assert drawn == found


def test_labelled_counts_are_the_published_ones():
    published = {
        'potsdam': (32, 164, 328),
        'loveda': (100, 504, 1008),
        'deepglobe': (120, 602, 1204),
    }
    shares = (Fraction(1, 100), Fraction(5, 100), Fraction(10, 100))
    for data, counts in published.items():
        assert tuple(labelled_count(TILES[data]['dwl'], share) for share in shares) == counts


@pytest.mark.parametrize('folder', METHODS)
def test_every_config_is_listed(folder: str):
    found = {leaf.path.stem: leaf for leaf in leaves(folder)}
    metafile = yaml.safe_load((CONFIGS / folder / 'metafile.yml').read_text(encoding='utf-8'))
    assert {model['Name'] for model in metafile['Models']} == set(found)
    collections = {collection['Name']: collection for collection in metafile['Collections']}
    for model in metafile['Models']:
        assert model['Config'] == f'configs/{folder}/{model["Name"]}.py'
        assert model['In Collection'] in collections
        batch = found[model['Name']].cfg.auto_scale_lr.base_batch_size
        assert model['Metadata']['Batch Size'] == batch
    for collection in collections.values():
        assert (ROOT / collection['README']).is_file()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    assert f'configs/{folder}/metafile.yml' in index['Import']


# ---------------------------------------------------------------------- RS-MTDF and the baselines


def test_R5_R6_each_teacher_gets_what_it_was_trained_with():
    head = build(MAIN).student.decode_head
    dino, clip = head.teachers['dino'], head.teachers['clip']
    assert (dino.channels, dino.grid(518, 518)) == (768, (37, 37))
    assert (clip.channels, clip.grid(518, 518)) == (1024, (16, 16))
    assert dino.input_stats == tuple(map(tuple, IMAGENET))
    for stored, published in zip(clip.input_stats, CLIP, strict=True):
        assert stored == pytest.approx([255 * value for value in published], abs=1e-3)
    assert clip.antialias
    assert head.view_sizes((518, 518)) == [(224, 224)]
    settings = load(MAIN).model.student.decode_head
    assert settings.fusion.weights == dict(student=0.8, dino=0.1, clip=0.1)
    assert settings.translator.hidden == 1024
    assert (settings.student_view, settings.loss_distill.mask) == ('resized', 'valid')
    for leaf in leaves('rsmtdf'):
        if leaf.parts == 'dinov2_clip' and not leaf.released:
            ours = {**leaf.cfg.model.student.decode_head, 'decode_head': None}
            assert ours == {**settings, 'decode_head': None}, leaf.path


def test_released_preset_has_the_released_switches():
    cfg, model = load(RELEASED), build(RELEASED)
    head = model.student.decode_head
    assert head.teachers['clip'].input_stats is None
    assert not head.teachers['clip'].antialias
    assert head.teachers['clip'].align_corners
    assert head.teachers['clip'].input_size == 224
    assert cfg.model.student.decode_head.loss_distill.mask == 'none'
    assert model.student.view_resize == dict(antialias=False, align_corners=True)
    assert model.cutmix.partner == 'reverse'
    assert cfg.test_evaluator.ignore_gt == ['impervious_surface']


def test_checkpoints_can_be_taken_out_by_name():
    cfg = load(MAIN).copy()
    keys = [
        'model.student.backbone.checkpoint',
        'model.student.decode_head.teachers.dino.backbone.checkpoint',
        'model.student.decode_head.teachers.clip.backbone.checkpoint',
    ]
    base = (CONFIGS / '_base_/models/rsmtdf_dinov2-s.py').read_text(encoding='utf-8')
    assert all(f'{key}=None' in base for key in keys)
    cfg = Config(json.loads(json.dumps(cfg.to_dict())))
    cfg.merge_from_dict(dict.fromkeys(keys))
    assert "'checkpoints/" not in repr(cfg.model.to_dict())


# The photometry of section 4 of the method, on the transforms chosen for it.


def published() -> list[ConfigDict]:
    (photometry,) = load(MAIN).photometry
    return [ConfigDict(step) for step in STRENGTHS[photometry.strength]]


def strong_view(seed: int, image: np.ndarray, steps: list) -> np.ndarray:
    with seeded(seed):
        return steps(dict(img=image))['img']


@pytest.fixture(scope='module')
def tile() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)


def test_greyscale_is_luma_in_a_fifth_of_the_views(tile: np.ndarray):
    step = next(t for t in published() if t.type.endswith('ColorTransform'))
    views = [strong_view(seed, tile, Compose([step])) for seed in range(500)]
    grey = [view for view in views if not np.array_equal(view, tile)]
    assert len(grey) / len(views) == pytest.approx(0.2, abs=0.05)
    luma = tile @ np.array([0.114, 0.587, 0.299])
    assert np.abs(grey[0] - luma[..., None]).max() <= 1


def test_blur_radius_is_uniform(tile: np.ndarray):
    step = next(t for t in published() if t.type.endswith('GaussianBlur'))
    (blur,) = Compose([step]).transforms
    with seeded(0):
        radii = [blur.random_magnitude() for _ in range(2000)]
    assert 0.1 <= min(radii) < 0.15
    assert 1.95 < max(radii) <= 2.0
    assert np.mean(radii) == pytest.approx(1.05, abs=0.03)
    assert step.prob == 0.5


def test_colour_jitter_ranges_and_negative_hue(tile: np.ndarray):
    apply = next(t for t in published() if t.type == 'RandomApply')
    assert apply.prob == 0.8
    (jitter,) = Compose([apply]).transforms[0].transforms.transforms
    assert (jitter.brightness, jitter.contrast, jitter.saturation) == ((0.5, 1.5),) * 3
    assert jitter.hue == (-0.25, 0.25)
    # numpy 2 refuses to cast the negative half; each draw must work and change the picture
    views = [strong_view(seed, tile, Compose([jitter])) for seed in range(20)]
    assert not any(np.array_equal(view, tile) for view in views)


# One real step of the real configs on a small folder in the real layout.

TINY = dict(embed_dims=16, num_layers=4, num_heads=2, out_indices=[0, 1, 2, 3])
TINY_CLIP = dict(width=16, layers=1, heads=2, patch_size=14, image_size=224)
TINY_HEAD = dict(arch=None, in_channels=[16] * 4, post_process_channels=[8, 8, 8, 8], channels=8)


def shrink(cfg: Config) -> Config:
    """The same config with networks of a few thousand parameters and batches of two."""
    cfg = Config(cfg.to_dict())
    student = cfg.model.student
    student.backbone.update(arch=TINY, out_indices=None, checkpoint=None)
    head = student.decode_head
    head = head.get('decode_head', head)
    head.update(TINY_HEAD)
    for teacher in student.decode_head.get('teachers', {}).values():
        is_clip = teacher.backbone.type == 'CLIPVision'
        arch = TINY_CLIP if is_clip else {**TINY, 'num_layers': 1, 'out_indices': [0]}
        teacher.backbone.update(arch=arch, out_indices=(0,), checkpoint=None)
    cfg.train_dataloader.batch_size = cfg.train_dataloader.sampler.batch_size = 2
    cfg.val_dataloader.batch_size = 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 2
    cfg.log_level = 'ERROR'
    return cfg


@pytest.mark.parametrize(
    'path',
    [
        MAIN,
        CONFIGS / 'baselines/supervised_dinov2_deepglobe_10pct.py',
        CONFIGS / 'baselines/unimatchv2_dinov2_potsdam_1-4.py',
    ],
    ids=name,
)
def test_config_trains_validates_and_saves(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # yapf takes two seconds for each of the copies that mmengine writes
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg.to_dict())))
    cfg = shrink(load(path))
    make_folder(tmp_path / 'data', cfg)
    cfg.work_dir = str(tmp_path / 'work')
    torch.set_num_threads(1)
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars['train/loss'].data[0]).all()
    assert {'val/mIoU', 'val/teacher/mIoU', 'val/student/mIoU'} <= set(scalars)
    names = {key.split('/')[-1] for key in scalars if key.startswith('train/')}
    method = Leaf.read(path).method
    assert ('loss_unsup' in names) == (method != 'supervised')
    assert ({'loss_distill_dino', 'loss_distill_clip'} <= names) == (method == 'rsmtdf')
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'work' / 'iter_2.pth'))
    assert not any('teachers' in key for key in saved['state_dict'])


@pytest.mark.parametrize(
    ('config', 'views'),
    [
        ('rsmtdf/dinov2_clip_potsdam_5pct', ['strong']),
        ('rsmtdf/dinov2_clip_loveda_1-4', ['strong']),  # 0 is no class
        ('baselines/unimatchv2_dinov2_deepglobe_5pct', ['strong_1', 'strong_2']),
    ],
)
def test_batch_of_the_real_pipelines(config: str, views: list[str], tmp_path: Path):
    cfg = shrink(load(CONFIGS / f'{config}.py'))
    make_folder(tmp_path, cfg)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    with seeded(0):
        samples = [dataset[index] for index in range(4)]
    batch = MODELS.build(cfg.model.data_preprocessor)(pseudo_collate(samples), training=True)
    assert {key: tuple(value.shape) for key, value in batch['inputs'].items()} == dict.fromkeys(
        ['sup', 'weak', *views], (2, 3, 518, 518)
    )
    classes = len(dataset.metainfo['classes'])
    for sample in batch['data_samples']['sup']:
        ids = set(sample.gt_sem_seg.data.unique().tolist())
        assert ids <= {*range(classes), 255}
        assert len(ids) > 2
    for view in views:
        pairs = zip(batch['data_samples']['weak'], batch['data_samples'][view], strict=True)
        for weak, strong in pairs:
            assert torch.equal(weak.valid.data, strong.valid.data)
            assert weak.geometry == strong.geometry
    strong_views = [batch['inputs'][view] for view in views]
    assert all(not torch.equal(strong_views[0], other) for other in strong_views[1:])

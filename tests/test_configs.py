# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Every config of the method zoo: parses, is consistent with its protocol, builds, and steps."""

from __future__ import annotations

import ast
import json
import logging
from fractions import Fraction
from functools import cache
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
from mmseg_semi_rs.dataprep.splits.draw import draw_partition, labelled_count, parse_ratio
from mmseg_semi_rs.datasets.transforms.photometry import STRENGTHS
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

EVERY = sorted(CONFIGS.rglob('*.py'))
LEAVES = sorted([*(CONFIGS / 'rsmtdf').glob('*.py'), *(CONFIGS / 'baselines').glob('*.py')])
DATA = ('potsdam', 'loveda', 'deepglobe')
MAIN = CONFIGS / 'rsmtdf' / 'dinov2_clip_potsdam_1-4.py'
RELEASED = CONFIGS / 'rsmtdf' / 'dinov2_clip_potsdam_1pct_released.py'


def expected() -> dict[str, tuple[str, str, str]]:
    """Method, dataset and ratio of every config that has to be there."""
    ratios = ('1-4', '1-8', '1-16', '1-32', '1pct', '5pct', '10pct')
    found = {f'dinov2_clip_{d}_{r}': ('rsmtdf', d, r) for d in DATA for r in ratios}
    found['dinov2_clip_potsdam_1pct_released'] = ('rsmtdf', 'potsdam', '1pct')
    for data in DATA:
        for method in ('supervised', 'fixmatch', 'unimatchv2'):
            for ratio in ('1-4', '1pct', '5pct', '10pct'):
                found[f'{method}_dinov2_{data}_{ratio}'] = (method, data, ratio)
        found[f'supervised_dinov2_{data}_full'] = ('supervised', data, 'full')
    return found


EXPECTED = expected()


def described(path: Path) -> tuple[str, str, str]:
    return EXPECTED[path.stem]


@cache
def training_patches(data: str, preset: str) -> int:
    """Patches of the training list, counted on the real numbers of images."""
    images = {'potsdam': 38, 'loveda': 2522 + 1669, 'deepglobe': 803}[data]
    side = {'potsdam': 12, 'loveda': 2, 'deepglobe': 5}[data]
    if preset == 'dwl' and data == 'loveda':
        return 2522 * side**2
    if preset == 'dwl':
        return images * side**2 * 60 // 100
    names = [f'train/{image}_{tile}' for image in range(images) for tile in range(side**2)]
    return len(draw_partition(names, r'(\d+)_').train)


def test_every_promised_config_is_there():
    assert sorted(path.stem for path in LEAVES) == sorted(EXPECTED)


@pytest.mark.parametrize('path', EVERY, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_bases_are_self_contained(path: Path):
    text = path.read_text(encoding='utf-8')
    assert '::' not in text
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                assert (path.parent / base).resolve().is_relative_to(CONFIGS)
                assert (path.parent / base).is_file()


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_leaf_is_short(path: Path):
    lines = path.read_text(encoding='utf-8').splitlines()
    assert len([line for line in lines if line and not line.startswith('#')]) <= 15


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_registers_the_plugin(path: Path):
    cfg = load(path)
    assert cfg.default_scope == 'mmseg'
    assert cfg.custom_imports == dict(imports=['mmseg_semi_rs'], allow_failed_imports=False)


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


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_lists_are_those_of_its_name(path: Path):
    cfg, (method, data, ratio) = load(path), described(path)
    preset = 'dwl' if ratio.endswith('pct') else 'scene'
    train = cfg.train_dataloader.dataset
    listed = 'train.txt' if ratio == 'full' else f'{ratio}/labeled.txt'
    assert train.labelled.ann_file == f'splits/{preset}/{listed}'
    assert cfg.val_dataloader.dataset.ann_file == f'splits/{preset}/val.txt'
    assert cfg.test_dataloader.dataset.ann_file == f'splits/{preset}/test.txt'
    sources = [train.labelled, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset]
    assert all(s.data_prefix == dict(img_path='img_dir', seg_map_path='ann_dir') for s in sources)
    if method == 'supervised':
        assert train.unlabelled is None
    else:
        assert train.unlabelled.ann_file == f'splits/{preset}/{ratio}/unlabeled.txt'
        # R22: no folder of label files, so none can be opened
        assert train.unlabelled.data_prefix == dict(img_path='img_dir')
        sources.append(train.unlabelled)
    assert {source.data_root for source in sources} == {f'data/{data}'}
    assert {source.type.lower() for source in sources} == {f'{data}dataset'}


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_R26_length_is_that_of_the_published_four_gpu_run(path: Path):
    method, data, ratio = described(path)
    patches = training_patches(data, 'dwl' if ratio.endswith('pct') else 'scene')
    labelled = patches if ratio == 'full' else labelled_count(patches, parse_ratio(ratio))
    unlabelled = patches - labelled
    text = path.read_text(encoding='utf-8')
    if method == 'supervised':
        iterations = -(-3000 // 4) // 16 * 60
    else:
        iterations = -(-unlabelled // 4) // 8 * 60
    assert load(path).train_cfg.max_iters == iterations
    if path != RELEASED:  # it inherits both
        assert f'{patches:,} training patches' in text
        assert f'labelled: {labelled:,}' in text


@pytest.mark.parametrize(
    ('data', 'iterations'),
    [
        ('potsdam', (6060, 5820, 5520)),
        ('deepglobe', (22320, 21420, 20280)),
        ('loveda', (18720, 17940, 16980)),
    ],
)
@pytest.mark.parametrize(
    'method',
    ['rsmtdf/dinov2_clip', 'baselines/fixmatch_dinov2', 'baselines/unimatchv2_dinov2'],
)
def test_published_iterations(method: str, data: str, iterations: tuple[int, ...]):
    for ratio, expected_iters in zip(('1pct', '5pct', '10pct'), iterations, strict=True):
        cfg = load(CONFIGS / f'{method}_{data}_{ratio}.py')
        assert cfg.train_cfg.max_iters == expected_iters


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_batch_is_eight_and_eight_per_gpu(path: Path):
    cfg, (method, _, _) = load(path), described(path)
    loader = cfg.train_dataloader
    assert loader.batch_size == loader.sampler.batch_size == 16
    assert loader.sampler.source_ratio == ([1, 0] if method == 'supervised' else [1, 1])
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=4 * loader.batch_size)


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_sizes_and_statistics_fit_the_networks(path: Path):
    cfg = load(path)
    assert cfg.crop_size == (518, 518)
    assert 518 % 14 == 0
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.size == cfg.crop_size
    assert (preprocessor.mean, preprocessor.std) == IMAGENET
    assert preprocessor.bgr_to_rgb
    assert preprocessor.seg_pad_val == 255
    assert preprocessor.test_cfg.size_divisor == 14
    geometry = {step.type: step for step in cfg.geometry.transforms}
    assert geometry['RandomCrop'].crop_size == cfg.crop_size
    assert geometry['RandomCrop'].cat_max_ratio == 1.0
    assert geometry['RandomResize'].ratio_range == (0.5, 2.0)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        steps = [step.type for step in loader.dataset.pipeline]
        # the label is loaded after the resize, hence keeps its own size
        assert steps.index('Resize') < steps.index('LoadAnnotations')
        assert loader.dataset.pipeline[1].scale == cfg.crop_size
        assert loader.dataset.pipeline[1].keep_ratio is False


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_model_builds_without_opening_a_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f'a weight file was opened: {args[:1]}')

    monkeypatch.setattr('torch.load', refuse)
    monkeypatch.setattr('safetensors.torch.load_file', refuse)
    cfg, model = load(path), build(path)
    dataset = DATASETS.get(cfg.train_dataloader.dataset.labelled.type)(lazy_init=True)
    assert model.num_classes == len(dataset.metainfo['classes'])
    assert model.align_corners is True
    assert {p.device.type for p in model.parameters()} == {'meta'}
    # R2: neither parameters nor state know the foundation models, 390 M
    assert sum(value.numel() for value in model.state_dict().values()) < 60e6


def test_student_has_the_published_size():
    # 28.11 M of the release without its mask token and level-4 RCU1, which never train (R29)
    parameters = sum(p.numel() for p in build(MAIN).student.parameters())
    unused = 384 + 2 * (64 * 64 * 9 + 64)
    assert round((parameters + unused) / 1e6, 2) == 28.11


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_learning_rates_are_the_published_ones(path: Path):
    model = build(path)
    optimizer = build_optimizer(model, load(path))
    rates = {id(p): g['lr'] for g in optimizer.param_groups for p in g['params']}
    decays = {g['weight_decay'] for g in optimizer.param_groups}
    for key, parameter in model.named_parameters():
        if key.startswith('teacher.'):
            assert id(parameter) not in rates  # R4
        else:
            wanted = 5e-6 if key.startswith('student.backbone.') else 2e-4
            assert rates[id(parameter)] == pytest.approx(wanted), key
    assert decays == {0.01}
    assert optimizer.param_groups[0]['betas'] == (0.9, 0.999)
    assert len(optimizer.param_groups) == 2


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


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_metric_counts_the_published_classes(path: Path):
    cfg, (_, data, _) = load(path), described(path)
    classes = class_names(cfg)
    averaged = []
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        metric = METRICS.build(evaluator)
        metric.dataset_meta = dict(classes=classes)
        averaged.append(metric.averaged)
    counts = {'potsdam': 5, 'loveda': 7, 'deepglobe': 6}
    assert [len(names) for names in averaged] == [counts[data]] * 2
    if path == RELEASED:
        assert 'clutter' in averaged[1]  # R11 as released
        return
    assert averaged[0] == averaged[1]  # R12
    assert 'clutter' not in averaged[0]
    assert 'unknown' not in averaged[0]  # R20


@pytest.mark.parametrize('path', LEAVES, ids=name)
def test_loops_hooks_and_settings_exist(path: Path):
    cfg, (method, _, _) = load(path), described(path)
    assert cfg.train_cfg.type == 'SemiTrainLoop'
    for section in ('train_cfg', 'val_cfg', 'test_cfg'):
        assert LOOPS.get(cfg[section].type) is not None
    kinds = {hook.type for hook in [*cfg.default_hooks.values(), *cfg.custom_hooks]}
    assert all(HOOKS.get(kind) is not None for kind in kinds)
    assert {'DeferredRuntimeInfoHook', 'MeanTeacherHook', 'PseudoLabelStatsHook'} <= kinds
    momentum = next(h.momentum for h in cfg.custom_hooks if h.type == 'MeanTeacherHook')
    assert momentum == 0.996
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    settings = cfg.model.semi_train_cfg
    assert (settings.conf_thresh, settings.loss_reduce) == (0.95, 'mean')
    assert (settings.cutmix.prob, settings.cutmix.area) == (0.5, (0.02, 0.4))
    dropout = dict(keep=0.5) if method == 'unimatchv2' else None
    assert settings.get('feature_dropout') == dropout
    assert settings.cutmix.aspect == (0.3, 1 / 0.3)
    on = 'student' if method == 'supervised' or path == RELEASED else 'teacher'
    assert cfg.model.semi_test_cfg.predict_on == on


@pytest.mark.parametrize(
    'path', [p for p in LEAVES if described(p)[0] == 'rsmtdf' and p != RELEASED], ids=name
)
def test_R5_R6_each_teacher_gets_what_it_was_trained_with(path: Path):
    head = build(path).student.decode_head
    dino, clip = head.teachers['dino'], head.teachers['clip']
    assert (dino.channels, dino.grid(518, 518)) == (768, (37, 37))
    assert (clip.channels, clip.grid(518, 518)) == (1024, (16, 16))
    assert dino.input_stats == tuple(map(tuple, IMAGENET))
    for stored, published in zip(clip.input_stats, CLIP, strict=True):
        assert stored == pytest.approx([255 * value for value in published], abs=1e-3)
    assert clip.antialias
    assert head.view_sizes((518, 518)) == [(224, 224)]
    settings = load(path).model.student.decode_head
    assert settings.fusion.weights == dict(student=0.8, dino=0.1, clip=0.1)
    assert settings.translator.hidden == 1024
    assert (settings.student_view, settings.loss_distill.mask) == ('resized', 'valid')


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
        CONFIGS / 'baselines/fixmatch_dinov2_loveda_1pct.py',
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
    method = described(path)[0]
    assert ('loss_unsup' in names) == (method != 'supervised')
    assert ({'loss_distill_dino', 'loss_distill_clip'} <= names) == (method == 'rsmtdf')
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'work' / 'iter_2.pth'))
    assert not any('teachers' in key for key in saved['state_dict'])


@pytest.mark.parametrize('data', DATA)
@pytest.mark.parametrize(
    ('config', 'views'),
    [('rsmtdf/dinov2_clip', ['strong']), ('baselines/unimatchv2_dinov2', ['strong_1', 'strong_2'])],
    ids=['one strong view', 'two'],
)
def test_batch_of_the_real_pipelines(config: str, views: list[str], data: str, tmp_path: Path):
    cfg = shrink(load(CONFIGS / f'{config}_{data}_5pct.py'))
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


# What is written about the configs.


@pytest.mark.parametrize('folder', ['rsmtdf', 'baselines', 'semiearth'])
def test_every_config_is_listed(folder: str):
    stems = {path.stem for path in (CONFIGS / folder).glob('*.py')}
    metafile = yaml.safe_load((CONFIGS / folder / 'metafile.yml').read_text(encoding='utf-8'))
    assert {model['Name'] for model in metafile['Models']} == stems
    collections = {collection['Name']: collection for collection in metafile['Collections']}
    for model in metafile['Models']:
        assert model['Config'] == f'configs/{folder}/{model["Name"]}.py'
        assert model['In Collection'] in collections
        assert model['Metadata']['Batch Size'] == 64
    for collection in collections.values():
        assert (ROOT / collection['README']).is_file()
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    assert f'configs/{folder}/metafile.yml' in index['Import']
    readme = (CONFIGS / folder / 'README.md').read_text(encoding='utf-8')
    assert all(f'{stem}.py' in readme for stem in stems)


def test_readme_tables_state_the_iterations():
    for path in LEAVES:
        readme = (path.parent / 'README.md').read_text(encoding='utf-8')
        row = next(line for line in readme.splitlines() if f'({path.name})' in line)
        if path != RELEASED:
            assert f'{load(path).train_cfg.max_iters:,}' in row


def test_labelled_counts_are_the_published_ones():
    published = {
        'potsdam': (32, 164, 328),
        'loveda': (100, 504, 1008),
        'deepglobe': (120, 602, 1204),
    }
    for data, counts in published.items():
        patches = training_patches(data, 'dwl')
        shares = (Fraction(1, 100), Fraction(5, 100), Fraction(10, 100))
        assert tuple(labelled_count(patches, share) for share in shares) == counts

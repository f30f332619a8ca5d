# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""The worked examples run as their README says, on a few fabricated tiles."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmseg.registry import DATASETS, HOOKS, MODELS
from PIL import Image

from mmseg_semi_rs.engine.hooks import VLMPurifyHook
from mmseg_semi_rs.purification.store import EvidenceStore
from tests._support.purified_training import COLOURS, config
from tests._support.tiny_training import ROOT, run_here, write_training

SEGFORMER = ROOT / 'projects/segformer_distill/configs'
PURIFY = ROOT / 'projects/vlm_purify/configs'


def write_potsdam(folder: Path) -> None:
    """Write eight 128 px tiles in mmseg's Potsdam layout, with the lists of a split by scene."""
    rng = np.random.default_rng(0)
    root = folder / 'data/demo_potsdam'
    names = [f'train/{scene}_0_0_128_128' for scene in range(8)]
    for index, name in enumerate(names):
        labels = (np.indices((128, 128))[index % 2] // 16 + index) % 6 + 1
        colours = rng.integers(0, 255, (7, 3))
        pixels = np.clip(colours[labels] + rng.normal(0, 9, (128, 128, 3)), 0, 255)
        for kind, array in (('img_dir', pixels), ('ann_dir', labels)):
            path = root / kind / f'{name}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    lists = {
        '1-4/labeled': names[:2],
        '1-4/unlabeled': names[2:6],
        'val': names[6:7],
        'test': names[7:],
    }
    for name, listed in lists.items():
        path = root / f'splits/scene/{name}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(listed) + '\n')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'loss'),
    [
        ('segformer_mit-b0_dinov2-s_potsdam.py', 'decode.loss_distill_dino'),
        ('mean-teacher_segformer_mit-b0_dinov2-s_potsdam.py', 'loss_distill_dino'),
    ],
)
def test_segformer_learns_from_dinov2(config, loss, tmp_path, monkeypatch):
    write_potsdam(tmp_path)
    monkeypatch.chdir(tmp_path)
    run_here(
        *('train', SEGFORMER / config, '--work-dir', tmp_path / 'work', '--cfg-options'),
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
    )
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    values = [float(value) for value in re.findall(rf' {re.escape(loss)}: ([\d.]+)', log)]
    assert len(values) == 4 and all(0 < value < 100 for value in values)
    assert values[-1] < values[0]
    assert 'mIoU' in log

    # MiT-B0 with head 3.7 M, translator 0.7 M and projection 0.1 M parameters; no ViT-S (22 M).
    checkpoint = tmp_path / 'work/iter_4.pth'
    state = CheckpointLoader.load_checkpoint(str(checkpoint))['state_dict']
    students = 2 if config.startswith('mean-teacher') else 1
    assert sum(tensor.numel() for tensor in state.values()) < students * 5e6


# projects/vlm_purify


def load_purify(name: str) -> Config:
    """Read a config of the project, with its paths as they are from the root."""
    cfg = Config.fromfile(PURIFY / name)
    init_default_scope('mmseg')
    return cfg


@pytest.mark.parametrize(
    ('name', 'verifier', 'segmentor'),
    [
        ('fixmatch_segformer_mit-b0_potsdam', None, 'MeanTeacherSegmentor'),
        ('fixmatch_segformer_mit-b0_clip_potsdam', 'CLIPVerifier', 'MeanTeacherSegmentor'),
        (
            'fixmatch_segformer_mit-b0_segmentor_potsdam',
            'SegmentorVerifier',
            'MeanTeacherSegmentor',
        ),
        ('rsmtdf_dinov2_clip_potsdam_1-4', 'CLIPVerifier', 'MeanTeacherSegmentor'),
        ('co2s_clip_dinov3_loveda_1-4', 'GenerativeVerifier', 'DualStudentSegmentor'),
    ],
)
def test_the_hook_is_all_that_a_purified_config_adds(name, verifier, segmentor, monkeypatch):
    monkeypatch.chdir(ROOT)  # paths in configs are relative
    cfg = load_purify(f'{name}.py')
    hooks = [HOOKS.build(hook) for hook in cfg.custom_hooks]
    purify = [hook for hook in hooks if isinstance(hook, VLMPurifyHook)]
    assert [type(hook.verifier).__name__ for hook in purify] == ([verifier] if verifier else [])
    dataset = DATASETS.get(cfg.train_dataloader.dataset.labelled.type)(lazy_init=True)
    for hook in purify:
        assert hook.verifier.num_classes == len(dataset.metainfo['classes'])
        assert not hook.budget
    assert cfg.model.type == segmentor
    plain = {
        'fixmatch': PURIFY / 'fixmatch_segformer_mit-b0_potsdam.py',
        'rsmtdf': ROOT / 'configs/rsmtdf/dinov2_clip_potsdam_1-4.py',
        'co2s': ROOT / 'configs/co2s/clip_dinov3_loveda_1-4.py',
    }[name.split('_')[0]]
    before = Config.fromfile(plain)
    assert cfg.custom_hooks[: len(before.custom_hooks)] == before.custom_hooks
    assert len(cfg.custom_hooks) == len(before.custom_hooks) + bool(verifier)
    for key in ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg', 'default_hooks'):
        assert cfg[key] == before[key], key


def test_sam_3_is_calibrated_and_then_its_regions_vote():
    cfg = load_purify('fixmatch_segformer_mit-b0_sam3_potsdam.py')
    plain = load_purify('fixmatch_segformer_mit-b0_potsdam.py')
    assert cfg.custom_hooks[:-2] == plain.custom_hooks and cfg.model == plain.model
    evidence, regions = (HOOKS.build(hook) for hook in cfg.custom_hooks[-2:])
    assert type(evidence.verifier).__name__ == 'Sam3Verifier'
    assert evidence.verifier.num_classes == 6 and evidence.thresholds.alpha == 0.1
    assert type(regions.verifier).__name__ == 'SAMProposer' and regions.policy.share == 0.6


def test_rsmtdf_and_semiearth_share_their_evidence():
    hooks = [
        Config.fromfile(path).custom_hooks[-1]
        for path in (
            PURIFY / 'rsmtdf_dinov2_clip_potsdam_1-4.py',
            ROOT / 'configs/semiearth/semiearth_dinov2_clip_potsdam_1-4.py',
        )
    ]
    assert hooks[0].verifier == hooks[1].verifier and hooks[0].store == hooks[1].store


def test_the_plain_segformer_has_no_trace_of_the_teacher_that_its_base_distils():
    cfg = load_purify('fixmatch_segformer_mit-b0_potsdam.py')
    model = MODELS.build(cfg.model)
    assert type(model.student).__name__ == 'EncoderDecoder'
    assert type(model.student.decode_head).__name__ == 'SegformerHead'
    assert sum(parameter.numel() for parameter in model.student.parameters()) < 4e6


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    """Config and checkpoint of a plain mmseg segmentor, saved before its first step."""
    folder = tmp_path_factory.mktemp('segmentor')
    cfg = config(write_training(folder / 'data'), folder / 'run')
    cfg.custom_hooks = []
    cfg.model = dict(cfg.model.student, data_preprocessor=cfg.model.data_preprocessor)
    path = folder / 'plain.py'
    cfg.dump(path)
    runner = Runner.from_cfg(Config.fromfile(path))
    runner.save_checkpoint(
        str(folder), 'plain.pth', save_optimizer=False, save_param_scheduler=False
    )
    return path, folder / 'plain.pth'


def build_segmentor_verifier(segmentor, **changes):
    from projects.vlm_purify.segmentor_verifier import SegmentorVerifier

    path, checkpoint = segmentor
    settings = dict(
        classes=['roof', 'grass', None],
        config=str(path),
        checkpoint=str(checkpoint),
        label_map=[1, None, 0],  # of grass, road, roof
    )
    return SegmentorVerifier(**{**settings, **changes})


def draw_tile(seed: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (size[0] // 8, size[1] // 8)).repeat(8, 0).repeat(8, 1)
    return np.clip(COLOURS[labels] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)


def test_any_segmentor_is_a_verifier(segmentor):
    from mmseg.apis import inference_model, init_model

    verifier = build_segmentor_verifier(segmentor, temperature=0.05)
    state = torch.get_rng_state()
    verifier.load('cpu')
    assert torch.equal(torch.get_rng_state(), state)
    tiles = [draw_tile(0), draw_tile(1, (64, 96))]
    found = verifier.verify(tiles)
    cfg = Config.fromfile(segmentor[0])
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    model = init_model(cfg, str(segmentor[1]), device='cpu')
    covered = 0
    for tile, evidence in zip(tiles, found, strict=True):
        assert evidence.size == tile.shape[:2] and evidence.scores.shape == (3, *tile.shape[:2])
        logits = inference_model(model, tile[..., ::-1].copy()).seg_logits.data / 0.05
        grass, road, roof = logits.softmax(0).numpy()
        expected = np.stack([roof, grass, np.zeros_like(road)])
        assert np.abs(evidence.scores / 255 - expected).max() < 0.5 / 255 + 1e-4
        assert np.array_equal(evidence.seen, road < np.maximum(grass, roof))
        covered += evidence.seen.sum()
    assert covered
    again = verifier.verify([tiles[1], tiles[0]])
    for first, second in zip(found, reversed(again), strict=True):
        assert np.array_equal(first.scores, second.scores) and first.answer == second.answer


def test_several_classes_of_a_segmentor_may_be_one_of_ours(segmentor):
    verifier = build_segmentor_verifier(segmentor, classes=['anything'], label_map=[0, 0, 0])
    verifier.load()
    (evidence,) = verifier.verify([draw_tile(2)])
    assert evidence.scores.min() == 255 and evidence.seen.all()
    assert evidence.answer == 'anything 100%'


def test_settings_of_a_segmentor_tell_what_changes_the_evidence(segmentor, tmp_path):
    path, checkpoint = segmentor
    plain = build_segmentor_verifier(segmentor).settings()
    assert build_segmentor_verifier(segmentor).settings() == plain
    moved = tmp_path / 'moved.pth'
    moved.write_bytes(checkpoint.read_bytes())
    assert build_segmentor_verifier(segmentor, checkpoint=str(moved)).settings() == plain
    moved.write_bytes(checkpoint.read_bytes() + b' ')
    other = tmp_path / 'other.py'
    other.write_text(path.read_text().replace('channels=8', 'channels=16'))
    for changes in (
        dict(checkpoint=str(moved)),
        dict(config=str(other)),
        dict(temperature=2.0),
        dict(label_map=[1, 1, 0]),
        dict(classes=['roof', 'lawn', None]),
    ):
        assert build_segmentor_verifier(segmentor, **changes).settings() != plain, changes
    absent = build_segmentor_verifier(segmentor, checkpoint='none.pth')
    assert absent.settings() == {**plain, 'weights': None}
    EvidenceStore(tmp_path, plain).prepare()  # settings are plain JSON


@pytest.mark.parametrize(
    ('changes', 'error', 'told'),
    [
        (dict(label_map=[0, 1, 2]), ValueError, r'label_map=\[0, 1, 2\].*\[0, 1\]'),
        (dict(label_map=[0, 1]), ValueError, 'has 3 classes, but label_map has 2'),
        (dict(temperature=0), ValueError, 'temperature above 0'),
        (dict(config='none.py'), FileNotFoundError, 'none.py does not exist'),
        (dict(checkpoint='none.pth'), FileNotFoundError, 'none.pth do not exist'),
    ],
)
def test_what_does_not_fit_a_segmentor_is_told(segmentor, changes, error, told):
    with pytest.raises(error, match=told):
        build_segmentor_verifier(segmentor, **changes).load()


@pytest.mark.slow
def test_the_plain_segformer_is_purified_by_a_segmentor(tmp_path, monkeypatch):
    write_potsdam(tmp_path)
    monkeypatch.chdir(tmp_path)
    trained = tmp_path / 'trained'
    small = [
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=3',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
    ]
    config_of_verifier = SEGFORMER / 'segformer_mit-b0_dinov2-s_potsdam.py'
    runs = [
        (config_of_verifier, trained, []),
        (
            PURIFY / 'fixmatch_segformer_mit-b0_segmentor_potsdam.py',
            tmp_path / 'work',
            [
                f'custom_hooks.2.verifier.config={config_of_verifier}',
                f'custom_hooks.2.verifier.checkpoint={trained / "iter_3.pth"}',
                'custom_hooks.2.budget=4',
                'custom_hooks.2.trust=None',
                'custom_hooks.2.interval=1',
                'custom_hooks.2.policy.type=EvidencePolicy',
                'custom_hooks.2.policy.gate=0.05',
                'custom_hooks.2.policy.margin=0.001',
                'custom_hooks.2.policy.support_gate=0.05',
            ],
        ),
    ]
    for path, work_dir, options in runs:
        run_here('train', path, '--work-dir', work_dir, '--cfg-options', *small, *options)
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    logged = {
        name: [float(value) for value in re.findall(rf' purify/{name}: ([\d.]+)', log)]
        for name in ('covered', 'corrected', 'supported', 'vetoed')
    }
    assert all(len(values) == 3 for values in logged.values()), logged
    assert min(logged['covered']) > 0
    assert sum(logged['corrected']) + sum(logged['supported']) > 0
    assert len(list((tmp_path / 'data/evidence/demo_potsdam').glob('*/*/*.npz'))) > 0

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""All images labelled by networks and a person, and a student's config for them."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from PIL import Image

from mmseg_semi_rs.apis import autolabel as labels
from mmseg_semi_rs.apis import load_predictor, predict_image
from mmseg_semi_rs.apis.ensemble import PredictorEnsemble
from mmseg_semi_rs.apis.predictor import Predictor
from mmseg_semi_rs.apis.student_config import plain_config
from tests._support.tiny_training import load_tool, write_training

NAMES = [f'tile_{index}' for index in range(4)]  # two of a person


@pytest.fixture
def trained(tmp_path):
    """A config of two labelled and two unlabelled tiles, and two checkpoints."""
    config = write_training(tmp_path)
    model = Config.fromfile(config).model
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = MODELS.build(model)
        network.init_weights()
        paths.append(tmp_path / f'seed_{seed}.pth')
        torch.save({'state_dict': network.state_dict(), 'meta': {}}, paths[-1])
    return config, paths


def by_colour(self, windows):
    """Stands for a trained network: classes by colour, another way with each checkpoint."""
    own = float(self.model.teacher.decode_head.conv_seg.weight.double().sum())
    mixing = torch.randn(3, 3, generator=torch.Generator().manual_seed(int(abs(own) * 1e6)))
    colours = windows.float().permute(0, 2, 3, 1) / 60 - 1.7
    return (colours @ mixing).softmax(-1).permute(0, 3, 1, 2)


def run(trained, *more):
    config, paths = trained
    out = config.parent / 'out'
    load_tool('autolabel').main([str(config), *map(str, paths), '--out', str(out), *more])
    manifest = json.loads((out / 'labels.json').read_text())
    assert [path for path, _ in manifest['made_by']['networks']] == [str(path) for path in paths]
    return out, {image['image'].rsplit('/', 1)[1][:-4]: image for image in manifest['images']}


def mask_of(out, name):
    return np.asarray(Image.open(out / 'masks' / f'{name}.png'))


def tile_of(trained, name):
    return np.asarray(Image.open(trained[0].parent / 'img' / f'{name}.png'))


def test_networks_label_together_and_a_person_stays_a_person(trained, capsys, monkeypatch):
    monkeypatch.setattr(Predictor, 'probabilities', by_colour)
    out, images = run(trained, '--keep', '0.5')
    assert [images[name]['source'] for name in NAMES] == ['person'] * 2 + ['automatic'] * 2
    for name in NAMES[:2]:
        own = np.asarray(Image.open(trained[0].parent / 'ann' / f'{name}.png'))
        np.testing.assert_array_equal(mask_of(out, name), own)
        assert images[name]['weight'] == 1
    both = [load_predictor(trained[0], path) for path in trained[1]]
    said, confidence = [], []
    for name in NAMES[2:]:
        pixels = tile_of(trained, name)
        windows = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        mean = sum(each.probabilities(windows)[0] for each in both) / 2
        assert (both[0].probabilities(windows)[0].argmax(0) != mean.argmax(0)).any()
        said.append(mean.argmax(0).numpy())
        confidence.append((mean.max(0).values * 255).round().numpy())
    said, confidence = np.stack(said), np.stack(confidence)
    masks = np.stack([mask_of(out, name) for name in NAMES[2:]])
    kept = masks != 255
    np.testing.assert_array_equal(masks[kept], said[kept])
    for k in np.unique(said):
        own = said == k
        surest = np.sort(confidence[own])[::-1]
        bar = surest[int(np.ceil(0.5 * own.sum())) - 1]  # half of the class is at or above it
        np.testing.assert_array_equal(kept[own], confidence[own] >= bar)
    for index, name in enumerate(NAMES[2:]):
        weight = (confidence[index] * kept[index]).mean() / 255
        assert images[name]['weight'] == pytest.approx(weight, abs=0.01)
        assert images[name]['times'] == round(4 * images[name]['weight'])
    lines = (out / 'train.png.txt').read_text().split()
    assert {name: lines.count(name) for name in NAMES} == {n: images[n]['times'] for n in NAMES}
    told = capsys.readouterr().out
    assert '2 masks of a person, 0 edited, 2 automatic' in told
    assert str(out / 'student.py') in told.split('next:')[1]
    # everything is kept, and every pixel has a label, where the bar is switched off
    out, images = run(trained, '--keep', '1')
    assert all((mask_of(out, name) != 255).all() for name in NAMES)


def test_what_a_person_corrects_stays_and_a_killed_run_goes_on(trained, monkeypatch):
    monkeypatch.setattr(Predictor, 'probabilities', by_colour)
    write, written = labels.write_atomic, []

    def killed(path, contents):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, contents)

    monkeypatch.setattr(labels, 'write_atomic', killed)
    with pytest.raises(KeyboardInterrupt):
        run(trained)
    monkeypatch.setattr(labels, 'write_atomic', write)

    def unasked(self, windows):
        raise AssertionError('predicted again')

    with monkeypatch.context() as once:
        once.setattr(PredictorEnsemble, 'probabilities', unasked)
        out, images = run(trained)
        assert [images[name]['source'] for name in NAMES] == ['person'] * 2 + ['automatic'] * 2
        before = (mask_of(out, NAMES[2]) == 255).mean()
        correction = np.full((64, 64), 2, np.uint8)
        Image.fromarray(correction).save(out / 'masks' / f'{NAMES[3]}.png')
        out, images = run(trained, '--keep', '0.3')  # other masks of the others
    assert images[NAMES[3]]['source'] == 'edited' and images[NAMES[3]]['weight'] == 1
    np.testing.assert_array_equal(mask_of(out, NAMES[3]), correction)
    assert images[NAMES[3]]['times'] == images[NAMES[0]]['times']
    assert images[NAMES[2]]['source'] == 'automatic'
    assert (mask_of(out, NAMES[2]) == 255).mean() > before + 0.2


def test_the_student_is_an_ordinary_config_of_mmseg(trained, monkeypatch):
    out, images = run(trained, '--person-share', '0.8', '--iters', '4')
    cfg = Config.fromfile(out / 'student.py')
    assert 'custom_imports' not in cfg
    times = {'person': 0, 'automatic': 0}
    for image in images.values():
        times[image['source']] += image['times']
    person, automatic = times.values()
    assert person / (person + automatic) == pytest.approx(0.8, abs=0.1)
    assert cfg.labelled_by == [str(path) for path in trained[1]]
    assert cfg.model.type == 'EncoderDecoder'
    assert cfg.model.data_preprocessor.type == 'SegDataPreProcessor'
    steps = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert steps == ['LoadImageFromFile', 'LoadAnnotations', 'RandomResize', 'RandomCrop',
                     'RandomFlip', 'PackSegInputs']  # fmt: skip
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', 4)
    from mmengine.runner import Runner

    cfg.work_dir = str(out / 'work')
    cfg.train_dataloader.batch_size = 2
    cfg.experiment_name = 'student_of_autolabel'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(runner.train_dataloader.dataset) == person + automatic
    saved = torch.load(out / 'work' / 'iter_4.pth', weights_only=False)
    # the average, of which stock mmseg predicts, and the network at the last step beside it
    name = 'decode_head.conv_seg.weight'
    last = runner.model.state_dict()[name]
    assert not torch.equal(saved['state_dict'][name], last)
    assert torch.equal(saved['ema_state_dict'][f'module.{name}'], last)


@pytest.mark.parametrize(
    'hook, momentum',
    [
        (dict(half_life=0.05), 1 - 0.5 ** (1 / (0.05 * 400))),
        (dict(half_life=0.05, interval=2), 1 - 0.5 ** (2 / (0.05 * 400))),
        (dict(keep=0.99), 0.01),
        (dict(momentum=0.02), 0.02),
        (dict(), 0.004),
        (None, None),
    ],
)
def test_the_student_is_averaged_as_the_training_is(trained, hook, momentum):
    cfg = Config.fromfile(trained[0])
    cfg.custom_hooks = [] if hook is None else [dict(type='MeanTeacherHook', **hook)]
    found = plain_config(cfg, {}, ['a'], [[0, 0, 0]], iters=400).custom_hooks
    if hook is None:
        assert found == []
        return
    (found,) = found
    assert found.type == 'EMAHook' and found.momentum == pytest.approx(momentum, abs=1e-6)
    assert found.interval == hook.get('interval', 1) and found.update_buffers
    assert found.begin_iter == 40


def test_a_warm_up_keeps_its_length_and_what_lasts_to_the_end_does(trained):
    cfg = Config.fromfile(trained[0])
    cfg.train_cfg.max_iters = 2000
    warm = dict(type='LinearLR', start_factor=0.1, begin=0, end=150, by_epoch=False)
    cfg.param_scheduler = [warm, dict(type='PolyLR', begin=150, end=2000, by_epoch=False)]
    found = plain_config(cfg, {}, ['a'], [[0, 0, 0]], iters=400).param_scheduler
    assert [(one.type, one.end) for one in found] == [('LinearLR', 150), ('PolyLR', 400)]
    cfg.param_scheduler = dict(type='PolyLR', by_epoch=False)
    (only,) = plain_config(cfg, {}, ['a'], [[0, 0, 0]], iters=400).param_scheduler
    assert only.end == 400


def test_a_student_of_five_bands_is_built_by_mmseg(trained):
    cfg = Config.fromfile(trained[0])
    front = cfg.model.data_preprocessor
    front.update(mean=[1.0] * 5, std=[2.0] * 5, rgb=[2, 1, 0], bgr_to_rgb=False)
    cfg.model.student.backbone.in_channels = 5
    model = MODELS.build(plain_config(cfg, {}, ['a', 'b'], [[0, 0, 0]] * 2).model)
    assert model.data_preprocessor.mean.shape == (5, 1, 1)


def test_the_student_leaves_out_what_the_training_leaves_out(trained):
    cfg = Config.fromfile(trained[0])
    left_out = dict(type='SubsetIoUMetric', ignore_gt=['roof'])
    for evaluator, kept in (
        (left_out, left_out),
        (dict(type='SubsetIoUMetric'), dict(type='IoUMetric', iou_metrics=['mIoU'])),
    ):
        cfg.val_evaluator = cfg.test_evaluator = evaluator
        written = plain_config(cfg, {}, ['a'], [[0, 0, 0]])
        assert written.val_evaluator == written.test_evaluator == kept
        assert ('custom_imports' in written) == (kept is left_out)
    assert 'save_best' not in written.default_hooks.checkpoint
    cfg.default_hooks.checkpoint.save_best = 'teacher/mIoU'
    written = plain_config(cfg, {}, ['a'], [[0, 0, 0]])
    assert written.default_hooks.checkpoint.save_best == 'mIoU'


def test_bars_are_fitted_to_images_that_were_held_out(trained, monkeypatch):
    """Two networks that are right on class 0 alone: no other class is used."""
    config, _ = trained

    def right_on_the_first(self, windows):
        held_out = np.asarray(Image.open(config.parent / 'ann' / 'tile_0.png'))
        truth = torch.from_numpy(held_out.astype(np.int64))
        said = torch.where(truth == 0, 0, 3 - truth)  # 1 and 2 are taken for each other
        found = torch.nn.functional.one_hot(said, 3).permute(2, 0, 1).float() * 0.7 + 0.1
        return found[None].expand(len(windows), -1, -1, -1)

    monkeypatch.setattr(Predictor, 'probabilities', right_on_the_first)
    listed = config.parent / 'held_out.txt'
    listed.write_text('tile_0\n')
    out, _ = run(trained, '--calibrate', str(listed))
    for name in NAMES[2:]:
        assert set(np.unique(mask_of(out, name))) == {0, 255}
    out, _ = run(trained)
    assert set(np.unique(mask_of(out, NAMES[2]))) == {0, 1, 2}


def test_converted_images_are_not_converted_again(trained, monkeypatch):
    """The config's ``raster`` is for the original files, of which a training's images were made."""
    monkeypatch.setattr(Predictor, 'probabilities', by_colour)
    config, paths = trained
    out, _ = run(trained)
    masks = [mask_of(out, name) for name in NAMES]
    raster = config.with_name('raster.py')
    raster.write_text(
        "_base_ = './tiny.py'\nraster = dict(bands=[4, 3, 2], low=[200.0] * 3, high=[900.0] * 3)\n"
    )
    (out / 'masks').rename(out / 'before')
    out, _ = run((raster, paths))
    for name, mask in zip(NAMES, masks, strict=True):
        np.testing.assert_array_equal(mask_of(out, name), mask)
    assert Config.fromfile(out / 'student.py').raster.bands == [4, 3, 2]


def test_corrections_move_along_when_images_are_added_elsewhere(trained, monkeypatch):
    monkeypatch.setattr(Predictor, 'probabilities', by_colour)
    folder = trained[0].parent
    for kind in ('img', 'ann'):
        (folder / kind).rename(folder / 'north')
        (folder / kind).mkdir()
        (folder / 'north').rename(folder / kind / 'north')
    for listed in folder.glob('*.txt'):
        listed.write_text(listed.read_text().replace('tile', 'north/tile'))
    out, _ = run(trained)
    correction = np.full((64, 64), 2, np.uint8)
    Image.fromarray(correction).save(out / 'masks' / f'{NAMES[3]}.png')
    (folder / 'img' / 'tile_9.png').write_bytes(
        (folder / 'img' / 'north' / f'{NAMES[2]}.png').read_bytes()
    )
    with (folder / 'unlabelled.txt').open('a') as listed:
        listed.write('tile_9\n')
    for _ in range(2):
        out, images = run(trained)
        assert images[NAMES[3]]['source'] == 'edited'
        np.testing.assert_array_equal(mask_of(out, f'north/{NAMES[3]}'), correction)
        made = sorted(p.relative_to(out / 'masks').as_posix() for p in out.glob('masks/**/*.png'))
        assert made == [*(f'north/{name}.png' for name in NAMES), 'tile_9.png']


def test_names_of_held_out_images_are_those_of_lists(tmp_path):
    images = [tmp_path / name for name in ('north/a.png', 'south/a.png', 'south/b.tif')]
    listed = tmp_path / 'list.txt'
    listed.write_text('north/a\nb.tif\n')
    assert labels.find_listed(images, listed) == [images[0], images[2]]
    for text, said in (('b\na\n', 'names a, which fits 2'), ('\n', 'is empty')):
        listed.write_text(text)
        with pytest.raises(ValueError, match=said):
            labels.find_listed(images, listed)


def test_the_student_reads_class_ids_and_has_as_many_classes(trained):
    cfg = Config.fromfile(trained[0])
    cfg.train_dataloader.dataset.labelled.pipeline[1].reduce_zero_label = True
    other = Config.fromfile(trained[0])
    other.model.student.auxiliary_head = [dict(type='FCNHead', num_classes=19)]
    found = plain_config(cfg, {}, ['a', 'b'], [[0, 0, 0]] * 2, other)
    assert found.train_dataloader.dataset.pipeline[1] == dict(type='LoadAnnotations')
    assert found.model.decode_head.num_classes == 2
    assert found.model.auxiliary_head[0].num_classes == 2


@pytest.mark.parametrize(
    'more, said',
    [
        (['--keep', '0'], '--keep 0.0 must be in'),
        (['--person-share', '1'], '--person-share 1.0 within'),
        (['--calibrate', 'nobody.txt'], 'names tile_9, which fits 0 of the labelled images'),
        (['--iters', '0'], '--iters 0 trains nothing'),
    ],
)
def test_bad_input_is_one_sentence(trained, capsys, monkeypatch, more, said):
    monkeypatch.chdir(trained[0].parent)
    (trained[0].parent / 'nobody.txt').write_text('tile_9\n')
    with pytest.raises(SystemExit) as left:
        run(trained, *more)
    error = capsys.readouterr().err
    assert left.value.code == 2 and said in error and 'Traceback' not in error


def test_a_picture_predicted_by_several_is_their_mean(trained, monkeypatch):
    monkeypatch.setattr(Predictor, 'probabilities', by_colour)
    both = [load_predictor(trained[0], path) for path in trained[1]]
    pixels = tile_of(trained, NAMES[2])
    parts = [np.asarray(predict_image(each, pixels).probabilities, float) for each in both]
    together = np.asarray(predict_image(PredictorEnsemble(both), pixels).probabilities, float)
    assert np.abs(together - (parts[0] + parts[1]) / 2).max() <= 1
    other = load_predictor(trained[0], trained[1][0], window=32)
    with pytest.raises(ValueError, match='give checkpoints of the same classes, and --window'):
        PredictorEnsemble([both[0], other])
    other = load_predictor(trained[0], trained[1][0], raster=dict(low=[0] * 3, high=[99] * 3))
    with pytest.raises(ValueError, match='give networks of the same bands, scaled alike'):
        PredictorEnsemble([both[0], other])


def test_images_that_a_training_keeps_in_memory_are_predicted_like_others(trained):
    config, (path, _) = trained
    kept = config.with_name('kept.py')
    kept.write_text(
        "_base_ = './tiny.py'\n"
        "load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]\n"
        "whole = [dict(type='KeepInMemory', transforms=load), dict(type='PackSegInputs')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=whole))\n'
    )
    pixels = tile_of(trained, NAMES[0])
    found, plain = (predict_image(load_predictor(each, path), pixels) for each in (kept, config))
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)

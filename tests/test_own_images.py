# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""projects/own_images: the methods compared on a folder of images and masks, by one command."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from tests._support import processes
from tests._support.config_zoo import build_model
from tests._support.processes import ROOT

CLASSES = ['a', 'b', 'c']


@pytest.fixture
def project(monkeypatch):
    """The modules of the project, by name."""
    monkeypatch.syspath_prepend(ROOT / 'projects' / 'own_images')
    return importlib.import_module


@pytest.fixture
def folder(tmp_path):
    """Three photographs of five tiles each."""
    rng = np.random.default_rng(0)
    names = [f'p{image}_0_{64 * tile}' for image in range(3) for tile in range(5)]
    for part in ('images', 'labels', 'splits'):
        (tmp_path / part).mkdir()
    for index, name in enumerate(names):
        label = (np.indices((64, 64))[index % 2] // 20 + index) % 3
        image = (label[..., None] * 80 + rng.integers(0, 40, (64, 64, 3))).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / 'images' / f'{name}.jpg')
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / 'labels' / f'{name}.png')
    for role, ids in (('train', names[:12]), ('held', names[10:12]), ('val', names[12:])):
        (tmp_path / 'splits' / f'{role}.txt').write_text(''.join(f'{name}\n' for name in ids))
    return tmp_path


def words(folder, *more):
    lists = {f'--{role}': f'splits/{role}.txt' for role in ('train', 'held', 'val')}
    named = [word for pair in lists.items() for word in pair]
    return [str(folder), '--classes', *CLASSES, *named, '--out', str(folder / 'out'), *more]


@pytest.mark.slow
def test_one_command_compares_the_methods(project, folder, capsys, monkeypatch):
    compare = project('compare')
    monkeypatch.setattr(compare, 'subprocess', processes)
    line = words(
        folder, '--labelled', '4/2', '--seeds', '0', '--methods', 'supervised', 'recipe',
        '--iters', '4', '--interval', '2', '--tile', '64', '--jobs', '2', '--cfg-options',
        'model.student.backbone.checkpoint=None',
    )  # fmt: skip
    compare.main(line)
    printed = capsys.readouterr().out
    runs = folder / 'out' / '4_of_2'
    results = {
        name: json.loads((runs / f'{name}_seed0' / 'result.json').read_text())
        for name in ('supervised', 'recipe')
    }
    for result in results.values():
        assert result['iteration'] in (2, 4)
        best = max(result['held_by_step'].values())
        assert result['held']['mIoU'] == result['held_by_step'][str(result['iteration'])] == best
        assert {f'IoU.{name}' for name in CLASSES} < set(result['val'])
    assert any(key.startswith('pseudo_recall/') for key in results['recipe']['pseudo'])
    assert '| recipe | 1 |' in printed
    assert 'Kept pseudo labels' in printed
    for page in ('results.md', 'results.html', 'report.html'):
        assert (folder / 'out' / page).stat().st_size > 500
    # finished runs are kept
    before = (runs / 'recipe_seed0' / 'result.json').stat().st_mtime_ns
    compare.main(line)
    assert (runs / 'recipe_seed0' / 'result.json').stat().st_mtime_ns == before
    # and one evaluated image is drawn whole: three tiles side by side, beginning at 128 px
    picture = folder / 'out' / 'picture.png'
    capsys.readouterr()
    drawn = [str(runs / f'{name}_seed0') for name in results]
    project('picture').main([*drawn, '--side', '64', '--out', str(picture)])
    assert f'{picture}: p2;' in capsys.readouterr().out
    assert Image.open(picture).width > 3 * 300


def test_validation_tiles_stay_out_of_every_other_list(project, folder):
    compare = project('compare')
    args = compare.parse_args(words(folder, '--labelled', '4/2'))
    lists = compare.make_lists(args, folder, '4/2', seed=0)
    ids = {role: set(path.read_text().split()) for role, path in lists.items()}
    assert ids['val'] == {'p2_0_128', 'p2_0_192', 'p2_0_256'}
    assert ids['held'] == {'p2_0_0', 'p2_0_64'}
    assert len(ids['labelled']) == 4
    parts = list(ids.values())
    assert sum(map(len, parts)) == len(set().union(*parts)) == 15


@pytest.mark.parametrize('amount, tiles, images', [('4/2', 4, 2), ('6', 6, 3), ('all', 15, 3)])
def test_labelled_tiles_are_drawn_of_so_many_images(project, folder, amount, tiles, images):
    lists = project('lists')
    ids = sorted(path.stem for path in (folder / 'labels').iterdir())

    def draw(seed):
        return lists.choose_labelled(
            ids, *lists.parse_amount(amount)[:2], r'(p\d)', folder / 'labels', 3, seed
        )

    assert len(draw(0)) == tiles
    assert len({name[:2] for name in draw(0)}) == images
    assert draw(0) == draw(0)
    if amount != 'all':
        assert any(draw(seed) != draw(0) for seed in range(1, 5))


def test_clicks_keep_a_few_pixels_of_the_labelled_masks_alone(project, folder, monkeypatch):
    pytest.importorskip('skimage')
    compare, lists = project('compare'), project('lists')
    asked = lists.parse_amount('4/2@clicks0.1%')
    assert asked[:2] == (4, 2) and asked.name == '4_of_2_clicks_0.1pct'
    monkeypatch.setattr(compare, 'run_one', lambda folder, console: None)
    compare.main(words(folder, '--labelled', '4/2@clicks0.1%', '--methods', 'recipe',
                       '--seeds', '0'))  # fmt: skip
    (path,) = (folder / 'out' / asked.name).glob('recipe_seed0/config.py')
    cfg = Config.fromfile(path)
    sources = cfg.train_dataloader.dataset
    root = Path(sources.labelled.data_root)
    folders = [root / source.data_prefix.seg_map_path for source in sources.values()
               if not isinstance(source, str)]  # fmt: skip
    assert [path.name for path in folders] == ['labels_clicks_0.1pct', 'labels']
    names = Path(sources.labelled.ann_file).read_text().split()
    assert sorted(path.stem for path in folders[0].iterdir()) == names
    for name in names:
        kept, whole = (np.asarray(Image.open(path / f'{name}.png')) for path in folders)
        assert (kept != 255).sum() == 4 and (kept == whole)[kept != 255].all()


@pytest.mark.parametrize('text', ['2/4', 'all/3', '8@clicks', '8@clicks0%', '8/2@suggest', '0'])
def test_what_is_no_amount_is_told(project, text):
    with pytest.raises(SystemExit, match=f'--labelled {text}'):
        project('lists').parse_amount(text)


def test_classes_that_never_occur_are_told(project, folder):
    lists = project('lists')
    with pytest.raises(SystemExit, match='never show all 4 classes'):
        lists.choose_labelled(['p0_0_0', 'p1_0_0'], 2, None, r'(p\d)', folder / 'labels', 4, 0)


@pytest.mark.parametrize(
    'more, said',
    [
        (['--val', 'no.txt'], r'--val: there is no list .*no\.txt'),
        (['--labelled', '2/4'], '--labelled 2/4 is no amount'),
        (['--methods', 'magic'], '--methods magic: there is no such config'),
    ],
)
def test_bad_words_are_told(project, folder, more, said):
    with pytest.raises(SystemExit, match=said):
        project('compare').main(words(folder, *more))


def test_tiles_are_scaled_once_by_area_and_by_nearest(project, folder):
    lists = project('lists')
    root = lists.write_tiles(folder, ['p0_0_0'], '.jpg', 32, folder / 'out')
    label = np.asarray(Image.open(folder / 'labels' / 'p0_0_0.png'))
    scaled = np.asarray(Image.open(root / 'labels' / 'p0_0_0.png'))
    np.testing.assert_array_equal(scaled, label[::2, ::2])
    assert Image.open(root / 'images' / 'p0_0_0.png').size == (32, 32)


def test_tiles_are_put_together_where_they_were(project):
    picture = project('picture')
    parts = {'a_0_0': np.full((2, 2), 1), 'a_0_3': np.full((2, 2), 2), 'a_4_0': np.full((2, 2), 3)}
    whole = picture.put_together(parts, list(parts), scale=0.5)
    np.testing.assert_array_equal(
        whole, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 255, 255], [3, 3, 255, 255]]
    )
    truth = {'a_0_0': np.array([[0, 1], [2, 255]])}
    predicted = {'a_0_0': np.array([[0, 1], [1, 1]])}
    # class 0: 1 of 1, class 1: 1 of 2, class 2: 0 of 1
    assert picture.mean_iou(predicted, truth, ['a_0_0']) == pytest.approx(100 * 1.5 / 3)


def test_paired_difference_is_students_interval(project):
    paired = project('tables').paired
    first, second = {0: 60.0, 1: 62.0, 2: 61.0, 7: 99.0}, {0: 58.0, 1: 61.0, 2: 58.0}
    found = paired(first, second)
    mean = (2.0 + 1.0 + 3.0) / 3
    deviation = math.sqrt(((2 - mean) ** 2 + (1 - mean) ** 2 + (3 - mean) ** 2) / 2)
    half = 4.302653 * deviation / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == (pytest.approx(mean - half), pytest.approx(mean + half))
    assert found.count == 3
    assert paired({0: 1.0}, {1: 1.0}).count == 0


def test_table_says_what_was_looked_at(project):
    tables = project('tables')
    figures = {'mIoU': 50.0, 'IoU.a': 40.0}
    runs = {0: {'held': figures, 'iteration': 4, 'pseudo': {}}}
    assert 'held-out' in tables.score_table('32', {'supervised': runs}, ['a']).caption
    better = {0: {**runs[0], 'val': {'mIoU': 52.0, 'IoU.a': 45.0}}}
    base = {0: {**runs[0], 'val': figures}}
    shown = tables.score_table('32', {'supervised': base, 'recipe': better}, ['a'])
    assert 'validation' in shown.caption
    assert shown.rows[1][:5] == ['recipe', 1, '52.0', '+2.0', '45.0 (+5.0)']


@pytest.mark.parametrize(
    'method',
    sorted(path.stem for path in (ROOT / 'projects/own_images/configs').glob('[!b]*.py')),
)
def test_every_method_is_filled_in_with_the_users_data(project, folder, method):
    compare = project('compare')
    args = compare.parse_args(words(folder, '--iters', '7', '--interval', '3'))
    lists = {role: folder / f'{role}.txt' for role in ('labelled', 'unlabelled', 'held', 'val')}
    lists['labelled'].write_text(''.join(f'p{image}_0_0\n' for image in range(4)))
    cfg = compare.make_config(args, folder, lists, method, folder / 'out' / '4' / 'run', seed=3)
    assert cfg.randomness.seed == 3
    assert (cfg.train_cfg.max_iters, cfg.param_scheduler[0].end) == (7, 7)
    assert cfg.val_dataloader.dataset.ann_file == str(lists['held'])
    assert cfg.test_dataloader.dataset.ann_file == str(lists['val'])
    # Trained at the size that it is evaluated at, on crops of half a tile.
    assert cfg.model.data_preprocessor.size == (32, 32)
    for source in filter(None, cfg.train_dataloader.dataset.values()):
        if isinstance(source, dict):
            geometry = next(part for part in source.pipeline if part.type == 'TrackGeometry')
            assert geometry.transforms[0].scale == (64, 64)
            assert geometry.transforms[1].crop_size == (32, 32)
    supervised = cfg.train_dataloader.dataset.unlabelled is None
    assert supervised == ('supervised' in method or method in ('verifier', 'autolabel'))
    for backbone in backbones(cfg.model):
        backbone.checkpoint = None
    assert build_model(repr(cfg.model.to_dict())).num_classes == len(CLASSES)


def backbones(node):
    """Configs of all backbones in a model's config."""
    for key, value in node.items():
        if key == 'backbone':
            yield value
        elif isinstance(value, dict):
            yield from backbones(value)


def test_every_fourth_labelled_image_is_kept_to_calibrate_on(project, tmp_path):
    lists = project('lists')
    labelled = tmp_path / 'labelled.txt'
    labelled.write_text(''.join(f'p{image}_{tile}\n' for image in range(9) for tile in range(2)))
    learnt, kept = (path.read_text().split() for path in lists.hold_out(labelled, r'(p\d)'))
    assert kept == ['p3_0', 'p3_1', 'p7_0', 'p7_1'] and len(learnt) == 14
    assert not set(learnt) & set(kept)
    labelled.write_text('p0_0\np1_0\np2_0\n')
    with pytest.raises(SystemExit, match='fewer than 4 images'):
        lists.hold_out(labelled, r'(p\d)')


def test_a_calibrated_run_does_not_learn_from_what_it_is_measured_on(project, folder):
    compare = project('compare')
    args = compare.parse_args(words(folder, '--labelled', '4', '--image-regex', '(.+)'))
    lists = compare.make_lists(args, folder, '4', seed=0)
    cfg = compare.make_config(args, folder, lists, 'recipe_calibrated', folder / 'r' / 'run', 0)
    names = set(lists['labelled'].read_text().split())
    (hook,) = (hook for hook in cfg.custom_hooks if hook.type == 'CalibrateGateHook')
    files = (cfg.train_dataloader.dataset.labelled.ann_file, hook.dataset.ann_file)
    learnt, kept = (set(Path(file).read_text().split()) for file in files)
    assert learnt | kept == names and not learnt & kept and len(kept) == 1
    cfg = compare.make_config(args, folder, lists, 'recipe_regions', folder / 'r' / 'run', 0)
    assert cfg.custom_hooks[-1].verifier == dict(type='SuperpixelProposer')


def test_an_autolabelled_run_is_the_student_that_the_command_writes(project, folder, monkeypatch):
    compare = project('compare')
    args = compare.parse_args(words(folder, '--labelled', '4'))
    lists = compare.make_lists(args, folder, '4', seed=0)
    run = folder / 'r' / 'autolabel_seed2'
    cfg = compare.make_config(args, folder, lists, 'autolabel', run, 2)
    maker = folder / 'r' / 'rsmtdf_recipe_seed2'
    assert cfg.autolabel[:2] == [str(maker / 'config.py'), str(maker / 'best.pth')]
    one_run = project('one_run')
    started = []

    def autolabel(words, check):
        started.extend(words[3:])
        (run / 'labels').mkdir(parents=True)
        (run / 'labels' / 'student.py').write_text(
            'train_cfg = dict(max_iters=7)\nresume = False\n'
        )

    monkeypatch.setattr(one_run.subprocess, 'run', autolabel)
    student = one_run.student_of_masks(cfg)
    assert started == ['autolabel', *cfg.autolabel]
    assert student.train_cfg.max_iters == 7 and student.work_dir == str(run)
    assert student.randomness.seed == 2 and student.resume and 'autolabel' not in student
    assert student.val_evaluator == student.test_evaluator == cfg.test_evaluator


def test_the_picture_shows_the_student_of_automatic_masks(project, tmp_path):
    picture = project('picture')
    (tmp_path / 'config.py').write_text("model = 'asked for'\n")
    assert picture.trained_config(tmp_path).model == 'asked for'
    (tmp_path / 'student.py').write_text("model = 'trained'\n")
    assert picture.trained_config(tmp_path).model == 'trained'

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A setting that is changed in vain is refused when the config is read."""

import pytest
from mmengine.config import Config

from mmseg_semi_rs.engine.config_check import check_config

BASE = """
crop_size = (64, 64)
window_size = 64
geometry = dict(type='RandomCrop', crop_size=crop_size)
labelled = dict(type='A', ann_file='old.txt', pipeline=[geometry])
unused = 1
train_dataloader = dict(dataset=dict(type='SemiDataset', labelled=labelled))
model = dict(type='B', data_preprocessor=dict(size=crop_size))
val_dataloader = dict(dataset=labelled)
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'middle.py').write_text("_base_ = './base.py'\nwindow_size = 32\n")

    def leaf(text, base='base'):
        path = tmp_path / 'leaf.py'
        path.write_text(f"_base_ = './{base}.py'\n{text}\n")
        return path

    return leaf


def check(path, **options):
    cfg = Config.fromfile(path)
    options = {key.replace('__', '.'): value for key, value in options.items()}
    cfg.merge_from_dict(options)
    check_config(path, cfg, options)


@pytest.mark.parametrize('base', ['base', 'middle'])
@pytest.mark.parametrize(
    ('text', 'made'),
    [
        ("labelled = dict(ann_file='new.txt')", 'train_dataloader and val_dataloader'),
        ('crop_size = (32, 32)', 'model, train_dataloader and val_dataloader'),
        ('geometry = dict(crop_size=(32, 32))', 'train_dataloader and val_dataloader'),
    ],
)
def test_a_value_that_the_base_has_used_already_is_refused(write, text, made, base):
    path = write(text, base)
    with pytest.raises(ValueError, match=r'which changes nothing') as error:
        check(path)
    assert f'leaf.py sets {text.split()[0]}, ' in str(error.value)
    assert f'{base}.py has made {made} of it already' in str(error.value)


@pytest.mark.parametrize(
    'text',
    [
        '',
        'unused = 2',
        'window_size = 128',
        'crop_size = (64, 64)',
        "labelled = dict(ann_file='new.txt')\n"
        'train_dataloader = dict(dataset=dict(labelled=labelled))',
        "train_dataloader = dict(dataset=dict(labelled=dict(ann_file='new.txt')))",
        'mine = dict(_base_.labelled)',
    ],
)
def test_what_takes_effect_or_changes_nothing_is_accepted(write, text):
    check(write(text))


def test_a_later_file_may_use_what_an_earlier_one_sets(write, tmp_path):
    write("labelled = dict(ann_file='new.txt')").rename(tmp_path / 'earlier.py')
    check(write('train_dataloader = dict(dataset=dict(labelled=_base_.labelled))', 'earlier'))
    with pytest.raises(ValueError, match=r'earlier\.py sets labelled'):
        check(write('', 'earlier'))


def test_options_in_vain_are_refused(write):
    check(write(''), window_size=32, train_dataloader__dataset__labelled__ann_file='new.txt')
    with pytest.raises(
        ValueError, match=r'--cfg-options labelled\.ann_file changes nothing'
    ) as error:
        check(write(''), labelled__ann_file='new.txt')
    assert 'Edit labelled in the file that sets it, or' in str(error.value)
    assert 'own keys, which begin with train_dataloader.' in str(error.value)


@pytest.mark.parametrize('size', [(32, 32), 128])
def test_crops_have_the_size_that_batches_are_padded_to(write, size):
    check(write('model = dict(data_preprocessor=dict(size=64))'))
    with pytest.raises(ValueError, match=r'crops of \(64, 64\) pixels, but'):
        check(write(f'model = dict(data_preprocessor=dict(size={size}))'))

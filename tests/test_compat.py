# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""compat: each mend is seen to be needed or to work, in this or in a fresh process."""

import importlib.util
import subprocess
import sys
import warnings

import mmcv
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader
from torch import nn

from mmseg_semi_rs import compat

HAS_SAFE_GLOBALS = tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)
LITE = importlib.util.find_spec('mmcv._ext') is None


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


@pytest.mark.skipif(not LITE, reason='the full mmcv is installed')
def test_operators_of_mmcv_lite_raise_only_when_called():
    from mmcv.ops import nms

    boxes, scores = torch.zeros(1, 4), torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"'nms'.*mmcv\._ext.*install the full mmcv"):
        nms(boxes, scores, 0.5)


@pytest.mark.skipif(not LITE, reason='the full mmcv is installed')
def test_mmengine_does_not_take_mmcv_lite_for_the_full_one():
    from mmengine.utils.dl_utils import mmcv_full_available

    assert 'mmcv._ext' not in sys.modules
    assert mmcv_full_available() is False


def test_an_extension_that_is_there_is_loaded_by_mmcv_itself(monkeypatch):
    """Only an absent file is forgiven: a broken one keeps its own error."""
    from mmcv.utils import ext_loader

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
    if LITE:
        with pytest.raises(ModuleNotFoundError):
            ext_loader.load_ext('_ext', ['nms'])


def test_missing_family_is_one_sentence_that_says_what_to_type(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *rest: None if name in ('mmseg', 'mmcv') else found(name, *rest),
    )
    with pytest.raises(ImportError) as caught:
        compat.require_openmmlab()
    message = str(caught.value)
    assert 'needs mmcv, mmseg' in message
    assert '-m pip install "mmcv-lite==2.1.0" "mmsegmentation==1.2.2"' in message
    assert 'mmengine' not in message


def test_missing_family_is_told_before_anything_is_imported():
    outcome = run(
        'import importlib.util as u; f = u.find_spec\n'
        "u.find_spec = lambda n, *a: None if n.startswith('mmpretrain') else f(n, *a)\n"
        'import mmseg_semi_rs'
    )
    assert outcome.returncode == 1
    assert (
        outcome.stderr.strip()
        .splitlines()[-1]
        .startswith('ImportError: mmseg_semi_rs needs mmpretrain')
    )


def checkpoint_contents() -> dict:
    hub = MessageHub.get_instance('compat_test')
    hub.update_scalar('train/loss', torch.tensor(1.5))
    hub.update_scalar('train/lr', np.float64(0.25))
    hub.update_info('iter', np.int64(7))
    return dict(
        message_hub=hub.state_dict(),
        numpy_rng=np.random.RandomState(3).get_state(),
        values=[np.float32(3), np.bool_(True), np.int32(-1), np.arange(4)],
        state_dict={'weight': torch.ones(2)},
    )


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch < 2.6 does not refuse these files')
def test_checkpoints_of_mmengine_load_with_weights_only(tmp_path):
    torch.save(checkpoint_contents(), tmp_path / 'iter_1.pth')
    loaded = torch.load(tmp_path / 'iter_1.pth', weights_only=True)
    buffer = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(buffer, HistoryBuffer)
    assert buffer.mean() == 1.5
    assert loaded['message_hub']['runtime_info']['iter'] == 7
    assert [np.asarray(value).tolist() for value in loaded['values']] == [3, True, -1, [0, 1, 2, 3]]
    assert np.array_equal(loaded['numpy_rng'][1], np.random.RandomState(3).get_state()[1])


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch < 2.6 does not refuse these files')
def test_without_the_mend_the_same_file_is_refused(tmp_path):
    torch.save(checkpoint_contents(), tmp_path / 'iter_1.pth')
    outcome = run(
        f'import torch, sys\ntorch.load({str(tmp_path / "iter_1.pth")!r}, weights_only=True)'
    )
    assert outcome.returncode == 1
    assert 'HistoryBuffer' in outcome.stderr


class Attribute:
    """Pickles as ``getattr(owner, name)``."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple:
        return getattr, (self.owner, self.name)


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch < 2.6 does not refuse these files')
@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (np.ndarray, 'tofile'), (torch.Tensor, 'cpu')]
)
def test_a_forged_checkpoint_reads_no_other_attribute(tmp_path, owner, name):
    torch.save({'x': Attribute(owner, name)}, tmp_path / 'forged.pth')
    with pytest.raises(Exception, match='asks for the attribute'):
        torch.load(tmp_path / 'forged.pth', weights_only=True)


class Harmful:
    def __reduce__(self) -> tuple:
        return print, ('called',)


def test_other_code_in_a_checkpoint_is_still_refused(tmp_path, capsys):
    torch.save({'x': Harmful()}, tmp_path / 'forged.pth')
    with pytest.raises(Exception, match='print'):
        torch.load(tmp_path / 'forged.pth', weights_only=True)
    assert capsys.readouterr().out == ''


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch < 2.6 loads with weights_only=False')
def test_mmengine_refuses_other_code_and_keeps_what_is_safe(tmp_path, capsys):
    torch.save({'x': Harmful()}, tmp_path / 'forged.pth')
    with pytest.raises(Exception, match='print'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'forged.pth'))
    assert 'called' not in capsys.readouterr().out
    torch.save(checkpoint_contents(), tmp_path / 'iter_1.pth')
    CheckpointLoader.load_checkpoint(str(tmp_path / 'iter_1.pth'))
    torch.load(tmp_path / 'iter_1.pth', weights_only=True)


@pytest.mark.parametrize('kind', ['VisionTransformer', 'ResNet'])
def test_train_and_eval_of_mmpretrain_backbones_chain(kind):
    backbones = compat.import_mmpretrain()
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
    if kind == 'VisionTransformer':
        model: nn.Module = backbones.VisionTransformer(arch=arch, img_size=32, patch_size=16)
    else:
        model = backbones.ResNet(depth=18, base_channels=4, stem_channels=4)
    assert model.eval() is model
    assert not model.training
    assert model.train() is model
    assert all(module.training for module in model.modules())


def test_applying_twice_changes_nothing():
    from mmcv.utils import ext_loader

    train = compat.import_mmpretrain().VisionTransformer.train
    before = ext_loader.load_ext
    compat.apply()
    assert compat.import_mmpretrain().VisionTransformer.train is train
    assert ext_loader.load_ext is before


def test_asking_for_the_full_mmcv_neither_warns_nor_needs_find_loader(monkeypatch):
    from mmengine.utils.dl_utils import mmcv_full_available

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert mmcv_full_available() is not LITE


def test_find_loader_is_replaced_where_python_has_none(monkeypatch):
    """As on Python 3.14: the modules must not look at the stdlib's pkgutil any more."""
    import pkgutil

    from mmengine.utils.dl_utils import misc

    if not hasattr(misc, 'pkgutil'):
        pytest.skip('this mmengine does not ask pkgutil')
    monkeypatch.setattr(misc, 'pkgutil', pkgutil)
    monkeypatch.setattr(sys, 'version_info', (3, 14))
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    with pytest.raises(AttributeError):
        misc.mmcv_full_available()
    compat._mend_find_loader()
    assert misc.mmcv_full_available() is not LITE


@pytest.mark.parametrize('kind', ['SegDataPreProcessor', 'SemiDataPreprocessor'])
@pytest.mark.parametrize('swaps', [False, True])
def test_every_preprocessor_tells_whether_it_exchanges_red_and_blue(kind, swaps):
    from mmseg.registry import MODELS

    statistics = dict(mean=[0.0] * 3, std=[1.0] * 3)
    preprocessor = MODELS.build(dict(type=kind, bgr_to_rgb=swaps, **statistics))
    assert preprocessor.channel_conversion is swaps


@pytest.mark.parametrize('factor', [0.5, 0.93, 1.0, 1.37, 1.5])
def test_fast_contrast_equals_mmcvs_own_to_the_bit(factor):
    image = np.random.default_rng(0).integers(0, 256, (61, 47, 3)).astype(np.uint8)
    expected = mmcv.adjust_contrast.__wrapped__(image, factor, backend='cv2')
    np.testing.assert_array_equal(mmcv.adjust_contrast(image, factor, backend='cv2'), expected)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_hue_turns_backwards_by_what_it_turns_forwards(backend):
    image = np.random.default_rng(0).integers(60, 200, (16, 16, 3)).astype(np.uint8)
    there = mmcv.adjust_hue(image, 0.2, backend=backend)
    back = mmcv.adjust_hue(there, -0.2, backend=backend)
    assert np.abs(there.astype(int) - image).mean() > 10
    assert np.abs(back.astype(int) - image).mean() < 3

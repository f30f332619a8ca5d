# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/predict.py on what a training left."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image

from mmseg_semi_rs.apis import load_predictor, predict_image
from tests._support.config_zoo import CONFIGS
from tests._support.processes import start
from tests._support.rasters import picture, write_raster
from tests._support.tiny_training import load_tool, run_here, write_dual, write_training


@pytest.fixture(scope='module')
def mean_teacher(tmp_path_factory):
    """A mean teacher after four steps: config and checkpoint."""
    folder = tmp_path_factory.mktemp('mean_teacher')
    config = write_training(folder)
    run_here('train', config, '--work-dir', folder / 'work')
    return config, folder / 'work' / 'iter_4.pth'


@pytest.fixture(scope='module')
def two_students(tmp_path_factory):
    """Two students after four steps: config and checkpoint."""
    folder = tmp_path_factory.mktemp('two_students')
    config = write_dual(write_training(folder))
    run_here('train', config, '--work-dir', folder / 'work')
    return config, folder / 'work' / 'iter_4.pth'


def image_of(config: Path) -> Path:
    return config.parent / 'img' / 'tile_5.png'


def by_mmseg(cfg: Config, checkpoint: Path, image: np.ndarray | str):
    """What mmseg's own functions predict."""
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    return inference_model(init_model(cfg, str(checkpoint), 'cpu'), image)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize('network', ['teacher', 'student'])
def test_a_tile_is_predicted_as_mmseg_does(mean_teacher, network, tmp_path):
    config, checkpoint = mean_teacher
    cfg = Config.fromfile(config)
    cfg.model.semi_test_cfg = dict(predict_on=network)
    expected = by_mmseg(cfg, checkpoint, str(image_of(config)))
    run_here('predict', config, checkpoint, image_of(config), '--network', network, '--out',
             tmp_path / 'map.png', '--window', 64, '--confidence')  # fmt: skip
    expected_ids = expected.pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(pixels(tmp_path / 'map.png'), expected_ids)
    confidence = expected.seg_logits.data.softmax(0).amax(0) * 255
    np.testing.assert_allclose(pixels(tmp_path / 'map_confidence.png'), confidence, atol=0.51)


@pytest.mark.parametrize('network', ['a', 'b', 'fused', None])
def test_either_student_or_both_predict(two_students, network):
    config, checkpoint = two_students
    cfg = Config.fromfile(config)
    cfg.model.semi_test_cfg = dict(predict_on=network or 'fused')
    expected = by_mmseg(cfg, checkpoint, str(image_of(config)))
    predictor = load_predictor(config, checkpoint, 'cpu', network, window=64)
    found = predict_image(predictor, pixels(image_of(config)))
    shares = expected.seg_logits.data.softmax(0).numpy() * 255
    np.testing.assert_allclose(found.probabilities, shares, atol=0.51)
    assert predictor.classes == ['grass', 'road', 'roof']


def test_a_folder_and_what_is_said_of_it(mean_teacher, tmp_path, capsys):
    config, checkpoint = mean_teacher
    images = config.parent / 'img'
    arguments = [config, checkpoint, images, '--out', tmp_path / 'out', '--preview', '--flips']
    run_here('predict', *arguments)
    said = capsys.readouterr().out
    assert '7 maps in' in said
    after = [line.strip() for line in said.split('next:\n')[1].splitlines()]
    assert after[0] == f'python tools/calibrate.py {config} {checkpoint}'
    assert after[1].startswith(f'python tools/export_student.py {config} {checkpoint} --out ')
    assert len(list((tmp_path / 'out').glob('tile_?.png'))) == 7
    assert len(list((tmp_path / 'out').glob('*_preview.png'))) == 7
    run_here('predict', *arguments)
    said = capsys.readouterr().out
    assert '7 maps in' in said and '(7 there before)' in said


def test_failed_images_are_named_and_give_exit_code_1(mean_teacher, tmp_path, capsys):
    config, checkpoint = mean_teacher
    (tmp_path / 'in').mkdir()
    Image.fromarray(picture(64, 64)).save(tmp_path / 'in' / 'good.png')
    (tmp_path / 'in' / 'bad.png').write_bytes(b'\x89PNG')
    with pytest.raises(SystemExit) as code:
        run_here('predict', config, checkpoint, tmp_path / 'in', '--out', tmp_path / 'out')
    assert code.value.code == 1
    captured = capsys.readouterr()
    assert 'failed: ' in captured.err and 'bad.png' in captured.err
    assert '1 map in' in captured.out and '1 image failed' in captured.out


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (['CONFIG', 'none.pth', 'IMAGE'], 'The checkpoint none.pth does not exist'),
        (['CONFIG', 'OTHER', 'IMAGE'], 'does not belong to the config'),
        (['CONFIG', 'IMAGE', 'IMAGE'], 'cannot be read'),
        (['CONFIG', 'CHECKPOINT', 'IMAGE', '--network', 'fused'], "'fused' is none of the network"),
        (['CONFIG', 'CHECKPOINT', 'IMAGE', '--overlap', '64'], 'overlap smaller than the window'),
        (['CONFIG', 'CHECKPOINT', 'IMAGE', '--bands', '1', '2'], 'one or three numbers from 1'),
        (['CONFIG', 'CHECKPOINT', 'IMAGE', '--amp', '--device', 'cpu'], 'amp needs a CUDA device'),
    ],
)
def test_bad_input_is_one_sentence(mean_teacher, two_students, tmp_path, change, said, capsys):
    config, checkpoint = mean_teacher
    names = {
        'CONFIG': config, 'CHECKPOINT': checkpoint, 'IMAGE': image_of(config),
        'OTHER': two_students[1],
    }  # fmt: skip
    arguments = [names.get(word, word) for word in change]
    with pytest.raises(SystemExit) as code:
        run_here('predict', *arguments, '--out', tmp_path / 'out')
    assert code.value.code == 2
    assert said in (error := capsys.readouterr().err)
    assert 'Traceback' not in error


def test_an_absent_image_is_told_before_the_network_is_built(mean_teacher, monkeypatch, capsys):
    monkeypatch.setattr('mmseg_semi_rs.apis.load_predictor', None)
    with pytest.raises(SystemExit) as code:
        run_here('predict', *mean_teacher, 'none.tif')
    assert code.value.code == 2
    assert capsys.readouterr().err.startswith('error: none.tif does not exist')


def test_checkpoints_of_other_origin(mean_teacher, tmp_path):
    """Weights of a wrapped model, without a palette; and a file that holds no weights."""
    config, checkpoint = mean_teacher
    whole = torch.load(checkpoint, weights_only=False)
    weights = {f'module.{name}': tensor for name, tensor in whole['state_dict'].items()}
    meta = dict(dataset_meta=dict(classes=['grass', 'road', 'roof']))
    torch.save(dict(meta=meta, state_dict=weights, ema_state_dict={}), tmp_path / 'other.pth')
    image = pixels(image_of(config))
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.metainfo = dict(
        classes=['a', 'b', 'c'], palette=[[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    )
    other = load_predictor(cfg, tmp_path / 'other.pth', 'cpu')
    assert other.classes == ['a', 'b', 'c'] and other.palette[2] == [3, 3, 3]
    np.testing.assert_array_equal(
        predict_image(other, image).probabilities,
        predict_image(load_predictor(config, checkpoint, 'cpu'), image).probabilities,
    )
    for content in ([1, 2], dict(state_dict=3)):
        torch.save(content, tmp_path / 'no.pth')
        with pytest.raises(ValueError, match=r'no\.pth holds no weights by name'):
            load_predictor(config, tmp_path / 'no.pth', 'cpu')


def test_the_fingerprint_changes_with_network_and_weights(mean_teacher, tmp_path):
    config, checkpoint = mean_teacher
    whole = torch.load(checkpoint, weights_only=False)
    next(iter(whole['state_dict'].values())).add_(1)
    torch.save(whole, tmp_path / 'other.pth')
    found = {
        load_predictor(config, path, 'cpu', network).fingerprint
        for path in (checkpoint, tmp_path / 'other.pth')
        for network in ('teacher', 'student')
    }
    assert len(found) == 4


def test_the_config_names_the_side_of_windows(mean_teacher):
    config, checkpoint = mean_teacher
    cfg = Config.fromfile(config)
    cfg.window_size = 80
    assert load_predictor(cfg, checkpoint, 'cpu').window == 80
    assert load_predictor(cfg, checkpoint, 'cpu', window=96).window == 96


def test_without_a_teacher_only_the_student_predicts(mean_teacher):
    config, checkpoint = mean_teacher
    cfg = Config.fromfile(config)
    cfg.model.ema = False
    with pytest.raises(ValueError, match="'teacher' is none of the networks of the model: student"):
        load_predictor(cfg, checkpoint, 'cpu', 'teacher')


def test_a_pipeline_that_does_more_than_windows_can_is_refused(mean_teacher):
    config, checkpoint = mean_teacher
    cfg = Config.fromfile(config)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='CLAHE'))
    with pytest.raises(ValueError, match='The test pipeline has CLAHE'):
        load_predictor(cfg, checkpoint, 'cpu')


@pytest.mark.parametrize(
    ('resize', 'size'),
    [
        (dict(scale=(128, 96), keep_ratio=False), (96, 128)),
        (dict(scale=(2048, 96), keep_ratio=True), (96, 96)),
        (dict(scale_factor=1.5), (96, 96)),
        (None, None),
    ],
)
def test_windows_are_resized_as_the_test_pipeline_does(mean_teacher, resize, size):
    config, checkpoint = mean_teacher
    cfg = Config.fromfile(config)
    pipeline = cfg.test_dataloader.dataset.pipeline
    if resize:
        pipeline.insert(1, dict(type='Resize', **resize))
        cfg.model.student.test_cfg.mode = 'whole'
    predictor = load_predictor(cfg, checkpoint, 'cpu', window=64)
    assert predictor.input_size == size
    image = pixels(image_of(config))
    expected = by_mmseg(cfg, checkpoint, image[..., ::-1].copy())
    found = predict_image(predictor, image)
    shares = expected.seg_logits.data.softmax(0).numpy() * 255
    assert np.abs(found.probabilities - shares).max() < 3  # pixels rounded by OpenCV after Resize


def test_bands_and_stretch_of_the_config_are_used(mean_teacher, tmp_path):
    pytest.importorskip('rasterio')
    config, checkpoint = mean_teacher
    cfg = Config.fromfile(config)
    rgb = pixels(image_of(config))
    deep = np.zeros((64, 64, 4), np.uint16)
    deep[..., [3, 2, 1]] = 200 + 4 * rgb.astype(np.uint16)
    write_raster(tmp_path / 'deep.tif', deep)
    cfg.raster = dict(bands=[4, 3, 2], low=[200] * 3, high=[1220] * 3)
    cfg.dump(tmp_path / 'deep.py')
    run_here('predict', tmp_path / 'deep.py', checkpoint, tmp_path / 'deep.tif', '--out',
             tmp_path / 'deep_map.tif')  # fmt: skip
    run_here('predict', config, checkpoint, image_of(config), '--out', tmp_path / 'map.png')
    with Image.open(tmp_path / 'deep_map.tif') as found:
        np.testing.assert_array_equal(np.asarray(found), pixels(tmp_path / 'map.png'))


def test_a_killed_process_goes_on(mean_teacher, tmp_path):
    """SIGKILL in the middle; the second call predicts the rest, and the map is the same."""
    pytest.importorskip('rasterio')
    config, checkpoint = mean_teacher
    write_raster(tmp_path / 'big.tif', picture(1500, 400))
    common = ['--device', 'cpu', '--window', '64', '--out']
    arguments = [str(word) for word in (config, checkpoint, tmp_path / 'big.tif')]
    partial = tmp_path / '.map.tif.partial'
    words = [*arguments, *common, str(tmp_path / 'map.tif')]
    first = start(run_here, 'predict', *words, log=tmp_path / 'log')
    try:
        while first.is_alive() and len(list(partial.glob('*.npz'))) < 3:
            time.sleep(0.005)
    finally:
        first.kill()
        first.join()
    done = len(list(partial.glob('[0-9]*.npz')))
    assert done >= 3 and not (tmp_path / 'map.tif').exists()
    for out in ('map.tif', 'whole/map.tif'):
        load_tool('predict').main([*arguments, *common, str(tmp_path / out)])
    assert (tmp_path / 'map.tif').read_bytes() == (tmp_path / 'whole' / 'map.tif').read_bytes()


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*/*_1-4.py')), ids=lambda path: path.stem)
def test_each_config_says_what_windows_it_predicts(path):
    """A tile of the test set is one window, resized as the test pipeline resizes tiles."""
    from mmseg_semi_rs.apis.predictor import _resize_of, _side

    cfg = Config.fromfile(path)
    side = cfg.get('window_size') or _side(cfg)
    size = _resize_of(cfg)(side)
    crop = cfg.crop_size[0]
    if cfg.get('window_size'):
        assert (size or (side, side))[0] >= crop
    else:
        assert side == crop and size is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_a_gpu_gives_the_map_of_the_cpu(mean_teacher):
    config, checkpoint = mean_teacher
    image = picture(200, 300)
    found = [
        predict_image(load_predictor(config, checkpoint, device, window=64), image)
        for device in ('cpu', 'cuda:0')
    ]
    assert (found[0].labels == found[1].labels).mean() > 0.999

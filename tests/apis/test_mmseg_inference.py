# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""mmseg's own init_model, inference_model and MMSegInferencer on checkpoints of this package."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model, show_result_pyplot
from PIL import Image

from mmseg_semi_rs.models.segmentors import DualStudentSegmentor
from tests._support.tiny_training import ROOT, run_here, write_training
from tests._support.trained_models import (
    CLASSES,
    PALETTE,
    clip_vlg,
    dinov2_dpt,
    dinov3_vlg,
    dual,
    mean_teacher,
    resnet,
    rsmtdf,
    write_model,
)

TEST_PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
PURIFY = dict(
    type='VLMPurifyHook',
    verifier=dict(
        type='CLIPVerifier', classes=[['grass'], ['road'], None], checkpoint='checkpoints/no.pt'
    ),
    store='data/evidence/none',
)
# Model, and where its predicting network is.
MODELS = {
    'teacher': lambda: mean_teacher(resnet(aux=True)),
    'student': lambda: mean_teacher(resnet(), semi_test_cfg=dict(predict_on='student')),
    'rsmtdf': lambda: mean_teacher(rsmtdf()),
    'dinov2': lambda: mean_teacher(dinov2_dpt(), (70, 70)),
    'fused': lambda: dual(clip_vlg(), dinov3_vlg()),
    'surer': lambda: dual(clip_vlg(), resnet(), semi_test_cfg=dict(fusion='confidence')),
    'one_of_two': lambda: dual(resnet(), resnet(), semi_test_cfg=dict(predict_on='b')),
}


def picture(path, side=64, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path), pixels[..., ::-1].copy()  # mmcv's order


@pytest.fixture
def written(tmp_path, request):
    """Config and checkpoint; none of the weight files that the config names exists."""
    model = MODELS[request.param]()
    purify = dict(custom_hooks=[dict(type='MeanTeacherHook'), PURIFY])
    return write_model(tmp_path, model, test_pipeline=TEST_PIPELINE, **purify)


def side_of(model):
    return model.data_preprocessor.size[0]


@pytest.mark.parametrize('written', MODELS, indirect=True)
def test_inference_model_takes_path_array_and_list(written, tmp_path):
    config, checkpoint = written
    model = init_model(str(config), str(checkpoint), 'cpu')
    assert tuple(model.dataset_meta['classes']) == CLASSES
    assert model.dataset_meta['palette'] == PALETTE
    side = side_of(model)
    path, pixels = picture(tmp_path / 'a.png', side)
    other, other_pixels = picture(tmp_path / 'b.png', side, seed=1)
    single = inference_model(model, path)
    assert single.pred_sem_seg.data.shape == (1, side, side)
    listed = inference_model(model, [path, other])
    arrays = inference_model(model, [pixels, other_pixels])
    alone = inference_model(model, pixels)
    wanted = predict_by_hand(model, pixels)
    for found in (single, listed[0], arrays[0], alone):
        probabilities = found.seg_logits.data.softmax(0)
        torch.testing.assert_close(probabilities, wanted, rtol=1e-3, atol=1e-5)
    assert torch.equal(listed[1].pred_sem_seg.data, arrays[1].pred_sem_seg.data)


@torch.no_grad()
def predict_by_hand(model, pixels):
    """Probabilities of the network or networks that the model predicts on, written out plainly."""
    rgb = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None].float()

    def one(network, preprocessor):
        images = (rgb - preprocessor.mean) / preprocessor.std
        metas = [dict(img_shape=images.shape[2:], ori_shape=images.shape[2:])]
        return network.encode_decode(images, metas)[0].softmax(0)

    shared = model.data_preprocessor
    if isinstance(model, DualStudentSegmentor):
        # Only the first of each pair has statistics of its own.
        a = one(model.students['a'], model.students['a'].data_preprocessor)
        b = one(model.students['b'], shared)
        surer = torch.where(b.amax(0) > a.amax(0), b, a)
        mean = (a + b) / 2
        return b if model.predict_on == 'b' else surer if model.fusion == 'confidence' else mean
    return one(getattr(model, model.predict_on), shared)


@pytest.mark.parametrize('written', ['teacher', 'rsmtdf', 'fused'], indirect=True)
def test_inferencer_writes_pictures_and_labels(written, tmp_path):
    config, checkpoint = written
    inferencer = MMSegInferencer(str(config), str(checkpoint), device='cpu')
    side = side_of(inferencer.model)
    path, pixels = picture(tmp_path / 'a.png', side)
    out = tmp_path / 'out'
    result = inferencer([path, pixels], out_dir=str(out), return_vis=True)
    wanted = predict_by_hand(inferencer.model, pixels).argmax(0).numpy()
    for labels in result['predictions']:
        assert (labels == wanted).mean() > 0.999
    assert (cv2.imread(str(out / 'pred' / '00000000_pred.png'), -1) == wanted).mean() > 0.999
    drawn = sorted((out / 'vis').iterdir())
    assert len(drawn) == 2 and cv2.imread(str(drawn[0])).shape == (side, side, 3)
    # Colours of the dataset: the picture leans towards the colour of what is predicted.
    flat = inferencer(path, return_vis=True, opacity=1.0, with_labels=False)['visualization']
    np.testing.assert_array_equal(np.unique(flat.reshape(-1, 3), axis=0), colours_of(wanted))


def colours_of(labels):
    return np.unique(np.array(PALETTE)[labels].reshape(-1, 3), axis=0)


def test_pictures_of_a_single_result(tmp_path):
    config, checkpoint = write_model(tmp_path, mean_teacher(resnet()), test_pipeline=TEST_PIPELINE)
    model = init_model(str(config), str(checkpoint), 'cpu')
    path, _ = picture(tmp_path / 'a.png')
    out = tmp_path / 'shown.png'
    show_result_pyplot(model, path, inference_model(model, path), show=False, out_file=str(out))
    assert cv2.imread(str(out)).shape == (64, 64, 3)


@pytest.mark.parametrize('written', ['fused'], indirect=True)
def test_networks_are_chosen_by_option(written, tmp_path):
    path, pixels = picture(tmp_path / 'a.png')
    for name in ('a', 'b'):
        model = init_model(
            str(written[0]), str(written[1]), 'cpu',
            cfg_options={'model.semi_test_cfg': dict(predict_on=name)},
        )  # fmt: skip
        found = inference_model(model, path).seg_logits.data
        student = model.students[name]
        own = student.data_preprocessor if name == 'a' else model.data_preprocessor
        rgb = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            images = (rgb.float() - own.mean) / own.std
            wanted = student.encode_decode(images, [dict(img_shape=images.shape[2:])])[0]
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_checkpoint_of_a_real_training(tmp_path):
    config = write_training(tmp_path)
    with config.open('a') as file:
        file.write("test_pipeline = test_dataloader['dataset']['pipeline']\n")
    run_here('train', config, '--work-dir', tmp_path / 'run')
    checkpoint = str(tmp_path / 'run' / 'iter_4.pth')
    path = str(tmp_path / 'img' / 'tile_0.png')
    model = init_model(str(config), checkpoint, 'cpu')
    assert tuple(model.dataset_meta['classes']) == CLASSES
    found = inference_model(model, path)
    labels = MMSegInferencer(str(config), checkpoint, device='cpu')(path)['predictions']
    assert np.array_equal(found.pred_sem_seg.data[0].numpy(), labels)


READY = [
    *(ROOT / 'configs').glob('*/*_1-4.py'),
    *(ROOT / 'configs').glob('semiearth/*_1pct.py'),
    *(ROOT / 'projects').glob('*/configs/*.py'),
]


@pytest.mark.parametrize('path', sorted(READY), ids=lambda path: path.stem)
def test_configs_have_what_mmsegs_inference_reads(path: Path):
    cfg = Config.fromfile(path)
    if 'model' not in cfg:
        pytest.skip('no training')
    inside = cfg.test_dataloader.dataset.pipeline
    assert inside[0].type == 'LoadImageFromFile' and cfg.visualizer.type == 'SegLocalVisualizer'
    assert [step.type for step in inside] == [step.type for step in cfg.test_pipeline]

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Exported networks predict as the original does, in stock mmseg, onnxruntime and torch.export."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model, init_model
from mmseg.registry import MODELS
from PIL import Image

from mmseg_semi_rs.apis import graph_export, onnx_export, pt2_export, stock_parts
from mmseg_semi_rs.apis.export import _pipeline, export_network, file_name, take_network
from mmseg_semi_rs.apis.onnx_export import export_onnx
from mmseg_semi_rs.apis.pt2_export import export_pt2
from tests._support.tiny_training import ROOT, run_here
from tests._support.trained_models import (
    BN,
    CLASSES,
    CLIP,
    IMAGENET,
    PALETTE,
    clip_segformer,
    clip_vlg,
    dinov2,
    dinov2_dpt,
    dinov2_fcn,
    dinov3_vlg,
    dual,
    lite,
    mean_teacher,
    mit,
    mobilenet,
    resnet,
    rsmtdf,
    write_model,
)

SIZE = (64, 64)
# What runs without the package: model, network, and the backbone of the exported config.
STOCK = {
    'fixmatch_teacher': (lambda: mean_teacher(mobilenet()), 'teacher', 'MobileNetV2'),
    'fixmatch_student': (lambda: mean_teacher(resnet(aux=True)), 'student', 'ResNet'),
    'unread_stages': (lambda: mean_teacher(mobilenet(levels=2)), None, 'MobileNetV2'),
    'segformer': (lambda: mean_teacher(mit()), None, 'MixVisionTransformer'),
    'co2s_a': (lambda: dual(resnet(), mobilenet()), 'a', 'ResNet'),
    'co2s_b_average': (lambda: dual(resnet(), mit(), ema=True), 'b', 'MixVisionTransformer'),
    'unfused_distillation': (lambda: mean_teacher(rsmtdf((1.0, 0.0, 0.0))), None, 'ResNet'),
    'dinov2_last_map': (
        lambda: mean_teacher(dinov2_fcn(), (56, 84)),
        None,
        'mmpretrain.VisionTransformer',
    ),
    'clip': (lambda: mean_teacher(clip_segformer()), None, 'mmpretrain.VisionTransformer'),
}
# What does not: model, network, and the parts that need it.
OWN = {
    'efficientnet_lite_unread_stages': (
        lambda: mean_teacher(lite(levels=2)),
        None,
        ['EfficientNetLite'],
    ),
    'dinov2_dpt': (
        lambda: mean_teacher(dinov2_dpt(), (56, 84)),
        None,
        ['DINOv2', 'SizeMatchedDPTHead'],
    ),
    'rsmtdf': (
        lambda: mean_teacher(rsmtdf()),
        'student',
        ['DistillEncoderDecoder', 'MultiTeacherDistillHead'],
    ),
    'rsmtdf_one_fused': (
        lambda: mean_teacher(rsmtdf((0.9, 0.1, 0.0))),
        None,
        ['DistillEncoderDecoder', 'MultiTeacherDistillHead'],
    ),
    'co2s_clip': (
        lambda: dual(clip_vlg(), dinov3_vlg()),
        'a',
        ['CLIPVision', 'TextEmbedding', 'VLGHead'],
    ),
    'co2s_dinov3': (
        lambda: dual(clip_vlg(), dinov3_vlg()),
        'b',
        ['DINOv3', 'LearnableQueries', 'VLGHead'],
    ),
}

STOCK_SCRIPT = ROOT / 'tests' / '_support' / 'stock_mmseg.py'


def picture(path, height, width):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def take(folder, model, network=None, **kwargs):
    return take_network(*write_model(folder, model), network, **kwargs)


def export(folder, model, network=None, **kwargs):
    taken = take(folder, model, network, **kwargs)
    return taken, export_network(taken, folder / 'out', file_name('tiny.py', taken.name))


def logits(taken, image):
    """What the original predicts, by the pipeline that every one of these configs has."""
    taken.model.cfg = Config(dict(test_pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackSegInputs'),
    ]))  # fmt: skip
    return inference_model(taken.model, str(image)).seg_logits.data


@pytest.fixture(scope='module')
def stock(tmp_path_factory):
    """All exports that need nothing of ours, and what stock mmseg predicts with them."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(repr_of))
        with DefaultScope.overwrite_default_scope('mmseg'):
            for name, (model, network, _) in STOCK.items():
                made[name] = export(tmp_path_factory.mktemp(name), model(), network)
    folders = [exported.config.parent for _, exported in made.values()]
    for folder, (taken, _) in zip(folders, made.values(), strict=True):
        picture(folder / 'image.png', *taken.size)
    done = subprocess.run(
        [sys.executable, str(STOCK_SCRIPT), *map(str, folders)],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        cwd=folders[0],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return made


def repr_of(cfg):
    return ''.join(f'{key} = {value!r}\n' for key, value in cfg.to_dict().items())


def test_a_pipeline_that_keeps_images_in_memory_is_exported_without():
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    steps = [dict(type='KeepInMemory', transforms=load), dict(type='PackSemiInputs')]
    found = _pipeline(Config(dict(test_pipeline=steps)))
    assert [step['type'] for step in found] == ['LoadImageFromFile', 'PackSegInputs']


@pytest.mark.slow
@pytest.mark.parametrize('name', STOCK)
def test_runs_in_stock_mmseg_without_this_package(name, stock):
    taken, exported = stock[name]
    assert exported.needs == () and 'without mmseg_semi_rs' in str(exported)
    found = np.load(exported.config.parent / 'stock.npz')
    wanted = logits(taken, exported.config.parent / 'image.png')
    torch.testing.assert_close(torch.from_numpy(found['logits']), wanted, rtol=1e-4, atol=1e-5)
    assert (found['labels'] == wanted.argmax(0).numpy()).mean() > 0.999
    assert tuple(found['classes']) == CLASSES and found['palette'].tolist() == PALETTE
    assert list((exported.config.parent / 'pictures' / 'vis').iterdir())


@pytest.mark.slow
def test_stages_that_nothing_reads_take_no_room_in_the_file(stock):
    """MobileNetV2 has no argument to leave them out."""
    read, unread = (stock[name][1].checkpoint for name in ('fixmatch_teacher', 'unread_stages'))
    assert unread.stat().st_size < read.stat().st_size / 2
    weights = torch.load(unread, weights_only=True)['state_dict']
    zeros = [name for name, value in weights.items() if name.startswith('backbone.layer6')]
    assert zeros and not any(weights[name].any() for name in zeros)


@pytest.mark.slow
@pytest.mark.parametrize('name', STOCK)
def test_plain_config_has_nothing_of_training(name, stock):
    taken, exported = stock[name]
    cfg = Config.fromfile(exported.config)
    assert cfg.model.type == 'EncoderDecoder' and cfg.model.backbone.type == STOCK[name][2]
    assert cfg.model.data_preprocessor.type == 'SegDataPreProcessor'
    assert 'mmseg_semi_rs' not in repr(cfg.to_dict()) and 'auxiliary_head' not in cfg.model
    assert 'nowhere' not in exported.config.read_text()
    assert 'SyncBN' not in exported.config.read_text()
    assert cfg.get('custom_imports', {}).get('imports', []) in ([], ['mmpretrain.models'])
    assert [step.type for step in cfg.test_pipeline] == ['LoadImageFromFile', 'PackSegInputs']
    assert cfg.crop_size == taken.size
    loss = cfg.model.decode_head.loss_decode
    assert loss.type == 'CrossEntropyLoss' and loss.class_weight == [1.0, 2.0, 3.0]
    weights = torch.load(exported.checkpoint, weights_only=True)
    assert weights['meta']['dataset_meta']['classes'] == list(CLASSES)
    assert not any('auxiliary' in key or 'translators' in key for key in weights['state_dict'])


def test_a_students_own_statistics_are_exported(tmp_path):
    for network, stats in (('a', CLIP), ('b', IMAGENET)):
        _, exported = export(tmp_path / network, dual(resnet(), resnet()), network)
        cfg = Config.fromfile(exported.config).model.data_preprocessor
        assert (cfg.mean, cfg.std) == (stats['mean'], stats['std'])
        assert cfg.size == SIZE


def test_teacher_and_student_are_told_apart(tmp_path):
    config, checkpoint = write_model(tmp_path, mean_teacher(resnet()))
    whole = torch.load(checkpoint, weights_only=True)['state_dict']
    for network in ('teacher', 'student'):
        taken = take_network(config, checkpoint, network)
        exported = export_network(taken, tmp_path / 'out', network)
        weights = torch.load(exported.checkpoint, weights_only=True)['state_dict']
        for key, tensor in weights.items():
            assert torch.equal(tensor, whole[f'{network}.{key}'])


@pytest.mark.parametrize('name', OWN)
def test_what_needs_the_package_says_so_and_predicts_the_same(name, tmp_path):
    model, network, parts = OWN[name]
    taken, exported = export(tmp_path, model(), network)
    assert list(exported.needs) == parts
    for part in parts:
        assert f'needs mmseg_semi_rs for {part}: ' in str(exported)
    text = exported.config.read_text()
    for gone in ('MeanTeacherSegmentor', 'DualStudentSegmentor', 'ema', 'absent', 'no.pth'):
        assert gone not in text
    cfg = Config.fromfile(exported.config)
    assert cfg.custom_imports.imports == ['mmseg_semi_rs']
    model = init_model(cfg, str(exported.checkpoint), 'cpu')
    image = picture(tmp_path / 'image.png', *taken.size)
    found = inference_model(model, image).seg_logits.data
    torch.testing.assert_close(found, logits(taken, image), rtol=1e-4, atol=1e-5)
    if 'rsmtdf' in name:
        head = model.decode_head
        assert not any(teacher.is_built for teacher in head.teachers.values())
        assert list(head.teachers) == (['dino'] if 'one' in name else ['clip', 'dino'])


def test_fusion_weights_follow_their_teachers(tmp_path):
    _, exported = export(tmp_path, mean_teacher(rsmtdf((0.9, 0.0, 0.1))))
    head = Config.fromfile(exported.config).model.decode_head
    assert head.fusion.weights == dict(student=0.9, clip=0.1) and list(head.teachers) == ['clip']


def test_nothing_is_written_that_predicts_otherwise(tmp_path):
    taken = take(tmp_path, mean_teacher(resnet()))
    wrong = replace(taken, preprocessor_cfg={**taken.preprocessor_cfg, 'bgr_to_rgb': False})
    with pytest.raises(ValueError, match=r'would predict otherwise .* nothing was written'):
        export_network(wrong, tmp_path / 'out', 'wrong')
    assert not (tmp_path / 'out').exists()


def test_a_stock_part_that_predicts_otherwise_is_not_taken(tmp_path, monkeypatch):
    taken = take(tmp_path, mean_teacher(dinov2_fcn(), (56, 84)))
    translate = stock_parts._BACKBONES['DINOv2']
    wrong = dict(norm_cfg=dict(type='LN', eps=1.0))
    monkeypatch.setitem(
        stock_parts._BACKBONES, 'DINOv2', lambda backbone: {**translate(backbone), **wrong}
    )
    assert export_network(taken, tmp_path / 'out', 'tiny').needs == ('DINOv2',)


def test_says_where_positions_were_resized(tmp_path):
    _, exported = export(tmp_path / 'other', mean_teacher(dinov2_fcn(), (56, 84)))
    assert exported.resized_positions and 'at other sizes' in str(exported)
    _, exported = export(tmp_path / 'same', mean_teacher(dinov2_fcn(), (56, 56)))
    assert not exported.resized_positions and 'at other sizes' not in str(exported)


def test_plain_encoder_decoder_of_mmseg(tmp_path):
    plain = dict(resnet(), data_preprocessor=dict(type='SegDataPreProcessor', **IMAGENET))
    taken, exported = export(tmp_path, plain, size=(48, 64))
    assert (taken.name, exported.needs, exported.size) == ('', (), (48, 64))
    assert exported.config.name == 'tiny.py'


def run_onnx(path, pixels):
    return runtime(path).run(None, {'images': pixels.numpy()})[0]


def runtime(path):
    return importlib.import_module('onnxruntime').InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )


@pytest.fixture
def needs_onnx():
    for name in onnx_export.needed():
        pytest.importorskip(name)


def by_hand(taken, pixels):
    """Probabilities of RGB pixels, written out without the exporter's wrapper."""
    own = taken.preprocessor
    images = (pixels - own.mean) / own.std
    with torch.no_grad():
        feats = taken.network.extract_feat(images)
        logits = taken.network.decode_head(feats)
    align = taken.network.decode_head.align_corners
    return F.interpolate(
        logits, pixels.shape[2:], mode='bilinear', align_corners=align
    ).softmax(1)  # fmt: skip


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.rand(shape, generator=generator) * 255


def small_cnn():
    """With a head that pools to grids which do not divide the map."""
    net = resnet()
    net['backbone'].update(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
    net['decode_head'] = dict(
        type='PSPHead', in_channels=8, in_index=1, channels=8, pool_scales=(1, 3), num_classes=3,
        norm_cfg=BN,
    )  # fmt: skip
    return net


@pytest.mark.slow
def test_onnx_of_any_size_through_the_tool(tmp_path, pixels, capsys, needs_onnx):
    config, checkpoint = write_model(tmp_path, dual(small_cnn(), small_cnn()))
    run_here(
        'export_student', config, checkpoint, '--out', tmp_path / 'out', '--network', 'a', '--onnx'
    )  # fmt: skip
    told = capsys.readouterr().out
    assert 'takes any batch, height and width' in told and 'without mmseg_semi_rs' in told
    path = tmp_path / 'out' / 'tiny_a.onnx'
    assert sorted(p.name for p in path.parent.iterdir()) == [
        'tiny_a.json', 'tiny_a.onnx', 'tiny_a.pth', 'tiny_a.py',
    ]  # fmt: skip
    taken = take_network(config, checkpoint, 'a')
    assert taken.preprocessor.mean.flatten().tolist() == pytest.approx(CLIP['mean'])
    for shape in ((1, 3, 64, 64), (2, 3, 33, 50)):
        image = pixels(*shape)
        np.testing.assert_allclose(run_onnx(path, image), by_hand(taken, image), atol=1e-4)
    about = runtime(path).get_modelmeta().custom_metadata_map
    assert json.loads(about['classes']) == list(CLASSES)
    assert json.loads(about['palette']) == PALETTE
    assert (about['dynamic'], about['multiple'], about['size']) == ('yes', '1', '64 64')


@pytest.mark.slow
def test_onnx_of_a_vision_transformer_takes_whole_patches(tmp_path, pixels, needs_onnx):
    taken = take(tmp_path, mean_teacher(dinov2_dpt(), (56, 56)))  # the size of stored positions
    made = export_onnx(taken, tmp_path / 'out.onnx')
    shapes = [(1, 3, 56, 56), (3, 3, 84, 70), (1, 3, 56, 70)]
    if onnx_export._follows_shapes():
        assert made.multiple == 14 and 'any multiples of 14 px' in str(made)
    else:
        assert made.multiple is None and 'takes images of 56 x 56 px only: ' in str(made)
        del shapes[1:]
    for shape in shapes:
        image = pixels(*shape)
        np.testing.assert_allclose(
            run_onnx(made.path, image), by_hand(taken, image), atol=1e-5, err_msg=str(shape)
        )


@pytest.mark.slow
def test_onnx_of_a_network_that_pads_by_size_takes_multiples_of_32(tmp_path, pixels, needs_onnx):
    taken = take_network(*write_model(tmp_path, mean_teacher(lite(levels=2), (64, 96))), None)
    made = export_onnx(taken, tmp_path / 'out.onnx')
    if onnx_export._follows_shapes():
        assert made.multiple == 32
        for shape in ((1, 3, 64, 96), (2, 3, 32, 128)):
            image = pixels(*shape)
            np.testing.assert_allclose(
                run_onnx(made.path, image), by_hand(taken, image), atol=1e-4, err_msg=str(shape)
            )
    else:
        np.testing.assert_allclose(
            run_onnx(made.path, pixels(1, 3, 64, 96)),
            by_hand(taken, pixels(1, 3, 64, 96)),
            atol=1e-4,
        )


@pytest.mark.slow
def test_onnx_of_a_fused_student(tmp_path, pixels, needs_onnx):
    if not onnx_export._follows_shapes():
        pytest.skip('the exporter of torch before 2.5 does not take it')
    taken = take(tmp_path, mean_teacher(rsmtdf_small(), (56, 56)))
    made = export_onnx(taken, tmp_path / 'out.onnx', opset=18)
    assert (made.multiple, made.version) == (None, 'opset 18')
    assert 'takes images of 56 x 56 px only: it looks at the image at further sizes' in str(made)
    image = pixels(1, 3, 56, 56)
    np.testing.assert_allclose(run_onnx(made.path, image), by_hand(taken, image), atol=1e-4)
    assert runtime(made.path).get_inputs()[0].shape == [1, 3, 56, 56]


def rsmtdf_small():
    model, small = rsmtdf(), small_cnn()
    model['backbone'] = small['backbone']
    model['decode_head']['decode_head'] = small['decode_head']
    model.pop('auxiliary_head')
    return model


def test_onnx_that_predicts_otherwise_is_an_error(tmp_path, monkeypatch, needs_onnx):
    """Every form is tried, and none is kept."""
    tried = []

    def forge(taken, opset, wrapped, example, multiple, path):
        tried.append(multiple)
        path.write_bytes(b'')

    monkeypatch.setattr(onnx_export, '_write', forge)
    monkeypatch.setattr(onnx_export, '_difference', lambda *args: 0.25)
    taken = take(tmp_path, mean_teacher(dinov2_fcn(), (56, 56)))
    with pytest.raises(ValueError, match=r'probabilities differ by 2.50e-01'):
        export_onnx(taken, tmp_path / 'out.onnx')
    assert tried == [14, 28, None] and not list(tmp_path.glob('*.onnx'))


@pytest.mark.slow
def test_pt2_of_any_size_through_the_tool(tmp_path, pixels, capsys):
    config, checkpoint = write_model(tmp_path, dual(small_cnn(), small_cnn()))
    run_here(
        'export_student', config, checkpoint, '--out', tmp_path / 'out', '--network', 'a', '--pt2'
    )  # fmt: skip
    told = capsys.readouterr().out
    assert f'wrote {tmp_path / "out" / "tiny_a.json"} (STAC item)' in told
    path = tmp_path / 'out' / 'tiny_a.pt2'
    assert {p.suffix for p in path.parent.iterdir()} == {'.json', '.pt2', '.pth', '.py'}
    item = json.loads(path.with_suffix('.json').read_text())
    assert item['assets']['pt2']['href'] == './tiny_a.pt2'
    taken = take_network(config, checkpoint, 'a')
    extra = {pt2_export.METADATA: ''}
    network = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra[pt2_export.METADATA])
    assert about['classes'] == json.dumps(taken.classes)
    if onnx_export._follows_shapes():
        assert 'takes any batch, height and width' in told
        assert (about['dynamic'], about['multiple'], about['size']) == ('yes', '1', '64 64')
        assert item['properties']['mlm:input'][0]['input']['shape'] == [-1, 3, -1, -1]
    for shape in ((1, 3, 64, 64), (2, 3, 33, 50)):
        if shape[2:] == (64, 64) or about['dynamic'] == 'yes':
            image = pixels(*shape)
            torch.testing.assert_close(network(image), by_hand(taken, image), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_pt2_of_a_vision_transformer_takes_whole_patches(tmp_path, pixels):
    taken = take(tmp_path, mean_teacher(dinov2_dpt(), (56, 56)))  # the size of stored positions
    made = export_pt2(taken, tmp_path / 'out.pt2')
    network = torch.export.load(made.path).module()
    shapes = [(1, 3, 56, 56)]
    if onnx_export._follows_shapes():
        assert made.multiple == 14 and 'any multiples of 14 px' in str(made)
        shapes += [(3, 3, 84, 70), (1, 3, 56, 70)]
    for shape in shapes:
        image = pixels(*shape)
        torch.testing.assert_close(network(image), by_hand(taken, image), atol=1e-5, rtol=0)


def test_pt2_that_predicts_otherwise_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(pt2_export, '_write', lambda *args: args[-1].write_bytes(b'') or '')
    monkeypatch.setattr(pt2_export, '_difference', lambda *args: 0.25)
    taken = take(tmp_path, mean_teacher(resnet()))
    with pytest.raises(ValueError, match=r'The PT2 file predicts otherwise .* by 2.50e-01'):
        export_pt2(taken, tmp_path / 'out.pt2')
    assert not list(tmp_path.glob('*.pt2'))
    monkeypatch.delattr(torch.export, 'save')
    with pytest.raises(ImportError, match=r'needs torch.export, .* take torch 2.1 or later'):
        export_pt2(taken, tmp_path / 'out.pt2')


@pytest.mark.parametrize('cells', [1, (2, 3), (5, 7), (None, 4)])
def test_exportable_pooling_is_torchs(cells):
    images = torch.rand(2, 3, 11, 7)
    torch.testing.assert_close(
        graph_export._adaptive_average_pool(images, cells), F.adaptive_avg_pool2d(images, cells)
    )


def test_exportable_positions_are_dinov2s():
    backbone = MODELS.build(dinov2())
    torch.nn.init.normal_(backbone.pos_embed)
    for grid in ((4, 4), (4, 7), (9, 4), (3, 3)):
        torch.testing.assert_close(
            graph_export._positions(backbone, grid), backbone.position_embedding(grid)
        )


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        (dict(network='c'), r"'c' is none of the networks of the model: a, b, fused"),
        (dict(), r'holds one network, .* two fused: choose one by --network a or b\.$'),
        (dict(checkpoint='gone.pth'), r'The checkpoint gone\.pth does not exist'),
        (dict(config='gone.py'), r'The config gone\.py does not exist'),
        (dict(checkpoint='other', network='a'), r'does not belong to the config: .* is missing'),
        (dict(checkpoint='junk', network='a'), r'cannot be read'),
    ],
)
def test_bad_input_is_one_sentence(changes, told, tmp_path):
    config, checkpoint = write_model(tmp_path, dual(resnet(), resnet()))
    files = dict(
        other=write_model(tmp_path, mean_teacher(resnet()), 'other')[1], junk=tmp_path / 'junk'
    )
    files['junk'].write_bytes(b'no checkpoint')
    given = dict(config=config, checkpoint=checkpoint, network=None) | changes
    given['checkpoint'] = files.get(given['checkpoint'], given['checkpoint'])
    with pytest.raises((ValueError, FileNotFoundError), match=told) as error:
        take_network(**given)
    assert '\n' not in str(error.value)


def test_tool_tells_bad_input_with_exit_code_2(tmp_path, capsys):
    config, checkpoint = write_model(tmp_path, mean_teacher(dinov2_dpt(), (56, 56)))
    common = ('export_student', config, checkpoint, '--out', tmp_path / 'out')
    for extra, told in (
        (('--opset', 18), '--opset 18 is of an ONNX file: add --onnx'),
        (('--size', 0, 5), '--size 0 5 must be two positive numbers'),
        (('--size', 60, 56), 'multiples of its patch size 14'),
        (('--network', 'a'), "'a' is none of the networks of the model: teacher, student"),
    ):
        with pytest.raises(SystemExit) as exit_:
            run_here(*common, *extra)
        assert exit_.value.code == 2 and told in capsys.readouterr().err


def test_onnx_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    taken = take(tmp_path, mean_teacher(resnet()))
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ImportError, match=r"needs onnx, .*pip install 'mmseg_semi_rs\[onnx\]'"):
        export_onnx(taken, tmp_path / 'out.onnx')


def test_size_must_be_known(tmp_path):
    plain = dict(resnet(), data_preprocessor=dict(type='SegDataPreProcessor', **IMAGENET))
    with pytest.raises(ValueError, match=r'how large .* give --size HEIGHT WIDTH'):
        take(tmp_path, plain)


def test_statistics_must_be_known(tmp_path):
    with pytest.raises(ValueError, match='no SegDataPreProcessor'):
        take(tmp_path, resnet(), size=SIZE)

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

import mmseg_semi_rs  # noqa: F401 - registers the head

WIDTHS = (12, 10, 24)
TINY = dict(
    channels=32,
    text_channels=16,
    up_channels=(32, 16),
    skip_channels=(8, 4),
    heads=2,
    dilations=(1, 2, 3),
)
CROSS_ENTROPY = dict(type='CrossEntropyLoss', avg_non_ignore=True)


def build(num_classes=3, in_channels=WIDTHS, **kwargs):
    embedding = dict(type='LearnableQueries', channels=in_channels[-1], std=1.0)
    cfg = dict(type='VLGHead', class_embedding=embedding, in_channels=in_channels)
    return MODELS.build({**cfg, 'num_classes': num_classes, 'loss_decode': CROSS_ENTROPY, **kwargs})


def tiny(num_classes=3, **kwargs):
    torch.manual_seed(0)
    head = build(num_classes, **{**TINY, **kwargs})
    for name, parameter in head.named_parameters():
        if parameter.dim() == 1:  # biases of 0 and norms of 1 would hide a mistake
            nn.init.normal_(parameter, mean=float(name.endswith('weight')), std=0.1)
    return head


def levels(grid=(8, 8), batch=2, widths=WIDTHS, seed=1):
    torch.manual_seed(seed)
    return [torch.randn(batch, width, *grid) for width in widths]


def norm_relu(x, block):
    norm = block[0]
    assert norm.num_groups == len(norm.weight) // 16
    return F.relu(F.group_norm(x, norm.num_groups, norm.weight, norm.bias))


def spatial(x, part):
    branches = []
    for index, branch in enumerate(part.branches):
        rate = (None, 1, 2, 3)[index]
        options = dict(padding=rate, dilation=rate) if rate else {}
        branches.append(norm_relu(F.conv2d(x, branch[0].weight, **options), branch[1]))
    mean = F.conv2d(F.adaptive_avg_pool2d(x, 1), part.pooled[0].weight)
    mean = norm_relu(mean, part.pooled[1])
    branches.append(F.interpolate(mean, x.shape[2:], mode='bilinear', align_corners=True))
    mixed = F.conv2d(torch.cat(branches, 1), part.mix.weight)
    return x + norm_relu(mixed, part.mix_norm)


def attention(tokens, layer, heads):
    """One pre-norm transformer layer on tokens of shape (N, C), written out."""
    attn = layer.self_attn
    normed = F.layer_norm(tokens, tokens.shape[1:], layer.norm1.weight, layer.norm1.bias)
    query, key, value = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=1)
    outputs = []
    for q, k, v in zip(*(part.chunk(heads, dim=1) for part in (query, key, value)), strict=True):
        outputs.append((q @ k.T / math.sqrt(q.shape[1])).softmax(dim=1) @ v)
    out = attn.out_proj
    tokens = tokens + F.linear(torch.cat(outputs, dim=1), out.weight, out.bias)
    normed = F.layer_norm(tokens, tokens.shape[1:], layer.norm2.weight, layer.norm2.bias)
    hidden = F.gelu(F.linear(normed, layer.linear1.weight, layer.linear1.bias))
    assert hidden.shape[1] == 4 * 32
    return tokens + F.linear(hidden, layer.linear2.weight, layer.linear2.bias)


def semantic(per_class, text, part, heads, pool=4):
    """``per_class``: one map of shape (1, C, h, w) for each class of one image."""
    height, width = per_class[0].shape[2:]
    rows, columns = math.ceil(height / pool), math.ceil(width / pool)
    refined = [torch.zeros(1, 32, rows, columns) for _ in per_class]
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height // rows, math.ceil((i + 1) * height / rows)
            left, right = j * width // columns, math.ceil((j + 1) * width / columns)
            cells = [x[0, :, top:bottom, left:right].mean(dim=(1, 2)) for x in per_class]
            tokens = torch.stack([torch.cat(pair) for pair in zip(cells, text, strict=True)])
            for n, token in enumerate(attention(tokens, part.layer, heads)):
                refined[n][0, :, i, j] = token[:32]
    size = (height, width)
    return [
        x + F.interpolate(y, size, mode='bilinear', align_corners=True)
        for x, y in zip(per_class, refined, strict=True)
    ]


def upsample(x, skip, part):
    x = F.conv_transpose2d(x, part.up.weight, part.up.bias, stride=2)
    skip = F.interpolate(skip, x.shape[2:], mode='bilinear', align_corners=True)
    x = F.conv2d(torch.cat([x, skip], dim=1), part.conv1.weight, padding=1)
    x = norm_relu(x, part.norm1)
    return norm_relu(F.conv2d(x, part.conv2.weight, padding=1), part.norm2)


def plain_vlg(head, inputs, heads=2):
    """The table of the method, image by image and class by class, all skips repeated."""
    logits = []
    for shallow, middle, deep in zip(*(level.split(1) for level in inputs), strict=True):
        embedding = head.class_embedding()
        embedding = embedding / embedding.norm(dim=1, keepdim=True)
        deep = deep / deep.norm(dim=1, keepdim=True)
        maps = []
        for vector in embedding:
            similarity = (deep * vector[None, :, None, None]).sum(1, keepdim=True)
            conv = head.similarity_conv
            maps.append(
                spatial(F.conv2d(similarity, conv.weight, conv.bias, padding=3), head.spatial)
            )
        for part in head.semantic:
            linear = head.text_proj[0]
            text = F.relu(F.linear(embedding, linear.weight, linear.bias))
            maps = semantic(maps, text, part, heads)
        skips = []
        for skip, projection in ((middle, head.middle_proj), (shallow, head.shallow_proj)):
            conv = projection[0]
            skips.append(F.relu(F.conv2d(skip, conv.weight, conv.bias, padding=1)))
        for x in maps:
            x = upsample(upsample(x, skips[0], head.up1), skips[1], head.up2)
            logits.append(F.conv2d(x, head.mask_conv.weight, head.mask_conv.bias, padding=1))
    return torch.cat(logits).unflatten(0, (len(inputs[0]), -1)).squeeze(2)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('grid', [(8, 8), (5, 9), (4, 1), (2, 3)])
def test_equals_the_restated_decoder(grid, training):
    head, inputs = tiny().train(training), levels(grid)
    with torch.set_grad_enabled(training):  # without gradients torch takes its fused layer
        found = head(inputs)
    assert found.shape == (2, 3, 4 * grid[0], 4 * grid[1])
    torch.testing.assert_close(found, plain_vlg(head, inputs), rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_the_restated_decoder():
    head = tiny()
    weight = torch.randn(2, 3, 20, 36)
    gradients = []
    for decode in (head, lambda inputs: plain_vlg(head, inputs)):
        # With seed 1 a value lies so near to a ReLU's kink that rounding decides its side.
        inputs = [level.requires_grad_() for level in levels((5, 9), seed=4)]
        loss = (decode(inputs) * weight).sum()
        gradients.append(torch.autograd.grad(loss, [*inputs, *head.parameters()]))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('deep', 'name'), [(512, 'CLIP'), (768, 'DINOv3')])
@pytest.mark.parametrize('num_classes', [6, 15])
def test_size_is_the_published_one_whatever_the_classes(deep, name, num_classes):
    with torch.device('meta'):
        head = build(num_classes, (768, 768, deep))
    sizes = [p.numel() for key, p in head.named_parameters() if 'class_embedding' not in key]
    assert len(sizes) == 68
    assert sum(sizes) == {'CLIP': 2_217_185, 'DINOv3': 2_249_953}[name]


@pytest.mark.parametrize('num_classes', [2, 40])
def test_takes_any_number_of_classes(num_classes):
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='For binary segmentation')
        head = tiny(num_classes)
    assert head(levels((3, 5), batch=1)).shape == (1, num_classes, 12, 20)


def test_I13_every_parameter_has_a_gradient_and_the_head_learns():
    head, inputs = tiny(), levels()
    labels = torch.zeros(1, 64, 64).long()
    labels[..., 32:] = 2
    inputs[2][..., 4:] += 3 * torch.randn(1, WIDTHS[2], 1, 1)  # the right half differs
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels))] * 2
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    history = []
    for _ in range(30):
        loss = head.loss(inputs, samples, {})['loss_ce']
        optimizer.zero_grad()
        loss.backward()
        assert [name for name, p in head.named_parameters() if p.grad is None] == []
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 2


def test_I13_holds_without_semantic_reasoning():
    head = tiny(reasoning_layers=0)
    head(levels()).square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_logits_follow_a_permutation_of_the_classes():
    head, inputs, order = tiny(4), levels(), [2, 0, 3, 1]
    before = head(inputs)
    head.class_embedding.queries.data = head.class_embedding.queries.data[order]
    torch.testing.assert_close(head(inputs), before[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('layers', 'coupled'), [(0, False), (1, True), (2, True)])
def test_classes_meet_in_the_semantic_reasoning_only(layers, coupled):
    head, inputs = tiny(reasoning_layers=layers), levels()
    before = head(inputs)
    with torch.no_grad():
        head.class_embedding.queries[1] += torch.randn(WIDTHS[2])
    unmoved = torch.isclose(head(inputs), before, atol=1e-6).flatten(2).all(dim=2)[0]
    assert unmoved.tolist() == [not coupled, False, not coupled]


@pytest.mark.parametrize('level', [0, 1, 2])
def test_every_level_matters_and_images_do_not_mix(level):
    head, inputs = tiny(), levels()
    before = head(inputs)
    inputs[level][1] = torch.randn_like(inputs[level][1])
    after = head(inputs)
    assert not torch.allclose(before[1], after[1], atol=1e-3)
    torch.testing.assert_close(before[0], after[0])


def test_levels_are_shallow_middle_deep():
    head, inputs = tiny(), levels()
    shallow, middle, deep = inputs
    reordered = tiny(in_index=(3, 0, 1))
    torch.testing.assert_close(reordered([middle, deep, None, shallow]), head(inputs))


def test_skips_may_have_another_size():
    inputs = levels((4, 6))
    inputs[0], inputs[1] = torch.randn(2, WIDTHS[0], 9, 11), torch.randn(2, WIDTHS[1], 3, 3)
    torch.testing.assert_close(tiny()(inputs), plain_vlg(tiny(), inputs), rtol=1e-4, atol=1e-5)


def test_only_directions_of_embeddings_and_deep_map_count():
    head, inputs = tiny(), levels()
    before = head(inputs)
    inputs[2] = inputs[2] * torch.rand(2, 1, 8, 8).add(0.5)
    with torch.no_grad():
        head.class_embedding.queries.mul_(torch.tensor([[3.0], [0.2], [7.0]]))
    torch.testing.assert_close(head(inputs), before, rtol=1e-4, atol=1e-5)


def test_runs_under_bfloat16_autocast():
    head, inputs = tiny(), levels()
    wanted = head(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        found = head([level.bfloat16() for level in inputs])
    assert found.dtype is torch.bfloat16
    error = (found.float() - wanted).norm() / wanted.norm()
    assert error < 0.05
    found.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_copy_is_independent():
    head, inputs = tiny(), levels()
    double = copy.deepcopy(head)
    before = head(inputs)
    torch.testing.assert_close(double(inputs), before)
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.zero_()
    torch.testing.assert_close(head(inputs), before)


def test_inputs_are_left_as_they_are():
    inputs = levels()
    tiny()(inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, levels(), strict=True))


def test_skips_are_convolved_once_per_image(monkeypatch):
    batches = []
    convolve = F.conv2d

    def recorded(x, weight, *args, **kwargs):
        batches.append((weight.shape[1], len(x)))
        return convolve(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, 'conv2d', recorded)
    tiny(5)(levels(batch=2))
    assert (8, 2) in batches and (4, 2) in batches
    assert (24, 10) in batches and (28, 10) in batches  # the classes' own part of up1 and up2


def test_has_no_batch_norm_no_dropout_and_no_dead_classifier():
    head = tiny()
    kinds = (nn.modules.batchnorm._BatchNorm, nn.Dropout2d)
    assert not any(isinstance(module, kinds) for module in head.modules())
    assert all(m.p == 0 for m in head.modules() if isinstance(m, nn.Dropout))
    assert not hasattr(head, 'conv_seg')


def test_init_weights_leaves_pytorch_initialisation():
    head = tiny()
    before = {name: p.clone() for name, p in head.named_parameters()}
    head.init_weights()
    assert all(torch.equal(before[name], p) for name, p in head.named_parameters())


def test_logits_are_resized_without_aligned_corners():
    assert tiny().align_corners is False


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(in_channels=(12, 24)), r'3 entries in in_channels, got \[12, 24\]'),
        (dict(in_index=(0, 1)), '3 entries in in_index'),
        (dict(up_channels=(32,)), '2 entries in up_channels'),
        (dict(skip_channels=(1, 2, 3)), '2 entries in skip_channels'),
        (dict(channels=24), r'multiples of it, got 24 and \[32, 16\]'),
        (dict(up_channels=(40, 16)), r'got 32 and \[40, 16\]'),
        (dict(skip_channels=(32, 4)), r'skip_channels=\[32, 4\] must be below channels=32'),
        (dict(skip_channels=(8, 32)), r'must be below channels=32 and up_channels\[0\]=32'),
        (dict(heads=5), 'text_channels = 48 over the attention heads, which heads=5'),
        (
            dict(class_embedding=dict(type='LearnableQueries', num_classes=5, channels=24)),
            'num_classes=3, but its LearnableQueries has 5 classes',
        ),
        (
            dict(class_embedding=dict(type='LearnableQueries', channels=23)),
            r'in_channels\[2\]=24 while its LearnableQueries has 23 channels',
        ),
    ],
)
def test_bad_config_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**{**TINY, **changes})


def test_C9_unknown_key_is_told():
    with pytest.raises(TypeError, match='text_chanels'):
        tiny(text_chanels=16)


def test_similarity_is_exact_under_autocast():
    """Cosines of classes differ by hundredths, which bfloat16 rounds."""
    head, inputs = tiny(), levels()
    seen = []
    head.similarity_conv.register_forward_pre_hook(lambda module, args: seen.append(args[0]))

    head(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        head(inputs)
    torch.testing.assert_close(seen[0], seen[1])

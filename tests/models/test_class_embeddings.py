# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import copy
import json
import logging
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import MODELS
from safetensors import safe_open
from safetensors.torch import save_file

from mmseg_semi_rs.classes.concepts import class_concepts
from mmseg_semi_rs.models.class_embeddings import (
    TEMPLATES,
    LearnableQueries,
    TextEmbedding,
    text_embedding,
)

WIDTH, LAYERS, DIM = 16, 2, 8
ARCH = dict(width=WIDTH, layers=LAYERS, heads=2, embed_dim=DIM, quick_gelu=True)
CONCEPTS = [['low_vegetation', 'grass'], ['water', 'lake', 'river'], 'road']
PHOTO = ['a photo of a {}']


def make_clip(quick_gelu=True):
    torch.manual_seed(3)
    model = open_clip.CLIP(
        embed_dim=DIM,
        vision_cfg=dict(width=16, layers=1, head_width=8, patch_size=8, image_size=32),
        text_cfg=dict(width=WIDTH, layers=LAYERS, heads=2),
        quick_gelu=quick_gelu,
    )
    for parameter in model.parameters():  # open_clip starts biases at 0 and norms at 1
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1) * 0.5, std=0.3)
    return model.eval()


@pytest.fixture(scope='module')
def clip():
    return make_clip()


def openai_state(model):
    """What OpenAI's archives hold beside the weights of open_clip's CLIP."""
    numbers = dict(input_resolution=32, context_length=77, vocab_size=49408)
    return model.state_dict() | {key: torch.tensor(value) for key, value in numbers.items()}


@pytest.fixture(scope='module')
def weights(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'ViT-tiny.pt'
    torch.save(openai_state(clip), path)
    return path


@pytest.fixture
def log():
    """Lines that were logged, with their levels."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
    MMLogger.get_instance('test_class_embeddings', log_level='INFO').addHandler(handler)
    return lines


def build(checkpoint, cache_dir=None, concepts=CONCEPTS, **kwargs):
    where = dict(
        checkpoint=None if checkpoint is None else str(checkpoint),
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    cfg = dict(type='TextEmbedding', concepts=concepts, arch=ARCH)
    return MODELS.build({**cfg, **where, **kwargs})


def computed(*args, **kwargs):
    embedding = build(*args, **kwargs)
    embedding.init_weights()
    return embedding()


def restated(model, concepts, templates=PHOTO, center=False):
    """Mean over templates, mean over concepts, L2; class by class."""
    rows = []
    for known in concepts:
        raw = []
        for concept in known:
            sentences = [template.format(concept) for template in templates]
            raw.append(model.encode_text(open_clip.tokenize(sentences)).mean(dim=0))
        mean = sum(raw) / len(raw)
        rows.append(mean / mean.norm())
    embedding = torch.stack(rows).detach()
    if center:
        embedding = embedding - embedding.mean(dim=0)
        embedding = embedding / embedding.norm(dim=1, keepdim=True)
    return embedding


SPELT = [['low vegetation', 'grass'], ['water', 'lake', 'river'], ['road']]


# Learnable queries.


def test_queries_are_normal_and_trained():
    torch.manual_seed(0)
    queries = LearnableQueries(num_classes=40, channels=500)
    assert (queries.num_classes, queries.channels) == (40, 500)
    before = queries().clone()
    assert before.shape == (40, 500)
    assert abs(before.mean()) < 1e-3 and abs(before.std() - 0.02) < 1e-3
    queries.init_weights()
    assert torch.equal(queries(), before)
    queries().sum().backward()
    assert queries.queries.grad.eq(1).all()


def test_queries_take_their_options():
    queries = MODELS.build(dict(type='LearnableQueries', num_classes=40, channels=500, std=3.0))
    assert abs(queries().std() - 3) < 0.1
    assert LearnableQueries(2)().shape == (2, 768)


@pytest.mark.parametrize('wrong', [dict(num_classes=0), dict(channels=0), dict(std=0.0)])
def test_queries_refuse_nonsense(wrong):
    with pytest.raises(ValueError, match='positive arguments'):
        LearnableQueries(**{'num_classes': 2, **wrong})


# The formula, and that every option changes the result (C9).


def test_embedding_is_the_restated_one(clip, weights):
    embedding = build(weights)
    assert (embedding.num_classes, embedding.channels) == (3, DIM)
    embedding.init_weights()
    torch.testing.assert_close(embedding(), restated(clip, SPELT))
    assert embedding().dtype is torch.float32


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(variant='single'), dict(concepts=[known[:1] for known in SPELT])),
        (dict(center=True), dict(center=True)),
        (dict(templates=['{} seen from above']), dict(templates=['{} seen from above'])),
        (dict(templates='aerial'), dict(templates=TEMPLATES['aerial'])),
        (
            dict(underscores='verbatim'),
            dict(concepts=[['low_vegetation', 'grass'], *SPELT[1:]]),
        ),
        (
            dict(variant='single', center=True, templates=['a {}', 'the {} here']),
            dict(
                concepts=[known[:1] for known in SPELT],
                center=True,
                templates=['a {}', 'the {} here'],
            ),
        ),
    ],
)
def test_C9_every_option_changes_the_embedding(clip, weights, options, expected):
    found = computed(weights, **options)
    torch.testing.assert_close(found, restated(clip, **{'concepts': SPELT, **expected}))
    assert not torch.allclose(found, restated(clip, SPELT), atol=1e-3)


def test_defaults_are_the_published_ones():
    embedding = TextEmbedding('potsdam')
    assert embedding.prompts[1][0] == 'a photo of a building'
    assert len(embedding.prompts[1]) == len(class_concepts('potsdam')[1])
    assert (embedding.num_classes, embedding.channels) == (6, 512)
    assert embedding.arch.quick_gelu and embedding.arch.text_cfg['layers'] == 12
    assert TextEmbedding('potsdam', templates='photo').prompts == embedding.prompts


def test_named_arch_is_open_clips():
    plain, quick = (TextEmbedding(['a'], arch=arch) for arch in ('ViT-L/14', 'ViT-L-14-quickgelu'))
    assert plain.channels == 768 and plain.arch.text_cfg['width'] == 768
    assert (plain.arch.quick_gelu, quick.arch.quick_gelu) == (False, True)
    assert not torch.equal(plain.fingerprint, quick.fingerprint)


def test_arch_shapes_the_tower(weights):
    shorter = computed(None, arch={**ARCH, 'context_length': 12})
    gelu = computed(None, arch={**ARCH, 'quick_gelu': False})
    shallow = computed(None, arch={**ARCH, 'layers': 1})
    base = computed(None)
    for other in (shorter, gelu, shallow):
        assert not torch.equal(base, other)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(variant='mean'), r"variant='mean' is none of \('conceptavg', 'single'\)"),
        (dict(underscores='dash'), "underscores='dash' is none of"),
        (dict(templates=['a photo of {}', 'water']), "need '{}' for the concept in each"),
        (dict(templates=[]), "need '{}' for the concept"),
        (dict(templates='satellite'), r"no templates 'satellite': give one of \['aerial', 'photo'"),
        (dict(concepts=[]), 'at least one class'),
        (dict(concepts=['road', []]), r'concepts \[\] for class 1'),
        (dict(concepts=['road', ['lake', ' ']]), 'for class 1: give one or several non-empty'),
        (dict(concepts='mars'), "no concepts for 'mars'"),
        (dict(num_classes=4), 'concepts for 3 classes, but num_classes=4'),
        (dict(arch='ViT-Z-99'), "arch='ViT-Z-99': give the name of an open_clip model"),
        (dict(arch='ViT-B-16-SigLIP'), "CLIP's own text tower and tokenizer"),
        (
            dict(arch=dict(width=8, depth=1)),
            'depth, embed_dim, heads, layers is missing or unknown',
        ),
    ],
)
def test_bad_arguments_are_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        build(None, **wrong)


def test_C9_unknown_keys_are_told():
    with pytest.raises(TypeError, match='text_variant'):
        build(None, text_variant='single')


def test_prompt_longer_than_the_context_is_told():
    with pytest.raises(
        ValueError, match=r"prompt 'a photo of a low vegetation' has 8 tokens.*takes 7"
    ):
        computed(None, arch={**ARCH, 'context_length': 7})


# Weight files.


def hugging_face(model):
    """transformers' CLIPModel: its names of the text part, query, key and value apart."""
    top = {
        'token_embedding.weight': 'embeddings.token_embedding.weight',
        'positional_embedding': 'embeddings.position_embedding.weight',
        'ln_final.weight': 'final_layer_norm.weight',
        'ln_final.bias': 'final_layer_norm.bias',
    }
    inner = {
        'attn.out_proj': 'self_attn.out_proj',
        'ln_1': 'layer_norm1',
        'ln_2': 'layer_norm2',
        'mlp.c_fc': 'mlp.fc1',
        'mlp.c_proj': 'mlp.fc2',
    }
    state = {
        'logit_scale': model.logit_scale.detach(),
        'text_projection.weight': model.text_projection.detach().T,
        'text_model.embeddings.position_ids': torch.arange(77)[None],
        'vision_model.embeddings.class_embedding': model.visual.class_embedding.detach(),
    }
    for key, tensor in model.state_dict().items():
        if key in top:
            state['text_model.' + top[key]] = tensor
        elif key.startswith('transformer.'):
            _, _, index, rest = key.split('.', 3)
            layer = f'text_model.encoder.layers.{index}.'
            if rest.startswith('attn.in_proj_'):
                kind = rest.rsplit('_', 1)[1]
                for part, piece in zip('qkv', tensor.chunk(3), strict=True):
                    state[f'{layer}self_attn.{part}_proj.{kind}'] = piece
            else:
                module, kind = rest.rsplit('.', 1)
                state[f'{layer}{inner[module]}.{kind}'] = tensor
    return state


def saved(folder, kind, model):
    """Write a file as the project publishes it."""
    state = model.state_dict()
    if kind == 'openai':
        state = {**state, 'input_resolution': torch.tensor(32)}
    if kind == 'custom text':
        inner = ('token_embedding', 'positional_embedding', 'transformer', 'ln_final')
        text = (*inner, 'text_projection')
        state = {f'text.{k}' if k.startswith(text) else k: v for k, v in state.items()}
    if kind == 'hugging face':
        state = {k: v.contiguous().clone() for k, v in hugging_face(model).items()}
        save_file(state, folder / 'model.safetensors')
        (folder / 'config.json').write_text(json.dumps(dict(model_type='clip')))
        return folder  # the snapshot folder of the hub
    if kind == 'half':
        state = {k: v.half() for k, v in openai_state(model).items()}
    torch.save({'state_dict': state} if kind == 'wrapped' else state, folder / 'model.pt')
    return folder / 'model.pt'


@pytest.mark.parametrize(
    'kind', ['openai', 'half', 'open_clip', 'custom text', 'wrapped', 'hugging face']
)
def test_every_public_format_gives_the_same_embedding(clip, tmp_path, kind):
    model = clip
    if kind == 'half':
        model = copy.deepcopy(clip).half().float()
    found = computed(saved(tmp_path, kind, clip))
    torch.testing.assert_close(found, restated(model, SPELT))


def test_text_tower_alone_will_do(clip, tmp_path):
    state = {k: v for k, v in clip.state_dict().items() if not k.startswith('visual.')}
    torch.save(state, tmp_path / 'text.pt')
    torch.testing.assert_close(computed(tmp_path / 'text.pt'), restated(clip, SPELT))


def without(key):
    return lambda state: state.pop(key)


def reshaped(state):
    state['text_projection'] = torch.zeros(WIDTH, DIM + 1)


def deeper(state):
    for key in [key for key in state if key.startswith('transformer.resblocks.1.')]:
        state[key.replace('.1.', '.2.', 1)] = state[key]


def vision_only(state):
    for key in [key for key in state if not key.startswith('visual.')]:
        del state[key]


def twice(state):
    state.update({f'teacher.{key}': value for key, value in state.items()})


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (without('text_projection'), 'missing in the file: text_projection'),
        (
            without('transformer.resblocks.1.ln_2.bias'),
            r'missing.*resblocks.1.ln_2.bias',
        ),
        (reshaped, r'text_projection is \(16, 9\), the model has \(16, 8\)'),
        (deeper, 'not in the model: transformer.resblocks.2.ln_1.weight.* and 9 more'),
        (vision_only, 'CLIP text weights were expected'),
        (twice, 'holds 2 CLIP text'),
    ],
)
def test_weights_that_do_not_fit_are_told(clip, tmp_path, spoil, message):
    state = openai_state(clip)
    spoil(state)
    torch.save(state, tmp_path / 'spoilt.pt')
    with pytest.raises(ValueError, match=message) as caught:
        computed(tmp_path / 'spoilt.pt')
    assert 'spoilt.pt' in str(caught.value)


def test_C7_the_other_activation_is_refused(clip, weights, tmp_path):
    with pytest.raises(ValueError, match=r'trained with QuickGELU, while .* built with GELU'):
        computed(weights, arch={**ARCH, 'quick_gelu': False})
    folder = saved(tmp_path, 'hugging face', clip)
    gelu = dict(model_type='clip', vision_config=dict(hidden_act='gelu'))
    (folder / 'config.json').write_text(json.dumps(gelu))
    with pytest.raises(ValueError, match=r'trained with GELU, while .* built with QuickGELU'):
        computed(folder)
    computed(folder, arch={**ARCH, 'quick_gelu': False})


def test_C7_an_untold_activation_is_asked_for(clip, tmp_path):
    folder = saved(tmp_path, 'hugging face', clip)
    (folder / 'config.json').unlink()
    unsaid = {key: value for key, value in ARCH.items() if key != 'quick_gelu'}
    with pytest.raises(ValueError, match='does not tell its activation, nor does TextEmbedding'):
        computed(folder, arch=unsaid)
    torch.testing.assert_close(computed(folder), restated(clip, SPELT))


def test_C7_the_activation_matters(clip):
    gelu = make_clip(quick_gelu=False)
    assert not torch.allclose(restated(clip, SPELT), restated(gelu, SPELT), atol=1e-3)


def test_missing_file_names_its_origin(tmp_path):
    embedding = TextEmbedding('potsdam', checkpoint=str(tmp_path / 'ViT-B-16.pt'))
    with pytest.raises(FileNotFoundError, match=r'ViT-B-16.pt by openai/CLIP \(MIT\)'):
        embedding.init_weights()


def test_without_weights_the_embedding_is_random_and_always_the_same(tmp_path, log):
    torch.manual_seed(1)
    first = computed(None, tmp_path)
    torch.manual_seed(2)
    assert torch.equal(first, computed(None, tmp_path))
    assert not list(tmp_path.iterdir())
    assert [line for level, line in log if level == 'WARNING' and 'random text tower' in line]


# Kept files.


class TowerBuilt(AssertionError):
    pass


def forbid_tower(monkeypatch):
    def refuse(*args, **kwargs):
        raise TowerBuilt

    monkeypatch.setattr(text_embedding, 'build_text_tower', refuse)
    monkeypatch.setattr(text_embedding, 'read_weight_file', refuse)


def test_kept_embedding_needs_no_tower(weights, tmp_path, monkeypatch):
    first = computed(weights, tmp_path)
    forbid_tower(monkeypatch)
    assert torch.equal(first, computed(weights, tmp_path))
    with pytest.raises(TowerBuilt):
        computed(weights, cache_dir=None)


@pytest.mark.parametrize(
    'changed',
    [
        dict(concepts=[*CONCEPTS[:2], 'street']),
        dict(concepts=CONCEPTS[::-1]),
        dict(templates=['a view of a {}']),
        dict(variant='single'),
        dict(center=True),
        dict(underscores='verbatim'),
        dict(arch={**ARCH, 'context_length': 12}),
        dict(arch={**ARCH, 'heads': 4}),
    ],
)
def test_kept_embedding_is_for_the_same_settings_only(weights, tmp_path, monkeypatch, changed):
    computed(weights, tmp_path)
    forbid_tower(monkeypatch)
    with pytest.raises(TowerBuilt):
        computed(weights, tmp_path, **changed)


def test_kept_embedding_is_for_the_same_weights_only(weights, clip, tmp_path):
    first = computed(weights, tmp_path / 'kept')
    other = copy.deepcopy(clip)
    with torch.no_grad():
        other.text_projection[0, 0] += 1
    torch.save(openai_state(other), tmp_path / 'other.pt')
    second = computed(tmp_path / 'other.pt', tmp_path / 'kept')
    torch.testing.assert_close(second, restated(other, SPELT))
    assert not torch.allclose(first, second)
    assert len(list((tmp_path / 'kept').iterdir())) == 2


def test_kept_embedding_follows_the_content_not_the_path(weights, tmp_path, monkeypatch):
    computed(weights, tmp_path / 'kept')
    (tmp_path / 'moved.pt').write_bytes(weights.read_bytes())
    forbid_tower(monkeypatch)
    computed(tmp_path / 'moved.pt', tmp_path / 'kept')


def test_kept_file_is_whole_and_tells_what_it_holds(weights, tmp_path):
    embedding = computed(weights, tmp_path)
    (kept,) = tmp_path.iterdir()  # no unfinished file is left
    (tmp_path / 'ordinary').touch()
    assert kept.stat().st_mode == (tmp_path / 'ordinary').stat().st_mode
    with safe_open(str(kept), framework='pt') as file:
        metadata = file.metadata()
        assert torch.equal(file.get_tensor('embedding'), embedding)
    assert json.loads(metadata['prompts'])[2] == ['a photo of a road']
    assert json.loads(metadata['center']) is False
    assert json.loads(metadata['tower'])['width'] == WIDTH
    assert len(json.loads(metadata['weights'])) == 64


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b'')


def hold_another_tensor(path):
    save_file({'embedding': torch.zeros(3, DIM, dtype=torch.bfloat16)}, path)


def hold_another_name(path):
    save_file({'queries': torch.zeros(3, DIM)}, path)


@pytest.mark.parametrize(
    'damage', [truncate, flip_a_bit, empty, hold_another_tensor, hold_another_name]
)
def test_damaged_kept_file_is_computed_anew(weights, tmp_path, monkeypatch, log, damage):
    first = computed(weights, tmp_path)
    (kept,) = tmp_path.iterdir()
    damage(kept)
    log.clear()
    assert torch.equal(first, computed(weights, tmp_path))
    assert [line for level, line in log if level == 'WARNING' and str(kept) in line]
    forbid_tower(monkeypatch)
    assert torch.equal(first, computed(weights, tmp_path))


def test_folder_that_cannot_be_written_is_no_reason_to_stop(weights, tmp_path, log, clip):
    (tmp_path / 'file').touch()
    found = computed(weights, tmp_path / 'file' / 'kept')
    torch.testing.assert_close(found, restated(clip, SPELT))
    assert [line for level, line in log if level == 'WARNING' and 'cannot be kept' in line]


def test_interrupted_writing_leaves_nothing_behind(weights, tmp_path, monkeypatch, log, clip):
    def write_half(path, content):
        with path.open('wb') as stream:
            stream.write(content[: len(content) // 2])
        raise OSError('disk full')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', write_half)
        torch.testing.assert_close(computed(weights, tmp_path), restated(clip, SPELT))
    assert not list(tmp_path.iterdir())
    assert [line for level, line in log if level == 'WARNING' and 'disk full' in line]


def test_first_rank_alone_writes(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(text_embedding, 'is_main_process', lambda: False)
    computed(weights, tmp_path / 'kept')
    assert not (tmp_path / 'kept').exists()


def test_global_random_numbers_do_not_depend_on_what_is_kept(weights, tmp_path):
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        computed(weights, tmp_path)
        drawn.append(torch.rand(3))
    torch.manual_seed(5)
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], torch.rand(3))


# As a part of a model.


class Owner(BaseModule):
    """A parent that initialises its children, as mmengine's segmentors do."""

    def __init__(self, embedding):
        super().__init__(init_cfg=dict(type='Constant', layer='Linear', val=0.0))
        self.inner = BaseModule()
        self.inner.embedding = embedding


def test_mmengine_initialises_it_once(weights, clip, monkeypatch):
    owner = Owner(build(weights))
    with pytest.raises(RuntimeError, match='has no embeddings yet'):
        owner.inner.embedding()
    owner.init_weights()
    owner.inner.embedding.init_weights()
    torch.testing.assert_close(owner.inner.embedding(), restated(clip, SPELT))
    forbid_tower(monkeypatch)
    owner.init_weights()
    owner.inner.embedding.init_weights()


def test_it_is_saved_and_never_trained(weights):
    embedding = build(weights)
    assert list(embedding.state_dict()) == ['embedding', 'fingerprint']
    assert not list(embedding.parameters())
    assert not embedding.embedding.requires_grad
    assert embedding.fingerprint.dtype is torch.uint8 and embedding.fingerprint.shape == (32,)


def checkpoint_of(embedding):
    embedding.init_weights()
    return Owner(embedding).state_dict()


@pytest.mark.parametrize('checkpoint', ['nowhere.pt', None])
def test_checkpoint_of_the_same_classes_needs_no_weight_file(weights, monkeypatch, checkpoint):
    state = checkpoint_of(build(weights))
    forbid_tower(monkeypatch)
    owner = Owner(build(checkpoint))
    owner.load_state_dict(state)
    assert torch.equal(owner.inner.embedding(), state['inner.embedding.embedding'])
    owner.init_weights()
    assert torch.equal(owner.inner.embedding(), state['inner.embedding.embedding'])


@pytest.mark.parametrize('initialised', [False, True])
@pytest.mark.parametrize(
    'options', [dict(concepts=['tree', 'car']), dict(center=True), dict(variant='single')]
)
def test_checkpoint_of_other_classes_does_not_overwrite(weights, log, initialised, options):
    state = checkpoint_of(build(weights))
    wanted = computed(weights, **options)
    owner = Owner(build(weights, **options))
    fingerprint = owner.inner.embedding.fingerprint.clone()
    if initialised:
        owner.init_weights()
    owner.load_state_dict(state)
    assert torch.equal(owner.inner.embedding(), wanted)
    assert torch.equal(owner.inner.embedding.fingerprint, fingerprint)
    assert [line for _, line in log if '(inner.embedding.embedding) are of other prompts' in line]


def test_mmengine_loads_it_too(weights, monkeypatch):
    state = checkpoint_of(build(weights))
    owner = Owner(build(weights, concepts=['tree', 'car']))
    load_state_dict(owner, state, strict=True)
    assert torch.equal(owner.inner.embedding(), computed(weights, concepts=['tree', 'car']))
    forbid_tower(monkeypatch)
    same = Owner(build('nowhere.pt'))
    load_state_dict(same, state, strict=True)
    assert torch.equal(same.inner.embedding(), state['inner.embedding.embedding'])


def test_checkpoint_of_an_uninitialised_model_leaves_initialisation_to_come(weights, clip):
    owner = Owner(build(weights))
    owner.load_state_dict(Owner(build(weights)).state_dict())
    owner.init_weights()
    torch.testing.assert_close(owner.inner.embedding(), restated(clip, SPELT))


def test_checkpoint_without_it_is_reported(weights):
    with pytest.raises(RuntimeError, match=r'Missing key.*embedding.*fingerprint'):
        build(weights).load_state_dict({})


def test_copy_keeps_it(weights, monkeypatch):
    embedding = build(weights)
    embedding.init_weights()
    forbid_tower(monkeypatch)
    double = copy.deepcopy(embedding)
    double.init_weights()
    assert torch.equal(double(), embedding())


def vlg_head(weights, **kwargs):
    embedding = dict(
        type='TextEmbedding', concepts=CONCEPTS, arch=ARCH, checkpoint=str(weights), cache_dir=None
    )
    return MODELS.build(
        dict(
            type='VLGHead',
            class_embedding={**embedding, **kwargs},
            in_channels=(5, 6, DIM),
            num_classes=kwargs.get('num_classes', len(kwargs.get('concepts', CONCEPTS))),
            channels=64,
            text_channels=32,
            up_channels=(32, 16),
            skip_channels=(8, 4),
            loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
        )
    )


def test_head_is_guided_by_the_texts(weights):
    head = vlg_head(weights)
    head.init_weights()
    levels = [torch.randn(1, width, 4, 4) for width in (5, 6, DIM)]
    logits = head(levels)
    logits.square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        head.class_embedding.embedding[0] = F.normalize(torch.randn(DIM), dim=0)
    assert not torch.allclose(head(levels)[:, 0], logits[:, 0], atol=1e-4)


def test_head_learnt_on_some_classes_decodes_others(weights):
    source, target = vlg_head(weights), vlg_head(weights, concepts=['tree', 'car'])
    source.init_weights()
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.similarity_conv.weight, source.similarity_conv.weight)
    levels = [torch.randn(1, width, 4, 4) for width in (5, 6, DIM)]
    logits = target(levels)
    assert logits.shape == (1, 2, 16, 16) and logits.isfinite().all()


def test_head_refuses_another_number_of_classes(weights):
    embedding = dict(type='TextEmbedding', concepts=CONCEPTS, arch=ARCH, checkpoint=str(weights))
    with pytest.raises(ValueError, match='concepts for 3 classes, but num_classes=4'):
        MODELS.build(
            dict(
                type='VLGHead',
                class_embedding=embedding,
                in_channels=(5, 6, DIM),
                num_classes=4,
            )
        )

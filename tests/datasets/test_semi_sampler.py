# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

import mmseg_semi_rs.datasets.samplers.semi_sampler as module
from mmseg_semi_rs.datasets import RareClassSemiSampler, SemiDataset, SemiSampler
from mmseg_semi_rs.utils.randomness import Draw, derive_seed, seeded


class Numbers(BaseDataset):
    """Its samples tell their index and a draw of each global generator."""

    METAINFO = dict(classes=('a', 'b'))  # noqa: RUF012 - as mmengine's datasets declare it

    def __init__(self, size, name='x'):
        self.name = name
        super().__init__(data_prefix=dict(), serialize_data=False, ann_file='', lazy_init=True)
        self.data_list = [dict(index=i) for i in range(size)]
        self._fully_initialized = True

    def __getitem__(self, idx):
        import random

        import torch

        return self.name, idx, random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def make(labelled=5, unlabelled=7):
    return SemiDataset(Numbers(labelled, 'l'), Numbers(unlabelled, 'u') if unlabelled else None)


@pytest.mark.parametrize('ratio, counts', [((1, 1), (4, 4)), ((1, 3), (2, 6)), ((1, 0), (8, 0))])
def test_I8_every_batch_has_the_ratio_and_labelled_samples_first(ratio, counts):
    dataset = make()
    sampler = SemiSampler(dataset, batch_size=8, source_ratio=ratio, seed=0)
    for step in range(10):
        sources = [int(index >= 5) for index in sampler.batch(step)]
        assert sources == [0] * counts[0] + [1] * counts[1]


def test_I8_each_source_is_seen_whole_before_it_repeats():
    sampler = SemiSampler(make(), batch_size=2, seed=0)
    drawn = [int(i) for step in range(35) for i in sampler.batch(step)]
    labelled, unlabelled = drawn[::2], drawn[1::2]
    for start in range(0, 35, 5):
        assert sorted(labelled[start : start + 5]) == list(range(5))
    for start in range(0, 35, 7):
        assert sorted(unlabelled[start : start + 7]) == list(range(5, 12))
    assert labelled[:5] != labelled[5:10] or labelled[5:10] != labelled[10:15]


def test_I8_ranks_are_disjoint_and_together_equal_one_process(monkeypatch):
    whole = SemiSampler(make(), batch_size=8, seed=3)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, 2))
        parts.append(SemiSampler(make(), batch_size=4, seed=3))
    for step in range(6):
        expected = [(int(i), i.entropy) for i in whole.batch(step)]
        first, second = ([(int(i), i.entropy) for i in part.batch(step)] for part in parts)
        assert first[:2] + second[:2] + first[2:] + second[2:] == expected
        assert not {entropy for _, entropy in first} & {entropy for _, entropy in second}


def test_I8_same_seed_same_order_other_seed_other_order():
    orders = [
        [int(i) for step in range(5) for i in SemiSampler(make(), 4, seed=seed).batch(step)]
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_I8_skip_reaches_any_step_without_drawing_what_lies_before():
    sampler = SemiSampler(make(), batch_size=4, seed=0)
    stream = iter(sampler)
    expected = [next(stream) for _ in range(4 * 1000)][-4:]
    resumed = SemiSampler(make(), batch_size=4, seed=0)
    made = []
    resumed._permutation = lambda source, epoch: (
        made.append((source, epoch)) or SemiSampler._make_permutation(resumed, source, epoch)
    )
    resumed.skip(999)
    stream = iter(resumed)
    assert [next(stream) for _ in range(4)] == expected
    assert len(set(made)) <= 4, 'permutations of skipped epochs were made'


def test_passes_of_a_loop_by_epochs_end_and_are_the_endless_sequence():
    sampler = SemiSampler(make(), batch_size=4, seed=0)
    steps = -(-len(sampler) // 4)
    stream = iter(SemiSampler(make(), batch_size=4, seed=0))
    expected = [next(stream) for _ in range(3 * steps * 4)]
    found = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        found += list(sampler)
    assert found == expected
    sampler.skip(0)  # a loop by iterations after all
    stream = iter(sampler)
    assert [next(stream) for _ in expected] == expected


@pytest.mark.parametrize(
    'arguments, sizes, words',
    [
        (dict(batch_size=3), (5, 7), ['batch_size=3', 'source_ratio=[1, 1]', 'multiple of 2']),
        (dict(batch_size=4), (5, 0), ['unlabelled', '5 labelled and 0 unlabelled']),
        (dict(batch_size=4, source_ratio=(1, -1)), (5, 7), ['source_ratio=[1, -1]']),
        (dict(batch_size=4, source_ratio=(0, 0)), (5, 7), ['source_ratio=[0, 0]']),
    ],
)
def test_I8_impossible_ratio_or_empty_source_is_told(arguments, sizes, words):
    with pytest.raises(ValueError) as error:
        SemiSampler(make(*sizes), seed=0, **arguments)
    for word in words:
        assert word in str(error.value)


def test_sampler_needs_a_semi_dataset():
    with pytest.raises(TypeError, match='SemiDataset'):
        SemiSampler(Numbers(4), batch_size=2, seed=0)


def test_draw_survives_pickling_and_seeds_the_sample():
    dataset = make()
    draw = pickle.loads(pickle.dumps(Draw(3, (0, 1, 9))))
    assert (int(draw), draw.entropy) == (3, (0, 1, 9))
    first, second = dataset[draw], dataset[draw]
    assert first == second
    assert dataset[Draw(3, (0, 1, 10))][2:] != first[2:]


def test_seeding_a_sample_leaves_the_process_generators_alone():
    import random

    import torch

    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
    with seeded(1, 2, 3):
        random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002


def test_derived_seeds_do_not_collide_for_neighbours():
    seeds = {derive_seed(a, b, c) for a in range(10) for b in range(2) for c in range(100)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_semi_dataset_refuses_other_classes():
    other = Numbers(3)
    other._metainfo = dict(classes=('a', 'c'))
    with pytest.raises(ValueError, match=r"'a', 'b'.*'a', 'c'"):
        SemiDataset(Numbers(3), other)


def test_semi_dataset_refuses_an_empty_source():
    with pytest.raises(ValueError, match='unlabelled dataset is empty'):
        SemiDataset(Numbers(3), Numbers(0))


def labelled_by(folder: Path, labels: np.ndarray) -> SemiDataset:
    """Black images of two classes with these masks, (N, H, W)."""
    for name in ('img', 'ann'):
        (folder / name).mkdir()
    for index, label in enumerate(labels):
        Image.fromarray(label).save(folder / 'ann' / f'{index}.png')
        image = np.zeros((*label.shape, 3), np.uint8)
        Image.fromarray(image).save(folder / 'img' / f'{index}.png')
    labelled = BaseSegDataset(
        img_suffix='.png',
        metainfo=dict(classes=('field', 'car'), palette=[[0, 0, 0], [1, 1, 1]]),
        data_root=str(folder),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        pipeline=[],
    )
    return SemiDataset(labelled)


@pytest.fixture
def rare(tmp_path):
    """Four labelled images: class 1 is on 4 % of one image only."""
    labels = np.zeros((4, 50, 50), np.uint8)
    labels[2, :10, :10] = 1
    labels[3, :25] = 255
    return labelled_by(tmp_path, labels)


def test_rare_class_probabilities_follow_the_formula(rare):
    sampler = RareClassSemiSampler(rare, 2, source_ratio=(1, 0), seed=0, temperature=0.1)
    pixels = np.array([3 * 2500 - 100 + 1250, 100])
    frequency = pixels / pixels.sum()
    expected = np.exp((1 - frequency) / 0.1)
    np.testing.assert_allclose(sampler.class_probability, expected / expected.sum())


def test_rare_class_image_is_drawn_more_often_and_draws_resume(rare):
    sampler = RareClassSemiSampler(rare, 2, source_ratio=(1, 0), seed=0, temperature=0.5)
    drawn = [sampler.draw(0, position) for position in range(400)]
    share = np.bincount(drawn, minlength=4) / 400
    expected = sampler.class_probability[1] + sampler.class_probability[0] / 4
    assert abs(share[2] - expected) < 0.06
    assert share[2] > 0.5 > 0.25
    again = RareClassSemiSampler(rare, 2, source_ratio=(1, 0), seed=0, temperature=0.5)
    assert [again.draw(0, position) for position in range(300, 400)] == drawn[300:]


def test_of_sparse_labels_every_image_that_shows_a_class_counts(tmp_path):
    """No image has 100 pixels of it, so that it is not only the one with most of them."""
    labels = np.full((3, 50, 50), 255, np.uint8)
    labels[:, 0, :20] = 0
    for label, clicks in zip(labels, (3, 1, 0), strict=True):
        label[1, :clicks] = 1
    sparse = labelled_by(tmp_path, labels)
    sampler = RareClassSemiSampler(sparse, 2, source_ratio=(1, 0), seed=0)
    assert {sampler.draw(0, position) for position in range(100)} == {0, 1}


def test_rare_class_sampler_refuses_a_temperature_of_zero(rare):
    with pytest.raises(ValueError, match='temperature=0'):
        RareClassSemiSampler(rare, 2, source_ratio=(1, 0), seed=0, temperature=0)

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Regions without classes: proposed, kept, replayed, and voted in."""

import builtins

import numpy as np
import pytest
import torch

from mmseg_semi_rs.purification import (
    EvidencePolicy,
    RegionPurifier,
    RegionVote,
    SAMProposer,
    SuperpixelProposer,
)
from mmseg_semi_rs.purification.evidence import Evidence
from mmseg_semi_rs.purification.proposers import consecutive, stack_masks
from mmseg_semi_rs.purification.store import EvidenceStore
from mmseg_semi_rs.structures import PseudoLabel
from tests._support.evidence import purifier, tell, truth_in_crop, truth_of, unsure
from tests._support.mean_teacher import gradients
from tests._support.networks import CLASSES, NoHostSync
from tests._support.tiny_vlm import save_sam, save_sam2, save_sam3_tracker

SIZE = (2, 12, 15)


def regions_of(ids):
    """Evidence with a map of regions, as a proposer makes it."""
    nothing = np.zeros((0, 1, 1), np.uint8)
    return Evidence(nothing, np.zeros((1, 1), bool), ids.shape, region_ids=consecutive(ids))


def targets(seed=0):
    """Random labels, weights and padding, and random regions of which some agree."""
    rng = np.random.default_rng(seed)
    regions = rng.integers(0, 9, (SIZE[0], 4, 5)).repeat(3, 1).repeat(3, 2)
    usual = rng.integers(0, 4, (SIZE[0], 9))
    usual = np.take_along_axis(usual, regions.reshape(SIZE[0], -1), 1).reshape(SIZE)
    noisy = rng.random(SIZE) < rng.choice([0.1, 0.5], SIZE[0])[:, None, None]
    labels = np.where(noisy, rng.integers(0, 4, SIZE), usual)
    confidence = rng.random(SIZE, dtype=np.float32)
    valid = np.ones(SIZE, bool)
    valid[:, :, -2:] = False
    weight = (confidence > 0.6).astype(np.float32) * valid
    pseudo = PseudoLabel(*map(torch.from_numpy, (labels, confidence, weight, valid)))
    return pseudo, torch.from_numpy(regions)


# Vote


@pytest.mark.parametrize('weight', ['share', 'confidence', 'gate'])
@pytest.mark.parametrize('share', [0.51, 0.6, 0.9])
def test_the_vote_is_the_formula_written_out(weight, share):
    pseudo, regions = targets()
    labels, weights = pseudo.labels.clone(), pseudo.weight.clone()
    decided = 0
    for image in range(SIZE[0]):
        for region in range(1, 9):
            members = [
                tuple(place)
                for place in np.argwhere(regions[image].numpy() == region)
                if pseudo.valid[image][tuple(place)]
            ]
            if not members:
                continue
            votes = [int(pseudo.labels[image][place]) for place in members]
            winner = max(range(4), key=votes.count)
            if votes.count(winner) / len(votes) < share:
                continue
            decided += 1
            agree = [place for place, vote in zip(members, votes, strict=True) if vote == winner]
            means = {
                'share': len(agree) / len(members),
                'confidence': np.mean([float(pseudo.confidence[image][p]) for p in agree]),
                'gate': np.mean([float(pseudo.weight[image][p]) for p in agree]),
            }
            for place in members:
                labels[image][place] = winner
                weights[image][place] = means[weight]
    assert 0 < decided < 2 * 8
    found = RegionVote(share, weight)(pseudo, regions, 8, 4)
    assert torch.equal(found.pseudo.labels, labels)
    torch.testing.assert_close(found.pseudo.weight, weights)
    assert torch.equal(found.pseudo.confidence, pseudo.confidence)
    assert torch.equal(found.actions == 1, labels != pseudo.labels)
    kept = labels == pseudo.labels
    assert torch.equal(found.actions == 2, kept & (found.pseudo.weight > pseudo.weight))


def test_a_share_that_is_just_reached_decides():
    valid = torch.ones(1, 1, 5, dtype=torch.bool)
    pseudo = PseudoLabel(torch.tensor([[[0, 0, 0, 1, 1]]]), valid * 0.5, valid * 0.0, valid)
    regions = torch.ones_like(pseudo.labels)
    assert not RegionVote(0.6)(pseudo, regions, 1, 2).pseudo.labels.any()
    nothing = RegionVote(0.61)(pseudo, regions, 1, 2)
    assert torch.equal(nothing.pseudo.labels, pseudo.labels) and not nothing.actions.any()
    nothing = RegionVote(0.6)(pseudo, regions * 0, 1, 2)  # no region
    assert torch.equal(nothing.pseudo.weight, pseudo.weight)


@pytest.mark.parametrize('wrong', [dict(share=0.5), dict(share=1.1), dict(weight='sum')])
def test_wrong_settings_of_the_vote_are_told(wrong):
    with pytest.raises(ValueError, match='RegionVote got'):
        RegionVote(**wrong)


# Purifier


def region_purifier(policy, ids_of=lambda path: truth_of(path) + 1):
    fetch = lambda paths: [regions_of(ids_of(path)) for path in paths]  # noqa: E731
    return RegionPurifier(policy, fetch, CLASSES)


def test_regions_follow_the_geometry_and_change_labels_and_gradients():
    model, inputs, data = unsure()
    plain = gradients(model, inputs, data)
    pure = region_purifier(RegionVote(0.51))
    model.purifiers.append(pure)
    assert any(
        not torch.equal(plain[name], value)
        for name, value in gradients(model, inputs, data).items()
    )
    pure.forget()
    after = model.make_pseudo_labels(inputs['weak'], data['weak'])['student']
    (done,) = pure.last
    truth = torch.stack([truth_in_crop(f'tile_{index}') for index in range(3)])
    assert torch.equal(done.regions, truth + 1)
    assert (after.labels != done.before.labels).any()
    for image in range(3):  # where a region decided it is of one label
        for region in range(1, CLASSES + 1):
            found = after.labels[image][done.regions[image] == region]
            before = done.before.labels[image][done.regions[image] == region]
            assert len(found.unique()) <= 1 or torch.equal(found, before)


def test_regions_that_agree_on_nothing_leave_the_training_bit_by_bit():
    model, inputs, data = unsure()
    plain = gradients(model, inputs, data)
    model.purifiers.append(region_purifier(RegionVote(), lambda path: truth_of(path) * 0))
    same = gradients(model, inputs, data)
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_after_evidence_the_regions_vote_on_what_that_made():
    model, inputs, data = unsure()
    first = purifier(tell, EvidencePolicy(scope='all', band=dict(radius=0), gate=0.5))
    second = region_purifier(RegionVote(0.51))
    model.purifiers += [first, second]
    model.make_pseudo_labels(inputs['weak'], data['weak'])
    assert torch.equal(second.last[0].before.labels, first.last[0].after.labels)
    assert not torch.equal(second.last[0].after.weight, first.last[0].after.weight)


def test_I12_no_host_sync_in_the_vote():
    pseudo, regions = targets()
    with NoHostSync():
        for weight in ('share', 'confidence', 'gate'):
            RegionVote(weight=weight)(pseudo, regions, 8, 4)


# Store


def test_the_store_keeps_regions_compactly(tmp_path):
    ids = (np.indices((256, 256)).sum(0) // 40).astype(np.uint16)
    store = EvidenceStore(tmp_path, dict(weights='x'), cache_bytes=0)
    store.write('a' * 64, regions_of(ids))
    found = store.read('a' * 64)
    np.testing.assert_array_equal(found.region_ids, consecutive(ids))
    assert found.num_classes == 0 and found.num_regions == ids.max()
    assert store.size_bytes < 8000
    store.write('b' * 64, tell('tile_0'))
    assert store.read('b' * 64).region_ids is None
    with pytest.raises(ValueError, match='map of unsigned integers'):
        Evidence(found.scores, found.seen, (9, 9), region_ids=ids)


# Proposers


@pytest.mark.parametrize('major', [1, 2])
def test_numbers_are_consecutive_and_none_stays_none(major, monkeypatch):
    unique = np.unique
    if major == 1:  # numpy 1 gives the inverse flat

        def flat(ids, return_inverse):
            used, inverse = unique(ids, return_inverse=return_inverse)
            return used, inverse.ravel()

        monkeypatch.setattr(np, 'unique', flat)
    ids = consecutive(np.array([[0, 7], [70000, 7]]))
    assert ids.tolist() == [[0, 1], [2, 1]] and ids.dtype == np.uint16
    assert consecutive(np.array([[5, 3]])).tolist() == [[2, 1]]
    many = consecutive(np.arange(70000).reshape(7, -1))
    assert many.dtype == np.uint32 and many.max() == 69999


def test_small_masks_lie_on_large_ones():
    whole, part = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    part[1:3, 1:3] = True
    for masks in ([whole, part], [part, whole]):
        ids = stack_masks(masks, (4, 4))
        assert len(np.unique(ids)) == 2 and (ids == ids[1, 1]).sum() == 4
    assert not stack_masks([part], (4, 4))[0].any()


@pytest.mark.parametrize('method', ['felzenszwalb', 'slic'])
def test_superpixels_cover_the_tile_and_keep_to_its_edges(method):
    tile = np.zeros((48, 64, 3), np.uint8)
    tile[:, 32:] = 220
    tile[16:, :20] = 120
    settings = dict(felzenszwalb=dict(min_size=10), slic=dict(n_segments=12))[method]
    proposer = SuperpixelProposer(method, settings)
    proposer.load()
    one, other = proposer.verify([tile, tile[::-1]])
    ids = one.region_ids
    assert ids.min() == 1 and one.num_regions == len(np.unique(ids)) >= 3
    for region in range(1, one.num_regions + 1):
        colours, counts = np.unique(tile[ids == region], axis=0, return_counts=True)
        assert counts.max() / counts.sum() > 0.9, colours
    np.testing.assert_array_equal(proposer.verify([tile])[0].region_ids, ids)  # in any company
    assert other.size == (48, 64)
    assert proposer.settings() != SuperpixelProposer(method).settings()


def test_a_machine_without_the_library_reads_what_another_has_made(tmp_path, monkeypatch):
    proposer = SuperpixelProposer()
    store = EvidenceStore(tmp_path, proposer.settings())
    store.write('a' * 64, regions_of(np.ones((8, 8), np.uint16)))

    def missing(name):
        raise PackageNotFoundError(name)

    from importlib.metadata import PackageNotFoundError

    monkeypatch.setattr('mmseg_semi_rs.purification.proposers.version', missing)
    assert proposer.settings()['weights'] is None
    assert EvidenceStore(tmp_path, proposer.settings()).read('a' * 64).num_regions == 1
    real = builtins.__import__

    def no_skimage(name, *arguments):
        if name == 'skimage':
            raise ImportError('No module named skimage')
        return real(name, *arguments)

    monkeypatch.setattr(builtins, '__import__', no_skimage)
    with pytest.raises(ImportError, match=r"pip install 'mmseg_semi_rs\[regions\]'"):
        proposer.load()


@pytest.mark.parametrize('wrong', [dict(method='watershed'), dict(settings=dict(points=3))])
def test_wrong_settings_of_superpixels_are_told(wrong):
    with pytest.raises(ValueError, match='SuperpixelProposer got'):
        SuperpixelProposer(**wrong)


@pytest.mark.parametrize('save', [save_sam, save_sam2, save_sam3_tracker])
def test_regions_of_the_segment_anything_models(save, tmp_path):
    transformers = pytest.importorskip('transformers')
    if not hasattr(transformers, 'Sam3TrackerModel') and save is save_sam3_tracker:
        pytest.skip('this transformers has no SAM 3')
    proposer = SAMProposer(str(save(tmp_path)), points=3, quality=-1.0, stability=0.0, overlap=1.0)
    assert len(proposer.settings()['weights']) == 64
    proposer.load()
    tile = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    tile[:, 28:] //= 4
    evidence = proposer.verify([tile, tile[:, ::-1].copy()])[0]
    np.testing.assert_array_equal(evidence.region_ids, proposer.verify([tile])[0].region_ids)
    masks = proposer.segment.everything(tile, 3, -1.0, 0.0, 1.0)
    assert {mask.shape for mask in masks} == {(40, 56)}
    inside = np.any(masks, axis=0)
    assert inside.any() and np.array_equal(evidence.region_ids > 0, inside)
    smallest = min(masks, key=lambda mask: mask.sum())
    assert len(np.unique(evidence.region_ids[smallest])) == 1
    proposer.arguments['quality'] = 1.1  # nothing is that good
    assert proposer.verify([tile])[0].num_regions == 0


def test_the_model_of_the_masks_is_asked_for_where_it_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere .* is not on this machine'):
        SAMProposer(str(tmp_path / 'nowhere')).load()
    with pytest.raises(ValueError, match='points=0'):
        SAMProposer(points=0)

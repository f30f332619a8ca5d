# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Limits, ties and bookkeeping of purification that no other test would miss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, HOOKS
from mmseg.structures import SegDataSample

from mmseg_semi_rs.engine.hooks import purification_stats, vlm_purify_hook
from mmseg_semi_rs.purification.evidence import Evidence, Region, quantise
from mmseg_semi_rs.purification.policy import EvidencePolicy, ReleasedPolicy, boundary_band
from mmseg_semi_rs.purification.purifier import EvidencePurifier, Purification
from mmseg_semi_rs.purification.replay import frame_of, replay_evidence
from mmseg_semi_rs.purification.source import EvidenceSource
from mmseg_semi_rs.purification.store import EvidenceStore
from mmseg_semi_rs.purification.trust import learn_trust
from mmseg_semi_rs.structures import PseudoLabel
from tests._support.purified_training import config
from tests._support.tiny_training import write_training


def pixel(label=0, confidence=0.5, weight=0.0, valid=True):
    """Targets of a single pixel."""
    shape = (1, 1, 1)
    return PseudoLabel(
        torch.full(shape, label),
        torch.full(shape, confidence),
        torch.full(shape, weight),
        torch.full(shape, valid),
    )


def act(policy, pseudo, *scores):
    """What a policy does to a pixel that is seen."""
    evidence = torch.tensor(scores).view(1, -1, 1, 1)
    return int(policy(pseudo, evidence, torch.ones(1, 1, 1, dtype=torch.bool)).actions)


# Policy


@pytest.mark.parametrize(
    'limits, scores, done',
    [
        (dict(gate=0.75), (0.0, 0.75), 1),
        (dict(gate=0.75), (0.0, 0.7499), 0),
        (dict(gate=0.5, margin=0.25), (0.5, 0.75), 1),
        (dict(gate=0.5, margin=0.25), (0.5001, 0.75), 0),
        (dict(support_gate=0.75), (0.5, 0.0), 2),  # 1 - (1 - 0.5) * (1 - 0.5)
        (dict(support_gate=0.75), (0.4999, 0.0), 0),
    ],
)
def test_a_limit_itself_is_enough(limits, scores, done):
    policy = EvidencePolicy(scope='all', band=dict(radius=0), **limits)
    assert act(policy, pixel(), *scores) == done


def test_a_confidence_of_tau_is_not_low():
    policy = EvidencePolicy(tau=0.5, scope='low')
    assert act(policy, pixel(confidence=0.4999), 0.0, 1.0) == 1
    assert act(policy, pixel(confidence=0.5), 0.0, 1.0) == 0


@pytest.mark.parametrize('weight, confidence, done', [(0.0, 0.97, 1), (0.5, 0.6, 3), (1.0, 0.6, 3)])
def test_sure_is_what_has_weight_whatever_the_confidence(weight, confidence, done):
    # Gates of classes differ, and another purifier may have been there before.
    policy = EvidencePolicy(scope='all', actions=('correct', 'veto'))
    assert act(policy, pixel(0, confidence, weight), 0.0, 1.0) == done


def test_the_clearest_claims_that_count_are_the_ones_that_trust_looks_at():
    policy = EvidencePolicy(gate=0.8, margin=0.2, band=dict(gate=0.6, margin=0.4))
    assert policy.clear == (0.6, 0.2)
    policy = EvidencePolicy(gate=0.6, margin=0.4, band=dict(gate=0.8, margin=0.2))
    assert policy.clear == (0.6, 0.2)


@pytest.mark.parametrize('turns', range(4))
def test_no_boundary_to_what_is_not_valid_on_any_side(turns):
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :3] = 1
    valid = labels == 0
    labels, valid = (torch.rot90(maps, turns, (1, 2)) for maps in (labels, valid))
    assert not boundary_band(labels, valid, 2).any()
    assert boundary_band(labels, torch.ones_like(valid), 2).any()


def test_switches_of_the_released_rule():
    assert act(ReleasedPolicy(), pixel(confidence=0.2), 0.0, 0.95) == 1
    kept = ReleasedPolicy(use_vlm_on_mismatch=False)
    assert act(kept, pixel(confidence=0.2), 0.0, 0.95) == 0
    scores, seen = torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    for confidence, weight in ((0.9, 1.0), (0.75, 0.0)):
        found = ReleasedPolicy(conf_thresh=0.8)(pixel(confidence=confidence), scores, seen)
        assert float(found.pseudo.weight) == weight
    assert not ReleasedPolicy()(pixel(confidence=0.99, valid=False), scores, seen).pseudo.weight


# Replay


@pytest.mark.parametrize('grid', [(4, 40), (32, 5)])
def test_a_grid_that_is_coarse_along_one_axis_only(grid):
    scores = np.random.default_rng(0).integers(0, 256, (2, *grid), dtype=np.uint8)
    evidence = Evidence(scores, np.ones(grid, bool), (32, 40))
    found = replay_evidence([evidence], [frame_of((), (32, 40))], 2, (32, 40), 'cpu')
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None].float() / 255, size=(32, 40), mode='bilinear'
    )
    torch.testing.assert_close(found.scores, plain, atol=1e-6, rtol=0)


STEPS = (('resize', (16, 20)), ('crop', (3, 2, 9, 14)), ('flip', (0,)))


def test_regions_move_with_the_pixels_and_are_numbered_image_by_image():
    size, batch = (8, 10), (10, 16)
    regions = (Region(0, (1.0, 2.0, 6.0, 7.0), 0.5, 'a'), Region(1, (4.0, 1.0, 9.0, 5.0), 0.9, 'b'))
    empty = np.zeros((2, *size), np.uint8)
    both = Evidence(empty, np.ones(size, bool), size, regions=regions)
    one = Evidence(empty, np.ones(size, bool), size, regions=regions[:1])
    found = replay_evidence(
        [one, both, None], [frame_of(STEPS, size)] * 3, 2, batch, 'cpu', with_regions=True
    )
    assert found.most_regions == 2
    painted = np.zeros(size, int)
    painted[2:7, 1:6] = 1
    for number, owner in ((0, painted.copy()), (1, painted)):
        if number:
            owner[1:5, 4:9] = 2
        crop = owner.repeat(2, 0).repeat(2, 1)[3:12, 2:16][:, ::-1]
        expected = np.zeros(batch, int)
        expected[:9, :14] = crop
        assert np.array_equal(found.regions[number].numpy(), expected)
    assert not found.regions[2].any()


# Purifier


def sample(path='tile', size=(6, 6)):
    return SimpleNamespace(
        metainfo=dict(img_path=path, ori_shape=size, img_shape=size, geometry=())
    )


def purifier(evidence, **settings):
    return EvidencePurifier(
        EvidencePolicy(scope='all', band=dict(radius=0)),
        lambda paths: [evidence[path] for path in paths],
        2,
        **settings,
    )


def claim(label, seen, regions=(), size=(6, 6)):
    scores = np.stack([np.full(size, label == k) * 0.95 for k in range(2)])
    return Evidence(quantise(scores), seen, size, regions=regions)


def unsure(labels, valid=None):
    ones = torch.ones(labels.shape)
    return PseudoLabel(
        labels, 0.5 * ones, 0 * ones, torch.ones_like(labels).bool() if valid is None else valid
    )


def test_what_is_cut_from_a_region_is_neither_seen_nor_scored():
    box = Region(1, (0.0, 0.0, 4.0, 4.0), 0.95, 'b')
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[:, 0] = 1
    evidence = claim(1, np.ones((6, 6), bool), (box,))  # seen and claimed beyond its box
    one = purifier({'tile': evidence}, within_segments=True)
    one(unsure(labels), [sample()])
    inside = torch.zeros(1, 6, 6, dtype=torch.bool)
    inside[:, 1:4, :4] = True  # where the teacher says 0, what it mostly says in the box
    (done,) = one.last
    assert torch.equal(done.seen, inside)
    assert torch.equal(done.scores[:, 1] > 0, inside)
    assert torch.equal(done.actions == 1, inside)


def test_padding_has_no_say_in_what_a_region_mostly_is():
    box = Region(1, (0.0, 0.0, 6.0, 6.0), 0.95, 'b')
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[:, :2] = 1
    valid = torch.zeros(1, 6, 6, dtype=torch.bool)
    valid[:, :3] = True
    one = purifier({'tile': claim(0, np.ones((6, 6), bool), (box,))}, within_segments=True)
    purified = one(unsure(labels, valid), [sample()])
    assert purified.labels[:, :2].eq(0).all() and one.last[0].actions[:, :2].eq(1).all()


def test_another_batch_gets_evidence_of_its_own_even_if_nobody_forgot_the_last():
    everywhere = np.ones((6, 6), bool)
    one = purifier({'a': claim(0, everywhere), 'b': claim(1, everywhere)})
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    assert one(unsure(labels), [sample('a')]).labels.eq(0).all()
    assert one(unsure(labels), [sample('b')]).labels.eq(1).all()
    assert len(one.last) == 2
    one.forget()
    assert not one.last


def test_scores_of_unseen_cells_do_not_reach_seen_ones():
    scores = np.zeros((2, 2, 2), np.uint8)
    scores[:, :, 1] = 255
    seen = np.array([[True, False], [True, False]])
    found = replay_evidence(
        [Evidence(scores, seen, (8, 8))], [frame_of((), (8, 8))], 2, (8, 8), 'cpu'
    )
    assert torch.equal(found.seen[0, 0], torch.arange(8) < 4)
    assert not found.scores.any()


@pytest.mark.parametrize('cells, columns', [(2, 8), (3, 8), (3, 7), (5, 13)])
def test_a_pixel_is_seen_as_the_cell_of_its_centre_is(cells, columns):
    for cell in range(cells):
        seen = np.zeros((1, cells), bool)
        seen[0, cell] = True
        evidence = Evidence(np.zeros((2, 1, cells), np.uint8), seen, (4, columns))
        found = replay_evidence([evidence], [frame_of((), (4, columns))], 2, (4, columns), 'cpu')
        expected = [int((x + 0.5) * cells / columns) == cell for x in range(columns)]
        assert found.seen[0, 0].tolist() == expected


# Trust


def test_any_id_that_is_no_class_is_no_truth():
    labels = np.zeros((6, 6), np.uint8)
    labels[0], labels[1] = 2, 255  # of two classes
    labels[2:4] = 1
    right = np.stack([(labels == k) * 1.0 for k in range(2)])
    evidence = Evidence(quantise(right), np.ones((6, 6), bool), (6, 6))
    found = learn_trust([(evidence, labels)], 2, 0.8, 0.3, 0.5, 12)
    assert found.present.tolist() == [12, 12]
    assert found.trust.tolist() == [1.0, 1.0]  # as many claims as are asked for


@pytest.mark.parametrize(
    'count, rates, trust, lift',
    [
        # of 400 : 600 pixels; precision 320 / 470 against chance 0.4, which is less than 0.5238
        (400, (0.8, 0.25), 320 / 470, (320 / 470 - 0.4) / 0.6),
        # of 900 : 100 pixels; balanced 0.5 / 0.75 against chance 0.5, which is less than 0.4737
        (900, (0.5, 0.25), 0.5 / 0.75, 2 * (0.5 / 0.75 - 0.5)),
    ],
)
def test_each_precision_is_held_against_its_own_chance(count, rates, trust, lift):
    labels = (np.arange(1000) >= count).astype(np.uint8)
    claims = np.zeros(1000, bool)
    claims[: round(count * rates[0])] = True  # right
    claims[count : count + round((1000 - count) * rates[1])] = True  # wrong
    scores = np.stack([claims, ~claims]).reshape(2, 20, 50) * 1.0
    evidence = Evidence(quantise(scores), claims.reshape(20, 50), (20, 50))
    pairs = [(evidence, labels.reshape(20, 50))]
    for asked, expected in ((lift - 0.01, trust), (lift + 0.01, 0.0)):
        found = learn_trust(pairs, 2, 0.8, 0.3, min_lift=asked, min_pixels=1)
        assert float(found.trust[0]) == pytest.approx(expected)


@pytest.mark.parametrize('stray, trust', [(3, 0.99985), (600, 0.5)])
def test_a_few_stray_pixels_of_a_class_do_not_take_the_trust_in_another(stray, trust):
    labels = np.zeros(40_000, np.uint8)
    labels[20_000:] = 1
    labels[:stray] = 2
    scores = np.stack([labels != 1, labels == 1, labels > 9]).reshape(3, 200, 200) * 1.0
    evidence = Evidence(quantise(scores), np.ones((200, 200), bool), (200, 200))
    pairs = [(evidence, labels.reshape(200, 200))]
    found = learn_trust(pairs, 3, 0.8, 0.3, min_lift=0.2)
    assert float(found.trust[0]) == pytest.approx(trust)


# Source


class Counting:
    """A verifier that counts, and sees nothing."""

    def __init__(self):
        self.calls = 0

    def load(self, device='cpu'):
        pass

    def verify(self, tiles):
        self.calls += len(tiles)
        return [Evidence(np.zeros((2, 2, 2), np.uint8), np.ones((2, 2), bool), (4, 4))]


@pytest.fixture
def tiles(tmp_path):
    """Files of five tiles of different content."""
    paths = [tmp_path / f'{name}.png' for name in 'abcde']
    for path in paths:
        path.write_bytes(path.name.encode())
    return [str(path) for path in paths]


def source(folder, budget=1):
    store = EvidenceStore(folder / 'evidence', {'weights': 'none'})
    image = np.zeros((4, 4, 3), np.uint8)
    return EvidenceSource(
        store, Counting(), lambda path: image, budget, journal=folder / 'known.txt'
    )


def step(one, iteration, paths):
    """Which of the tiles have evidence in a step."""
    one.begin_step(iteration, paths)
    return [found is not None for found in one(paths)]


def test_what_a_step_leaves_of_its_budget_is_gone(tiles, tmp_path):
    one = source(tmp_path, budget=2)
    one.start(0)
    assert step(one, 0, tiles[:1]) == [True]
    assert step(one, 1, tiles[1:]) == [True, True, False, False]
    assert one.verifier.calls == 3


def test_a_tile_that_occurs_twice_in_a_batch_is_verified_once(tiles, tmp_path):
    one = source(tmp_path)
    one.start(0)
    assert step(one, 0, [tiles[0], tiles[1], tiles[0]]) == [True, False, True]
    assert one.verifier.calls == 1


def test_equal_tiles_under_two_names_cost_once(tiles, tmp_path):
    (tmp_path / 'twin.png').write_bytes((tmp_path / 'a.png').read_bytes())
    twins = [tiles[0], str(tmp_path / 'twin.png'), tiles[1]]
    one = source(tmp_path)
    one.start(0)
    assert step(one, 0, twins) == [True, True, False]
    assert one.verifier.calls == 1


def test_evidence_does_not_depend_on_the_precision_of_the_training(tiles, tmp_path):
    one = source(tmp_path)
    seen = []

    def verify(images):
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return Counting().verify(images)

    one.verifier.verify = verify
    one.start(0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert step(one, 0, tiles[:1]) == [True]
    assert seen == [torch.float32]


def test_what_others_add_to_the_store_is_read_but_costs_budget(tiles, tmp_path):
    one, other = source(tmp_path), source(tmp_path)
    one.start(0)
    for path in tiles:
        other.verify(path, other.store.key(path))
    assert step(one, 0, tiles[:3]) == [True, False, False]
    assert step(one, 1, tiles[:3]) == [True, True, False]
    assert one.verifier.calls == 0


def test_what_the_store_has_at_the_beginning_is_free(tiles, tmp_path):
    other = source(tmp_path)
    for path in tiles:
        other.verify(path, other.store.key(path))
    one = source(tmp_path)
    one.start(0)
    assert step(one, 0, tiles) == [True] * 5
    again = source(tmp_path)
    again.start(1)  # resumed: it was free before, and is
    assert step(again, 1, tiles) == [True] * 5


def test_half_a_line_of_a_killed_process_is_left_out(tiles, tmp_path):
    one = source(tmp_path)
    one.start(0)
    step(one, 0, tiles[:1])
    journal = tmp_path / 'known.txt'
    whole = journal.read_text()
    for rest in ('1', '1 ', f'1 {"0" * 63}'):
        journal.write_text(whole + rest)
        again = source(tmp_path)
        again.start(2)
        assert journal.read_text() == whole
        assert step(again, 2, tiles[1:2]) == [True]
        assert journal.read_text().splitlines()[:-1] == whole.splitlines()
        journal.write_text(whole)


def test_a_training_that_begins_anew_does_not_read_an_old_journal(tiles, tmp_path):
    (tmp_path / 'known.txt').write_text(f'-1 {"ab" * 32}\n0 {"cd" * 32}\n')
    one = source(tmp_path)
    one.start(0)
    assert (tmp_path / 'known.txt').read_text() == ''


# Hook


def test_what_is_logged_counts_valid_pixels_that_have_a_class():
    shape = (1, 1, 6)
    valid = torch.tensor([[[True, True, True, True, False, False]]])
    truth = torch.tensor([[[0, 1, 255, 7, 0, 1]]])
    before = PseudoLabel(torch.zeros(shape).long(), torch.ones(shape), torch.ones(shape), valid)
    after = before.replace(labels=torch.tensor([[[0, 1, 1, 1, 1, 1]]]))
    actions = torch.tensor([[[0, 1, 1, 2, 1, 3]]], dtype=torch.uint8)
    seen = torch.tensor([[[False, True, True, True, True, True]]])
    sample = SegDataSample(gt_sem_seg=PixelData(data=truth))
    done = Purification(before, after, actions, torch.zeros(1, 2, 1, 6), seen)
    found = purification_stats(done, [sample])
    assert found == pytest.approx(
        dict(
            covered=3 / 4,
            corrected=2 / 4,
            supported=1 / 4,
            vetoed=0,
            accuracy_before=1 / 2,
            accuracy_after=1,
            kept_accuracy_before=1 / 2,
            kept_accuracy_after=1,
        )
    )


def test_what_the_hook_passes_on(tmp_path, monkeypatch):
    cfg = config(write_training(tmp_path / 'data'), tmp_path, hook=dict(budget=1))
    init_default_scope('mmseg')
    settings = cfg.custom_hooks[-1]
    settings.update(
        trust=dict(images=1, min_lift=0.4, min_pixels=50),
        policy=dict(type='EvidencePolicy', band=dict(gate=0.5)),
    )
    settings.verifier.classes = ['grass', None, 'roof']
    hook = HOOKS.build(settings)
    hook.verifier.within_segments = True
    asked = []

    def learn(pairs, *args, **kwargs):
        asked.append((len(list(pairs)), *args, kwargs))
        return learn_trust([], 3, 0.5, 0.3)

    monkeypatch.setattr(vlm_purify_hook, 'learn_trust', learn)
    hook.prepare(DATASETS.build(cfg.train_dataloader.dataset), 'cpu')
    assert asked == [(1, 3, 0.5, 0.3, dict(min_lift=0.4, min_pixels=50, cut=True))]
    assert hook.purifier.within_segments
    assert hook.purifier.blind.tolist() == [True, False, True]  # asked for, but not trusted

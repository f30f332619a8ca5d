# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Purification in a training: it acts, it is logged, it resumes, and it says what is wrong."""

import numpy as np
import pytest
import torch

from mmseg_semi_rs.engine.hooks import VLMPurifyHook
from mmseg_semi_rs.purification.store import EvidenceStore
from tests._support.purified_training import ColourVerifier, config, fill, hook_of, truth_pipeline
from tests._support.tiny_training import assert_alive, train, write_dual, write_training


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp('purify') / 'data')


def test_I2_S1_S13_evidence_changes_the_training_and_its_use_is_logged(tiny, tmp_path):
    _, plain = train(config(tiny, tmp_path / 'plain'))
    cfg = truth_pipeline(config(tiny, tmp_path / 'told', hook=dict(budget=2)))
    runner, told = train(cfg)
    assert told != plain
    hook = hook_of(runner)
    assert hook.trust.trust.min() > 0.95
    logged = {
        name: runner.message_hub.get_scalar(f'train/purify/{name}').data[0]
        for name in (
            *('covered', 'corrected', 'supported', 'vetoed'),
            *('accuracy_before', 'accuracy_after', 'kept_accuracy_before', 'kept_accuracy_after'),
        )
    }
    assert all(len(values) == 6 for values in logged.values())
    assert (logged['corrected'] + logged['supported'] > 0).all()
    assert not logged['vetoed'].any()
    assert (logged['accuracy_after'] > logged['accuracy_before']).all()
    assert (logged['kept_accuracy_after'] >= logged['kept_accuracy_before']).all()


def test_a_lying_verifier_leaves_the_training_as_it_was(tiny, tmp_path):
    _, plain = train(config(tiny, tmp_path / 'plain', iters=3))
    hook = dict(budget=4, verifier=dict(type='ColourVerifier', shift=1))
    runner, lied = train(config(tiny, tmp_path / 'lied', iters=3, hook=hook))
    assert lied == plain
    assert not hook_of(runner).trust.trust.any()
    _, believed = train(config(tiny, tmp_path / 'believed', iters=3, hook={**hook, 'trust': None}))
    assert believed != plain


def test_before_its_start_nothing_is_purified_and_then_it_ramps_up(tiny, tmp_path):
    _, plain = train(config(tiny, tmp_path / 'plain'))
    hook = dict(budget=4, start=3, ramp=4)
    runner, told = train(config(tiny, tmp_path / 'late', hook=hook))
    assert told[:3] == plain[:3] and told[3:] != plain[3:]
    assert hook_of(runner).purifier.strength == 0.75


@pytest.mark.parametrize(
    'budget, workers, dual', [(0, 0, False), (0, 2, False), (1, 0, False), (1, 0, True)]
)
def test_S19_a_killed_and_resumed_training_equals_an_uninterrupted_one(
    tmp_path, budget, workers, dual
):
    path = write_training(tmp_path / 'data', images=12)
    (tmp_path / 'data' / 'unlabelled.txt').write_text(''.join(f'tile_{i}\n' for i in range(2, 10)))
    if dual:
        path = write_dual(path)
    options = {
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
    }

    def cfg(run, **settings):
        hook = dict(budget=budget, store=str(tmp_path / f'evidence_{run}'))
        if not budget:
            fill(tmp_path / 'data', hook['store'])
        return config(path, tmp_path / run, hook=hook, **settings, **options)

    whole, expected = train(cfg('whole'))
    train(cfg('part', iters=5))  # goes past the checkpoint, and adds to the store meanwhile
    resumed, losses = train(
        cfg('part', resume=True, load_from=str(tmp_path / 'part' / 'iter_3.pth'))
    )
    assert losses[-3:] == expected[-3:]
    assert_alive(resumed)
    hub = resumed.message_hub
    corrected = [n for n in hub.log_scalars if n.endswith('purify/corrected')]
    assert corrected and all(hub.get_scalar(n).data[0][-3:].any() for n in corrected)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert hook_of(whole).source.store.keys()
    assert not (whole.model.purifiers or hook_of(whole).purifier.last)  # nothing is kept


def test_a_budget_is_kept_and_what_was_made_is_not_made_again(tmp_path):
    path = write_training(tmp_path / 'data', images=12)
    (tmp_path / 'data' / 'unlabelled.txt').write_text(''.join(f'tile_{i}\n' for i in range(2, 10)))
    runner, _ = train(config(path, tmp_path / 'run', hook=dict(budget=1, trust=None)))
    hook = hook_of(runner)
    made = hook.verifier.calls
    assert 4 <= made <= 6  # 2 new tiles in each of the first 4 steps, one of them made
    assert len(hook.source.store) == made
    journal = next((tmp_path / 'run').glob('evidence_known_*_rank0.txt')).read_text().splitlines()
    assert [int(line.split()[0]) for line in journal[:4]] == [0, 1, 2, 3]
    runner, _ = train(config(path, tmp_path / 'again', hook=dict(budget=4, trust=None)))
    assert hook_of(runner).verifier.calls == 8 - made


def test_a_warm_store_is_read_and_the_verifier_left_alone(tmp_path):
    path = write_training(tmp_path / 'data')
    fill(tmp_path / 'data', tmp_path / 'data' / 'evidence')
    runner, _ = train(config(path, tmp_path / 'run', iters=3, hook={}))
    assert hook_of(runner).verifier.calls == 0
    assert not list((tmp_path / 'run').glob('evidence_known*'))


def test_two_hooks_act_in_turn_and_keep_out_of_each_others_way(tmp_path):
    path = write_training(tmp_path / 'data')
    cfg = config(path, tmp_path / 'run', iters=2, hook=dict(budget=4))
    cfg.custom_hooks.append(
        dict(cfg.custom_hooks[-1], verifier=dict(type='ColourVerifier', shift=3))
    )
    runner, _ = train(cfg)
    for name in ('purify', 'purify_2'):
        covered = runner.message_hub.get_scalar(f'train/{name}/covered').data[0]
        assert covered.tolist() == [1.0, 1.0]
    assert len(list((tmp_path / 'run').glob('evidence_known_*_rank0.txt'))) == 2
    assert not runner.model.purifiers


def test_calibration_happens_once_before_anything_else(tmp_path):
    path = write_training(tmp_path / 'data')
    fit = tmp_path / 'fit.txt'
    hook = dict(budget=4, verifier=dict(type='ColourVerifier', fit=str(fit)))
    train(config(path, tmp_path / 'run', iters=1, hook=hook))
    assert fit.read_text() == '2'  # labelled tiles


@pytest.mark.parametrize(
    'hook, change, told',
    [
        ({}, None, 'holds no evidence of this verifier'),
        (
            dict(verifier=dict(type='ColourVerifier', classes=['grass', 'road'])),
            None,
            'prompts for 2 classes, but the data has 3',
        ),
        (
            dict(verifier=dict(type='ColourVerifier', classes=['road', 'grass', 'roof'])),
            None,
            "Class 0 of the data is 'grass', .* name of class 1 .*: give the entries in the order",
        ),
        (dict(budget=2), 'supervised', 'the training data has none'),
        (dict(budget=2), 'geometry', r"no \['geometry'\]"),
        (dict(budget=2), 'plain', 'VLMPurifyHook needs a segmentor with pseudo labels'),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(tmp_path, hook, change, told):
    path = write_training(tmp_path / 'data')
    cfg = config(path, tmp_path / 'run', iters=1, hook=hook)
    data = cfg.train_dataloader
    if change == 'supervised':
        data.dataset.unlabelled = None
        data.sampler.source_ratio = [1, 0]
    elif change == 'geometry':
        data.dataset.unlabelled.pipeline[2] = dict(type='RandomCrop', crop_size=(64, 64))
    elif change == 'plain':
        cfg.custom_hooks = cfg.custom_hooks[1:]
        cfg.model = dict(cfg.model.student, data_preprocessor=cfg.model.data_preprocessor)
    with pytest.raises(ValueError, match=told):
        train(cfg)


def test_a_store_without_the_labelled_tiles_is_told(tmp_path):
    path = write_training(tmp_path / 'data')
    verifier = ColourVerifier()
    store = EvidenceStore(tmp_path / 'data' / 'evidence', verifier.settings())
    store.write('0' * 64, verifier.verify([np.zeros((64, 64, 3), np.uint8)])[0])
    with pytest.raises(ValueError, match=r'no evidence of the labelled tile .*trust=None'):
        train(config(path, tmp_path / 'run', iters=1, hook={}))


@pytest.mark.parametrize(
    'settings',
    [
        dict(budget=-1),
        dict(start=1.5),
        dict(interval=0),
        dict(trust=dict(tiles=3)),
        dict(trust=dict(images=0)),
        dict(trust=dict(min_lift=50)),
        dict(trust=dict(min_pixels=0.5)),
    ],
)
def test_wrong_settings_are_told(tmp_path, settings):
    with pytest.raises(ValueError, match='VLMPurifyHook'):
        VLMPurifyHook(dict(type='ColourVerifier'), str(tmp_path), **settings)


# Regions and calibrated thresholds.


REGIONS = dict(
    verifier=dict(type='SuperpixelProposer', settings=dict(min_size=20)),
    policy=dict(type='RegionVote', weight='share'),
    budget=4,
)


def test_regions_change_the_training_and_their_use_is_logged(tiny, tmp_path):
    _, plain = train(config(tiny, tmp_path / 'plain', iters=3))
    store = str(tmp_path / 'store')
    cfg = truth_pipeline(config(tiny, tmp_path / 'run', 3, hook=dict(REGIONS, store=store)))
    runner, voted = train(cfg)
    assert voted != plain
    hook = hook_of(runner)
    assert hook.trust is hook.fitted is None
    default = VLMPurifyHook(dict(type='SuperpixelProposer'), store)
    assert type(default.policy).__name__ == 'RegionVote' and default.policy.weight == 'gate'
    logged = runner.message_hub.get_scalar('train/purify/covered').data[0]
    assert len(logged) == 3 and min(logged) == 1.0
    assert len(hook.source.store) == 2  # of the unlabelled tiles, none of the labelled
    assert any(runner.message_hub.get_scalar('train/purify/supported').data[0])
    hook = dict(REGIONS, store=store, policy=None, budget=0)  # what is stored is enough
    _, gated = train(config(tiny, tmp_path / 'gated', iters=3, hook=hook))
    assert gated == plain  # where the gate keeps nothing, its default keeps nothing either


def test_thresholds_act_in_the_place_of_trust_and_are_learnt_on_held_out_tiles(
    tiny, tmp_path, caplog
):
    thresholds = dict(type='ConformalThresholds')
    _, plain = train(config(tiny, tmp_path / 'plain', iters=3))
    lying = dict(
        budget=4, verifier=dict(type='ColourVerifier', shift=1), thresholds=thresholds,
        trust=dict(min_pixels=50),
    )  # fmt: skip
    runner, lied = train(config(tiny, tmp_path / 'lied', iters=3, hook=lying))
    assert lied == plain and not hook_of(runner).fitted.used.any()
    assert hook_of(runner).trust is None
    log = next((tmp_path / 'lied').rglob('*.log')).read_text()
    assert 'these thresholds act, not trust' in log and 'grass                not used' in log
    cfg = config(tiny, tmp_path / 'told', iters=3)
    held_out = cfg.val_dataloader.dataset.to_dict()
    honest = dict(budget=4, thresholds=thresholds, held_out=held_out)
    runner, told = train(config(tiny, tmp_path / 'told', iters=3, hook=honest))
    hook = hook_of(runner)
    assert told != plain and hook.fitted.used.all()
    assert hook.fitted.claims.sum() == 3 * 64 * 64  # of the three tiles that are held out
    assert sorted(hook.purifier.policy.actions) == ['correct', 'support']


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(REGIONS, policy=dict(type='EvidencePolicy')), 'EvidencePolicy does not go with'),
        (dict(policy=dict(type='RegionVote')), 'RegionVote does not go with ColourVerifier'),
        (dict(REGIONS, thresholds=dict(type='ConformalThresholds')), 'leave thresholds out'),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told(settings, words):
    with pytest.raises(ValueError, match=words):
        VLMPurifyHook(**{'verifier': dict(type='ColourVerifier'), 'store': 's', **settings})


def test_held_out_tiles_need_labels_of_the_same_classes(tiny, tmp_path):
    held_out = config(tiny, tmp_path).val_dataloader.dataset.to_dict()
    images = [step for step in held_out['pipeline'] if step['type'] != 'LoadAnnotations']
    names = dict(classes=('road', 'grass', 'roof'), palette=[[0, 0, 0]] * 3)
    for change, words in (
        (dict(pipeline=images), 'labels of .* are not loaded'),
        (dict(metainfo=names), 'in the order of the class ids'),
    ):
        hook = dict(budget=4, held_out={**held_out, **change})
        with pytest.raises(ValueError, match=words):
            train(config(tiny, tmp_path / words[:3], iters=1, hook=hook))

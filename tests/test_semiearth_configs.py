# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""What is special about SemiEarth's configs; the contract of all configs is in test_configs.py."""

from __future__ import annotations

import pytest
from mmseg.registry import HOOKS, METRICS, MODELS

from mmseg_semi_rs.purification import EvidencePolicy, ReleasedPolicy
from tests._support.config_zoo import Leaf, build, class_names, leaves, name

LEAVES = leaves('semiearth')
(RELEASED,) = (leaf for leaf in LEAVES if leaf.released)


def purify(leaf: Leaf) -> dict:
    (hook,) = (hook for hook in leaf.cfg.custom_hooks if hook.type == 'VLMPurifyHook')
    return hook


@pytest.mark.parametrize('leaf', [x for x in LEAVES if x.ratio == '1pct'], ids=name)
def test_S10_S15_the_verifier_is_asked_for_the_classes_that_are_trained(leaf: Leaf):
    data, settings = leaf.data, purify(leaf)
    hook = HOOKS.build(settings)
    classes = class_names(leaf.cfg)
    assert hook.verifier.num_classes == len(classes)
    assert build(leaf.path).num_classes == len(classes) == {'potsdam': 6, 'loveda': 7}.get(data, 6)
    never = {label for label in range(len(classes)) if label not in hook.verifier.prompts.asked}
    assert {classes[label] for label in never} <= {'clutter', 'background'}
    assert never == {'potsdam': {5}, 'loveda': {0}}.get(data, set())
    for label in hook.verifier.prompts.asked:
        words = classes[label].replace('_', ' ').split()
        assert any(
            word[:5] in ' '.join(hook.verifier.prompts.name(label).split()) for word in words
        )
    assert settings.store == f'data/evidence/{data}'
    verifiers = {'clip': 'CLIPVerifier', 'qwen': 'GenerativeVerifier'}
    kind = verifiers[leaf.parts.rpartition('_')[2]]
    assert settings.verifier.type == kind
    assert MODELS.get(kind) is type(hook.verifier)
    policy = ReleasedPolicy if leaf.released else EvidencePolicy
    assert isinstance(hook.policy, policy)
    assert (hook.start, hook.ramp, hook.budget) == (0, 0, 0)


def test_shares_differ_in_the_fitted_temperature_alone():
    for leaf in LEAVES:
        if not leaf.released:
            (one,) = (x for x in LEAVES if (x.parts, x.data, x.ratio, x.released)
                      == (leaf.parts, leaf.data, '1pct', False))  # fmt: skip
            ours, theirs = (dict(purify(x)) for x in (leaf, one))
            verifiers = [dict(settings.pop('verifier')) for settings in (ours, theirs)]
            fitted = [verifier.pop('temperature', None) for verifier in verifiers]
            assert (ours, verifiers[0]) == (theirs, verifiers[1])
            if leaf.parts == 'dinov2_clip':
                where = f'data/evidence/{leaf.data}/clip_temperature_{leaf.ratio}.json'
                assert fitted[0] == where


def test_S16_the_released_preset_counts_and_reports_as_released():
    cfg = RELEASED.cfg
    assert cfg.model.semi_test_cfg.predict_on == 'student'
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = dict(classes=class_names(cfg))
    assert len(metric.averaged) == 6
    hook = HOOKS.build(purify(RELEASED))
    assert hook.trust_settings is None
    assert hook.policy.conf_thresh == cfg.model.semi_train_cfg.conf_thresh


def test_student_has_the_published_size():
    model = build(LEAVES[0].path)
    backbone = sum(p.numel() for p in model.student.backbone.parameters())
    head = sum(p.numel() for p in model.student.decode_head.parameters())
    # Without the mask token and level-4 RCU1, which never train.
    unused = 2 * (64 * 64 * 9 + 64)
    assert round((backbone + 384) / 1e6, 2) == 22.06
    assert round((head + unused) / 1e6, 2) == 2.74

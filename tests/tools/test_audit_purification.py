# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""tools/audit_purification.py: what it prints, counts and writes is what happened to the labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_semi_rs.engine.purification_audit import audit_dataset
from tests._support.purified_training import config, fill
from tests._support.tiny_training import run_here, train, write_dual, write_training

ITERS = 3
BUDGET = {'custom_hooks.1.budget': 4}  # the training makes the evidence
HOOK = """
custom_imports['imports'].append('tests._support.purified_training')
custom_hooks.append(dict(
    type='VLMPurifyHook', store='STORE', verifier=dict(type='ColourVerifier'),
    trust=dict(min_pixels=50), policy=dict(type='EvidencePolicy', scope='all')))
"""


def write_hooked(tiny: Path) -> Path:
    """Add the hook to a config, in the place where a person would."""
    text = tiny.read_text() + HOOK.replace('STORE', str(tiny.parent / 'evidence'))
    hooked = tiny.with_name('hooked.py')
    hooked.write_text(text)
    return hooked


def fill_all(hooked: Path) -> None:
    """Let the store hold evidence of all tiles, those of the validation too."""
    fill(hooked.parent, hooked.parent / 'evidence')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config with a hook, and a checkpoint of some steps with it: (config, checkpoint)."""
    folder = tmp_path_factory.mktemp('audit') / 'data'
    hooked = write_hooked(write_training(folder))
    train(config(hooked, folder / 'run', ITERS, **BUDGET))
    return hooked, folder / 'run' / f'iter_{ITERS}.pth'


@pytest.fixture(scope='module')
def trained_dual(tmp_path_factory):
    """The same of two students."""
    folder = tmp_path_factory.mktemp('audit_dual') / 'data'
    tiny = write_training(folder)
    write_hooked(tiny).replace(tiny)
    dual = write_dual(tiny)
    train(config(dual, folder / 'run', ITERS, **BUDGET))
    return dual, folder / 'run' / f'iter_{ITERS}.pth'


def audit(trained, out: Path, *options: object) -> tuple[dict, list[dict]]:
    """Run the tool: the totals, and the lines of the log."""
    found = out / 'totals.json'
    run_here('audit_purification', *trained, '--out', out, '--json', found, *options)
    lines = (out / 'audit.jsonl').read_text().splitlines()
    return json.loads(found.read_text()), [json.loads(line) for line in lines]


def test_the_page_is_written_and_the_truth_shows_that_labels_got_better(trained, tmp_path, capsys):
    found, lines = audit(trained, tmp_path)
    rates = found['rates']
    assert found['tiles'] == len(lines) == 2  # the unlabelled list
    assert {line['name'] for line in lines} == {'tile_2', 'tile_3'}
    # The verifier is right; where it was not listened to, the labels are the teacher's.
    assert rates['accuracy_after'] > rates['accuracy_before']
    assert rates['weighted_accuracy_after'] == 1.0 and rates['weight_after'] > 0.9
    assert rates['corrected'] > 0 and rates['covered'] == 1.0
    page = (tmp_path / 'audit.html').read_text()
    assert 'tile_2' in page and 'stripes' in page and 'EvidencePolicy' in page
    told = capsys.readouterr().out
    for key in ('accuracy_before', 'accuracy_after', 'corrected'):
        assert f'{100 * rates[key]:.2f}' in told
    assert str(tmp_path / 'audit.html') in told.replace('\n', '')


def test_totals_are_a_plain_recount_of_the_lines(trained, tmp_path):
    found, lines = audit(trained, tmp_path)
    counts = found['counts']
    assert counts['pixels'] == sum(line['counts']['pixels'] for line in lines) == 2 * 64 * 64
    for action in ('corrected', 'supported', 'vetoed'):
        pixels = sum(sum(line['counts'][action].values()) for line in lines)
        assert sum(counts[action].values()) == pixels
        assert found['rates'][action] == pytest.approx(pixels / counts['pixels'])
        verdicts = counts['truth'][action]
        assert sum(sum(each.values()) for each in verdicts.values()) == pixels
    for when in ('before', 'after'):
        right = sum(line['counts']['truth'][f'right_{when}'] for line in lines)
        assert found['rates'][f'accuracy_{when}'] == pytest.approx(right / counts['pixels'])
    gained = counts['truth']['corrected']
    gained = sum(gained['right'].values()) - sum(gained['wrong'].values())
    assert counts['truth']['right_after'] - counts['truth']['right_before'] == gained


def test_a_verifier_that_says_nothing_new_changes_nothing(trained, tmp_path):
    options = (
        '--cfg-options',
        'custom_hooks.1.policy.gate=1.0',
        'custom_hooks.1.policy.actions=()',
    )
    found, _ = audit(trained, tmp_path, *options)
    rates = found['rates']
    assert rates['corrected'] == rates['supported'] == rates['vetoed'] == 0
    assert rates['accuracy_after'] == rates['accuracy_before']
    assert rates['weight_after'] == rates['weight_before']


def test_tiles_without_labels_are_audited_without_accuracies(trained, tmp_path, capsys):
    hooked, checkpoint = trained
    data = tmp_path / 'data'
    shutil.copytree(hooked.parent, data, ignore=shutil.ignore_patterns('run'))
    for name in ('tile_2', 'tile_3'):
        (data / 'ann' / f'{name}.png').unlink()
    moved = data / hooked.name
    moved.write_text(moved.read_text().replace(str(hooked.parent), str(data)))
    found, lines = audit((moved, checkpoint), tmp_path / 'out')
    assert 'truth' not in found['counts'] and all('truth' not in line['counts'] for line in lines)
    assert found['rates']['accuracy_before'] is None
    assert found['rates']['corrected'] > 0
    assert 'labels that are right' in capsys.readouterr().out


def test_with_a_budget_the_same_evidence_is_read(trained, tmp_path):
    plain, _ = audit(trained, tmp_path / 'plain')
    found, _ = audit(trained, tmp_path / 'budget', '--cfg-options', 'custom_hooks.1.budget=4')
    assert found == plain


@pytest.mark.parametrize(
    ('source', 'names'),
    [('val', ('tile_4', 'tile_5', 'tile_6')), ('labelled', ('tile_0', 'tile_1'))],
)
def test_other_sources(trained, tmp_path, source, names):
    fill_all(trained[0])
    found, lines = audit(trained, tmp_path, '--source', source)
    assert tuple(line['name'] for line in lines) == names
    assert found['rates']['covered'] == 1.0
    assert found['rates']['accuracy_after'] > found['rates']['accuracy_before']


def test_thresholds_that_act_are_named_in_the_place_of_trust(trained, tmp_path):
    thresholds = 'custom_hooks.1.thresholds.type=ConformalThresholds'
    audit(trained, tmp_path, '--tiles', 1, '--cfg-options', thresholds)
    page = (tmp_path / 'audit.html').read_text()
    assert 'thresholds' in page and 'trust' not in page


def test_fewer_tiles_and_fewer_on_the_page(trained, tmp_path):
    fill_all(trained[0])
    found, lines = audit(trained, tmp_path, '--source', 'val', '--tiles', 2, '--show', 1)
    assert found['tiles'] == len(lines) == 2
    page = (tmp_path / 'audit.html').read_text()
    assert sum(f'tile_{number}' in page for number in range(7)) == 1


def test_the_network_that_labels_is_chosen(trained, tmp_path):
    teacher, _ = audit(trained, tmp_path / 'teacher')
    named, _ = audit(trained, tmp_path / 'named', '--network', 'teacher')
    student, _ = audit(trained, tmp_path / 'student', '--network', 'student')
    assert named == teacher
    assert student['counts']['confidence'] != teacher['counts']['confidence']


def test_two_students_are_audited_one_at_a_time(trained_dual, tmp_path):
    a, _ = audit(trained_dual, tmp_path / 'a')
    b, _ = audit(trained_dual, tmp_path / 'b', '--network', 'b')
    assert a['counts']['confidence'] != b['counts']['confidence']
    assert b['rates']['accuracy_after'] > b['rates']['accuracy_before']


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (('--network', 'b'), '--network b is none of this model: choose teacher or student'),
        (('--tiles', '0'), '--tiles 0 leaves nothing to show'),
        (('--show', '0'), '--show 0 leaves nothing to show'),
        (('--hook', '7'), '--hook 7 chooses no VLMPurifyHook'),
        (('--cfg-options', 'custom_hooks.1.store=nowhere'), 'no evidence'),
    ],
)
def test_bad_input_is_one_sentence(trained, tmp_path, capsys, options, told):
    with pytest.raises(SystemExit) as left:
        audit(trained, tmp_path, *options)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not (tmp_path / 'audit.html').exists()


def test_a_missing_checkpoint_and_a_config_without_the_hook_are_told(trained, tmp_path, capsys):
    hooked, checkpoint = trained
    for arguments, told in (
        ((hooked, tmp_path / 'none.pth'), f'The checkpoint {tmp_path / "none.pth"} does not exist'),
        ((hooked.with_name('tiny.py'), checkpoint), 'has no VLMPurifyHook'),
    ):
        with pytest.raises(SystemExit) as left:
            audit(arguments, tmp_path)
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line


def test_the_list_of_the_validation_is_that_of_no_other_source(trained):
    cfg = Config.fromfile(trained[0])
    cfg.train_dataloader.dataset.unlabelled.ann_file = ''
    assert len(audit_dataset(cfg, 'unlabelled')) > len(audit_dataset(cfg, 'val'))
    cfg.train_dataloader.dataset.labelled = [cfg.train_dataloader.dataset.labelled]
    with pytest.raises(ValueError, match='not those of one data set'):
        audit_dataset(cfg, 'labelled')

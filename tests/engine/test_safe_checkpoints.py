# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I14: what a training goes on from, what it refuses, and how it is stopped."""

import os
import re
import shutil
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmseg.registry import HOOKS, MODELS

from mmseg_semi_rs.engine.checkpoints import find_checkpoint
from mmseg_semi_rs.engine.hooks import safe_checkpoint_hook
from mmseg_semi_rs.engine.loops import TeacherStudentValLoop
from mmseg_semi_rs.utils.errors import InUseError
from mmseg_semi_rs.utils.files import held
from tests._support.processes import exit_code
from tests._support.tiny_training import run_here, write_dual, write_training

# ------------------------------------------------------------------------ which one is gone on from


def save(path, value=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {'head.weight': torch.full((2000,), value), 'gate.mean': torch.full((3,), torch.nan)}
    torch.save({'meta': {'iter': 0}, 'state_dict': weights, 'optimizer': {}}, path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b'')


def zeroed_block(path):
    """What a crash of the machine leaves: the right length, and a block that was never written."""
    contents = bytearray(path.read_bytes())
    middle = len(contents) // 2
    contents[middle : middle + 512] = bytes(512)
    path.write_bytes(contents)


def not_a_number(path):
    save(path, torch.nan)


def of_another_kind(path):
    torch.save({'state_dict': {'head.weight': torch.zeros(2)}}, path)


@pytest.mark.parametrize('damage', [cut_off, empty, zeroed_block, not_a_number, of_another_kind])
def test_the_newest_checkpoint_that_reads_whole_is_taken_and_named(tmp_path, damage):
    for step in (8, 10, 100):
        save(tmp_path / f'iter_{step}.pth', step)
    save(tmp_path / 'best_mIoU_iter_200.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_100.pth')
    found = find_checkpoint(tmp_path)
    assert found.path.name == 'iter_100.pth' and 'passed over' not in found.why
    damage(tmp_path / 'iter_100.pth')
    found = find_checkpoint(tmp_path)
    assert found.path.name == 'iter_10.pth'
    assert 'passed over: iter_100.pth' in found.why
    for step in (8, 10):
        damage(tmp_path / f'iter_{step}.pth')
    with pytest.raises(ValueError, match=r'has checkpoints, but none.*iter_100.*iter_10.*iter_8'):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ('last', 'said'),
    [
        (None, 'is missing'),
        ('', 'is missing or empty'),
        ('iter_2.pth', 'stale'),
        ('x.pth', 'stale'),
    ],
)
def test_last_checkpoint_is_not_trusted(tmp_path, last, said):
    for step in (2, 4):
        save(tmp_path / f'iter_{step}.pth')
    if last is not None:
        (tmp_path / 'last_checkpoint').write_text(last)
    found = find_checkpoint(tmp_path)
    assert found.path == tmp_path / 'iter_4.pth' and said in found.why


def test_last_checkpoint_leads_to_another_folder(tmp_path):
    assert find_checkpoint(tmp_path / 'none') is None
    save(tmp_path / 'out' / 'work' / 'iter_4.pth')
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text('../out/work/iter_4.pth')
    assert find_checkpoint(tmp_path / 'work').path.resolve() == tmp_path / 'out/work/iter_4.pth'


# ------------------------------------------------------------------------------------ real runs


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return write_training(tmp_path_factory.mktemp('training'))


OPTIONS = (
    'default_hooks.checkpoint.save_best=mIoU',
    'default_hooks.checkpoint.max_keep_ckpts=1',
    'train_cfg.val_interval=2',
)


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
    """A finished training of 4 steps that keeps one checkpoint; the work folder."""
    work_dir = tmp_path_factory.mktemp('finished') / 'work'
    run_here('train', config, '--work-dir', work_dir, '--cfg-options', *OPTIONS)
    return work_dir


def refusal(capsys, *words):
    """The one sentence of a tool that leaves with exit code 2."""
    with pytest.raises(SystemExit) as left:
        run_here(*words)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert left.value.code == 2 and len(told) == 1, told
    return told[0]


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_last_checkpoint_is_relative_and_a_moved_folder_goes_on(config, trained, tmp_path):
    assert (trained / 'last_checkpoint').read_text() == 'iter_4.pth'
    assert not list(trained.glob('.*.part')) and not (trained / '.lock').exists()
    shutil.copytree(trained, tmp_path / 'moved')
    longer = ('train_cfg.max_iters=6', 'param_scheduler.end=4', *OPTIONS)
    run_here(
        'train', config, '--work-dir', tmp_path / 'moved', '--resume', '--cfg-options', *longer
    )
    assert (tmp_path / 'moved' / 'iter_6.pth').is_file()
    assert not (tmp_path / 'moved' / 'iter_4.pth').exists()
    assert (trained / 'iter_4.pth').is_file()
    assert list(trained.glob('best_*.pth')), (
        'the best of the old place is not the new one to remove'
    )


def test_a_training_is_not_begun_over_another(config, trained, capsys):
    before = sorted(trained.iterdir())
    assert 'holds a training already (iter_4.pth)' in refusal(
        capsys, 'train', config, '--work-dir', trained
    )
    assert sorted(trained.iterdir()) == before


def test_a_resume_without_any_good_checkpoint_is_refused(config, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / 'work')
    cut_off(tmp_path / 'work' / 'iter_4.pth')
    told = refusal(capsys, 'train', config, '--work-dir', tmp_path / 'work', '--resume')
    assert 'has checkpoints, but none' in told and 'iter_4.pth' in told


def renamed_classes(config, target):
    text = config.read_text().replace("'roof'", "'house'")
    target.write_text(text)
    return target


def shorter_list(config, target):
    (target.parent / 'one.txt').write_text('tile_0\n')
    one = str(target.parent / 'one.txt')
    target.write_text(config.read_text().replace("ann_file='labelled.txt'", f'ann_file={one!r}'))
    return target


def wider(config, target):
    target.write_text(config.read_text().replace('channels=8,', 'channels=16,'))
    return target


def longer(config, target):
    """Its learning rate would stay at 0, where that of the checkpoint ends."""
    target.write_text(config.read_text().replace('max_iters=4', 'max_iters=6'))
    return target


def other_groups(config, target):
    target.write_text(
        config.read_text().replace(
            'optimizer=dict(',
            "paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}), optimizer=dict(",
        )
    )
    return target


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            lambda config, target: write_dual(config),
            r'student\..* is not known|students\..*missing',
        ),
        (renamed_classes, 'classes grass, road, roof, not on grass, road, house'),
        (shorter_list, 'trained on labelled 2 images .*, not on 1 images'),
        (wider, 'does not belong to the config: .* has shape'),
        (other_groups, 'an optimizer of 1 parameter groups .* the config one of 2'),
        (longer, 'learning rate that ends at iteration 4, the config one that ends at 6'),
    ],
)
def test_a_foreign_checkpoint_is_not_resumed(config, trained, tmp_path, capsys, change, said):
    other = change(config, tmp_path / 'other.py')
    told = refusal(capsys, 'train', other, '--work-dir', tmp_path / 'work', '--resume',
                   trained / 'iter_4.pth')  # fmt: skip
    assert re.search(said, told), told
    assert not list((tmp_path / 'work').glob('*.pth'))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda config, target: write_dual(config), 'does not belong to the config'),
        (renamed_classes, 'trained on the classes grass, road, roof'),
    ],
)
def test_a_foreign_checkpoint_is_not_tested(config, trained, tmp_path, capsys, change, said):
    other = change(config, tmp_path / 'other.py')
    told = refusal(capsys, 'test', other, trained / 'iter_4.pth', '--work-dir', tmp_path / 'work')
    assert said in told


def test_load_from_of_another_network_is_told(config, tmp_path, capsys):
    torch.save({'fc.weight': torch.zeros(2, 2)}, tmp_path / 'other.pth')
    told = refusal(capsys, 'train', config, '--work-dir', tmp_path / 'work', '--cfg-options',
                   f'load_from={tmp_path / "other.pth"}')  # fmt: skip
    assert 'Not one weight' in told and 'other.pth' in told


def test_load_from_of_one_network_is_taken(config, tmp_path):
    """By the hook that checks it too, as by the model."""
    network = MODELS.build(Config.fromfile(config).model.student)
    torch.save(network.state_dict(), tmp_path / 'stock.pth')
    run_here('train', config, '--work-dir', tmp_path / 'work', '--cfg-options',
             f'load_from={tmp_path / "stock.pth"}', 'train_cfg.max_iters=1',
             'optim_wrapper.optimizer.lr=0')  # fmt: skip
    trained = torch.load(tmp_path / 'work' / 'iter_1.pth', weights_only=True)['state_dict']
    name = 'decode_head.conv_seg.weight'
    for place in ('student.', 'teacher.'):
        assert torch.equal(trained[place + name], network.state_dict()[name])


@pytest.mark.parametrize(
    ('option', 'said'),
    [('intervall=2', "no settings ['intervall']"), ('save_best=mDice', "names ['mDice'], but")],
)
def test_settings_of_checkpoints_that_mean_nothing_are_told(config, tmp_path, capsys, option, said):
    told = refusal(capsys, 'train', config, '--work-dir', tmp_path / 'work', '--cfg-options',
                   f'default_hooks.checkpoint.{option}', 'train_cfg.max_iters=1',
                   'train_cfg.val_interval=1', 'default_hooks.checkpoint.rule=greater')  # fmt: skip
    assert said in told


@pytest.mark.parametrize(
    'tool', ['train', 'resume', 'test', 'browse_dataset', 'predict', 'export_student']
)
@pytest.mark.parametrize('damage', [cut_off, not_a_number])
def test_a_damaged_checkpoint_is_one_sentence_everywhere(
    config, trained, tmp_path, capsys, tool, damage
):
    bad = tmp_path / 'bad.pth'
    shutil.copy(trained / 'iter_4.pth', bad)
    if damage is not_a_number:
        state = torch.load(bad, weights_only=True)
        next(iter(state['state_dict'].values())).fill_(torch.nan)
        torch.save(state, bad)
    else:
        damage(bad)
    words = {
        'train': ['train', config, '--work-dir', tmp_path / 'w', '--cfg-options',
                  f'load_from={bad}'],
        'resume': ['train', config, '--work-dir', tmp_path / 'w', '--resume', bad],
        'test': ['test', config, bad, '--work-dir', tmp_path / 'w'],
        'predict': ['predict', config, bad, config.parent / 'img', '--out', tmp_path / 'p'],
        'export_student': ['export_student', config, bad, '--out', tmp_path / 'e'],
        'browse_dataset': ['browse_dataset', config, '--checkpoint', bad, '--out', tmp_path / 'b'],
    }[tool]  # fmt: skip
    assert str(bad) in refusal(capsys, *words)


# ------------------------------------------------------------------------------------- stopping


@HOOKS.register_module()
class SendSignal(Hook):
    """Sends this process a signal in the middle of a step, or of a validation."""

    def __init__(self, number, step, where='train'):
        self.number, self.step, self.where = number, step, where

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.where == 'train' and runner.iter + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.where == 'val' and runner.iter == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ('number', 'step', 'where', 'workers'),
    [
        (signal.SIGTERM, 3, 'train', 2),
        (signal.SIGINT, 1, 'train', 0),
        (signal.SIGTERM, 2, 'val', 0),
    ],
)
def test_a_signal_lets_the_step_end_and_writes_a_checkpoint(
    config, trained, tmp_path, capsys, number, step, where, workers
):
    work, before = tmp_path / 'work', signal.getsignal(number)
    hook = f"custom_hooks.1=dict(type='SendSignal', number={int(number)}, step={step})"
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(
        config.read_text().replace(
            'custom_hooks = [',
            f"custom_hooks = [dict(type='SendSignal', number={int(number)}, step={step}, "
            f"where='{where}'), ",
        )
    )
    options = (*OPTIONS, f'train_dataloader.num_workers={workers}')
    with pytest.raises(SystemExit) as left:
        run_here('train', leaf, '--work-dir', work, '--cfg-options', *options)
    assert left.value.code == 128 + number
    assert find_checkpoint(work).path.name == f'iter_{step}.pth'
    assert signal.getsignal(number) is before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []), 'no signal stays blocked'
    log = next(work.glob('*/*.log')).read_text()
    assert f'stopped after iteration {step}' in log and '--resume goes on from there' in log
    run_here('train', config, '--work-dir', work, '--resume', '--cfg-options', *OPTIONS)
    assert same(weights(trained / 'iter_4.pth'), weights(work / 'iter_4.pth'))
    names = [sorted(path.name for path in folder.glob('*.pth')) for folder in (trained, work)]
    assert names[0] == names[1], hook


def test_workers_outlive_a_signal_to_the_whole_group(config, tmp_path):
    """From a terminal and from Slurm, data loading workers get it too."""
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(
        config.read_text().replace(
            'custom_hooks = [',
            "custom_hooks = [dict(type='SignalToGroup'), ",
        )
    )

    log = tmp_path / 'log'
    assert exit_code(train_with_workers, leaf, tmp_path / 'work', log=log) == 143, log.read_text()
    assert find_checkpoint(tmp_path / 'work').path.name == 'iter_5.pth'


def train_with_workers(config, work):
    run_here('train', config, '--work-dir', work, '--cfg-options',
             'train_dataloader.num_workers=2', 'train_cfg.max_iters=40')  # fmt: skip


@HOOKS.register_module()
class SignalToGroup(Hook):
    """Sends SIGTERM to this process and all its children in step 5."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == 5:
            os.killpg(os.getpgrp(), signal.SIGTERM)


class Killed(BaseException):
    """What no code handles, as if the process were gone."""


def test_a_killed_validation_is_made_up(config, trained, tmp_path, monkeypatch):
    work = tmp_path / 'work'

    def die(self):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TeacherStudentValLoop, 'run', die)
        with pytest.raises(Killed):
            run_here('train', config, '--work-dir', work, '--cfg-options', *OPTIONS)
    assert [path.name for path in work.glob('*.pth')] == ['iter_2.pth']
    steps = []
    validate = TeacherStudentValLoop.run
    monkeypatch.setattr(
        TeacherStudentValLoop, 'run', lambda self: steps.append(self.runner.iter) or validate(self)
    )
    run_here('train', config, '--work-dir', work, '--resume', '--cfg-options', *OPTIONS)
    assert steps == [2, 4]
    assert {p.name for p in work.glob('*.pth')} == {p.name for p in trained.glob('*.pth')}
    for path in work.glob('*.pth'):
        assert same(weights(trained / path.name), weights(path))


def test_a_failing_write_leaves_what_was_there(config, tmp_path, monkeypatch, capsys):
    written = safe_checkpoint_hook.write_atomic

    def full(path, contents, **options):
        if path.name == 'iter_4.pth':
            raise OSError(28, 'No space left on device')
        written(path, contents, **options)

    monkeypatch.setattr(safe_checkpoint_hook, 'write_atomic', full)
    told = refusal(capsys, 'train', config, '--work-dir', tmp_path, '--cfg-options', *OPTIONS)
    assert 'iter_4.pth cannot be written (No space left on device)' in told
    assert (tmp_path / 'iter_2.pth').is_file()


# ---------------------------------------------------------------------------------------- locks


def in_another_process(action):
    """Run an action in a fork; its answer."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(action()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def try_lock(lock):
    def attempt():
        try:
            with held(lock, 'A training in work'):
                return 'free'
        except InUseError as error:
            return error

    return in_another_process(attempt)


def test_a_lock_keeps_others_out_while_its_process_lives(tmp_path):
    lock = tmp_path / '.lock'
    with held(lock, 'A training in work'):
        said = try_lock(lock)
        assert 'A training in work is already under way' in said and str(os.getpid()) in said
    assert try_lock(lock) == 'free' and not lock.exists()


def test_a_crashed_process_leaves_no_lock(tmp_path):
    lock = tmp_path / '.lock'

    def crash():
        with held(lock, 'x'):
            os._exit(1)

    in_another_process(crash)
    assert lock.exists()
    assert try_lock(lock) == 'free'


def test_a_second_training_in_a_work_folder_is_refused(config, tmp_path, capsys):
    with held(tmp_path / 'work' / '.lock', 'x'):

        def attempt():
            try:
                run_here('train', config, '--work-dir', tmp_path / 'work')
            except SystemExit as left:
                return left.code

        assert in_another_process(attempt) == '2'
    assert not list((tmp_path / 'work').glob('*.pth'))


# ------------------------------------------------------------------------------------------ NaN


@HOOKS.register_module()
class Spoil(Hook):
    """Makes a weight, or the image of a batch, infinite at a step."""

    def __init__(self, what, step):
        self.what, self.step = what, step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 != self.step:
            return
        if self.what == 'weight':
            next(runner.model.student.parameters()).data[0] = torch.inf
        else:
            runner.model.student.decode_head.loss_decode.loss_weight = torch.nan


@pytest.mark.parametrize(('what', 'said'), [('weight', 'not finite'), ('loss', 'not finite')])
def test_a_training_that_diverges_stops_and_keeps_the_good_checkpoint(
    config, tmp_path, capsys, what, said
):
    leaf = tmp_path / 'leaf.py'
    text = config.read_text()
    leaf.write_text(
        text.replace(
            'custom_hooks = [', f"custom_hooks = [dict(type='Spoil', what='{what}', step=3), "
        )
    )
    told = refusal(capsys, 'train', leaf, '--work-dir', tmp_path / 'work', '--cfg-options',
                   *OPTIONS, 'train_cfg.max_iters=20')  # fmt: skip
    assert said in told and 'step 3' in told
    assert re.search(r'tile_\d\.png', told) and 'lr' in told
    assert find_checkpoint(tmp_path / 'work').path.name == 'iter_2.pth'


def test_steps_that_are_not_finite_now_and_then_are_let_be():
    from types import SimpleNamespace

    from mmseg_semi_rs.engine.hooks import FiniteGuardHook
    from mmseg_semi_rs.utils.errors import RunStoppedError

    hook = FiniteGuardHook(patience=2, interval=1)
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), iter=0, max_iters=100)

    def step(value):
        hook.after_train_iter(runner, runner.iter, {}, {'loss': torch.tensor(value)})
        runner.iter += 1

    for value in (1.0, torch.nan, 1.0, torch.inf, 2.0, torch.nan):
        step(value)
    with pytest.raises(RunStoppedError, match='since step 6'):
        step(torch.nan)

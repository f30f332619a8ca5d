# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""train.py and test.py: bad input in one sentence, --check, training, resume, several processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch.distributed.run import get_args_parser

from mmseg_semi_rs.engine import launch
from mmseg_semi_rs.utils.command_line import Faults
from tests._support.processes import ROOT, on_ranks, run
from tests._support.tiny_training import run_here, run_shell, write_dual, write_training


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_training(tmp_path_factory.mktemp('training'))


def trainable(**changes: object) -> Config:
    cfg = Config(
        dict(
            work_dir='work',
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0)),
            train_dataloader=dict(batch_size=16, sampler=dict(source_ratio=[1, 1])),
            train_cfg=dict(max_iters=100),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


# ---------------------------------------------------------------- one sentence instead of a trace


def edited(config: Path, tmp_path: Path, old: str, new: str) -> Path:
    text = config.read_text()
    assert old in text
    (tmp_path / 'edited.py').write_text(text.replace(old, new))
    return tmp_path / 'edited.py'


FAULTS = [
    (["data_root='ROOT'", "data_root='/nowhere/potsdam'"], r'/nowhere/potsdam.*dataset_converters'),
    (["ann_file='labelled.txt'", "ann_file='quarter.txt'"], r'labelled.*quarter\.txt.*make_splits'),
    (["ann_file='val.txt'", "ann_file='v.txt'"], r'val_dataloader.*v\.txt.*does not exist'),
    (
        ["images = dict(img_path='img')", "images = dict(img_path='im')"],
        r'unlabelled.*img_path.*im',
    ),
    (['load_from = None', "load_from = 'start.pth'"], r'start\.pth \(load_from\) does not exist'),
    (
        ['student=dict(', "student=dict(init_cfg=dict(type='Pretrained', checkpoint='w/a.pth'),"],
        r'w/a\.pth \(model\.student\.init_cfg\.checkpoint\) does not exist',
    ),
    (['source_ratio=[1, 1]', 'source_ratio=[1, 2]'], r'batch_size=4.*source_ratio=\[1, 2\]'),
    (
        ["type='SubsetIoUMetric'", "type='SubsetIoUMetric', mean_over=['car']"],
        r"\['car'\].*'grass'",
    ),
    (['conf_thresh=0.4', 'conf_thresh=1.4'], r'conf_thresh=1\.4 must be within'),
    (
        ["type='MeanTeacherHook'", "type='MeanTeacherHok'"],
        'MeanTeacherHok is not in the .* registry',
    ),
    (['base_channels=4', 'base_chanels=4'], r"unexpected keyword argument 'base_chanels': correct"),
    (['depth=18', 'depth=19'], r'invalid depth 19 for resnet: correct the config'),
    ([', strong=strong)', ')'], r'the views .*"weak" and "strong" are needed'),
]


@pytest.mark.parametrize(('edit', 'sentence'), FAULTS)
def test_bad_input_is_one_sentence_and_exit_code_2(
    config, tmp_path, monkeypatch, capsys, edit, sentence
):
    old, new = (word.replace('ROOT', str(config.parent)) for word in edit)
    wrong = edited(config, tmp_path, old, new)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        run_here('train', wrong, '--work-dir', tmp_path / 'work')
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert left.value.code == 2
    assert len(told) == 1
    assert re.search(sentence, told[0]), told[0]


def test_traceback_shows_where(config, tmp_path):
    with pytest.raises(FileNotFoundError):
        run_here('train', tmp_path / 'none.py', '--traceback')


def test_missing_config_names_its_neighbours(config):
    with pytest.raises(FileNotFoundError, match=r'typo\.py does not exist: .* has .*tiny\.py'):
        launch.load_config(config.parent / 'typo.py')


@pytest.mark.parametrize(
    ('text', 'error', 'sentence'),
    [
        ("_base_ = './gone.py'", FileNotFoundError, 'names a base that does not exist'),
        ('model = dict(', ValueError, r'cannot be read \(SyntaxError'),
        ('model = dict(type=nothing)', ValueError, r'cannot be read \(NameError'),
    ],
)
def test_unreadable_config_is_one_sentence(tmp_path, text, error, sentence):
    (tmp_path / 'bad.py').write_text(text)
    with pytest.raises(error, match=sentence) as caught:
        launch.load_config(tmp_path / 'bad.py')
    assert '\n' not in str(caught.value)


def test_configs_of_the_package_are_read_by_the_names_that_the_pages_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'configs/rsmtdf/dinov2_clip_potsdam_1-4.py'
    assert launch.load_config(name).filename == str(ROOT / name)
    (tmp_path / 'configs' / 'rsmtdf').mkdir(parents=True)
    (tmp_path / name).write_text('own = True\n')
    assert launch.load_config(name).own  # one that is here comes first


def test_option_that_does_not_fit_is_told(config):
    with pytest.raises(ValueError, match=r'--cfg-options custom_hooks\.7\.interval=2 does not fit'):
        launch.load_config(config, {'custom_hooks.7.interval': 2})
    with pytest.raises(ValueError, match='use the dotted keys of the config'):
        launch.load_config(config, {'custom_hooks.0': [1]})


def test_foreign_errors_and_running_trainings_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), Faults():
        _ = 1 / 0
    with pytest.raises(ValueError, match='invalid literal'), Faults():
        int('x')  # raised in a test module: not by the package
    with pytest.raises(ValueError, match='OWN conf'), Faults() as faults:
        faults.begun()
        launch.set_amp(trainable(**{'optim_wrapper.type': 'OWN conf'}), True)
    with pytest.raises(SystemExit), Faults():
        launch.set_amp(trainable(**{'optim_wrapper.type': 'OWN conf'}), True)


# -------------------------------------------------------------------------- the config's settings


def test_work_dir_is_the_name_of_the_config(config):
    assert launch.load_config(config).work_dir == 'work_dirs/tiny'
    assert launch.load_config(config, work_dir='elsewhere').work_dir == 'elsewhere'
    assert launch.load_config(config, seed=7).randomness.seed == 7


def test_amp_without_gpu_trains_in_float32_and_warns(monkeypatch):
    monkeypatch.setattr(launch, 'has_gpu', lambda: False)
    cfg = trainable()
    assert 'float32' in launch.set_amp(cfg, True)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    chosen = trainable(
        **{'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'}
    )
    assert 'float32' in launch.set_amp(chosen, False)
    assert chosen.optim_wrapper == trainable().optim_wrapper
    assert launch.set_amp(trainable(), False) is None


def test_I12_amp_on_a_gpu_is_bfloat16_without_a_live_grad_scaler(monkeypatch):
    """A scaler reads its found_inf on the host in every step; bfloat16 needs none."""
    monkeypatch.setattr(launch, 'has_gpu', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (9, 0))
    cfg = trainable()
    cfg.model = dict(head=dict(teachers=dict(a=dict(type='FrozenTeacher'))))
    assert launch.set_amp(cfg, True) is None
    assert cfg.model['head']['teachers']['a']['dtype'] == 'bfloat16'
    assert cfg.optim_wrapper.dtype == 'bfloat16'
    assert cfg.optim_wrapper.loss_scale == dict(enabled=False)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (7, 0))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda *_: 'V100')
    old = trainable()
    assert 'float16' in launch.set_amp(old, True)
    assert (old.optim_wrapper.dtype, old.optim_wrapper.loss_scale) == ('float16', 'dynamic')


def test_resume_finds_the_latest_checkpoint_of_the_work_folder(tmp_path):
    cfg = trainable(work_dir=str(tmp_path), load_from='pretrained.pth')
    assert 'no checkpoint' in launch.set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'pretrained.pth')
    torch.save({'meta': {}, 'state_dict': {}, 'optimizer': {}}, tmp_path / 'iter_8.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_8.pth')
    assert 'iter_8.pth, the newest' in launch.set_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'iter_8.pth'))
    with pytest.raises(FileNotFoundError, match=r'--resume .*iter_9\.pth does not exist'):
        launch.set_resume(cfg, str(tmp_path / 'iter_9.pth'))


def test_R26_the_effective_batch_is_told():
    cfg = trainable(**{'optim_wrapper.accumulative_counts': 2})
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=64)
    text = launch.batch_summary(cfg, 4)
    assert '= 128 images, 100 iterations' in text
    assert '64 labelled + 64 unlabelled' in text
    assert 'written for 64' in text
    cfg.auto_scale_lr.enable = True
    assert 'scaled by 2' in launch.batch_summary(cfg, 4)
    loader = cfg.train_dataloader
    loader.sampler, loader.dataset = dict(type='SemiSampler'), dict(unlabelled=dict())
    assert 'labelled' not in launch.batch_summary(cfg, 1)
    loader.dataset.unlabelled.type = 'PotsdamDataset'
    assert '(16 labelled + 16 unlabelled)' in launch.batch_summary(cfg, 1)


def test_missing_weights_say_where_they_come_from():
    cfg = trainable()
    cfg.model = dict(backbone=dict(type='DINOv2', arch='small', checkpoint='w/dinov2.pth'))
    with pytest.raises(FileNotFoundError, match=r'w/dinov2\.pth.*facebookresearch.*Apache-2\.0'):
        launch.check_paths(cfg, [])
    for elsewhere in ('torchvision://resnet50', 'hf-hub:timm/x', 'https://host/a.pth', 'openai'):
        cfg.model.backbone.checkpoint = elsewhere
        assert launch.check_paths(cfg, []) == []


def test_launcher_without_its_environment_is_told(monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ValueError, match=r"'RANK'.*dist_train\.sh"):
        launch.set_launcher(trainable(), 'pytorch')


# ------------------------------------------------------------------------------------ end to end


def losses_of(work_dir: Path) -> dict[int, float]:
    found = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                found[entry['step']] = entry['loss']
    return found


def test_check_looks_at_everything_and_writes_a_picture_alone(
    config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Runner, 'save_checkpoint', None)
    often = 'default_hooks.checkpoint.interval=1'
    run_here('train', config, '--check', '--amp', '--cfg-options', often)
    told = capsys.readouterr().out
    for part in (
        'training in float32',
        'labelled           2 images',
        'unlabelled         2 images',
        'grass',
        'student',
        'trainable',
        'Effective batch: 4 per process x 1 process (2 labelled + 2 unlabelled) = 4 images',
        'decode.loss_ce',
        'loss_unsup',
        'peak process memory',
    ):
        assert part in told, part
    assert told.count('val.txt): 3 images') == 1  # validation and test have the same list
    written = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert [path.name for path in written] == ['first_batch.png']
    assert str(written[0].relative_to(tmp_path)) in told


def test_check_reads_the_labels(config, tmp_path, monkeypatch, capsys):
    """A label outside the classes stops --check; without the check the step would take it."""
    shutil.copytree(config.parent, tmp_path / 'copy')
    from PIL import Image

    label = tmp_path / 'copy' / 'ann' / 'tile_0.png'
    Image.open(label).point(lambda value: 9 if value == 2 else value).save(label)
    copied = edited(config, tmp_path, str(config.parent), str(tmp_path / 'copy'))
    with pytest.raises(SystemExit):
        run_here('train', copied, '--check')
    assert 'tile_0.png' in capsys.readouterr().err


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory) -> Path:
    """A finished training of 4 steps; the work folder."""
    work_dir = tmp_path_factory.mktemp('work')
    run_here('train', config, '--work-dir', work_dir)
    return work_dir


def test_training_leaves_checkpoints_and_says_its_batch(trained):
    assert {path.name for path in trained.glob('*.pth')} == {'iter_2.pth', 'iter_4.pth'}
    log = next(trained.glob('*/*.log')).read_text()
    assert 'Effective batch: 4 per process x 1 process' in log
    assert sorted(losses_of(trained)) == [1, 2, 3, 4]


def test_the_console_is_short_and_says_what_comes_next(config, tmp_path, capsys):
    work = tmp_path / 'work'
    images = f'image_dir={tmp_path / "mine"}'
    # mmengine's own constructor tells the rate of each parameter
    rates = 'optim_wrapper.paramwise_cfg.bias_lr_mult=2'
    own = 'optim_wrapper.constructor=DefaultOptimWrapperConstructor'
    run_here('train', config, '--work-dir', work, '--cfg-options', images, rates, own)
    told = capsys.readouterr().out.splitlines()
    assert len(told) < 30
    steps = [line for line in told if line.startswith('step ')]
    assert len(steps) == 4
    assert re.match(
        r'step 1 of 4: loss \d+\.\d+, \d+\.\d\d s a step, about 0:00:\d\d left', steps[0]
    )
    (score,) = [line for line in told if line.startswith('validation at step 4, 3 images: mIoU ')]
    assert 'teacher' in score and 'student' in score and 'road' in score
    asked = told.index('next:')
    named = [str(config), str(work / 'iter_4.pth'), str(tmp_path / 'mine')]
    assert told[asked + 1].split()[-6:-3] == named
    assert [line.split()[1] for line in told[asked + 1 :]] == [
        f'tools/{name}.py' for name in ('predict', 'test', 'report', 'autolabel')
    ]
    assert told[-1].split()[-1] == str(work / 'labelled_all')
    log = next(work.glob('*/*.log')).read_text()
    assert 'Config:' in log and 'Hooks will be executed' in log and 'per class results' in log


def test_a_bar_replaces_the_lines_on_a_terminal(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TTY_COMPATIBLE', '1')
    monkeypatch.setenv('FORCE_COLOR', '1')
    run_here('train', config, '--work-dir', tmp_path / 'work')
    told = capsys.readouterr().out
    assert 'training, loss' in told and '4/4' in told
    assert 'step 1 of 4' not in told


def test_I9_resume_goes_on_with_the_same_losses(config, trained, tmp_path):
    shutil.copy(trained / 'iter_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    run_here('train', config, '--work-dir', tmp_path, '--resume')
    whole, resumed = losses_of(trained), losses_of(tmp_path)
    assert sorted(resumed) == [3, 4]
    assert resumed == {step: whole[step] for step in (3, 4)}


def test_both_networks_are_evaluated_or_the_named_one(config, trained, tmp_path, capsys):
    weights = torch.load(trained / 'iter_4.pth')
    weights['state_dict']['student.decode_head.conv_seg.bias'] += torch.tensor([0.0, 50.0, 0.0])
    checkpoint = tmp_path / 'student_says_road.pth'
    torch.save(weights, checkpoint)
    common = ['--work-dir', tmp_path]
    capsys.readouterr()
    run_here('test', config, checkpoint, '--json', tmp_path / 'both.json', '--out',
             tmp_path / 'ids', '--show-dir', tmp_path / 'shown', *common)  # fmt: skip
    told = capsys.readouterr().out
    run_here('test', config, checkpoint, '--json', tmp_path / 'student.json', '--predict-on',
             'student', *common)  # fmt: skip
    both = json.loads((tmp_path / 'both.json').read_text())
    student = json.loads((tmp_path / 'student.json').read_text())
    assert both['mIoU'] == both['teacher/mIoU']
    for name in ('mIoU', 'student/mIoU', 'ECE'):
        assert re.search(rf'(^|, ){name} {both[name]:.2f}(, |$)', told, re.MULTILINE), name
    assert 'prefix' not in told
    assert student['mIoU'] == both['student/mIoU']
    assert student['IoU.grass'] == 0 != both['teacher/IoU.grass']
    assert {path.name for path in (tmp_path / 'ids').iterdir()} == {
        'tile_4.png',
        'tile_5.png',
        'tile_6.png',
    }
    pictures = len(list((tmp_path / 'shown').rglob('*.png')))
    assert pictures in (2, 3)  # onedl-mmsegmentation draws the first image of each batch


def test_C14_C23_two_students_are_trained_and_tested_from_one_checkpoint(config, tmp_path, capsys):
    dual = write_dual(config)
    run_here('train', dual, '--work-dir', tmp_path)
    found = {}
    for name in (None, 'a', 'b', 'fused', 'teacher'):
        file = tmp_path / f'{name}.json'
        chosen = ['--predict-on', name] if name else []
        arguments = [dual, tmp_path / 'iter_4.pth', '--json', file, '--work-dir', tmp_path, *chosen]
        if name == 'teacher':
            with pytest.raises(SystemExit):
                run_here('test', *arguments)
        else:
            run_here('test', *arguments)
            found[name] = json.loads(file.read_text())
    assert "'teacher' is none of the networks of the model: a, b, fused" in capsys.readouterr().err
    assert found[None]['mIoU'] == found[None]['fused/mIoU'] == found['fused']['mIoU']
    assert found['a']['mIoU'] == found[None]['a/mIoU']
    assert found['b']['mIoU'] == found[None]['b/mIoU']


def test_C22_what_is_selected_on_and_what_is_reported_are_two_lists(config, trained, tmp_path):
    (config.parent / 'test.txt').write_text('tile_6\n')
    figures = {}
    for name in ('val', 'test'):
        leaf = tmp_path / f'{name}.py'
        chosen = f"test_dataloader = dict(dataset=dict(ann_file='{name}.txt'))"
        leaf.write_text(f"_base_ = r'{config}'\n{chosen}\n")
        run_here('test', leaf, trained / 'iter_4.pth', '--json', tmp_path / f'{name}.json',
                 '--out', tmp_path / name, '--work-dir', tmp_path / 'work')  # fmt: skip
        figures[name] = json.loads((tmp_path / f'{name}.json').read_text())['mIoU']
    assert figures['val'] != figures['test']
    assert [path.name for path in (tmp_path / 'test').iterdir()] == ['tile_6.png']


def test_testing_needs_no_weight_file(config, trained, tmp_path):
    """R16: the pretrained weights that the training started from are not looked for."""
    old = 'student=dict('
    new = "student=dict(init_cfg=dict(type='Pretrained', checkpoint='gone.pth'),"
    wrong = edited(config, tmp_path, old, new)
    run_here('test', wrong, trained / 'iter_4.pth', '--work-dir', tmp_path / 'work')


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['missing.pth'], r'missing\.pth does not exist'),
        (['CHECKPOINT', '--cfg-options', 'test_dataloader=None'], 'has no test_dataloader'),
    ],
)
def test_bad_input_of_test_is_one_sentence(config, trained, capsys, arguments, sentence):
    arguments = [str(trained / 'iter_4.pth') if a == 'CHECKPOINT' else a for a in arguments]
    with pytest.raises(SystemExit):
        run_here('test', config, *arguments)
    assert re.search(sentence, capsys.readouterr().err)


def test_two_cpu_processes_train(config, tmp_path):
    words = ('train', config, '--work-dir', tmp_path / 'two', '--launcher', 'pytorch')
    on_ranks(2, run_here, *words, folder=tmp_path)
    log = next((tmp_path / 'two').glob('*/*.log')).read_text()
    assert 'x 2 processes (4 labelled + 4 unlabelled) = 8 images' in log
    assert (tmp_path / 'two' / 'iter_4.pth').is_file()


def test_two_cpu_processes_R15_test_as_one(config, trained, tmp_path):
    words = ('test', config, trained / 'iter_4.pth', '--work-dir', tmp_path, '--json')
    run_here(*words, tmp_path / 'one.json')
    on_ranks(2, run_here, *words, tmp_path / 'two.json', '--launcher', 'pytorch', folder=tmp_path)
    one = json.loads((tmp_path / 'one.json').read_text())
    assert json.loads((tmp_path / 'two.json').read_text()) == one


@pytest.mark.parametrize(
    ('tool', 'words'),
    [('train', ['c.py', '2', '--resume']), ('test', ['c.py', 'a.pth', '2', '--json', 'x'])],
)
def test_shell_tools_start_what_torchrun_takes(tmp_path, monkeypatch, tool, words):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv('PYTHON', str(python))
    done = run_shell(f'dist_{tool}', *words, folder=tmp_path)
    first, module, *rest = done.stdout.split()
    assert (first, module) == ('-m', 'torch.distributed.run')
    started = get_args_parser().parse_args(rest)
    assert (started.nproc_per_node, started.nnodes, started.node_rank) == ('2', '1', 0)
    assert Path(started.training_script).resolve() == ROOT / 'tools' / f'{tool}.py'
    before, after = words[: words.index('2')], words[words.index('2') + 1 :]
    assert started.training_script_args == [*before, '--launcher', 'pytorch', *after]


@pytest.mark.slow
def test_the_command_that_users_type_tells_bad_input_without_a_trace(tmp_path):
    command = [sys.executable, str(ROOT / 'tools' / 'train.py'), 'configs/nothing.py']
    outcome = run(command, cwd=tmp_path)
    assert outcome.returncode == 2
    assert outcome.stdout.strip().splitlines()[-1].startswith('error: The config configs/nothing')
    assert 'Traceback' not in outcome.stdout


def test_shell_tools_say_how_they_are_used(tmp_path):
    for tool in ('dist_train', 'dist_test', 'slurm_train', 'slurm_test'):
        outcome = run_shell(tool, folder=tmp_path)
        assert outcome.returncode == 2
        assert outcome.stderr.startswith('usage:')


@pytest.mark.parametrize(('code', 'requeue'), [(143, True), (143, False), (0, True), (2, True)])
def test_slurm_asks_for_a_signal_in_time_and_requeues_what_it_stopped(
    tmp_path, monkeypatch, code, requeue
):
    for name in ('srun', 'scontrol'):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n'
            + (f'exit {code}\n' if name == 'srun' else '')
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('SLURM_JOB_ID', '77')
    monkeypatch.setenv('REQUEUE', str(int(requeue)))
    outcome = run_shell('slurm_train', 'gpu', 'name', 'c.py', folder=tmp_path)
    assert outcome.returncode == code
    calls = (tmp_path / 'calls').read_text().splitlines()
    assert '--signal=TERM@180' in calls[0]
    assert ('--resume' in calls[0]) is requeue
    assert calls[1:] == (['scontrol requeue 77'] if code == 143 and requeue else [])


def test_slurm_hands_a_test_over(tmp_path, monkeypatch):
    (tmp_path / 'srun').write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    monkeypatch.setenv('GPUS', '2')
    words = ('gpu', 'name', 'c.py', 'c.pth', '--tta')
    outcome = run_shell('slurm_test', *words, folder=tmp_path)
    assert outcome.returncode == 0
    assert '-p gpu --job-name=name --gres=gpu:2 --ntasks=2 --ntasks-per-node=2' in outcome.stdout
    assert outcome.stdout.strip().endswith('test.py c.py c.pth --launcher slurm --tta')


def test_output_to_a_file_of_few_characters_is_no_error(tmp_path, monkeypatch):
    with (tmp_path / 'log.txt').open('w', encoding='cp1252') as log:
        monkeypatch.setattr(sys, 'stdout', log)
        with Faults():
            print('größe ━━ ✓')
    assert (tmp_path / 'log.txt').read_text(encoding='cp1252') == 'größe ?? ?\n'

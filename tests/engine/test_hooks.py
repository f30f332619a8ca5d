# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
import math
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import CheckpointLoader, Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_semi_rs.engine import MeanTeacherHook, MergedParamGroupsConstructor
from mmseg_semi_rs.engine.pseudo_label_counts import count_pseudo_labels, summarise_counts
from mmseg_semi_rs.models.segmentors import MeanTeacherSegmentor
from mmseg_semi_rs.structures import PseudoLabel
from tests._support.networks import NoHostSync
from tests._support.tiny_training import config, train, write_dual, write_training


@pytest.fixture
def tiny(tmp_path):
    return write_training(tmp_path / 'data')


@pytest.mark.parametrize('burn_in', [0, 3])
def test_teacher_lags_behind_the_student_by_the_published_schedule(tiny, tmp_path, burn_in):
    averages, students = [], []
    original = MeanTeacherHook.after_train_iter

    def spy(self, runner, *args, **kwargs):
        students.append(runner.model.student.backbone.conv1.weight.detach().clone())
        original(self, runner, *args, **kwargs)
        averages.append(runner.model.teacher.backbone.conv1.weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeanTeacherHook, 'after_train_iter', spy)
        options = {'model.semi_train_cfg.unsup_start': burn_in}
        train(config(tiny, tmp_path / 'run', iters=4, **options))
    expected = students[0]
    for t, student in enumerate(students):
        ratio = min(1 - 1 / (t + 1), 0.996)
        expected = ratio * expected + (1 - ratio) * student
        torch.testing.assert_close(averages[t], expected)
    assert not torch.equal(averages[-1], students[-1])


@pytest.fixture
def momenta(monkeypatch):
    """The momenta of all updates of the average."""
    used = []
    original = MeanTeacherSegmentor.update_teacher

    def spy(self, momentum):
        used.append(momentum)
        original(self, momentum)

    monkeypatch.setattr(MeanTeacherSegmentor, 'update_teacher', spy)
    return used


def test_half_life_is_the_share_over_which_a_students_weight_halves(tiny, tmp_path, momenta):
    hook = dict(type='MeanTeacherHook', half_life=0.5, interval=2, warmup=False)
    train(config(tiny, tmp_path / 'run', iters=8, custom_hooks=[hook]))
    # 0.5 * 8 iterations are two updates, by which the weight of a student halves
    assert len(momenta) == 4 and momenta[0] ** 2 == pytest.approx(0.5)
    assert set(momenta) == {0.5 ** (2 / (0.5 * 8))}
    hook = dict(type='MeanTeacherHook', half_life=0.1)
    momenta.clear()
    train(config(tiny, tmp_path / 'warm', iters=4, custom_hooks=[hook]))
    assert momenta == pytest.approx([0, *[0.5 ** (1 / (0.1 * 4))] * 3]), 'the cap of the warm-up'


def test_a_loaded_average_goes_on_and_a_fresh_one_is_warmed_up(tiny, tmp_path, momenta):
    first, _ = train(config(tiny, tmp_path / 'first', iters=3))
    assert momenta == pytest.approx([0, 1 / 2, 2 / 3])
    teacher = {k: v.clone() for k, v in first.model.teacher.state_dict().items()}
    momenta.clear()
    options = {'load_from': str(tmp_path / 'first' / 'iter_3.pth')}
    options['default_hooks.checkpoint.interval'] = 1
    second, _ = train(config(tiny, tmp_path / 'second', iters=2, **options))
    assert momenta == [0.996] * 2
    one = CheckpointLoader.load_checkpoint(str(tmp_path / 'second' / 'iter_1.pth'))['state_dict']
    name = 'backbone.conv1.weight'
    expected = 0.996 * teacher[name] + 0.004 * one[f'student.{name}']
    torch.testing.assert_close(one[f'teacher.{name}'], expected)
    momenta.clear()
    options.update(load_from=str(tmp_path / 'second' / 'iter_1.pth'), resume=True)
    resumed, _ = train(config(tiny, tmp_path / 'resumed', iters=2, **options))
    assert momenta == [0.996], 'a resumed training knows that the average was loaded'
    for key, value in second.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


def test_a_resumed_fresh_average_is_still_warmed_up(tiny, tmp_path, momenta):
    train(config(tiny, tmp_path / 'first', iters=3))
    momenta.clear()
    file = str(tmp_path / 'first' / 'iter_3.pth')
    train(config(tiny, tmp_path / 'second', iters=5, resume=True, load_from=file))
    assert momenta == pytest.approx([3 / 4, 4 / 5])


@pytest.mark.parametrize('interval', [1, 2])
def test_a_checkpoint_without_an_average_begins_one_at_its_student(
    tiny, tmp_path, momenta, monkeypatch, interval
):
    alone = config(tiny, tmp_path / 'alone', iters=3, custom_hooks=[], **{'model.ema': False})
    alone, _ = train(alone)
    student = {k: v.clone() for k, v in alone.model.student.state_dict().items()}
    said = []
    original = MeanTeacherSegmentor.make_pseudo_labels

    def spy(self, *args):
        said.append({k: v.clone() for k, v in self.teacher.state_dict().items()})
        return original(self, *args)

    monkeypatch.setattr(MeanTeacherSegmentor, 'make_pseudo_labels', spy)
    hook = dict(type='MeanTeacherHook', interval=interval)
    options = dict(load_from=str(tmp_path / 'alone' / 'iter_3.pth'), custom_hooks=[hook])
    train(config(tiny, tmp_path / 'run', iters=4, **options))
    assert all(torch.equal(value, student[key]) for key, value in said[0].items())
    assert momenta == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4] if interval == 1 else [0, 1 / 2])


@pytest.mark.parametrize(
    'settings, told',
    [
        (dict(gate=dict(type='SoftGate')), True),
        (dict(gate=dict(type='SoftGate'), unsup_start=0.5), False),
        (dict(conf_thresh=0.4), False),
    ],
)
def test_a_missing_burn_in_is_told_in_the_log(tiny, tmp_path, settings, told):
    def log(run, **options):
        cfg = config(tiny, tmp_path / run, iters=2, **options)
        cfg.model.semi_train_cfg = settings
        cfg.default_hooks.checkpoint.interval = 1
        train(cfg)
        return ''.join(file.read_text() for file in sorted((tmp_path / run).glob('*/*.log')))

    warning = 'set semi_train_cfg.unsup_start'
    assert (warning in log('run')) is told
    if told:
        file = str(tmp_path / 'run' / 'iter_1.pth')
        assert warning not in log('loaded', load_from=file)
        assert warning not in log('run', resume=True).rpartition('Going on from')[2]


def test_a_burn_in_without_an_end_stops_the_training(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=4, **{'model.semi_train_cfg.unsup_start': 4})
    with pytest.raises(ValueError, match=r'unsup_start=4 is not before .* max_iters=4'):
        train(cfg)


def test_I12_deferred_log_equals_the_immediate_one(tiny, tmp_path):
    curves = {}
    for kind in ('DeferredRuntimeInfoHook', 'RuntimeInfoHook'):
        cfg = config(tiny, tmp_path / kind, iters=5)
        cfg.default_hooks.runtime_info = dict(type=kind)
        cfg.default_hooks.logger.interval = 2
        _, losses = train(cfg)
        curves[kind] = list(losses)
    assert curves['DeferredRuntimeInfoHook'] == curves['RuntimeInfoHook']
    assert len(curves['RuntimeInfoHook']) == 5


def test_I12_losses_are_read_once_per_interval(tiny, tmp_path, monkeypatch):
    cfg = config(tiny, tmp_path / 'run', iters=4)
    cfg.default_hooks.logger.interval = 4
    cfg.default_hooks.checkpoint.interval = 4
    runner = Runner.from_cfg(cfg)
    seen = []
    original = type(runner.message_hub).update_scalar

    def spy(self, key, value, *args, **kwargs):
        if key == 'train/loss':
            seen.append((runner.iter, type(value)))
        return original(self, key, value, *args, **kwargs)

    monkeypatch.setattr(type(runner.message_hub), 'update_scalar', spy)
    runner.train()
    assert seen == [(3, float)] * 4


def test_resumed_log_has_no_gap_when_saving_between_two_logs(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=3)
    cfg.default_hooks.logger.interval = 50
    cfg.default_hooks.checkpoint.interval = 2
    train(cfg)
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'run' / 'iter_2.pth'))
    assert len(saved['message_hub']['log_scalars']['train/loss'].data[0]) == 2


def pseudo():
    labels = torch.tensor([[[0, 0, 1, 2]], [[1, 1, 1, 1]]])
    confidence = torch.tensor([[[0.9, 0.6, 0.9, 0.9]], [[0.9, 0.9, 0.2, 0.9]]])
    valid = torch.tensor([[[True, True, True, False]], [[True] * 4]])
    weight = ((confidence > 0.8) & valid).float()
    return PseudoLabel(labels, confidence, weight, valid)


def counted(pseudo, samples, classes='abc'):
    counts = count_pseudo_labels(pseudo, samples, len(classes))
    return summarise_counts({name: count.tolist() for name, count in counts.items()}, classes)


def test_pseudo_label_stats_are_the_counted_shares():
    truth = SegDataSample()
    truth.gt_sem_seg = PixelData(data=torch.tensor([[[0, 1, 2, 2]]]))
    stats = counted(pseudo(), [truth, SegDataSample()])
    assert stats['pseudo_kept'] == pytest.approx(5 / 7)
    assert stats['pseudo_confidence'] == pytest.approx((0.9 * 5 + 0.6 + 0.2) / 7)
    assert [stats[f'pseudo_share/{c}'] for c in 'abc'] == pytest.approx([1 / 5, 4 / 5, 0])
    assert [stats[f'pseudo_predicted/{c}'] for c in 'abc'] == pytest.approx([2 / 7, 5 / 7, 0])
    assert [stats[f'pseudo_kept_rate/{c}'] for c in 'ab'] == pytest.approx([1 / 2, 4 / 5])
    assert math.isnan(stats['pseudo_kept_rate/c'])
    assert stats['pseudo_accuracy'] == pytest.approx(1 / 3)
    assert stats['pseudo_accuracy_kept'] == pytest.approx(1 / 2)
    assert [stats[f'pseudo_precision/{c}'] for c in 'ab'] == pytest.approx([1, 0])
    assert math.isnan(stats['pseudo_precision/c'])
    assert [stats[f'pseudo_recall/{c}'] for c in 'abc'] == pytest.approx([1, 0, 0])


def test_recall_tells_the_class_that_a_high_accuracy_hides():
    truth = torch.zeros(1, 10, 10, dtype=torch.long)
    truth[:, 8:] = 1  # a fifth is road; all of it is seen, a twentieth of it kept
    weight = torch.ones(1, 10, 10)
    weight[:, 8:] = 0
    weight[:, 9, 9] = 1
    valid = torch.ones(1, 10, 10, dtype=torch.bool)
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=truth)
    stats = counted(PseudoLabel(truth, torch.ones(1, 10, 10), weight, valid), [sample])
    assert stats['pseudo_accuracy_kept'] == stats['pseudo_precision/b'] == 1
    assert stats['pseudo_recall/b'] == pytest.approx(1 / 20)
    assert stats['pseudo_recall/a'] == 1


def test_pseudo_label_stats_without_truth_claim_no_accuracy():
    stats = counted(pseudo(), [SegDataSample(), SegDataSample()])
    assert not [name for name in stats if re.search('accuracy|precision|recall', name)]


def test_I12_counting_makes_no_host_sync():
    with NoHostSync():
        count_pseudo_labels(pseudo(), [SegDataSample(), SegDataSample()], 3)


def test_logged_stats_are_of_all_steps_of_the_interval(tiny, tmp_path):
    """And the truth of unlabelled images reaches the weak views by today's transforms."""
    cfg = config(tiny, tmp_path / 'run', iters=4)
    cfg.model.semi_train_cfg.conf_thresh = 0.34
    cfg.custom_hooks.append(dict(type='PseudoLabelStatsHook', interval=2))
    unlabelled = cfg.train_dataloader.dataset.unlabelled
    unlabelled.data_prefix = cfg.both
    unlabelled.pipeline.insert(1, dict(type='LoadAnnotations'))
    steps = []
    original = MeanTeacherHook.after_train_iter

    def spy(self, runner, *args, **kwargs):
        steps.append(runner.model.last_step)
        original(self, runner, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeanTeacherHook, 'after_train_iter', spy)
        runner, _ = train(cfg)
    for when, interval in enumerate((steps[:2], steps[2:])):
        labels, weight, valid = (
            torch.cat([getattr(step.pseudo['student'], name) for step in interval])
            for name in ('labels', 'weight', 'valid')
        )
        truth = torch.cat([s.gt_sem_seg.data for step in interval for s in step.unlabelled])
        known = valid & (truth < 3)
        assert known.any()
        for number, name in enumerate(('grass', 'road', 'roof')):
            expected = {
                'share': weight[(labels == number) & valid].sum() / weight[valid].sum(),
                'predicted': ((labels == number) & valid).sum() / valid.sum(),
                'recall': weight[(labels == number) & (truth == number) & known].sum()
                / ((truth == number) & known).sum(),
            }
            for key, value in expected.items():
                logged = runner.message_hub.get_scalar(f'train/pseudo_{key}/{name}').data[0]
                assert len(logged) == 2
                assert logged[when] == pytest.approx(float(value)), (key, name)
    assert len({float(step.pseudo['student'].weight.sum()) for step in steps[:2]}) == 2


@pytest.mark.parametrize('write', [lambda tiny: tiny, write_dual])
def test_hooks_that_look_at_pseudo_labels_pass_over_supervised_steps(tiny, tmp_path, write):
    cfg = config(write(tiny), tmp_path / 'run', iters=2)
    cfg.train_dataloader.dataset.unlabelled = None
    cfg.train_dataloader.sampler.source_ratio = [1, 0]
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if 'student' in cfg.model]
    for hook in ('PseudoLabelStatsHook', 'SemiVisHook'):
        cfg.custom_hooks.append(dict(type=hook, interval=1))
    runner, _ = train(cfg)
    assert not runner.model.last_step.pseudo and not runner.model.last_step.unlabelled
    assert all('gt_sem_seg' in sample for sample in runner.model.last_step.labelled)
    assert not [key for key in runner.message_hub.log_scalars if 'pseudo' in key]


@pytest.mark.parametrize(
    'arguments',
    [
        dict(momentum=1.0),
        dict(momentum=-0.1),
        dict(momentum=0.996),
        dict(keep=1.0),
        dict(keep=-0.1),
        dict(interval=0),
        dict(half_life=0.0),
        dict(half_life=1.0),
    ],
)
def test_bad_hook_settings_are_told(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f'{name}={value}'):
        MeanTeacherHook(**arguments)


def test_momentum_is_the_share_of_the_new_weights_and_keep_that_of_the_old():
    for arguments, keep in (({}, 0.996), ({'momentum': 0.001}, 0.999), ({'keep': 0.98}, 0.98)):
        assert MeanTeacherHook(**arguments).keep == keep
    with pytest.raises(ValueError, match='say the same'):
        MeanTeacherHook(momentum=0.004, keep=0.996)


def test_an_average_that_outlasts_the_training_is_told(tiny, tmp_path):
    def log(name, **hook):
        hooks = [dict(type='MeanTeacherHook', **hook)]
        train(config(tiny, tmp_path / name, iters=2, custom_hooks=hooks))
        return ''.join(file.read_text() for file in (tmp_path / name).glob('*/*.log'))

    assert 'momentum 0.001), so that it reaches further back than the 2' in log('a', momentum=0.001)
    assert 'reaches further back' not in log('b', half_life=0.5)


def test_mean_teacher_hook_without_a_teacher_is_told(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=1)
    cfg.model = dict(cfg.model.student, data_preprocessor=dict(type='SegDataPreProcessor'))
    with pytest.raises(ValueError, match='remove the hook'):
        Runner.from_cfg(cfg).train()


def test_validation_reports_both_networks_and_a_plain_key(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=2)
    cfg.train_cfg.val_interval = 2
    cfg.default_hooks.checkpoint.update(save_best='mIoU')
    runner, _ = train(cfg)
    scalars = {key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items()}
    assert scalars['val/mIoU'] == scalars['val/teacher/mIoU']
    assert 'val/student/mIoU' in scalars
    assert list((tmp_path / 'run').glob('best_mIoU*.pth'))
    # save_best='auto' follows the first
    assert next(iter(runner.val_loop.run())) == 'aAcc'


def test_stock_loops_train_and_stock_samplers_are_refused(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'epochs', iters=2)
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
    cfg.log_processor = dict(by_epoch=True)
    runner, _ = train(cfg)
    steps = len(runner.train_dataloader)
    assert runner.iter == 2 * steps == runner.message_hub.get_info('iter') + 1
    assert 'train/loss_unsup' in runner.message_hub.log_scalars
    cfg = config(tiny, tmp_path / 'infinite', iters=2)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    with pytest.raises(ValueError, match=r'InfiniteSampler would put .* by chance'):
        train(cfg)


def test_the_loop_tests_every_network_of_a_checkpoint(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=2)
    runner, _ = train(cfg)
    expected = runner.val_loop.run()
    cfg.default_hooks.checkpoint.update(save_best='mIoU')
    cfg.load_from, cfg.test_cfg = str(tmp_path / 'run' / 'iter_2.pth'), cfg.val_cfg
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.custom_hooks, cfg.experiment_name = [], 'test_all'
    found = Runner.from_cfg(cfg).test()
    assert {key: found[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_validation_of_one_network_equals_validating_it_alone(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=1)
    runner, _ = train(cfg)
    with torch.no_grad():
        for parameter in runner.model.teacher.parameters():
            parameter.add_(torch.randn_like(parameter))
    both = runner.val_loop.run()
    for name in ('teacher', 'student'):
        runner.model.predict_on = name
        assert runner.val_loop.run()['mIoU'] == both[f'{name}/mIoU']


def test_validation_of_two_students_reports_each_and_both(tiny, tmp_path):
    cfg = config(write_dual(tiny), tmp_path / 'run', iters=2)
    cfg.train_cfg.val_interval = 2
    cfg.model.ema = True
    cfg.custom_hooks.append(dict(type='PseudoLabelStatsHook', interval=1))
    runner, _ = train(cfg)
    scalars = {key: buffer.current() for key, buffer in runner.message_hub.log_scalars.items()}
    assert scalars['val/mIoU'] == scalars['val/fused/mIoU']
    for name in 'ab':
        runner.model.predict_on = name
        assert runner.val_loop.run()['mIoU'] == scalars[f'val/{name}/mIoU']
        assert 0 <= scalars[f'train/{name}/pseudo_kept'] <= 1
        assert f'train/{name}.taught' in scalars


def constructor(paramwise=None):
    return MergedParamGroupsConstructor(
        dict(optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.01)), paramwise
    )


@pytest.mark.parametrize('paramwise', [None, dict(custom_keys={'backbone': dict(lr_mult=0.025)})])
def test_R4_optimizer_holds_trainable_parameters_only_in_merged_groups(tiny, paramwise):
    from mmseg.registry import MODELS

    model = MODELS.build(Config.fromfile(tiny).model)
    optimizer = constructor(paramwise)(model).optimizer
    held = [param for group in optimizer.param_groups for param in group['params']]
    expected = {id(param) for param in model.parameters() if param.requires_grad}
    assert {id(param) for param in held} == expected and len(held) == len(expected)
    assert {round(group['lr'], 9) for group in optimizer.param_groups} == (
        {2e-4} if paramwise is None else {2e-4, 5e-6}
    )
    assert len(optimizer.param_groups) == (1 if paramwise is None else 2)


def test_C12_decay_multipliers_reach_the_parameters_they_name():
    from mmseg.registry import MODELS

    student = dict(
        type='EncoderDecoder',
        backbone=dict(
            type='DINOv3',
            arch=dict(embed_dims=16, num_layers=3, num_heads=2),
            out_indices=(0, 1, 2),
            trainable=('attn',),
        ),
        decode_head=dict(
            type='VLGHead',
            in_channels=[16, 16, 16],
            num_classes=2,
            class_embedding=dict(type='LearnableQueries', channels=16),
        ),
    )
    model = MODELS.build(student)
    keys = {
        'backbone': dict(lr_mult=0.01),
        'decode_head': dict(lr_mult=10.0),
        'class_embedding': dict(lr_mult=1.0, decay_mult=0.0),
        'attn.q_bias': dict(lr_mult=0.01, decay_mult=0.0),
    }
    optimizer = constructor(dict(custom_keys=keys))(model).optimizer
    settings = {
        id(param): (round(group['lr'] / 2e-4, 6), group['weight_decay'])
        for group in optimizer.param_groups
        for param in group['params']
    }
    seen = set()
    for name, param in model.named_parameters():
        if not param.requires_grad:
            assert id(param) not in settings
            continue
        if 'class_embedding' in name:
            expected = (1.0, 0.0)
        elif 'attn.q_bias' in name:
            expected = (0.01, 0.0)
        else:
            expected = (0.01 if name.startswith('backbone') else 10.0, 0.01)
        assert settings[id(param)] == expected, name
        seen.add(expected)
    assert len(seen) == 4


def test_learning_rate_key_that_matches_nothing_is_told(tiny):
    from mmseg.registry import MODELS

    model = MODELS.build(Config.fromfile(tiny).model)
    with pytest.raises(ValueError, match="'backbon_'"):
        constructor(dict(custom_keys={'backbon_': dict(lr_mult=0.1)}))(model)


def without_masks(cfg):
    del cfg.train_dataloader.dataset.labelled.pipeline[1]


def share_without_masks(cfg):
    cfg.train_dataloader.dataset.labelled.pipeline[3].transforms[1].cat_max_ratio = 0.75
    without_masks(cfg)


def without_packing(cfg):
    del cfg.train_dataloader.dataset.unlabelled.pipeline[-1]


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'train_cfg.max_epochs': 3}, r"\{'max_epochs': 3\}: it counts iterations"),
        ({'param_scheduler.by_epoch': True}, r'PolyLR of param_scheduler has by_epoch=True'),
        (
            {'val_dataloader.dataset.metainfo': dict(classes=('a', 'b', 'c'))},
            r'training data has the classes .*, but the validation data a, b, c',
        ),
        (
            {'train_dataloader.dataset.labelled.ignore_index': 254},
            r'ignore_index=254, but the decode_head of the student 255',
        ),
        (without_masks, r'labelled images gives the views .*LoadAnnotations'),
        (without_packing, r'unlabelled images gives the views \[\], .*MultiBranch'),
        (
            {'train_dataloader.dataset.labelled.pipeline.1.reduce_zero_label': True},
            r'reduce_zero_label=False, but LoadAnnotations in its pipeline True: leave it out',
        ),
        (
            share_without_masks,
            r"labelled images fails on .*tile_\d\.png \(KeyError: 'gt_seg_map'\)",
        ),
    ],
)
def test_what_could_not_train_is_told_before_the_first_step(tiny, tmp_path, change, said):
    cfg = config(tiny, tmp_path / 'run', iters=1)
    change(cfg) if callable(change) else cfg.merge_from_dict(change)
    cfg.default_hooks.checkpoint.by_epoch = True
    with pytest.raises(ValueError, match=said) as told:
        train(cfg)
    assert '\n' not in str(told.value)


def test_deferred_hook_is_a_runtime_info_hook():
    from mmseg_semi_rs.engine import DeferredRuntimeInfoHook

    assert issubclass(DeferredRuntimeInfoHook, RuntimeInfoHook)


def test_batch_size_that_differs_from_the_samplers_is_told(tiny, tmp_path):
    cfg = config(tiny, tmp_path / 'run', iters=1)
    cfg.train_dataloader.batch_size = 6
    with pytest.raises(ValueError, match=r'batch_size=6.*batch_size=4'):
        Runner.from_cfg(cfg).train()

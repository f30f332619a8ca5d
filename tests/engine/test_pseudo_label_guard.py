# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""I18: a class that the labels have and the kept pseudo labels lack is told within 50 steps."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.structures import PixelData
from mmseg.registry import HOOKS, MODELS
from mmseg.structures import SegDataSample

from mmseg_semi_rs.engine.hooks import PseudoLabelGuardHook, pseudo_label_guard_hook
from mmseg_semi_rs.models.segmentors import SemiSegmentor
from mmseg_semi_rs.structures import PseudoLabel, StepRecord
from tests._support import networks as tiny
from tests._support.networks import NoHostSync
from tests._support.processes import on_ranks
from tests._support.tiny_training import config, train, write_dual, write_training

CLASSES = ('land', 'road', 'car')
SIDE = 20


def maps(shares, batch=2):
    """Class ids whose shares are as given, (B, SIDE, SIDE)."""
    counts = [round(share * batch * SIDE * SIDE) for share in shares]
    flat = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(counts))
    return flat.reshape(batch, SIDE, SIDE)


def pseudo(shares, kept=(1.0, 1.0, 1.0)):
    """Labels in such shares, of which each class keeps such a share of its pixels."""
    labels = maps(shares)
    weight = torch.zeros(labels.numel())
    for number, share in enumerate(kept):
        where = (labels.flatten() == number).nonzero().flatten()
        weight[where[: round(share * len(where))]] = 1.0
    ones = torch.ones(labels.shape)
    return PseudoLabel(labels, ones, weight.reshape(labels.shape), ones.bool())


def labelled(shares=(0.7, 0.2, 0.1)):
    samples = []
    for labels in maps(shares):
        samples.append(SegDataSample())
        samples[-1].gt_sem_seg = PixelData(data=labels[None])
    return samples


class Told(SemiSegmentor):
    """Does what a test says."""

    def learn(self, batch, pseudo):
        return {}


class Training:
    """The guard with steps that a test makes up."""

    def __init__(self, monkeypatch, **options):
        self.said = []
        monkeypatch.setattr(
            pseudo_label_guard_hook,
            'print_log',
            lambda text, logger, level: self.said.append((text, level)),
        )
        dataset = SimpleNamespace(metainfo=dict(classes=CLASSES))
        self.runner = SimpleNamespace(
            model=Told(),
            message_hub=MessageHub('guard'),
            train_dataloader=SimpleNamespace(dataset=dataset),
            iter=0,
        )
        self.guard = PseudoLabelGuardHook(**options)
        self.guard.before_train(self.runner)

    def steps(self, count, found=None, samples=None):
        """Make steps; what was said meanwhile."""
        before = len(self.said)
        if isinstance(found, PseudoLabel):
            found = {'student': found}
        step = StepRecord(samples or labelled(), pseudo=found or {})
        for _ in range(count):
            self.runner.model.last_step = step
            self.guard.after_train_iter(self.runner, 0)
            self.runner.iter += 1
        return [text for text, _ in self.said[before:]]

    def ratio(self, key):
        return self.runner.message_hub.get_scalar(f'train/{key}').current()

    @property
    def scale(self):
        return self.runner.model.unsup_scale


STARVED = pseudo((0.7, 0.2, 0.1), kept=(1, 0.05, 1))
HEALTHY = pseudo((0.65, 0.22, 0.13), kept=(0.9, 0.5, 0.4))


def test_sparse_labels_are_said_to_be_sparse_and_judge_nothing(monkeypatch):
    """Clicks are spread over the classes, so that their shares are those of no place."""
    run = Training(monkeypatch)
    clicks = labelled((0.34, 0.33, 0.33))
    for sample in clicks:
        kept = sample.gt_sem_seg.data.flatten()[:: SIDE * SIDE // 9].clone()
        sample.gt_sem_seg.data.fill_(255).flatten()[:: SIDE * SIDE // 9] = kept
    flooded = pseudo((0.98, 0.01, 0.01))
    (said,) = run.steps(100, flooded, clicks)
    assert 'only 2.5 % of the pixels of labelled images have a label' in said
    assert run.guard._restore(saved(run)) is None and run.steps(50, flooded, clicks) == []
    assert any('flooded' in text for text in Training(monkeypatch).steps(
        50, flooded, labelled((0.3, 0.4, 0.3))))  # fmt: skip


def saved(run):
    """What a checkpoint keeps."""
    run.guard.before_save_checkpoint(run.runner, {})
    return run.runner.message_hub.get_info('pseudo_label_guard')


def test_I18_a_starved_class_is_told_within_50_steps_by_its_name(monkeypatch):
    run = Training(monkeypatch)
    assert run.steps(100) == [], 'a supervised burn-in has nothing to tell'
    (text,) = run.steps(50, STARVED)
    # Kept are 560 + 8 + 80 of 800 pixels a step.
    assert 'iteration 150: road is starved (1.2 % of the kept weight, 20.0 % of the labels' in text
    assert 'predicted on 20.0 %' in text and 'ClassQuantileGate' in text
    assert run.said[-1][1] == logging.WARNING
    assert run.ratio('guard/road') == pytest.approx(8 / 648 / 0.2)
    assert run.steps(200, STARVED) == [], 'once'
    (text,) = run.steps(50, HEALTHY)
    assert 'road is no longer starved' in text and run.said[-1][1] == logging.INFO


def test_a_class_that_the_teacher_does_not_predict_is_told_with_another_remedy(monkeypatch):
    (text,) = Training(monkeypatch).steps(50, pseudo((0.9, 0.0, 0.1)))
    assert 'road is starved (0.0 %' in text and 'unsup_start' in text
    assert 'ClassQuantileGate' not in text


def test_a_flooding_class_is_told(monkeypatch):
    run = Training(monkeypatch)
    (text,) = run.steps(50, pseudo((0.45, 0.15, 0.4)))
    assert 'car is flooded (40.0 % of the kept weight, 10.0 % of the labels' in text
    # Three times 2 % is above the factor, but no relevant difference.
    assert (
        Training(monkeypatch).steps(50, pseudo((0.7, 0.2, 0.1)), labelled((0.78, 0.2, 0.02))) == []
    )


def test_a_healthy_run_is_silent_whatever_the_order_of_its_images(monkeypatch):
    run = Training(monkeypatch, lower=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        noise = 0.1 * torch.rand(2, generator=generator)
        shares = [0.7 - float(noise.sum()), 0.2 + float(noise[0]), 0.1 + float(noise[1])]
        counts = [round(share * 800) / 800 for share in shares[1:]]
        assert run.steps(1, pseudo((1 - sum(counts), *counts), kept=(0.8, 0.4, 0.3))) == []
    assert run.scale == 1.0


def test_a_rare_class_is_judged_when_an_image_of_it_should_be_there(monkeypatch):
    """The class has 1 % of the labels and nothing kept; there are 100 images in 50 steps."""
    rare, lacks = labelled((0.79, 0.2, 0.01)), pseudo((0.8, 0.2, 0.0), kept=(0.98, 0.98, 0))
    assert Training(monkeypatch).steps(50, lacks, rare) == []
    (text,) = Training(monkeypatch, min_images=0.9).steps(50, lacks, rare)
    assert 'car is starved' in text


def test_nothing_kept_is_one_sentence_and_not_one_a_class(monkeypatch):
    run = Training(monkeypatch, lower=0.1)
    (text,) = run.steps(200, pseudo((0.7, 0.2, 0.1), kept=(0.01, 0.0, 0.0)))
    assert 'nothing is kept yet (0.8 % of the pixels)' in text
    assert run.scale == 1.0
    (text,) = run.steps(50, STARVED)
    assert 'road is starved' in text
    assert len(run.steps(50, pseudo((0.7, 0.2, 0.1), kept=(0.0, 0.0, 0.0)))) == 1
    assert run.scale == 0.1, 'nobody knows whether road is fine'


def test_the_weight_is_lowered_until_it_is_over_and_does_not_flicker(monkeypatch):
    run = Training(monkeypatch, lower=0.1, window=10)
    seen = []
    for kept in (0.5, 0.05, 0.17, 0.17, 0.5):  # a fifth of the labelled share is kept at 0.167
        run.steps(10, pseudo((0.7, 0.2, 0.1), kept=(1, kept, 1)))
        seen.append(run.scale)
    assert seen == [1.0, 0.1, 0.1, 0.1, 1.0]
    assert [' is no longer ' in text for text, _ in run.said] == [False, True]
    only_told = Training(monkeypatch, window=10)
    assert len(only_told.steps(10, STARVED)) == 1 and only_told.scale == 1.0


def test_networks_are_judged_each_for_itself(monkeypatch):
    run = Training(monkeypatch, lower=0.5)
    (text,) = run.steps(50, {'a': HEALTHY, 'b': STARVED})
    assert "Pseudo label guard of 'b' at iteration 50: road is starved" in text
    assert run.ratio('b/guard/road') < 0.2 < run.ratio('a/guard/road')
    assert run.scale == 0.5
    (text,) = run.steps(50, {'a': STARVED, 'b': HEALTHY})[:1]
    assert "'a'" in text and run.scale == 0.5


def test_padding_and_ignored_pixels_do_not_count(monkeypatch):
    run = Training(monkeypatch, window=1)
    samples = labelled((0.5, 0.25, 0.25))
    samples[0].gt_sem_seg.data[:] = 255  # all land
    found = pseudo((0.5, 0.25, 0.25))
    found.valid[0] = False
    run.steps(1, found, samples)
    assert run.ratio('guard/road') == pytest.approx(1.0)
    assert 'train/guard/land' not in run.runner.message_hub.log_scalars


def test_I12_a_step_makes_no_host_sync(monkeypatch):
    run = Training(monkeypatch)
    with NoHostSync():
        run.steps(49, STARVED)
    assert len(run.steps(1, STARVED)) == 1


def test_state_survives_a_resume_in_the_middle_of_a_window(monkeypatch):
    def go_on(run):
        run.steps(20, STARVED)
        run.steps(30, HEALTHY)
        return (
            run.said,
            run.scale,
            list(run.runner.message_hub.log_scalars['train/guard/road'].data[0]),
        )

    def begin(options):
        run = Training(monkeypatch, **options)
        run.steps(7)
        run.steps(50, STARVED)
        run.steps(30, STARVED, labelled((0.5, 0.3, 0.2)))
        return run

    options = dict(lower=0.3)
    whole = begin(options)
    expected = go_on(whole)
    part = begin(options)
    checkpoint = {'message_hub': {}}
    part.guard.before_save_checkpoint(part.runner, checkpoint)
    resumed = Training(monkeypatch, **options)
    resumed.runner.message_hub.load_state_dict(checkpoint['message_hub'])
    resumed.runner.iter, resumed.said[:] = part.runner.iter, part.said
    resumed.guard.before_train(resumed.runner)
    assert resumed.scale == 0.3
    assert go_on(resumed) == expected
    forgetful = Training(monkeypatch, **options)
    forgetful.runner.iter, forgetful.said[:] = part.runner.iter, part.said
    assert forgetful.steps(20, STARVED) == [], 'which a hook without a memory would not do'


@pytest.mark.parametrize(
    'arguments',
    [
        dict(window=51),
        dict(window=0),
        dict(starved=0.6),
        dict(flooded=1.5),
        dict(excess=0),
        dict(min_images=0),
        dict(lower=1.0),
    ],
)
def test_bad_settings_are_told(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f'{name}={value} must be'):
        PseudoLabelGuardHook(**arguments)


def test_a_model_without_pseudo_labels_is_told():
    runner = SimpleNamespace(model=torch.nn.Identity())
    with pytest.raises(ValueError, match='got Identity: use MeanTeacherSegmentor'):
        PseudoLabelGuardHook().before_train(runner)


# ----------------------------------------------------------------------------------- in a training


def starve(found, samples):
    """A purifier: thirds of each class, and of the second nothing is kept before iteration 5."""
    count = found.labels.shape[-1]
    labels = (torch.arange(count, device=found.labels.device) * 3 // count).expand_as(found.labels)
    early = MessageHub.get_current_instance().get_info('iter') < 5
    weight = ((labels != 1) | (not early)).float() * found.valid
    return found.replace(labels=labels.contiguous(), weight=weight)


@HOOKS.register_module(force=True)
class StarveForTest(Hook):
    priority = 'VERY_HIGH'

    def __init__(self):
        self.scales = []

    def before_train(self, runner):
        runner.model.purifiers.append(starve)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.scales.append(runner.model.unsup_scale)


@pytest.fixture(params=[False, True], ids=['MeanTeacher', 'DualStudent'])
def path(tmp_path, request):
    path = write_training(tmp_path / 'data')
    return write_dual(path) if request.param else path


def guarded(path, work_dir, iters=9, lower=0.1, **options):
    cfg = config(path, work_dir, iters=iters, **options)
    guard = dict(type='PseudoLabelGuardHook', window=3, min_images=0.1, lower=lower)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if 'student' in cfg.model]
    cfg.custom_hooks += [dict(type='StarveForTest'), guard]
    cfg.default_hooks.checkpoint.interval = 4
    runner, _ = train(cfg)
    scales = next(hook for hook in runner.hooks if isinstance(hook, StarveForTest)).scales
    logged = {k: list(b.data[0]) for k, b in runner.message_hub.log_scalars.items()}
    return runner, scales, logged


def test_a_training_speaks_and_lowers_its_losses_and_goes_back(path, tmp_path):
    runner, scales, lowered = guarded(path, tmp_path / 'lowered')
    # Windows end after 3, 6 and 9; in the second the class is kept in one step of three.
    assert scales == [1.0] * 3 + [0.1] * 3 + [1.0] * 3
    _, scales, told = guarded(path, tmp_path / 'told', lower=None)
    assert scales == [1.0] * 9
    log = next((tmp_path / 'told').glob('*/*.log')).read_text()
    assert 'WARNING' in log and 'road is starved (0.0 % of the kept weight' in log
    assert 'road is no longer starved' in log
    dual = len(runner.model.students) == 2
    for network in ('a', 'b') if dual else ('',):
        names = ('loss_strong', 'loss_fp', 'loss_stability') if dual else ('loss_unsup',)
        assert lowered[f'train/{network}/guard/road' if dual else 'train/guard/road'][0] == 0.0
        for name in names:
            key = f'train/{network}.{name}' if dual else f'train/{name}'
            assert lowered[key][:3] == told[key][:3]
            assert lowered[key][3] == pytest.approx(0.1 * told[key][3], rel=1e-5)
    assert lowered['train/loss'][4] != told['train/loss'][4], 'the gradient was another'


def test_I9_a_resumed_training_equals_an_uninterrupted_one(path, tmp_path):
    """It is stopped in the middle of the window in which the class comes back."""
    whole, scales, expected = guarded(path, tmp_path / 'whole')
    guarded(path, tmp_path / 'part', iters=4)
    where = str(tmp_path / 'part' / 'iter_4.pth')
    resumed, after, logged = guarded(path, tmp_path / 'part', resume=True, load_from=where)
    assert scales == [1.0] * 3 + [0.1] * 3 + [1.0] * 3 and after == scales[4:]
    for key, values in expected.items():
        if 'time' not in key:
            assert logged[key] == values, key
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize('dual', [False, True])
def test_the_factor_scales_the_unsupervised_gradient_alone(dual):
    labels = torch.randint(
        0, 3, (2, tiny.SIZE, tiny.SIZE), generator=torch.Generator().manual_seed(0)
    )
    images = torch.randn(5, 2, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))
    cfg = dict(semi_train_cfg=dict(conf_thresh=0.0, cutmix=None))
    if dual:
        cfg |= dict(type='DualStudentSegmentor', students=dict(a=tiny.student(), b=tiny.student()))
    else:
        cfg |= dict(type='MeanTeacherSegmentor', student=tiny.student())
        cfg['semi_train_cfg']['loss_reduce'] = 'sum'
    model = MODELS.build(cfg).train()
    model.init_weights()
    losses, gradients = [], []
    for scale in (0.0, 0.5, 1.0):
        model.unsup_scale = scale
        torch.manual_seed(0)
        model.zero_grad()
        views = dict(sup=images[0], weak=images[1], strong_1=images[2])
        found = model.loss(
            views, dict(sup=tiny.samples(2, labels), weak=tiny.samples(2), strong_1=tiny.samples(2))
        )
        tiny.total(found).backward()
        losses.append({name: float(value) for name, value in found.items()})
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    torch.testing.assert_close(gradients[1], (gradients[0] + gradients[2]) / 2)
    assert not torch.allclose(gradients[0], gradients[2])
    for name in losses[0]:
        if 'loss' in name and not name.endswith('loss_ce'):
            assert losses[0][name] == 0 and losses[2][name] > 0, name
            assert losses[1][name] == pytest.approx(losses[2][name] / 2)
        else:
            assert losses[0][name] == losses[1][name] == losses[2][name]


# --------------------------------------------------------------------------------------- two ranks


def judge(out: Path) -> None:
    """What a rank knows and does, where only the second rank's images have roads."""
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    mine = ((0.9, 0.0, 0.1), (0.5, 0.4, 0.1))[rank]
    found = []
    for kept in ((1.0, 1.0, 1.0), (1.0, 0.0, 1.0)):
        with pytest.MonkeyPatch.context() as patch:
            run = Training(patch, lower=0.2, window=50)
            run.steps(50, pseudo(mine, kept=kept), labelled(mine))
        checkpoint = dict(message_hub={})
        run.guard.before_save_checkpoint(run.runner, checkpoint)
        state = checkpoint['message_hub']['runtime_info']['pseudo_label_guard']
        found.append([run.said, run.scale, float(run.ratio('guard/road')), state])
    (out / f'found{rank}').write_text(json.dumps(found))
    torch.distributed.barrier()


@pytest.mark.slow
def test_two_ranks_judge_their_images_together(tmp_path):
    on_ranks(2, judge, tmp_path, folder=tmp_path)
    first, second = ((tmp_path / f'found{rank}').read_text() for rank in range(2))
    assert first == second, 'every rank knows the same and does the same'
    (said, scale, ratio, state), starved = json.loads(first)
    assert said == [] and scale == 1.0, 'a rank without roads is no run without roads'
    assert ratio == pytest.approx(1.0)
    assert state['labelled'] == [50 * 800 * 1.4, 50 * 800 * 0.4, 50 * 800 * 0.2]
    (((text, _),), scale, ratio, _) = starved
    assert 'road is starved' in text and scale == 0.2 and ratio == 0.0

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Lets a vision-language model correct the pseudo labels of any segmentor with ``purifiers``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import DATASETS, HOOKS, MODELS

from ...datasets.tiles import load_image, load_tile
from ...purification.conformal import ClassThresholds, ConformalThresholds
from ...purification.evidence import Evidence
from ...purification.policy import ACTIONS
from ...purification.proposers import RegionProposer
from ...purification.purifier import (
    EvidencePurifier,
    Purification,
    RegionPurifier,
    frame_of_sample,
)
from ...purification.region_vote import RegionVote
from ...purification.source import EvidenceSource
from ...purification.store import EvidenceStore
from ...purification.trust import ClassTrust, learn_trust
from ...purification.verifiers import Verifier
from ...utils.commands import command
from ...utils.randomness import seeded
from ...utils.runner import unwrap
from ...utils.sampling import evenly
from ...utils.step_parts import step_part
from ..annotation import calibrate, evidence_settings
from .semi_segmentor import semi_segmentor

_TRUST: Mapping[str, Any] = MappingProxyType({'images': 200, 'min_lift': 0.5, 'min_pixels': 500})


@HOOKS.register_module()
class VLMPurifyHook(Hook):
    """Attaches an :class:`~mmseg_semi_rs.purification.EvidencePurifier` to the model.

    The evidence of a tile is computed once, by ``tools/vlm_annotate.py`` for a whole data set or,
    within a budget, during the training. It is then read from a store and replayed into each crop.
    The verifier's weights are loaded only if evidence is missing.

    When the training starts, labelled tiles show how far the verifier can be trusted for each
    class, see :func:`~mmseg_semi_rs.purification.trust.learn_trust`; or, with ``thresholds``, from
    which score on its claims are right often enough. If both are given, only the thresholds are
    used.

    Instead of a verifier, a ``RegionProposer`` may divide the tiles into regions without classes,
    in which the pixels vote (``RegionVote``); trust and thresholds do not apply then. A second hook
    with regions works on the labels purified by the first.

    Logged every ``interval`` iterations, as shares of the valid pixels, are ``purify/covered``,
    ``purify/corrected``, ``purify/supported`` and ``purify/vetoed``; and, if the unlabelled samples
    have a ``gt_sem_seg``, the accuracy of the labels, ``purify/accuracy_before`` and ``_after``,
    and weighted as in the loss, ``purify/kept_accuracy_before`` and ``_after``. With two students
    the names are prefixed (``a/purify/covered``); a second hook logs as ``purify_2``.

    A training is reproducible, and a resumed one equals an uninterrupted one, as long as nothing
    else changes the store; tiles added within the budget are accounted for.

    Args:
        verifier: Config of a verifier, e.g. ``CLIPVerifier``, or of a region proposer, e.g.
            ``SuperpixelProposer``.
        store: Folder of the evidence.
        policy: Config of the policy that applies the evidence. Defaults to ``EvidencePolicy``, or
            ``RegionVote`` with a region proposer.
        trust: ``images``, the number of labelled tiles to use (200, evenly chosen), and
            ``min_lift`` and ``min_pixels`` of ``learn_trust``. None trusts the verifier fully.
        thresholds: Config of ``ConformalThresholds``, which replace trust.
        held_out: Config of a data set of labelled tiles on which trust or thresholds are learnt,
            for a verifier that was trained on the labelled ones. Defaults to None, the labelled
            ones.
        start: Iteration from which labels are purified.
        ramp: Iterations after ``start`` in which the changes of the weights grow to their full
            size.
        budget: Tiles per iteration and process that are verified during the training if the store
            has no evidence of them.
        interval: Iterations between logs; should equal the logger's interval.

    Attributes:
        trust: The learnt trust, or None.
        fitted: The fitted thresholds, or None.
        purifier: The attached purifier, once the training starts.

    Raises:
        ValueError: If a setting is out of its range, or, when the training starts, if model, data,
            store and verifier do not fit together.
    """

    def __init__(
        self,
        verifier: dict,
        store: str,
        policy: dict | None = None,
        trust: Mapping[str, Any] | None = _TRUST,
        thresholds: dict | None = None,
        held_out: dict | None = None,
        start: int = 0,
        ramp: int = 0,
        budget: int = 0,
        interval: int = 50,
    ) -> None:
        self.trust_settings = None if trust is None else {**_TRUST, **trust}
        if self.trust_settings is not None and set(self.trust_settings) != set(_TRUST):
            raise ValueError(
                f'VLMPurifyHook trust={trust} has unknown keys: give {sorted(_TRUST)}.'
            )
        if self.trust_settings is not None and not 0 <= self.trust_settings['min_lift'] <= 1:
            raise ValueError(
                f'VLMPurifyHook trust={self.trust_settings} must have min_lift within [0, 1].'
            )
        limits = () if self.trust_settings is None else ('images', 'min_pixels')
        for name, value, least in (
            *((f'trust.{key}', (self.trust_settings or {})[key], 1) for key in limits),
            ('start', start, 0),
            ('ramp', ramp, 0),
            ('budget', budget, 0),
            ('interval', interval, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f'VLMPurifyHook {name}={value!r} must be a whole number of {least} or more.'
                )
        self.verifier: Verifier | RegionProposer = MODELS.build(verifier)
        regions = isinstance(self.verifier, RegionProposer)
        default = 'RegionVote' if regions else 'EvidencePolicy'
        self.policy = MODELS.build(policy or dict(type=default))
        if regions != isinstance(self.policy, RegionVote):
            raise ValueError(
                f'{type(self.policy).__name__} does not go with {type(self.verifier).__name__}: '
                'RegionVote needs the regions of a RegionProposer, other policies the classes of a '
                'verifier.'
            )
        if regions and thresholds is not None:
            raise ValueError(
                f'{type(self.verifier).__name__} proposes regions without scores: leave thresholds '
                'out.'
            )
        self.thresholds: ConformalThresholds | None = (
            None if thresholds is None else MODELS.build(thresholds)
        )
        self.held_out = held_out
        self.store = store
        self.start, self.ramp, self.budget, self.interval = start, ramp, budget, interval
        self.trust: ClassTrust | None = None
        self.fitted: ClassThresholds | None = None

    # Before the training.

    def before_train(self, runner: Runner) -> None:
        """Check the setup, learn trust or thresholds, and attach the purifier."""
        model = semi_segmentor(runner, self)
        dataset = runner.train_dataloader.dataset
        self._check(dataset)
        self.prepare(dataset, next(model.parameters()).device, Path(runner.work_dir), runner.iter)
        others = sum(isinstance(other, EvidencePurifier) for other in model.purifiers)
        self._logged_as = f'purify_{others + 1}' if others else 'purify'
        model.purifiers.append(self.purifier)

    def after_train(self, runner: Runner) -> None:
        """Remove the purifier, and release the last batch."""
        unwrap(runner.model).purifiers.remove(self.purifier)
        self.purifier.forget()
        self.source.close()

    def prepare(
        self,
        dataset: Any,
        device: torch.device | str,
        work_dir: Path | None = None,
        iteration: int = 0,
    ) -> None:
        """Open the store, learn trust or thresholds, and create the purifier.

        Args:
            dataset (SemiDataset): The training data.
            device: Device of the verifier, if it has to run.
            work_dir: Folder of the training, which keeps a journal if there is a budget, see
                ``EvidenceSource``. Defaults to None, without journal.
            iteration: First iteration of the training.

        Raises:
            ValueError: If the store lacks evidence that is needed, or the classes do not fit.
        """
        classes = dataset.metainfo['classes']
        self.verifier.check_classes(classes)
        if is_main_process():
            calibrate(self.verifier, dataset.labelled, str(device))
        barrier()
        store = EvidenceStore(self.store, evidence_settings(self.verifier, dataset.labelled))
        journal = None
        if self.budget and work_dir is not None:
            journal = work_dir / f'evidence_known_{store.folder.name}_rank{get_rank()}.txt'
        self.source = EvidenceSource(
            store,
            self.verifier,
            lambda path: load_image(dataset.unlabelled, path, self.verifier.bands),
            self.budget,
            device,
            journal,
        )
        if not self.budget and not len(store):
            raise ValueError(
                f'The store {store.folder} holds no evidence of this verifier and its prompts: run '
                f'{command("annotate")} with this config first, or set budget of VLMPurifyHook.'
            )
        if isinstance(self.verifier, Verifier):
            self._learn(dataset.labelled, classes)
        self.source.start(iteration)
        barrier()  # no rank adds to the store before all have listed it
        if isinstance(self.verifier, RegionProposer):
            self.purifier: EvidencePurifier = RegionPurifier(self.policy, self.source, len(classes))
            return
        self.purifier = EvidencePurifier(
            self.policy,
            self.source,
            len(classes),
            None if self.trust is None else self.trust.trust,
            self.verifier.prompts.asked,
            within_segments=self.verifier.within_segments,
            thresholds=self.fitted,
        )

    def _check(self, dataset: Any) -> None:
        """Raise ValueError if unlabelled data or views do not fit."""
        if getattr(dataset, 'unlabelled', None) is None:
            raise ValueError(
                'VLMPurifyHook purifies labels of unlabelled images, but the training data has '
                'none: set train_dataloader.dataset.unlabelled, or remove the hook.'
            )
        with seeded(0):
            sample = dataset[len(dataset.labelled)]['data_samples']
        views = sample if isinstance(sample, dict) else {}
        if views.get('weak') is None:
            raise ValueError(
                f'The unlabelled samples have the views {sorted(views)} but no weak one, which '
                "evidence is replayed into: name a branch of MultiBranch 'weak'."
            )
        frame_of_sample(views['weak'].metainfo)

    def _learn(self, labelled: Any, classes: Sequence[str]) -> None:
        """Compare the evidence of labelled tiles with their labels."""
        assert isinstance(self.verifier, Verifier)
        if self.held_out is not None:
            labelled = DATASETS.build(self.held_out)
            self.verifier.check_classes(labelled.metainfo['classes'])
        settings = dict(self.trust_settings or {})
        chosen = evenly(len(labelled), settings.pop('images', _TRUST['images']))
        name, learns = type(self.verifier).__name__, self.thresholds or self.trust_settings
        if self.budget and learns is not None:
            for _ in self._evidence_of(labelled, chosen[get_rank() :: get_world_size()]):
                pass
        barrier()
        pairs = self._evidence_of(labelled, chosen)
        cut = self.verifier.within_segments
        if self.thresholds is not None:
            self.fitted = self.thresholds.fit_evidence(pairs, len(classes), cut)
            print_log(
                f'Claims of {name} that count, by labelled tiles (these thresholds act, not '
                f'trust):\n{self.fitted.table(classes)}',
                logger='current',
            )
        elif self.trust_settings is not None:
            gate, margin = self.policy.clear
            self.trust = learn_trust(pairs, len(classes), gate, margin, **settings, cut=cut)
            print_log(
                f'How far {name} is trusted, by labelled tiles:\n{self.trust.table(classes)}',
                logger='current',
            )

    def _evidence_of(
        self, labelled: Any, chosen: Sequence[int]
    ) -> Iterator[tuple[Evidence, np.ndarray]]:
        """Yield evidence and labels of labelled tiles."""
        store = self.source.store
        for index in chosen:
            tile = load_tile(labelled, index, bands=self.verifier.bands)
            key = store.key(tile.path)
            evidence = store.read(key)
            if evidence is None and self.budget:
                evidence = self.source.verify(tile.path, key, tile.image)
            if evidence is None:
                raise ValueError(
                    f'The store {store.folder} holds no evidence of the labelled tile {tile.path}, '
                    'without which it is not known how far the verifier can be trusted: run '
                    f'{command("annotate")} with this config, or set trust=None and no thresholds '
                    'of VLMPurifyHook.'
                )
            if tile.labels is None:
                raise ValueError(
                    f'The labels of {tile.path}, on which trust is learnt, are not loaded: add '
                    'LoadAnnotations to the pipeline of its data set.'
                )
            if evidence.size != tile.labels.shape:
                raise ValueError(
                    f'The evidence of {tile.path} is for {evidence.size} pixels, but its labels '
                    f'have {tile.labels.shape}: make the evidence again with the loading '
                    'transforms of the training.'
                )
            yield evidence, tile.labels

    # During the training.

    @step_part('purification ahead')
    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start reading the evidence of the batch, in parallel to the teacher."""
        self.purifier.forget()
        done = runner.iter - self.start
        self.purifier.strength = float(done >= 0)
        if done >= 0 and self.ramp:
            self.purifier.strength = min(1.0, (done + 1) / self.ramp)
        if self.purifier.strength and data_batch is not None:
            samples = data_batch['data_samples'].get('weak', ())
            paths = [sample.img_path for sample in samples if sample is not None]
            self.source.begin_step(runner.iter, paths)

    @step_part('purification')
    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Log statistics of the purification."""
        if not self.purifier.last or not self.every_n_train_iters(runner, self.interval):
            return
        step = unwrap(runner.model).last_step
        for name, done in zip(step.titled, self.purifier.last, strict=True):
            prefix = f'train/{name}/{self._logged_as}/' if name else f'train/{self._logged_as}/'
            for key, value in purification_stats(done, step.unlabelled).items():
                runner.message_hub.update_scalar(prefix + key, value)


@torch.no_grad()
def purification_stats(done: Purification, samples: Sequence[Any]) -> dict[str, float]:
    """Summarise one purification; the host waits for the device once.

    Args:
        done: The purification of a batch.
        samples: The B samples; ground truth is taken from those that have ``gt_sem_seg``.

    Returns:
        The values named in :class:`VLMPurifyHook`, without prefixes.
    """
    valid = done.before.valid
    pixels = valid.sum().clamp(min=1)
    values = {'covered': (done.seen & valid).sum() / pixels}
    for number, action in enumerate(ACTIONS):
        if number:
            values[action] = ((done.actions == number) & valid).sum() / pixels
    known = [index for index, sample in enumerate(samples) if 'gt_sem_seg' in sample]
    if known:
        truth = torch.stack([samples[index].gt_sem_seg.data[0] for index in known])
        counted = (truth < done.scores.shape[1]) & valid[known]
        for when, pseudo in (('before', done.before), ('after', done.after)):
            right = (pseudo.labels[known] == truth) & counted
            weight = pseudo.weight[known] * counted
            values[f'accuracy_{when}'] = right.sum() / counted.sum().clamp(min=1)
            values[f'kept_accuracy_{when}'] = (right * weight).sum() / weight.sum().clamp(min=1e-6)
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

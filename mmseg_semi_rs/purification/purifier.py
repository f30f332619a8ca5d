# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Purifiers: apply the evidence of tiles to the pseudo labels of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..structures import PseudoLabel
from .conformal import ClassThresholds
from .evidence import Evidence
from .policy import Purified
from .region_vote import RegionVote
from .replay import Frame, Replayed, frame_of, replay_evidence, within_segments

#: (pseudo labels, evidence (B, K, H, W), seen (B, H, W)) -> purified labels and what was done.
Policy = Callable[[PseudoLabel, Tensor, Tensor], Purified]
#: Files of B tiles -> their evidence, None for tiles without.
Fetch = Callable[[Sequence[str]], Sequence[Evidence | None]]


class Purification(NamedTuple):
    """Record of one call of a purifier.

    Attributes:
        before: The teacher's pseudo labels.
        after: The purified pseudo labels, as used in training.
        actions: What the policy did, index into ``policy.ACTIONS``, shape (B, H, W), uint8.
        scores: Trusted evidence, shape (B, K, H, W).
        seen: Where evidence was used, shape (B, H, W), bool.
        regions: Number of the class-free region at each pixel, 0 for none, shape (B, H, W), int64,
            if there are such regions.
    """

    before: PseudoLabel
    after: PseudoLabel
    actions: Tensor
    scores: Tensor
    seen: Tensor
    regions: Tensor | None = None


def frame_of_sample(meta: Mapping[str, Any]) -> Frame:
    """Find where the pixels of a sample lie in its tile.

    Args:
        meta: Metainfo of the sample, with ``img_path``, ``ori_shape``, ``img_shape`` and
            ``geometry``.

    Returns:
        A frame of size ``img_shape``.

    Raises:
        ValueError: If the geometry was not, or not completely, recorded.
    """
    missing = {'img_path', 'ori_shape', 'img_shape', 'geometry'} - meta.keys()
    if missing:
        raise ValueError(
            f'A weak view of {meta.get("img_path", "an image")} has no {sorted(missing)} in its '
            'metainfo, without which evidence cannot be replayed into it: put the geometric '
            'transforms into TrackGeometry and end with PackSemiInputs.'
        )
    frame = frame_of(meta['geometry'], meta['ori_shape'][:2])
    if frame.size != tuple(meta['img_shape'][:2]):
        raise ValueError(
            f'The weak view of {meta["img_path"]} is {tuple(meta["img_shape"][:2])} pixels, but '
            f'its recorded geometry makes {frame.size}: put every transform that moves pixels into '
            'TrackGeometry.'
        )
    return frame


class EvidencePurifier:
    """A :class:`~mmseg_semi_rs.models.protocols.Purifier` that uses evidence.

    Args:
        policy: Decides how evidence changes labels and weights.
        fetch: Returns the evidence of tiles.
        num_classes: Number of classes K.
        trust: Factor on the scores of each class, shape (K,). Defaults to None, 1 for all.
        asked: Classes that are asked for, see ``ClassPrompts.asked``. If such a class has no trust
            or no threshold, it can be neither confirmed nor denied, so pixels to which the teacher
            gives it are left alone.
        within_segments: Whether a region is restricted to the pixels with its most frequent label
            according to the teacher, so that the corners of a box do not extend beyond its object.
        thresholds: Calibrated thresholds, which replace ``trust``.

    Attributes:
        strength: In [0, 1]: 0 does not purify, 1 does so fully; in between, weights change by this
            share.
        last: Records of the calls since :meth:`forget`.
    """

    def __init__(
        self,
        policy: Policy | RegionVote,
        fetch: Fetch,
        num_classes: int,
        trust: Tensor | None = None,
        asked: Sequence[int] = (),
        within_segments: bool = False,
        thresholds: ClassThresholds | None = None,
    ) -> None:
        self.policy: Any = policy
        self.fetch, self.num_classes = fetch, num_classes
        self.trust = torch.ones(num_classes) if trust is None else trust.float()
        self.thresholds = thresholds
        heard = self.trust > 0 if thresholds is None else thresholds.used
        self.blind = torch.tensor([k in asked for k in range(num_classes)]) & ~heard
        self.within_segments = within_segments
        self.strength = 1.0
        self.last: list[Purification] = []
        self._batch: tuple[Sequence[Any], Replayed] | None = None

    def forget(self) -> None:
        """Release the last batch."""
        self.last, self._batch = [], None

    @torch.no_grad()
    def __call__(self, pseudo: PseudoLabel, samples: Sequence[Any]) -> PseudoLabel:
        """Purify the pseudo labels of a batch.

        Args:
            pseudo: Pseudo labels of shape (B, H, W).
            samples: The B weak views' samples, with ``img_path``, ``ori_shape`` and ``geometry`` in
                their metainfo.

        Returns:
            Pseudo labels of the same shape; the same object if ``strength`` is 0.
        """
        if self.strength == 0:
            return pseudo
        done = self._purify(pseudo, self._replay(pseudo, samples))
        if self.strength < 1:
            change = self.strength * (done.after.weight - pseudo.weight)
            done = done._replace(after=done.after.replace(weight=pseudo.weight + change))
        self.last.append(done)
        return done.after

    def _purify(self, pseudo: PseudoLabel, found: Replayed) -> Purification:
        """Apply the policy to the replayed evidence."""
        scores, seen = found.scores, found.seen & ~self.blind[pseudo.labels]
        if self.within_segments:
            inside = within_segments(found, pseudo.labels, pseudo.valid)
            scores, seen = scores * inside[:, None], seen & inside
        purified, actions = self.policy(pseudo, scores, seen)
        return Purification(pseudo, purified, actions, scores, seen)

    def _replay(self, pseudo: PseudoLabel, samples: Sequence[Any]) -> Replayed:
        """Evidence in the frames of a batch, computed once even if several networks need it."""
        if self._batch is not None and self._batch[0] is samples:
            return self._batch[1]
        metas = [sample.metainfo for sample in samples]
        device, (height, width) = pseudo.labels.device, pseudo.labels.shape[-2:]
        frames = [frame_of_sample(meta) for meta in metas]
        evidence = self.fetch([meta['img_path'] for meta in metas])
        for meta, found in zip(metas, evidence, strict=True):
            if found is not None and found.size != tuple(meta['ori_shape'][:2]):
                raise ValueError(
                    f'The evidence of {meta["img_path"]} is for {found.size} pixels, but the tile '
                    f'was loaded with {tuple(meta["ori_shape"][:2])}: make the evidence with the '
                    'loading transforms of the training.'
                )
        replayed = self._counted(evidence, frames, (height, width), device)
        self._batch = (samples, replayed)
        return replayed

    def _counted(
        self,
        evidence: Sequence[Evidence | None],
        frames: Sequence[Frame],
        size: tuple[int, int],
        device: torch.device,
    ) -> Replayed:
        """Replay evidence into a batch, weighted by trust or thresholds."""
        replayed = replay_evidence(
            evidence, frames, self.num_classes, size, device, self.within_segments
        )
        if self.trust.device != device:
            self.trust, self.blind = self.trust.to(device), self.blind.to(device)
        scores = replayed.scores
        if self.thresholds is None:
            scores = scores * self.trust[:, None, None]
        else:
            scores = self.thresholds.apply(scores)
        return replayed._replace(scores=scores)


class RegionPurifier(EvidencePurifier):
    """A purifier by class-free regions of a ``RegionProposer``, in which the pixels vote.

    Args:
        policy: Decides how regions change labels and weights.
        fetch: Returns the regions of tiles.
        num_classes: Number of classes K.
    """

    def _counted(
        self,
        evidence: Sequence[Evidence | None],
        frames: Sequence[Frame],
        size: tuple[int, int],
        device: torch.device,
    ) -> Replayed:
        return replay_evidence(evidence, frames, 0, size, device, with_regions=True)

    def _purify(self, pseudo: PseudoLabel, found: Replayed) -> Purification:
        regions = found.regions
        purified, actions = self.policy(pseudo, regions, found.most_regions, self.num_classes)
        scores = regions.new_zeros((), dtype=torch.float32)  # no scores; takes no memory
        scores = scores.expand(len(regions), self.num_classes, *regions.shape[1:])
        return Purification(pseudo, purified, actions, scores, regions > 0, regions)

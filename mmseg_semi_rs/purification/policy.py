# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Policies: how evidence changes pseudo labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor

from ..structures import PseudoLabel

#: What was done to a pixel; the position is the code in ``Purified.actions``.
ACTIONS = ('untouched', 'corrected', 'supported', 'vetoed')
UNTOUCHED, CORRECTED, SUPPORTED, VETOED = range(4)
_SCOPES = ('band_or_low', 'band', 'low', 'all')


class Purified(NamedTuple):
    """Purified pseudo labels, and what was done.

    Attributes:
        pseudo: The purified pseudo labels.
        actions: Index into :data:`ACTIONS` for each pixel, shape (B, H, W), uint8.
    """

    pseudo: PseudoLabel
    actions: Tensor


def boundary_band(labels: Tensor, valid: Tensor, radius: int) -> Tensor:
    """Pixels near a change of label.

    Args:
        labels: Shape (B, H, W), int64.
        valid: Shape (B, H, W), bool. A change to or from an invalid pixel does not count, so that
            the border of the padding is not a boundary.
        radius: A pixel is in the band if it is one of the ``radius`` nearest on its side of the
            change, counted along rows and columns (a square neighbourhood); 0 for no band.

    Returns:
        Shape (B, H, W), bool; False where not valid.
    """
    edge = torch.zeros_like(valid)
    if radius < 1:
        return edge
    down = (labels[:, 1:] != labels[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    across = (labels[..., 1:] != labels[..., :-1]) & valid[..., 1:] & valid[..., :-1]
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    edge[..., 1:] |= across
    edge[..., :-1] |= across
    side, reach = 2 * radius - 1, radius - 1
    # The maximum over a square is the maximum of the maxima over its rows.
    near = F.max_pool2d(edge[:, None].float(), (side, 1), 1, (reach, 0))
    near = F.max_pool2d(near, (1, side), 1, (0, reach))
    return (near[:, 0] > 0) & valid


@MODELS.register_module()
class EvidencePolicy:
    r"""Corrects, supports and vetoes pseudo labels by evidence (SemiEarth's intent).

    Let y be the teacher's label with confidence c, w the weight from its gate, E the evidence
    (scores times trust), k its best class and m its lead over the second class. A pixel is **sure**
    if w > 0, **low** if c < tau, and in the **band** if it is near a change of y. Pixels that were
    not seen or are not valid keep label and weight. Other pixels are changed as follows:

    * **correct**: not sure, in the scope, k != y, m >= margin, E_k >= gate: y' = k, w' = E_k
    * **support**: not sure, in the scope, k = y, m >= margin, and
      c* = 1 - (1 - c)(1 - E_y) >= support_gate: w' = c*
    * **veto** (off): sure, k != y, m >= margin, E_k >= gate, E_y = 0: w' = 0

    If two classes share the best score (m = 0), nothing is changed. The confidence is kept.

    Args:
        tau: Confidence below which a pixel is low, in [0, 1].
        gate: Smallest evidence that corrects or vetoes, in (0, 1].
        margin: Smallest lead over the second class, in (0, 1].
        support_gate: Smallest joint confidence that gets weight, in (0, 1]. Defaults to 0.95, which
            the loss requires of the teacher alone: c* assumes that the two are independent, which
            they are not, and a lower gate lets too many wrong pixels in.
        scope: Pixels that may be corrected and supported: 'band_or_low', 'band', 'low' or 'all'.
        band: ``radius`` in pixels, 8; and ``gate``, ``margin``, ``support_gate`` within the band,
            by default those above.
        actions: Out of 'correct', 'support' and 'veto'. Veto may take weight from correct pixels.
            Defaults to ('correct', 'support').

    Raises:
        ValueError: If a setting is unknown or out of its range.
    """

    def __init__(
        self,
        tau: float = 0.7,
        gate: float = 0.8,
        margin: float = 0.3,
        support_gate: float = 0.95,
        scope: str = 'band_or_low',
        band: Mapping[str, Any] | None = None,
        actions: Sequence[str] = ('correct', 'support'),
    ) -> None:
        outside = dict(gate=gate, margin=margin, support_gate=support_gate)
        known = {'radius': 8, **outside}
        unknown = sorted(set(band or {}) - set(known))
        if unknown or scope not in _SCOPES or set(actions) - {'correct', 'support', 'veto'}:
            raise ValueError(
                f'EvidencePolicy got scope={scope!r}, band={band}, actions={list(actions)}: scope '
                f"is one of {_SCOPES}, band has the keys {sorted(known)}, actions are 'correct', "
                "'support' and 'veto'."
            )
        inside = {**known, **(band or {})}
        self.radius = inside.pop('radius')
        limits = {'tau': tau, **outside, **{f'band.{key}': inside[key] for key in outside}}
        for name, value in limits.items():
            if not (0 <= value <= 1) or (value == 0 and name != 'tau'):
                raise ValueError(f'EvidencePolicy {name}={value} must be within (0, 1].')
        if not isinstance(self.radius, int) or self.radius < 0:
            raise ValueError(f'EvidencePolicy band.radius={self.radius} must be 0 or more pixels.')
        self.tau, self.scope, self.actions = tau, scope, tuple(actions)
        self.outside, self.inside = outside, inside

    @property
    def clear(self) -> tuple[float, float]:
        """Gate and margin from which a claim is clear, used to learn how far to trust it."""
        return (
            min(self.outside['gate'], self.inside['gate']),
            min(self.outside['margin'], self.inside['margin']),
        )

    def __call__(self, pseudo: PseudoLabel, scores: Tensor, seen: Tensor) -> Purified:
        """Purify pseudo labels, without a host synchronisation.

        Args:
            pseudo: Pseudo labels of shape (B, H, W).
            scores: Evidence, shape (B, K, H, W), float32 in [0, 1].
            seen: Where there is evidence, shape (B, H, W), bool.

        Returns:
            New pseudo labels, bit-equal where nothing was seen, and the actions.
        """
        best, first = scores.max(dim=1)
        second = scores.scatter(1, first[:, None], -1.0).amax(dim=1)
        own = scores.gather(1, pseudo.labels[:, None])[:, 0]
        band = boundary_band(pseudo.labels, pseudo.valid, self.radius)
        gate, margin, support_gate = (
            torch.where(band, self.inside[name], self.outside[name])
            for name in ('gate', 'margin', 'support_gate')
        )
        known = seen & pseudo.valid & (best - second >= margin)
        sure = pseudo.weight > 0
        low = pseudo.confidence < self.tau
        scope = {'band_or_low': band | low, 'band': band, 'low': low}.get(self.scope)
        eligible = known & ~sure if scope is None else known & ~sure & scope
        contradicts = (first != pseudo.labels) & (best >= gate)
        joint = 1 - (1 - pseudo.confidence) * (1 - own)
        labels, weight = pseudo.labels, pseudo.weight
        actions = torch.zeros_like(labels, dtype=torch.uint8)
        if 'correct' in self.actions:
            correct = eligible & contradicts
            labels = torch.where(correct, first, labels)
            weight = torch.where(correct, best, weight)
            actions = actions.masked_fill(correct, CORRECTED)
        if 'support' in self.actions:
            support = eligible & (first == pseudo.labels) & (joint >= support_gate)
            weight = torch.where(support, joint, weight)
            actions = actions.masked_fill(support, SUPPORTED)
        if 'veto' in self.actions:
            veto = known & sure & contradicts & (own == 0)
            weight = weight.masked_fill(veto, 0.0)
            actions = actions.masked_fill(veto, VETOED)
        return Purified(pseudo.replace(labels=labels, weight=weight), actions)


@MODELS.register_module()
class ReleasedPolicy:
    """The rule of SemiEarth's release, for comparison; it cannot change the training loss.

    A softmax over the classes turns the painted scores (0 or 0.95) into P. Let s = max P, v its
    class, and q = P of the teacher's label. Where c < tau and s > 0.1: if y != v and c <
    ``mismatch_max_conf``, then y := v and c := s; else c := a c + (1 - a) q with a = c / tau. The
    weight is [c >= conf_thresh]. As P is a softmax of constants, s is at most 0.72, so no modified
    pixel ever passes a gate above that. The rule also "sees" every pixel of every image with fewer
    than ten classes, whatever was found there; the release leaves an image without any box alone.

    Args:
        tau: Confidence below which a pixel may be modified.
        mismatch_max_conf: Confidence below which a label may be changed.
        conf_thresh: The gate of the loss; should equal that of the segmentor.
        use_vlm_on_mismatch: Whether labels are changed at all.
    """

    clear = (0.5, 0.3)

    def __init__(
        self,
        tau: float = 0.7,
        mismatch_max_conf: float = 0.3,
        conf_thresh: float = 0.95,
        use_vlm_on_mismatch: bool = True,
    ) -> None:
        self.tau, self.mismatch_max_conf = tau, mismatch_max_conf
        self.conf_thresh, self.use_vlm_on_mismatch = conf_thresh, use_vlm_on_mismatch

    def __call__(self, pseudo: PseudoLabel, scores: Tensor, seen: Tensor) -> Purified:
        """Apply the rule, as in :class:`EvidencePolicy`; ``seen`` is not used."""
        probabilities = scores.softmax(dim=1)
        best, first = probabilities.max(dim=1)
        own = probabilities.gather(1, pseudo.labels[:, None])[:, 0]
        confidence = pseudo.confidence
        touched = (confidence < self.tau) & (best > 0.1)
        changed = touched & (first != pseudo.labels) & (confidence < self.mismatch_max_conf)
        if not self.use_vlm_on_mismatch:
            changed = torch.zeros_like(changed)
        share = confidence / self.tau
        mixed = share * confidence + (1 - share) * own
        labels = torch.where(changed, first, pseudo.labels)
        confidence = torch.where(changed, best, torch.where(touched, mixed, confidence))
        weight = ((confidence >= self.conf_thresh) & pseudo.valid).float()
        actions = torch.zeros_like(labels, dtype=torch.uint8).masked_fill(changed, CORRECTED)
        return Purified(
            pseudo.replace(labels=labels, confidence=confidence, weight=weight), actions
        )

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Several views of one sample that share its geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS

from .geometry import TrackGeometry, moving_parts

#: Names of branches in mmdet's configs, with their names here.
_OF_MMDET = {'unsup_teacher': 'weak', 'unsup_student': 'strong'}


def _separate(results: dict) -> dict:
    """Copy a sample so that the transforms of a branch do not change the samples of others.

    Transforms replace arrays and append to lists; they do not write into the shared pixels.
    """
    return {
        key: list(value) if isinstance(value, list) else value for key, value in results.items()
    }


@TRANSFORMS.register_module()
class MultiBranch(BaseTransform):
    """Send a sample through one pipeline per branch and pack the results by branch.

    Branches of ``branch_field`` without a pipeline become None, so that labelled and unlabelled
    samples of a batch have the same keys and the default collate function works;
    ``SemiDataPreprocessor`` drops the Nones.

    Args:
        branch_field: All branch names that occur in a batch, e.g. ``['sup', 'weak', 'strong']``:
            'sup', 'weak' and names that begin with 'strong'. mmdet's 'unsup_teacher' and
            'unsup_student' become 'weak' and 'strong'.
        **pipelines: One pipeline per branch, each ending with a packing transform. Only the given
            branches are computed.

    Raises:
        ValueError: If a name is none of these, a pipeline is not in ``branch_field``, or a branch
            other than ``'sup'`` moves pixels, so that the views would show different places.
    """

    def __init__(self, branch_field: Sequence[str], **pipelines: list[dict]) -> None:
        branch_field = tuple(_OF_MMDET.get(name, name) for name in branch_field)
        pipelines = {_OF_MMDET.get(name, name): steps for name, steps in pipelines.items()}
        self.branch_field = branch_field
        strange = [n for n in branch_field if n not in ('sup', 'weak') and n[:6] != 'strong']
        if strange:
            raise ValueError(
                f'MultiBranch got the branches {strange}, of which no segmentor would take notice: '
                'call that of labelled images "sup", and those of unlabelled ones "weak" and '
                '"strong", "strong_1", ...'
            )
        unknown = sorted(set(pipelines) - set(branch_field))
        if unknown or not pipelines:
            raise ValueError(
                f'MultiBranch got pipelines for {sorted(pipelines)} but branch_field is '
                f'{list(branch_field)}: name at least one branch, and each in both.'
            )
        self.pipelines = {name: Compose(pipeline) for name, pipeline in pipelines.items()}
        for name, pipeline in self.pipelines.items():
            moving = [] if name == 'sup' else moving_parts(pipeline)
            if moving:
                raise ValueError(
                    f'{", ".join(moving)} in the branch {name!r} of MultiBranch would move its '
                    'pixels away from those of the other views: put what moves pixels before '
                    'MultiBranch, inside of TrackGeometry.'
                )

    def transform(self, results: dict) -> dict:
        """Compute the views.

        Args:
            results: The sample after loading and geometry.

        Returns:
            ``{'inputs': {branch: Tensor | None}, 'data_samples': {branch: SegDataSample | None}}``.
        """
        packed: dict[str, dict] = {'inputs': {}, 'data_samples': {}}
        for branch in self.branch_field:
            pipeline = self.pipelines.get(branch)
            view = {} if pipeline is None else pipeline(_separate(results))
            packed['inputs'][branch] = view.get('inputs')
            packed['data_samples'][branch] = view.get('data_samples')
        return packed

    def __repr__(self) -> str:
        return f'{type(self).__name__}(branch_field={self.branch_field}, {self.pipelines})'


def refuse_untracked(pipeline: Sequence[Any]) -> None:
    """Refuse transforms that move pixels outside the ``TrackGeometry`` of the same pipeline.

    Args:
        pipeline: Built transforms. A mosaic of several tiles, which have no common geometry, may
            come first.

    Raises:
        ValueError: If there is such a transform, before, after or in a branch; the message names
            it.
    """
    if not any(isinstance(part, TrackGeometry) for part in pipeline):
        return
    for part in pipeline:
        inside = list(part.pipelines.values()) if isinstance(part, MultiBranch) else part
        moving = [name for name in moving_parts(inside) if name != 'RandomMosaic']
        if moving:
            raise ValueError(
                f'{", ".join(moving)} beside TrackGeometry moves pixels that it does not see, so '
                'that what is known of a tile would be looked for at the wrong place: put every '
                'transform that moves pixels into its transforms.'
            )

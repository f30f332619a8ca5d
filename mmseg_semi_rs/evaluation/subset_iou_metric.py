# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""IoU and related metrics, averaged over chosen classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from ..utils.commands import command
from ..utils.files import write_png

__all__ = ['SubsetIoUMetric', 'confusion_matrix', 'scores_per_class']

_METRICS = ('mIoU', 'mDice', 'mFscore', 'kappa')


def confusion_matrix(
    prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Count pixels by (ground truth, prediction).

    Args:
        prediction: Class ids of any shape and integer type.
        label: Ground truth of the same shape.
        num_classes: Number of classes K.
        ignore_index: Label of pixels that do not count.

    Returns:
        (K, K) int64 on the device of ``prediction``; rows are ground truth, columns prediction. The
        counts are exact for any image size (``torch.histc`` counts in float32 and loses pixels
        beyond 2**24).

    Raises:
        ValueError: The shapes differ, or a counted pixel has an id outside ``0 .. K - 1`` in either
            map. Such a pixel is never counted as a neighbouring class.
    """
    if prediction.shape != label.shape:
        raise ValueError(
            f'The prediction has shape {tuple(prediction.shape)} and its ground truth '
            f'{tuple(label.shape)}: let the model return its map at the size of the label.'
        )
    label = label.to(prediction.device)
    counted = label != ignore_index
    label, prediction = label[counted].long(), prediction[counted].long()
    for name, ids in (('ground truth', label), ('prediction', prediction)):
        outside = ids[(ids < 0) | (ids >= num_classes)]
        if outside.numel():
            raise ValueError(
                f'The {name} holds the ids {torch.unique(outside).tolist()[:8]} outside 0 .. '
                f'{num_classes - 1}: correct the label files or their reduce_zero_label, or mark '
                f'these pixels with {ignore_index}.'
            )
    joint = torch.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return joint.reshape(num_classes, num_classes)


def scores_per_class(matrix: np.ndarray, beta: float = 1.0) -> dict[str, np.ndarray]:
    """Compute the scores of each class from a confusion matrix.

    Args:
        matrix: (K, K), rows ground truth, columns prediction.
        beta: Weight of recall in the F score.

    Returns:
        ``IoU``, ``Acc`` (recall), ``Dice``, ``Fscore``, ``Precision``, ``Recall``, each (K,)
        float64 in [0, 1]. All are NaN for a class that is neither in the ground truth nor
        predicted, Acc and Recall for one that is not in the ground truth, Precision for one that is
        never predicted. The F score is 0 if no pixel is correct.
    """
    hit = np.diag(matrix).astype(np.float64)
    truth = matrix.sum(axis=1).astype(np.float64)
    predicted = matrix.sum(axis=0).astype(np.float64)

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)

    return {
        'IoU': ratio(hit, truth + predicted - hit),
        'Acc': ratio(hit, truth),
        'Dice': ratio(2 * hit, truth + predicted),
        'Fscore': ratio((1 + beta**2) * hit, beta**2 * truth + predicted),
        'Precision': ratio(hit, predicted),
        'Recall': ratio(hit, truth),
    }


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float('nan')


def _kappa(matrix: np.ndarray) -> float:
    """Compute Cohen's kappa, the agreement beyond that expected from the marginals."""
    total = matrix.sum()
    observed = np.trace(matrix) / total
    expected = float((matrix.sum(axis=0) / total) @ (matrix.sum(axis=1) / total))
    return float((observed - expected) / (1 - expected)) if expected < 1 else float('nan')


@METRICS.register_module()
class SubsetIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric`` with a mean over chosen classes, and ignored ground-truth classes.

    Benchmarks disagree on which classes count: the mean on Potsdam leaves out clutter and ignores
    pixels that are clutter, DeepGlobe does so with unknown, and LoveDA counts all seven. The same
    setting then serves model selection on the validation set and the final report.

    * The per-class table always has all classes. The row of an ignored class is counted over all
      labelled pixels, all other rows and every mean without the pixels of ignored classes.
    * A class that neither occurs nor is predicted is left out of the mean.
    * Counts are summed over the ranks per image. Copies that a distributed sampler adds to fill the
      last batch are dropped, so that the result does not depend on the number of processes.

    Args:
        mean_over: Classes in the mean. None takes all that are not in ``ignore_gt``.
        ignore_gt: Classes whose ground-truth pixels count as unlabelled. None takes none.
        iou_metrics: Any of ``'mIoU'``, ``'mDice'``, ``'mFscore'``, ``'kappa'``.
        ignore_index: Label of unlabelled pixels.
        nan_to_num: Value that replaces NaN in per-class scores before the mean. None leaves absent
            classes out of the mean.
        beta: Weight of recall in the F score.
        output_dir: Folder to write predictions to as PNG files. None writes none.
        format_only: Whether to only write predictions, for test sets without ground truth. Needs
            ``output_dir``.
        collect_device: ``'cpu'`` (through files) or ``'gpu'`` (through the process group).
        prefix: Prefix of each key, as in ``prefix/mIoU``.

    Returns (of ``evaluate``):
        Percentages: ``mIoU``, ``mAcc``, ``aAcc`` and ``IoU.<class>`` for every class, and likewise
        ``mDice``, ``mFscore`` + ``mPrecision`` + ``mRecall``, ``kappa``, where asked for.

    Raises:
        ValueError: A name is not a class of the dataset, is both averaged and ignored, or a metric
            is unknown.

    Examples:
        >>> metric = SubsetIoUMetric(ignore_gt=['clutter'])
        >>> metric.dataset_meta = dict(classes=('building', 'tree', 'clutter'))
        >>> metric.averaged
        ['building', 'tree']
    """

    default_prefix = ''  # keys have no prefix; mmengine warns of None

    def __init__(
        self,
        mean_over: Sequence[str] | None = None,
        ignore_gt: Sequence[str] | None = None,
        iou_metrics: Sequence[str] | str = ('mIoU',),
        ignore_index: int = 255,
        nan_to_num: float | None = None,
        beta: float = 1.0,
        output_dir: str | None = None,
        format_only: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
        collect_dir: str | None = None,
    ) -> None:
        BaseMetric.__init__(
            self, collect_device=collect_device, prefix=prefix, collect_dir=collect_dir
        )
        self.metrics = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        unknown = [name for name in self.metrics if name not in _METRICS]
        if unknown or not self.metrics:
            raise ValueError(
                f'iou_metrics={self.metrics} names {unknown or "nothing"}: choose among '
                f'{list(_METRICS)}.'
            )
        if isinstance(mean_over, str) or isinstance(ignore_gt, str):
            raise ValueError(
                f'mean_over={mean_over!r} and ignore_gt={ignore_gt!r} must be lists of class '
                "names, as ['clutter']."
            )
        if format_only and output_dir is None:
            raise ValueError('format_only=True writes predictions: give output_dir too.')
        self.mean_over = None if mean_over is None else list(mean_over)
        self.ignore_gt = list(ignore_gt or [])
        both = sorted(set(self.ignore_gt) & set(self.mean_over or []))
        if both:
            raise ValueError(
                f'{both} stand in mean_over and in ignore_gt: a class whose pixels are ignored has '
                'no score to average, remove it from one of the two.'
            )
        self.ignore_index = ignore_index
        self.nan_to_num = nan_to_num
        self.beta = beta
        self.output_dir = output_dir
        self._written: dict[Path, str] = {}  # image of each map
        self.format_only = format_only
        self.record: dict[str, Any] | None = None
        if output_dir is not None and is_main_process():
            Path(output_dir).mkdir(parents=True, exist_ok=True)

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the dataset; setting it checks the class names."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        classes = list(dataset_meta.get('classes') or [])
        for argument, names in (('mean_over', self.mean_over), ('ignore_gt', self.ignore_gt)):
            unknown = [name for name in names or [] if name not in classes]
            if unknown:
                raise ValueError(
                    f'{argument}={names} names {unknown}, which the dataset does not have: its '
                    f'classes are {classes}.'
                )
        self._dataset_meta = dataset_meta

    @property
    def classes(self) -> list[str]:
        """Names of all classes of the dataset."""
        if self._dataset_meta is None:
            raise ValueError('Set dataset_meta=dict(classes=...) before the metric is used.')
        return list(self._dataset_meta['classes'])

    @property
    def averaged(self) -> list[str]:
        """Names of the classes in the mean."""
        if self.mean_over is not None:
            return self.mean_over
        return [name for name in self.classes if name not in self.ignore_gt]

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch and write its predictions.

        Args:
            data_batch: Not used.
            data_samples: Outputs of the model as dicts with ``pred_sem_seg`` and, unless
                ``format_only``, ``gt_sem_seg``, both PixelData with ``data`` (1, H, W).

        Raises:
            ValueError: A sample has no ground truth, or an id is not a class.
        """
        for sample in data_samples:
            prediction = sample['pred_sem_seg']['data'].squeeze(0)
            source = sample.get('img_path', 'an image')
            if not self.format_only:
                if 'gt_sem_seg' not in sample:
                    raise ValueError(
                        f'{source} has no ground truth: give the dataset its annotations, or set '
                        'format_only=True to write predictions only.'
                    )
                label = sample['gt_sem_seg']['data'].squeeze(0)
                try:
                    matrix = confusion_matrix(
                        prediction, label, len(self.classes), self.ignore_index
                    )
                except ValueError as error:
                    raise ValueError(f'{source}: {error}') from error
                self.results.append((str(source), matrix.cpu().numpy()))
            if self.output_dir is not None:
                self._write(prediction, sample)

    def _write(self, prediction: Tensor, sample: dict) -> None:
        """Write a map of class ids, increased by one if the label files start at 1."""
        ids = prediction.cpu().numpy()
        if sample.get('reduce_zero_label', False):
            ids = ids + 1
        path = Path(str(self.output_dir)) / f'{Path(sample["img_path"]).stem}.png'
        owner = self._written.setdefault(path, sample['img_path'])
        if owner != sample['img_path']:
            raise ValueError(
                f'{path} would be written for {owner} and for {sample["img_path"]}: write maps by '
                f'{command("predict")}, which keeps their folders.'
            )
        write_png(path, ids.astype(np.uint8), shared=True)  # two ranks may write copies

    def compute_metrics(self, results: list[tuple[str, np.ndarray]]) -> dict[str, float]:
        """Compute the scores over all images together, and keep them as ``record``.

        Args:
            results: Name and (K, K) confusion matrix of each image.

        Returns:
            The scores in percent, see the class.

        Raises:
            ValueError: There are no images.
        """
        logger: Any = MMLogger.get_current_instance()
        if self.format_only:
            print_log(f'predictions are saved in {self.output_dir}', logger)
            return {}
        if not results:
            raise ValueError(
                'No image was evaluated: check that the list of the evaluated split is not empty.'
            )
        whole = np.sum([matrix for _, matrix in results], axis=0)
        counted = whole.copy()
        ignored = [self.classes.index(name) for name in self.ignore_gt]
        counted[ignored] = 0
        scores = scores_per_class(counted, self.beta)
        for name, values in scores_per_class(whole, self.beta).items():
            scores[name][ignored] = values[ignored]
        if self.nan_to_num is not None:
            scores = {
                name: np.nan_to_num(values, nan=self.nan_to_num) for name, values in scores.items()
            }

        columns: dict[str, None] = {}
        for metric in self.metrics:
            columns |= dict.fromkeys(
                {
                    'mIoU': ('IoU', 'Acc'),
                    'mDice': ('Dice', 'Acc'),
                    'mFscore': ('Fscore', 'Precision', 'Recall'),
                    'kappa': (),
                }[metric]
            )
        chosen = [self.classes.index(name) for name in self.averaged]
        total = counted.sum()
        metrics = {'aAcc': float(np.trace(counted) / total) if total else float('nan')}
        metrics |= {f'm{name}': _mean(scores[name][chosen]) for name in columns}
        if 'kappa' in self.metrics:
            metrics['kappa'] = _kappa(counted) if total else float('nan')
        if 'mIoU' in self.metrics:
            metrics |= {
                f'IoU.{name}': float(value)
                for name, value in zip(self.classes, scores['IoU'], strict=True)
            }
        metrics = {name: round(100 * value, 4) for name, value in metrics.items()}
        self.record = self._record(results, whole, scores)
        if columns:
            title = f'per class results, of {len(results)} images:\n'
            print_log(title + self._table(scores, list(columns)), logger)
        return metrics

    def _record(
        self,
        results: list[tuple[str, np.ndarray]],
        whole: np.ndarray,
        scores: dict[str, np.ndarray],
    ) -> dict[str, Any]:
        """Return the parts of an evaluation that a report shows, as plain numbers."""
        named = {'IoU': 'IoU', 'F1': 'Dice', 'precision': 'Precision', 'recall': 'Recall'}
        return {
            'classes': self.classes,
            'averaged': self.averaged,
            'matrix': whole.tolist(),
            'scores': {
                shown: [None if np.isnan(v) else round(100 * float(v), 4) for v in scores[name]]
                for shown, name in named.items()
            },
            'images': [self._counts(name, matrix) for name, matrix in results],
        }

    def _counts(self, name: str, matrix: np.ndarray) -> dict[str, Any]:
        """Return the counts of one image, whose sums give the scores of any set of images."""
        counted = matrix.copy()
        counted[[self.classes.index(ignored) for ignored in self.ignore_gt]] = 0
        parts = {'hit': counted.diagonal(), 'truth': counted.sum(1), 'predicted': counted.sum(0)}
        return {'name': name, **{part: pixels.tolist() for part, pixels in parts.items()}}

    def _table(self, scores: dict[str, np.ndarray], columns: list[str]) -> str:
        """Format the table of all classes, with a column that tells which are in the mean."""
        table = PrettyTable()
        table.add_column('Class', self.classes)
        for name in columns:
            table.add_column(name, [f'{100 * value:.2f}' for value in scores[name]])
        roles = dict.fromkeys(self.averaged, 'yes')
        unscored = np.flatnonzero(np.isnan(scores['IoU']))  # neither in the labels nor predicted
        roles |= dict.fromkeys((self.classes[k] for k in unscored), 'absent')
        roles |= dict.fromkeys(self.ignore_gt, 'ignored')
        table.add_column('in mean', [roles.get(name, 'no') for name in self.classes])
        return str(table.get_string())

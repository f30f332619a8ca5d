# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A trained network that predicts class probabilities of windows of pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.apis import init_model
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor

from ..engine.calibration import Calibration, read_calibration
from ..engine.launch import load_config, section
from ..engine.test_time_aug import plain_steps
from ..models.utils.renormalise import image_statistics
from ..models.weights import load_weights
from ..rasters.levels import RasterToBands, RasterToRGB, raster_conversion
from ..utils.commands import find_checkpoint_file
from ..utils.files import file_digest, settings_digest

NO_DATA = 255  # value of pixels without data in a map

_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class Predictor:
    """Predictor of class probabilities by a model's own preprocessing and ``test_cfg``.

    Args:
        model: A segmentor of mmseg, in eval mode on its device. Its ``inference`` is called, so
            that teacher, student and fused students, whole and slide inference all work as in
            ``tools/test.py``.
        classes: Names of its K classes.
        palette: RGB colour of each class, 0-255.
        window: Side of the windows, in pixels of the image.
        input_size: (H, W) to which a window is resized for the network; None does not resize.
        to_rgb: Conversion of raster bands to 8-bit RGB, or to network channels (``RasterToBands``).
            Defaults to bands 1 to 3 of 8 bits.
        overlap: Overlap of neighbouring windows in pixels. Defaults to a quarter of ``window``.
        batch_size: Windows per forward pass.
        flips: Whether to average the probabilities of the window and its three mirror images.
        amp: Whether to predict under bfloat16 autocast (CUDA only).
        calibration: Calibration applied to the logits; None applies none.
        fingerprint: Digest of the config and the checkpoint; predictions are only resumed by the
            same one.

    Raises:
        ValueError: The number of classes, colours or bands differs from the model's, or a setting
            is out of range.
    """

    def __init__(
        self,
        model: Any,
        classes: Sequence[str],
        palette: Sequence[Sequence[int]],
        window: int,
        input_size: tuple[int, int] | None = None,
        to_rgb: RasterToRGB | None = None,
        overlap: int | None = None,
        batch_size: int = 4,
        flips: bool = False,
        amp: bool = False,
        fingerprint: str = '',
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model
        self.classes = list(classes)
        self.palette = [list(map(int, colour)) for colour in palette]
        self.window = window
        self.input_size = input_size
        self.to_rgb = to_rgb or RasterToRGB()
        self.overlap = window // 4 if overlap is None else overlap
        self.batch_size = batch_size
        self.flips = flips
        self.amp = amp
        self.calibration = calibration
        self._fingerprint = fingerprint
        if window < 1 or batch_size < 1 or not 0 <= self.overlap < window:
            raise ValueError(
                f'window={window}, overlap={self.overlap} and batch_size={batch_size} must be '
                'positive, and the overlap smaller than the window.'
            )
        if not len(self.classes) == len(self.palette) == _class_count(model):
            raise ValueError(
                f'The model has {_class_count(model)} classes, but there are {len(self.classes)} '
                f'names and {len(self.palette)} colours: the checkpoint belongs to another data '
                'set than the config.'
            )
        channels = len(image_statistics(model.data_preprocessor)[0])
        given = len(self.to_rgb.bands or range(channels))
        takes_bands = isinstance(self.to_rgb, RasterToBands)
        if (given != channels and takes_bands) or (channels != 3 and not takes_bands):
            raise ValueError(
                f'The network takes {channels} bands, but bands {self.to_rgb.bands or "1, 2, 3"} '
                'of the images are to be read: choose as many by --bands, or give the config the '
                'raster=dict(bands=..., count=...) of its training.'
            )
        if not 2 <= len(self.classes) <= NO_DATA:
            raise ValueError(
                f'The model has {len(self.classes)} classes, and maps are made of 2 to {NO_DATA}.'
            )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def network(self) -> str:
        """Name of the network that predicts, or '' if there is only one."""
        return network_name(self.model)

    @property
    def fingerprint(self) -> str:
        """Digest of the config, the checkpoint and all settings that change the result."""
        return settings_digest({
            'model': self._fingerprint,
            'window': [self.window, self.overlap, self.batch_size, self.input_size],
            'flips': self.flips,
            'amp': self.amp,
            'bands': repr(self.to_rgb),
            **({} if self.calibration is None else {'calibration': repr(self.calibration)}),
            'classes': [self.classes, self.palette],
        })  # fmt: skip

    @torch.inference_mode()
    def probabilities(self, windows: Tensor) -> Tensor:
        """Predict a batch of windows.

        Args:
            windows: RGB, shape (B, 3, h, w), uint8 or float in 0-255, on any device; for a network
                of N bands shape (B, N, h, w), float32.

        Returns:
            Probabilities that sum to 1 over the classes, shape (B, K, h, w), float32 in [0, 1].
        """
        images = windows.to(self.device)
        total = torch.zeros((), device=self.device)
        views = _FLIPS if self.flips else _FLIPS[:1]
        for dims in views:
            total = total + self._forward(images.flip(dims)).flip(dims)
        return total / len(views)

    def _forward(self, images: Tensor) -> Tensor:
        shape = tuple(images.shape[-2:])
        size = self.input_size or shape
        if size != shape:
            images = F.interpolate(images.float(), size, mode='bilinear')
        if not isinstance(self.to_rgb, RasterToBands):
            images = images[:, [2, 1, 0]]  # BGR as mmcv loads it; the preprocessor converts it back
        cast = torch.autocast('cuda', torch.bfloat16) if self.amp else nullcontext()
        with cast:
            data = {'inputs': list(images), 'data_samples': [SegDataSample() for _ in images]}
            inputs = self.model.data_preprocessor(data, False)['inputs']
            padded = tuple(inputs.shape[-2:])
            meta = {'ori_shape': shape, 'img_shape': size, 'pad_shape': padded}
            # not `predict`, whose argmax costs a tenth of a small network's time
            logits = self.model.inference(inputs, [dict(meta) for _ in images])
        logits = logits[..., : size[0], : size[1]].float()
        if size != shape:
            logits = resize(
                logits, size=shape, mode='bilinear', align_corners=self.model.align_corners
            )
        if self.calibration is not None:
            logits = self.calibration(logits)
        return logits.softmax(1)


def load_predictor(
    config: str | Path | Config,
    checkpoint: str | Path,
    device: str | None = None,
    network: str | None = None,
    window: int | None = None,
    bands: Sequence[int] | None = None,
    raster: Mapping[str, Any] | None = None,
    calibrated: bool = True,
    **settings: Any,
) -> Predictor:
    """Build a :class:`Predictor` from the config and checkpoint of a training.

    Pretrained weights of foundation models are not needed: the checkpoint holds all weights.

    Args:
        config: Config of the training. Its ``window_size`` (else ``crop_size``) is the side of the
            windows, and its ``raster`` the arguments of
            :class:`~mmseg_semi_rs.rasters.levels.RasterToRGB`, or with ``rgb`` or ``count`` of
            ``RasterToBands``. Windows are resized by the ``Resize`` of its test pipeline.
        checkpoint: Checkpoint file.
        device: Defaults to the current GPU if there is one, else ``'cpu'``.
        network: ``'teacher'`` or ``'student'``; for two students the name of one, or ``'fused'``.
            Defaults to the config's choice.
        window: Side of the windows in pixels. Defaults to the config's.
        bands: Numbers, from 1, of the red, green and blue band; for a network of bands, those of
            its channels in their order. Defaults to the config's.
        raster: Arguments of ``RasterToRGB`` (``low``, ``high``, ``nodata``) that replace the
            config's.
        calibrated: Whether to use the calibration stored with the checkpoint, if there is one.
        **settings: ``overlap``, ``batch_size``, ``flips`` and ``amp`` of :class:`Predictor`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The checkpoint does not fit the config, or the config cannot predict windows.
    """
    cfg = config if isinstance(config, Config) else load_config(config)
    if network is not None:
        choose_network(cfg, network)
    path = find_checkpoint_file(checkpoint)
    if device is None:
        gpu = torch.cuda.is_available()
        device = f'cuda:{torch.cuda.current_device()}' if gpu else 'cpu'
    if settings.get('amp') and not device.startswith('cuda'):
        raise ValueError(f'amp needs a CUDA device, not {device}: leave it out.')
    with _quiet():
        model = init_model(cfg, None, device)
    meta = load_weights(model, path)
    input_size = _resize_of(cfg)
    side = window or cfg.get('window_size') or _side(cfg)
    to_rgb = {**(cfg.get('raster') or {}), **(raster or {})}
    if bands is not None:
        to_rgb = _rebanded(to_rgb, bands)
    classes, palette = dataset_meta(cfg, meta, path)
    name = network_name(model)
    calibration = read_calibration(path, name, len(classes)) if calibrated else None
    return Predictor(
        model,
        classes,
        palette,
        side,
        input_size=input_size(side),
        to_rgb=raster_conversion(to_rgb),
        calibration=calibration,
        fingerprint=settings_digest({
            'config': repr(cfg.model.to_dict()),
            'checkpoint': file_digest(path),
        }),
        **settings,
    )  # fmt: skip


def _rebanded(raster: Mapping[str, Any], bands: Sequence[int]) -> dict[str, Any]:
    """Return raster settings that read other bands of a file into the same channels."""
    changed = {**raster, 'bands': list(bands)}
    before = raster_conversion(raster)
    if not isinstance(before, RasterToBands) or before.bands is None:
        return changed
    if len(bands) != len(before.bands):
        raise ValueError(
            f'The network takes {len(before.bands)} bands, but --bands names {len(bands)}: give as '
            "many, in the order of the config's raster.bands."
        )
    changed.pop('count', None)  # may differ from that of the training's files
    shown = [before.bands[channel] for channel in before.rgb_channels]
    changed['rgb'] = list(dict.fromkeys(bands[before.bands.index(band)] for band in shown))
    return changed


def network_name(model: Any) -> str:
    """Return the name of the network that a model predicts with, or '' if there is only one."""
    return str(getattr(model, 'predict_on', ''))


def choose_network(cfg: Config, name: str) -> None:
    """Set the network that a model predicts with.

    Args:
        cfg: The config, changed in place.
        name: ``'teacher'`` or ``'student'``; for two students the name of one, or ``'fused'``.

    Raises:
        ValueError: The model has only one network, or none of that name.
    """
    if 'student' in cfg.model:
        known = ['teacher', 'student'] if cfg.model.get('ema', True) else ['student']
    elif 'students' in cfg.model:
        known = [*sorted(cfg.model.students), 'fused']
    else:
        raise ValueError(
            f'The network {name!r} was asked for, but {cfg.model.type} is one network: leave the '
            'choice out.'
        )
    if name not in known:
        raise ValueError(f'{name!r} is none of the networks of the model: {", ".join(known)}.')
    section(cfg, 'model', 'semi_test_cfg').predict_on = name


def dataset_meta(
    cfg: Config, meta: Mapping[str, Any], path: Path
) -> tuple[Sequence[str], Sequence[Sequence[int]]]:
    """Return class names and palette of a checkpoint, else of the config's test dataset.

    Raises:
        ValueError: Neither names classes and palette.
    """
    found = dict(meta.get('dataset_meta') or {})
    if not found.get('classes') or not found.get('palette'):
        dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
        found = dict(dataset.get('metainfo') or {})
    if not found.get('classes') or not found.get('palette'):
        raise ValueError(
            f'Neither the checkpoint {path} nor metainfo of test_dataloader.dataset names classes '
            'and palette: add metainfo=dict(classes=[...], palette=[...]).'
        )
    return found['classes'], found['palette']


def _class_count(model: Any) -> int:
    if isinstance(getattr(model, 'num_classes', None), int):
        return model.num_classes
    head: Any = model.decode_head
    head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
    if getattr(head, 'out_channels', head.num_classes) != head.num_classes:
        raise ValueError(
            f'The model has out_channels={head.out_channels} for {head.num_classes} classes, of '
            'which no probabilities can be taken: train it with one channel per class.'
        )
    return head.num_classes


def _side(cfg: Config) -> int:
    """Return the side of a training crop, for configs that do not set the window size."""
    size = cfg.get('crop_size') or cfg.model.get('data_preprocessor', {}).get('size') or 512
    return int(size if isinstance(size, int) else min(size))


def prediction_steps(cfg: Config) -> list[Mapping[str, Any]]:
    """Return the configs of the transforms of a config's test pipeline; empty if it has none."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    return plain_steps(dataset.get('pipeline') or cfg.get('test_pipeline') or [])


def _resize_of(cfg: Config) -> Any:
    """Return how a config's test pipeline resizes a square window.

    Returns:
        Function from the side of a window to (H, W), or to None where it is not resized.

    Raises:
        ValueError: The pipeline does more than load, resize and pack.
    """
    resize = None
    for transform in prediction_steps(cfg):
        name = transform['type'].rsplit('.', 1)[-1]
        if name == 'Resize':
            resize = transform
        elif not name.startswith(('Load', 'Pack')):
            raise ValueError(
                f'The test pipeline has {name}, which prediction by windows does not apply: let it '
                'load, Resize and pack.'
            )

    def size(side: int) -> tuple[int, int] | None:
        if resize is None:
            return None
        scale = resize.get('scale')
        if scale is None:
            factor = resize['scale_factor']
            wide, high = (factor, factor) if isinstance(factor, (int, float)) else factor
            return round(side * high), round(side * wide)
        wide, high = (scale, scale) if isinstance(scale, int) else scale
        return (min(wide, high),) * 2 if resize.get('keep_ratio') else (high, wide)

    return size


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings about pretrained weights that a model does not load."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

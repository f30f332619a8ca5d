# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Export of one network of a semi-supervised segmentor as a plain config and checkpoint of mmseg.

The export needs no teacher, EMA copy, semi-supervised segmentor or pretrained weights. Where every
part has an equivalent in mmseg or mmpretrain (:mod:`.stock_parts`), it does not need this package
either: ``mmseg.apis.init_model``, ``inference_model`` and ``MMSegInferencer`` load it like any
other model. Its logits are compared with the original's before anything is written.

mmseg itself imports the compiled operators of the full mmcv; with mmcv-lite it needs the fixes of
:mod:`mmseg_semi_rs.compat`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ..engine.launch import load_config
from ..models.utils.renormalise import image_statistics
from ..utils.commands import find_checkpoint_file
from ..utils.files import replacing, write_atomic
from .predictor import choose_network, dataset_meta, load_weights, prediction_steps
from .stock_parts import (
    NO_STOCK_PART,
    State,
    complete_backbone,
    for_prediction,
    package_parts,
    unwrap_distillation,
    use_stock_backbone,
)

#: Largest allowed difference of the logits from the original's, relative to the largest logit.
TOLERANCE = 1e-4
_STATISTICS = ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr')
_PADDING = ('size', 'size_divisor', 'pad_val', 'seg_pad_val', 'test_cfg')
_NOT_TO_PREDICT = ('LoadAnnotations', 'AddValidMask')


@dataclass(frozen=True)
class TakenNetwork:
    """One network of a trained model, with everything that is needed to export it.

    Attributes:
        name: 'teacher', 'student', a student's name, or '' where there is only one network.
        model: The whole model, set to predict with this network, in eval mode on the CPU.
        network: The network, an ``EncoderDecoder``.
        cfg: Config of the network.
        preprocessor: Data preprocessor that normalises its images.
        preprocessor_cfg: Arguments of an equivalent ``SegDataPreProcessor``.
        classes: Names of the K classes.
        palette: RGB colour of each class.
        config: Config of the training.
        size: Height and width of the input in pixels: the window of slide inference, else the
            training crop.
    """

    name: str
    model: Any
    network: Any
    cfg: dict[str, Any]
    preprocessor: Any
    preprocessor_cfg: dict[str, Any]
    classes: list[str]
    palette: list[list[int]]
    config: Config
    size: tuple[int, int]

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(image_statistics(self.preprocessor)[0])

    @property
    def raster(self) -> dict[str, Any]:
        """Settings that turn image files into the input; empty for plain 8-bit RGB."""
        found = self.config.get('raster') or {}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class ExportedNetwork:
    """Files written by :func:`export_network`, and the result of their comparison.

    Attributes:
        config: Path of the config.
        checkpoint: Path of the checkpoint.
        needs: Parts of this package that the config uses; if empty, it runs without the package.
        difference: Largest absolute difference of the logits from the original's.
        size: Height and width in pixels of the image on which the logits were compared.
        mmpretrain: Whether the backbone is from mmpretrain.
        resized_positions: Whether the stored position embedding was resized to fit ``size``.
    """

    config: Path
    checkpoint: Path
    needs: tuple[str, ...]
    difference: float
    size: tuple[int, int]
    mmpretrain: bool
    resized_positions: bool

    def __str__(self) -> str:
        """Describe in a few sentences what was written and what it needs."""
        height, width = self.size
        lines = [
            f'wrote {self.config} and {self.checkpoint}',
            f'logits differ from the original by {self.difference:.1e} at most, on an image of '
            f'{height} x {width} px',
        ]
        lines += [
            f'needs mmseg_semi_rs for {name}: {NO_STOCK_PART.get(name, "mmseg has no such part")}'
            for name in self.needs
        ]
        if not self.needs:
            family = 'mmseg and mmpretrain' if self.mmpretrain else 'mmseg alone'
            lines.append(f'runs with {family}, without mmseg_semi_rs')
        if self.resized_positions:
            lines.append(
                f'its positions are stored for {height} x {width} px: at other sizes it predicts '
                'almost, but not exactly, as the original'
            )
        return '\n'.join(lines)


def take_network(
    config: str | Path,
    checkpoint: str | Path,
    network: str | None = None,
    size: tuple[int, int] | None = None,
) -> TakenNetwork:
    """Load a trained model and select one of its networks.

    Args:
        config: Config of the training.
        checkpoint: Checkpoint of the training.
        network: ``'teacher'`` or ``'student'``, or a student's name (its average, if the training
            kept one). Defaults to the network that the config predicts with.
        size: Height and width of the input in pixels. Defaults to the config's.

    Returns:
        The network with its settings.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The checkpoint does not fit the config, there is no such network, or its
            normalisation or input size is unknown.
    """
    cfg = load_config(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    if network is not None:
        choose_network(cfg, network)
    path = find_checkpoint_file(checkpoint)
    model: Any = MODELS.build(cfg.model)
    meta = load_weights(model, path)
    classes, palette = dataset_meta(cfg, meta, path)
    name, taken, network_cfg, preprocessor = _part(model.eval(), cfg)
    if not isinstance(preprocessor, SegDataPreProcessor):
        raise ValueError(
            f'{config} has no SegDataPreProcessor that says how images are normalised: give its '
            'model a data_preprocessor.'
        )
    # A student with its own statistics normalises images that the shared preprocessor has padded.
    shared = cfg.model.data_preprocessor
    own = network_cfg.get('data_preprocessor', shared)
    keys = [(shared, key) for key in _PADDING] + [(own, key) for key in _STATISTICS]
    return TakenNetwork(
        name,
        model,
        taken,
        network_cfg.to_dict(),
        preprocessor,
        {key: source.to_dict()[key] for source, key in keys if key in source},
        [str(known) for known in classes],
        [[int(value) for value in colour] for colour in palette],
        cfg,
        size or _input_size(cfg, network_cfg, model.data_preprocessor, config),
    )


def _part(model: Any, cfg: Config) -> tuple[str, Any, Any, Any]:
    """Return name, module, config and preprocessor of the network that a model predicts with."""
    if 'students' in cfg.model:
        name = model.predict_on
        if name == 'fused':
            raise ValueError(
                'A file holds one network, but the config predicts with two fused: choose one by '
                f'--network {" or ".join(sorted(cfg.model.students))}.'
            )
        student = cfg.model.students[name]
        owner = model.students[name] if 'data_preprocessor' in student else model
        return name, model.predictors[name], student, owner.data_preprocessor
    if 'student' in cfg.model:
        return (
            model.predict_on,
            model.predictors[model.predict_on],
            cfg.model.student,
            model.data_preprocessor,
        )
    return '', model, cfg.model, model.data_preprocessor


def _input_size(
    cfg: Config, network_cfg: Any, preprocessor: Any, config: str | Path
) -> tuple[int, int]:
    test_cfg = network_cfg.get('test_cfg') or {}
    for found in (
        test_cfg.get('crop_size') if test_cfg.get('mode') == 'slide' else None,
        preprocessor.size,
        cfg.get('crop_size'),
    ):
        if found is not None:
            return (found, found) if isinstance(found, int) else (int(found[0]), int(found[1]))
    raise ValueError(
        f'{config} does not say how large the images of the network are: give --size HEIGHT WIDTH.'
    )


def export_network(taken: TakenNetwork, out: str | Path, name: str) -> ExportedNetwork:
    """Write a network as ``<name>.py`` and ``<name>.pth``.

    The config has the model, ``test_pipeline``, ``test_dataloader``, a visualizer, classes and
    palette; the checkpoint has the weights and ``meta.dataset_meta``, and loads with
    ``torch.load(weights_only=True)``. Auxiliary heads, which never predict, are left out.

    Args:
        taken: The network.
        out: Output folder, created if missing.
        name: File name of both without suffix.

    Returns:
        The files and the result of the comparison.

    Raises:
        ValueError: The exported network would not predict the same as the original.
    """
    cfg, state = copy.deepcopy(taken.cfg), _weights(taken.network)
    cfg['data_preprocessor'] = {'type': 'SegDataPreProcessor', **taken.preprocessor_cfg}
    for_prediction(cfg)
    complete_backbone(cfg, state, taken.network)
    unwrap_distillation(cfg, state, taken.network)
    candidates: list[tuple[dict[str, Any], State, bool]] = [(cfg, state, False)]
    stock_cfg, stock_state = copy.deepcopy(cfg), dict(state)
    stock = use_stock_backbone(stock_cfg, stock_state, taken.network, taken.size)
    if stock is not None and not package_parts(stock_cfg):
        candidates.insert(0, (stock_cfg, stock_state, stock))
    for candidate in candidates:
        difference, scale = _compare(taken, *candidate[:2])
        if difference <= TOLERANCE * scale:
            break
    else:
        raise ValueError(
            f'The exported network would predict otherwise than the original: logits differ by '
            f'{difference:.2e}, where the largest is {scale:.2e}; nothing was written.'
        )
    cfg, state, resized = candidate
    written = _config(taken, cfg)
    needs = package_parts(written)
    mmpretrain = cfg['backbone']['type'].startswith('mmpretrain.')
    imports = ['mmseg_semi_rs'] if needs else ['mmpretrain.models'] if mmpretrain else []
    if imports:
        written['custom_imports'] = {'imports': imports, 'allow_failed_imports': False}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    result = ExportedNetwork(
        folder / f'{name}.py',
        folder / f'{name}.pth',
        tuple(needs),
        difference,
        taken.size,
        mmpretrain,
        resized,
    )
    meta = {'dataset_meta': {'classes': taken.classes, 'palette': taken.palette}}
    with replacing(result.checkpoint) as partial:
        torch.save({'meta': meta, 'state_dict': state}, partial)
    write_atomic(result.config, (_header(taken, result) + Config(written).pretty_text).encode())
    return result


def _weights(network: Any) -> State:
    """Copy all weights except those of auxiliary heads."""
    return {
        key: tensor.detach().cpu().clone()
        for key, tensor in network.state_dict().items()
        if not key.startswith('auxiliary_head.')
    }


@torch.no_grad()
def _compare(taken: TakenNetwork, cfg: dict[str, Any], state: State) -> tuple[float, float]:
    """Build the exported network and compare it with the original on a random image.

    Returns:
        Largest absolute difference of the logits, and largest absolute logit of the original.
    """
    exported: Any = MODELS.build(ConfigDict(copy.deepcopy(cfg)))
    exported.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    shape = (taken.channels, *taken.size)
    image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    exported.eval()
    first, second = (_logits(model, image) for model in (taken.model, exported))
    return float((first - second).abs().max()), float(first.abs().max())


def _logits(model: Any, image: Tensor) -> Tensor:
    shape = (image.shape[1], image.shape[2])
    sample = SegDataSample(metainfo={'ori_shape': shape, 'img_shape': shape, 'pad_shape': shape})
    found = model.test_step({'inputs': [image], 'data_samples': [sample]})
    return found[0].seg_logits.data


def _config(taken: TakenNetwork, model: dict[str, Any]) -> dict[str, Any]:
    """Build a config for prediction, with only what mmseg's inference reads."""
    pipeline = _pipeline(taken.config)
    written = {
        'default_scope': 'mmseg',
        'classes': taken.classes,
        'palette': taken.palette,
        'crop_size': taken.size,
        'model': model,
        'test_pipeline': pipeline,
        'test_dataloader': {
            'batch_size': 1,
            'num_workers': 0,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'dataset': {
                'type': 'BaseSegDataset',
                'metainfo': {'classes': taken.classes, 'palette': taken.palette},
                'pipeline': pipeline,
            },
        },
        'visualizer': {
            'type': 'SegLocalVisualizer',
            'vis_backends': [{'type': 'LocalVisBackend'}],
            'name': 'visualizer',
        },
    }
    for key in ('window_size', 'raster'):  # read by the prediction of large images
        if key in taken.config:
            written[key] = taken.config.to_dict()[key]
    return written


def _pipeline(cfg: Config) -> list[dict[str, Any]]:
    """Return the test pipeline without the steps that load or mark labels."""
    steps = prediction_steps(cfg)
    if not steps:
        return [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]
    kept = [dict(step) for step in steps if step['type'] not in _NOT_TO_PREDICT]
    for step in kept:
        if step['type'] == 'PackSemiInputs':
            step['type'] = 'PackSegInputs'
    return kept


def _header(taken: TakenNetwork, result: ExportedNetwork) -> str:
    source = Path(taken.config.filename).name
    title = f'# {taken.name or "The network"} of {source}, exported for prediction by mmseg.\n'
    needs = ''.join(f'# {line}\n' for line in str(result).splitlines()[1:] if 'differ' not in line)
    return title + needs


def file_name(config: str | Path, network: str) -> str:
    """Return the name of an export without suffix: that of the config, then that of the network."""
    return '_'.join(part for part in (Path(config).stem, network) if part)


def parse_size(numbers: Sequence[int] | None) -> tuple[int, int] | None:
    """Check the height and width given on a command line.

    Raises:
        ValueError: A number is not positive.
    """
    if numbers is None:
        return None
    height, width = numbers
    if min(height, width) < 1:
        raise ValueError(f'--size {height} {width} must be two positive numbers of pixels.')
    return height, width

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Shared parts of the ONNX and PT2 export: input and output format, input sizes and the comparison.

======== =========================================================================================
input    ``images``, (B, 3, H, W), float32, RGB in 0-255; normalisation is part of the network. A
         network of N bands takes (B, N, H, W) on the same scale
output   ``probabilities``, (B, K, H, W), float32: softmax over the classes (for a head with one
         channel (B, 1, H, W), its sigmoid)
metadata ``classes`` and ``palette`` (JSON lists), ``raster`` (JSON: bands of a file and the values
         mapped to 0 and 255; absent for 8-bit RGB), ``input``, ``output``, ``size`` ("H W" of the
         export), ``dynamic`` ("yes" or "no") and ``multiple`` (H and W must be multiples of it;
         equal to ``size`` where that is fixed)
======== =========================================================================================

Batch, height and width are dynamic where the network allows it: vision transformers take multiples
of their patch size, some other networks multiples of 32. A network that encodes the image again at
other sizes (RS-MTDF's fusion with a teacher of another input size) is exported for one size only.
So are more networks with torch before 2.5, whose exporters trace a single example. Resizing and
sliding windows of the test pipeline and ``test_cfg`` are left to the caller.
"""

from __future__ import annotations

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.utils import resize
from torch import Tensor, nn

from ..models.backbones import DINOv2, FoundationBackbone
from ..models.utils.renormalise import image_statistics
from ..rasters.levels import RasterToBands, raster_conversion
from .export import TakenNetwork

#: Largest allowed difference of the exported file's probabilities from the network's.
TOLERANCE = 1e-3
_LARGEST_MULTIPLE = 32
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class GraphFile:
    """An exported file and the result of its comparison with PyTorch.

    Attributes:
        path: The file.
        version: Version of the format, in words.
        size: Height and width in pixels of the export.
        multiple: Height and width may be any multiples of it; None allows ``size`` alone.
        difference: Largest absolute difference of the probabilities from the network's.
        checked: Input shapes on which they were compared.
        reason: Why the input size is fixed; empty where it is dynamic.
    """

    path: Path
    version: str
    size: tuple[int, int]
    multiple: int | None
    difference: float
    checked: tuple[Shape, ...]
    reason: str

    def __str__(self) -> str:
        """Describe in a few sentences what was written and which input it takes."""
        shapes = ', '.join(' x '.join(map(str, shape)) for shape in self.checked)
        return (
            f'wrote {self.path} ({self.version})\n'
            f'probabilities differ from PyTorch by {self.difference:.1e} at most, on {shapes}\n'
            f'takes {self.takes}' + (f': {self.reason}' if self.reason else '')
        )

    @property
    def takes(self) -> str:
        """Description of the input sizes that the file takes."""
        if self.multiple is None:
            return f'images of {self.size[0]} x {self.size[1]} px only'
        if self.multiple == 1:
            return 'any batch, height and width'
        return f'any batch, and any multiples of {self.multiple} px'


def has_bands(taken: TakenNetwork) -> bool:
    """Return whether the network takes any number of bands rather than RGB."""
    return isinstance(raster_conversion(taken.raster), RasterToBands)


class WithPixels(nn.Module):
    """A network with normalisation and softmax, from pixels in 0-255 to class probabilities."""

    mean: Tensor
    std: Tensor

    def __init__(self, taken: TakenNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(taken.network).requires_grad_(False).eval()
        preprocessor = taken.preprocessor
        self.channels = taken.channels
        # an RGB network without channel conversion was trained on BGR
        self.swap = not preprocessor.channel_conversion and not has_bands(taken)
        mean, std = image_statistics(preprocessor)
        self.register_buffer('mean', mean.float())
        self.register_buffer('std', std.float())

    def forward(self, images: Tensor) -> Tensor:
        """Predict probabilities (B, K, H, W) in [0, 1] of images (B, C, H, W) in 0-255."""
        size = images.shape[-2:]
        if self.swap:
            images = images.flip(1)
        metas = [{'ori_shape': size, 'img_shape': size, 'pad_shape': size}]
        logits = self.network.encode_decode((images - self.mean) / self.std, metas).float()
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def export_graph(
    taken: TakenNetwork,
    path: str | Path,
    kind: str,
    write: Callable[[WithPixels, Tensor, int | None, Path], str],
    difference: Callable[[WithPixels, Path, Sequence[Shape]], float],
) -> GraphFile:
    """Export a network with the most flexible input sizes at which the file predicts the same.

    Args:
        taken: The network.
        path: The file to write.
        kind: Name of the format for messages.
        write: Writes the file and returns its version. Takes the network, an example input, the
            number of which sides may be multiples (None: as in the example), and a path.
        difference: Returns the largest difference of the probabilities on inputs of some shapes.

    Returns:
        The file and the result of the comparison.

    Raises:
        ValueError: The network cannot be exported, or the file predicts differently.
    """
    wrapped, path = WithPixels(taken).eval(), Path(path)
    patch = _patch(taken.network)
    height, width = taken.size
    if height % patch or width % patch:
        raise ValueError(
            f'The network takes multiples of {patch} px, not {height} x {width}: give --size with '
            'such numbers.'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    multiples: list[int | None] = [None]
    if _looks_again(taken.network, taken.size):
        reason = 'it looks at the image at further sizes, which depend on its shape'
    else:
        reason = ''
        multiples[:0] = sorted({patch, _LARGEST_MULTIPLE // patch * patch or patch})
        if _padded_by_size(taken.network):  # tracing their padding at dynamic sizes takes minutes
            multiples = [_LARGEST_MULTIPLE, None]
            if height % _LARGEST_MULTIPLE or width % _LARGEST_MULTIPLE:
                reason, multiples = f'it takes multiples of {_LARGEST_MULTIPLE} px', [None]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / f'model{path.suffix}'
        for multiple in multiples:
            shapes = _shapes(taken.channels, taken.size, multiple)
            try:
                with exportable(wrapped, multiple), silence(), torch.no_grad():
                    example = _example(taken.channels, taken.size, multiple)
                    version = write(wrapped, example, multiple, partial)
                found = difference(wrapped, partial, shapes)
            except Exception as error:  # exporters and runtimes raise errors of any type
                if multiple is None:
                    raise ValueError(
                        f'{type(taken.network).__name__} cannot be exported to {kind}: '
                        f'{_first_line(error)}.'
                    ) from error
                reason = reason or f'at other sizes it fails ({_first_line(error)})'
                continue
            if found <= TOLERANCE:
                break
            if multiple is None:
                raise ValueError(
                    f'The {kind} file predicts otherwise than PyTorch: probabilities differ by '
                    f'{found:.2e}, and at most {TOLERANCE:.0e} is allowed; nothing was written.'
                )
            reason = reason or f'at other sizes probabilities would differ by {found:.1e}'
        partial.replace(path)
    told = '' if multiple else reason
    return GraphFile(path, version, taken.size, multiple, found, tuple(shapes), told)


def described(taken: TakenNetwork, multiple: int | None) -> dict[str, str]:
    """Return the metadata that an exported file carries."""
    size = ' '.join(map(str, taken.size))
    return {
        'classes': json.dumps(taken.classes),
        'palette': json.dumps(taken.palette),
        'input': f'images (B, {taken.channels}, H, W), float32, '
        f'{"bands" if has_bands(taken) else "RGB"}, 0-255',
        **({'raster': json.dumps(taken.raster)} if taken.raster else {}),
        'output': 'probabilities (B, K, H, W), float32',
        'size': size,
        'dynamic': 'no' if multiple is None else 'yes',
        'multiple': size if multiple is None else str(multiple),
    }


def _patch(network: Any) -> int:
    backbone = network.backbone
    return backbone.patch_size if isinstance(backbone, FoundationBackbone) else 1


def _looks_again(network: Any, size: tuple[int, int]) -> bool:
    """Return whether a head encodes resized images, at this input size or at twice its size."""
    view_sizes = getattr(network.decode_head, 'view_sizes', None)
    return view_sizes is not None and any(
        view_sizes(shape) for shape in (size, (2 * size[0], 2 * size[1]))
    )


def _shapes(channels: int, size: tuple[int, int], multiple: int | None) -> list[Shape]:
    """Return the input shapes to compare on: the export's, and if dynamic a wide and a high one."""
    height, width = size
    if multiple is None:
        return [(1, channels, height, width)]
    rows, columns = height // multiple, width // multiple
    others = [(3, rows + 1, columns + 3), (1, 2 * max(rows, columns) + 1, columns + 1)]
    return [(1, channels, height, width)] + [
        (b, channels, h * multiple, w * multiple) for b, h, w in others
    ]


def random_pixels(shape: Shape) -> Tensor:
    """Return reproducible random pixels of a shape, in 0-255."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


def _example(channels: int, size: tuple[int, int], multiple: int | None) -> Tensor:
    """Return the input that an exporter traces.

    For dynamic sizes, height and width differ from each other and from the size that the network
    was built for, since the exporter would treat equal sizes as constants.
    """
    if multiple is None:
        return random_pixels((1, channels, *size))
    height, width = size[0] // multiple + 1, size[1] // multiple + 2
    return random_pixels((2, channels, height * multiple, width * multiple))


def furthest(wanted: Tensor, found: Tensor) -> float:
    """Return the largest absolute difference of two tensors, or infinity if their shapes differ."""
    return float((wanted - found).abs().max()) if found.shape == wanted.shape else float('inf')


def dimensions(multiple: int, smallest: int = 1) -> dict[int, Any]:
    """Return ``torch.export`` dimensions: any batch size, any multiples as height and width."""
    least = -(-smallest // multiple)
    batch, height, width = (
        torch.export.Dim('batch'),
        torch.export.Dim('height', min=least),
        torch.export.Dim('width', min=least),
    )
    if multiple == 1:
        return {0: batch, 2: height, 3: width}
    return {0: batch, 2: multiple * height, 3: multiple * width}


def _padded_by_size(network: Any) -> list[Any]:
    """Return the convolutions with TensorFlow's padding, which depends on the input size."""
    return [part for part in network.modules() if type(part).__name__ == 'Conv2dSame']


def _padded_alike(part: Any) -> Callable[[Tensor], Tensor]:
    """Return a ``Conv2dSame`` for inputs that its stride divides, where the padding is constant."""
    missing = [
        max((kernel - 1) * dilation + 1 - stride, 0)
        for kernel, dilation, stride in zip(
            part.kernel_size, part.dilation, part.stride, strict=True
        )
    ]
    ends = [end for side in reversed(missing) for end in (side // 2, side - side // 2)]

    def forward(images: Tensor) -> Tensor:
        settings = part.stride, 0, part.dilation, part.groups
        return F.conv2d(F.pad(images, ends), part.weight, part.bias, *settings)

    return forward


@contextmanager
def exportable(wrapped: Any, multiple: int | None) -> Iterator[None]:
    """Temporarily replace some operations by forms that can be exported with dynamic sizes."""
    network, pool = wrapped.network, F.adaptive_avg_pool2d
    padded = _padded_by_size(network) if multiple == _LARGEST_MULTIPLE else []
    for part in padded:
        part.forward = _padded_alike(part)
    F.adaptive_avg_pool2d = _adaptive_average_pool  # type: ignore[assignment]
    # for its warnings mmseg's resize would turn symbolic sizes into numbers
    defaults = resize.__defaults__
    resize.__defaults__ = (*defaults[:-1], False)
    if isinstance(network.backbone, DINOv2):
        network.backbone.__dict__['position_embedding'] = partial(_positions, network.backbone)
    try:
        yield
    finally:
        for part in padded:
            del part.forward
        F.adaptive_avg_pool2d = pool
        resize.__defaults__ = defaults
        network.backbone.__dict__.pop('position_embedding', None)


def _positions(backbone: DINOv2, grid: tuple[int, int]) -> Tensor:
    """Compute :meth:`DINOv2.position_embedding` as two matrix products, for any patch grid.

    Exporters freeze the scale factors of the operator itself, (h + 0.1) / H, to those of the
    example. On the stored grid they are 1, and cubic interpolation changes nothing.
    """
    stored, like = backbone.patch_resolution, backbone.pos_embed
    patches = like[0, 1:].unflatten(0, tuple(stored)).permute(2, 0, 1)
    sides = [torch.scalar_tensor(side, dtype=like.dtype, device=like.device) for side in grid]
    apart = [(side - at).abs() for side, at in zip(sides, stored, strict=True)]
    other = (apart[0] + apart[1]).clamp(max=1)
    rows, columns = (
        _cubic_weights(torch.arange(to, device=like.device), (side + 0.1 * other) / at, at)
        for to, side, at in zip(grid, sides, stored, strict=True)
    )
    resized = (rows @ patches @ columns.transpose(0, 1)).flatten(1).transpose(0, 1)
    return torch.cat([like[:, :1], resized[None]], dim=1)


def _cubic_weights(places: Tensor, factor: Tensor, stored: int) -> Tensor:
    """Return the weights of cubic interpolation from ``stored`` values, (places, stored).

    The kernel is PyTorch's (a = -0.75), and the border is repeated.
    """
    centre = (places.to(factor.dtype) + 0.5) / factor - 0.5
    first = centre.floor()
    weights = torch.zeros_like(centre)[:, None] * torch.zeros(1, stored, device=places.device)
    for step in (-1, 0, 1, 2):
        far = (centre - first - step).abs()
        near = ((1.25 * far - 2.25) * far) * far + 1
        wide = ((-0.75 * far + 3.75) * far - 6.0) * far + 3.0
        share = torch.where(far <= 1, near, wide)
        index = (first + step).clamp(0, stored - 1)
        hits = index[:, None] == torch.arange(stored, device=places.device)
        weights = weights + hits * share[:, None]
    return weights


def _adaptive_average_pool(images: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """Compute :func:`torch.nn.functional.adaptive_avg_pool2d` as two matrix products.

    Exporters freeze the cells of the operator itself to those of the example.
    """
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    rows, columns = (
        _cell_weights(side, side if cells is None else cells, images)
        for side, cells in zip(images.shape[-2:], sizes, strict=True)
    )
    return rows @ images @ columns.transpose(0, 1)


def _cell_weights(side: int, cells: int, like: Tensor) -> Tensor:
    """Return the weight of each of ``side`` places in the mean of each cell, (cells, side)."""
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(side, device=like.device)[None]
    first, behind = cell * side // cells, ((cell + 1) * side + cells - 1) // cells
    inside = ((place >= first) & (place < behind)).to(like.dtype)
    return inside / (behind - first).to(like.dtype)


@contextmanager
def silence() -> Iterator[None]:
    """Suppress the warnings and log messages of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    """Return the root cause of an exporter's error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f'{type(error).__name__}: {lines[0][:150].rstrip(".")}' if lines else type(error).__name__
    )

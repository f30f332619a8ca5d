# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A vision-language model that is asked where the objects of each class are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmseg.registry import MODELS
from PIL import Image

from ..evidence import Evidence, Region, quantise
from .answers import parse_answer
from .base import Verifier
from .boxes import COORDINATES, NATIVE_COORDINATES, Size, paint, processed_size, to_tile
from .masks import SegmentAnything
from .pretrained import (
    find_model,
    import_transformers,
    load_model,
    model_digest,
    need_model,
    short_name,
)

#: Version of the processing, to be raised when the same answer gives other evidence.
READING = 1

PROMPT = (
    'This is an aerial image, seen from above. Locate every object and area of these classes: '
    '{classes}. Answer with a JSON list only, without any explanation, one entry per object: '
    '[{"bbox_2d": [x1, y1, x2, y2], "label": "class name"}]. As a label, use the name of a class '
    'as it is written above. If there is nothing of these classes, answer [].'
)
_DTYPES = ('auto', 'bfloat16', 'float16', 'float32')


@MODELS.register_module()
class GenerativeVerifier(Verifier):
    """Asks a vision-language model of transformers for boxes, and paints them as evidence.

    There is one question per tile, with the natural names and synonyms of the classes that are
    asked for. A tile's evidence for a class is the highest score of its regions at a pixel; pixels
    covered by a region count as seen. Model and question are those of SemiEarth's verifier (arXiv
    2602.00202), with its defects fixed: boxes are converted from the model's frame to the tile's,
    the model's own JSON is parsed, and a truncated answer is detected.

    Args:
        classes: See :class:`ClassPrompts`.
        model: A folder, or ``owner/name`` on the Hugging Face hub, of any model that
            ``AutoModelForImageTextToText`` loads and that was trained to give boxes. Defaults to
            'Qwen/Qwen2.5-VL-7B-Instruct' (Apache-2.0; the 3B model is for non-commercial use only).
        revision: Revision on the hub. Defaults to None, the main branch.
        coordinates: Unit of the model's numbers: 'absolute' (pixels of the image as resized by its
            processor), 'thousand' (0 to 1000), 'unit' (0 to 1), or 'auto' for what its family was
            trained with.
        masks: How boxes become masks. 'box' fills them. 'teacher' fills them too, but the purifier
            then keeps only the teacher's own segment of each region. A dict has arguments of
            :class:`SegmentAnything`; a region's score is then multiplied by the predicted IoU of
            its mask.
        score: Score of an object without a score from the model, in (0, 1].
        batch_size: Tiles per call of the model; halved if memory does not suffice.
        dtype: 'auto' (as saved), 'bfloat16', 'float16' or 'float32'.
        max_new_tokens: Maximum length of an answer; truncation is detected.
        min_pixels: Smallest area to which the processor resizes a tile, in pixels. Defaults to
            None, the model's own.
        max_pixels: Largest such area. Defaults to None, the model's own.
        prompt: The question, containing ``{classes}``. Defaults to :data:`PROMPT`.
        local_files_only: Whether :meth:`load` must not download missing files.
        bands: See :class:`Verifier`.

    Raises:
        ValueError: If a setting is unknown or out of its range.
    """

    def __init__(
        self,
        classes: str | Sequence[str | Sequence[str] | None],
        model: str = 'Qwen/Qwen2.5-VL-7B-Instruct',
        revision: str | None = None,
        coordinates: str = 'auto',
        masks: str | Mapping[str, Any] = 'box',
        score: float = 0.95,
        batch_size: int = 8,
        dtype: str = 'auto',
        max_new_tokens: int = 512,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        prompt: str = PROMPT,
        local_files_only: bool = True,
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(classes, bands)
        areas = [area for area in (min_pixels, max_pixels) if area is not None]
        wrong = {
            f"coordinates={coordinates!r} must be 'auto' or one of {sorted(COORDINATES)}": (
                coordinates not in ('auto', *COORDINATES)
            ),
            f"masks={masks!r} must be 'box', 'teacher' or a dict of model and revision of a SAM": (
                masks not in ('box', 'teacher')
                if isinstance(masks, str)
                else not {'model'} <= set(masks) <= {'model', 'revision', 'boxes_at_once'}
            ),
            f'score={score} must be within (0, 1]': not 0 < score <= 1,
            f'dtype={dtype!r} must be one of {_DTYPES}': dtype not in _DTYPES,
            f'batch_size={batch_size} must be 1 or more': batch_size < 1,
            f'max_new_tokens={max_new_tokens} must be 1 or more': max_new_tokens < 1,
            f'min_pixels={min_pixels} must not exceed max_pixels={max_pixels}, nor be below 1': (
                areas != sorted(areas) or min(areas, default=1) < 1
            ),
            f'prompt={prompt!r} must have {{classes}} in it': '{classes}' not in prompt,
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f'GenerativeVerifier {message}.')
        self.model_name, self.revision, self.coordinates = model, revision, coordinates
        self.score, self.batch_size, self.dtype = float(score), batch_size, dtype
        self.max_new_tokens, self.local_files_only = max_new_tokens, local_files_only
        self.limits = {'shortest_edge': min_pixels, 'longest_edge': max_pixels}
        self.question = prompt.replace('{classes}', '; '.join(map(self._names, self.prompts.asked)))
        self.within_segments = masks == 'teacher'
        self.segment = (
            None
            if isinstance(masks, str)
            else SegmentAnything(download=not local_files_only, **masks)
        )
        self._model: Any = None
        self._processor: Any = None

    def _names(self, label: int) -> str:
        name, *others = tuple(self.prompts)[label]
        return f'{name} (also {", ".join(others)})' if others else name

    def settings(self) -> dict[str, Any]:
        """See :meth:`Verifier.settings`; needs neither transformers nor the model."""
        digests = [model_digest(find_model(self.model_name, self.revision))]
        if self.segment is not None:
            digests.append(self.segment.digest())
        parts = [digest for digest in digests if digest is not None]
        complete = len(parts) == len(digests)
        return {
            'verifier': type(self).__name__,
            'reading': READING,
            'classes': [list(names) for names in self.prompts],
            'question': self.question,
            'model': short_name(self.model_name),
            'revision': self.revision,
            'coordinates': self.coordinates,
            'masks': 'box' if self.segment is None else self.segment.settings(),
            'score': self.score,
            'dtype': self.dtype,
            'max_new_tokens': self.max_new_tokens,
            'min_pixels': self.limits['shortest_edge'],
            'max_pixels': self.limits['longest_edge'],
            'weights': hashlib.sha256(' '.join(parts).encode()).hexdigest() if complete else None,
        }

    def load(self, device: torch.device | str = 'cpu') -> None:
        """See :meth:`Verifier.load`."""
        if self._model is None:
            self._load()
        self._model.to(device)
        if self.segment is not None:
            self.segment.load(device)

    def _load(self) -> None:
        """Load model and processor from disk."""
        transformers = import_transformers()
        folder = need_model(self.model_name, self.revision, not self.local_files_only)
        model, processor = load_model(
            folder,
            transformers.AutoModelForImageTextToText,
            transformers.AutoProcessor,
            'a model that answers questions about images ({reason}): give one of transformers, '
            'such as Qwen2.5-VL.',
            'auto' if self.dtype == 'auto' else getattr(torch, self.dtype),
        )
        kind = model.config.model_type
        if self.coordinates == 'auto' and kind not in NATIVE_COORDINATES:
            raise ValueError(
                f'Nobody knows in which coordinates {self.model_name} ({kind}) gives boxes: set '
                f'coordinates to one of {sorted(COORDINATES)}.'
            )
        limits = {side: area for side, area in self.limits.items() if area is not None}
        size = dict(getattr(processor.image_processor, 'size', None) or {})
        if limits:
            if not set(limits) <= set(size):
                raise ValueError(
                    f'The processor of {self.model_name} takes no limits, it resizes to {size}: '
                    'leave min_pixels and max_pixels out.'
                )
            processor.image_processor.size = {**size, **limits}
        processor.tokenizer.padding_side = 'left'
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = processor.tokenizer.eos_token_id
        # Replace the model's own sampling by greedy decoding, without a penalty for repeating the
        # digits of a box.
        model.generation_config = transformers.GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        self._model, self._processor = model, processor

    def verify(self, tiles: Sequence[np.ndarray]) -> list[Evidence]:
        """See :meth:`Verifier.verify`.

        Raises:
            ValueError: If the device's memory does not suffice for a single tile.
        """
        found: list[Evidence] = []
        while len(found) < len(tiles):
            batch = tiles[len(found) : len(found) + self.batch_size]
            try:
                answers = self._generate(batch)
            except torch.cuda.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise ValueError(
                        f'{self.model_name} does not fit the memory of {self._model.device} even '
                        f'for one tile of {batch[0].shape[:2]}: set a smaller max_pixels or take a '
                        'smaller model.'
                    ) from error
                self.batch_size = len(batch) // 2
                continue
            found += [
                self._evidence(tile, *answer) for tile, answer in zip(batch, answers, strict=True)
            ]
        return found

    @torch.no_grad()
    def _generate(self, tiles: Sequence[np.ndarray]) -> list[tuple[str, Size, bool]]:
        """For each tile the answer, the size of the model's input, and whether it is truncated."""
        content = [{'type': 'image'}, {'type': 'text', 'text': self.question}]
        text = self._processor.apply_chat_template(
            [{'role': 'user', 'content': content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self._processor(
            text=[text] * len(tiles),
            images=[[Image.fromarray(tile)] for tile in tiles],
            padding=True,
            return_tensors='pt',
        ).to(self._model.device, dtype=self._model.dtype)
        output = self._model.generate(**inputs)[:, inputs['input_ids'].shape[1] :].cpu()
        answers = self._processor.tokenizer.batch_decode(
            output, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        ends = torch.atleast_1d(torch.tensor(self._model.generation_config.eos_token_id))
        ended = torch.isin(output, ends).any(dim=1).tolist()
        sizes = [
            processed_size(inputs, index, self._processor.image_processor, tile.shape[:2])
            for index, tile in enumerate(tiles)
        ]
        return [
            (answer.strip(), size, not end)
            for answer, size, end in zip(answers, sizes, ended, strict=True)
        ]

    def _evidence(self, tile: np.ndarray, answer: str, processed: Size, cut: bool) -> Evidence:
        """Convert an answer to evidence."""
        size = tile.shape[:2]
        coordinates = self.coordinates
        if coordinates == 'auto':
            coordinates = NATIVE_COORDINATES[self._model.config.model_type]
        read = parse_answer(answer, self.prompts, self.score)
        dropped = list(read.dropped)
        regions: list[Region] = []
        for detection in read.detections:
            box = to_tile(detection.box, coordinates, processed, size)
            if box is None:
                shown = f'{detection.name!r} {list(detection.box)}'
                dropped.append(f'{shown}: covers no pixel of the tile')
            else:
                regions.append(Region(detection.label, box, detection.score, detection.name))
        masks = None
        if self.segment is not None and regions:
            segmented = self.segment(tile, [region.box for region in regions])
            masks = [mask for mask, _ in segmented]
            regions = [
                region._replace(score=region.score * quality)
                for region, (_, quality) in zip(regions, segmented, strict=True)
            ]
        scores, seen = paint(regions, masks, self.num_classes, size)
        return Evidence(
            scores=quantise(scores),
            seen=seen,
            size=size,
            answer=answer,
            regions=tuple(regions),
            dropped=tuple(dropped),
            truncated=cut or read.truncated,
        )

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A folder of images, some with masks, as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..classes import class_colours
from ..rasters.files import composed, list_images
from ..utils.commands import command
from ..utils.files import read_text


@DATASETS.register_module()
class FolderDataset(BaseSegDataset):
    """Any folder of images; classes and palette come from the config.

    Images are PNG, JPEG or TIFF, mixed and in sub-folders as they come. A mask belongs to an image
    if it has the same path below its folder, whatever the suffixes and however accents are coded.
    Masks hold class ids from 0 in the order of ``classes``, and 255 where there is none;
    ``tools/init_dataset.py`` makes such masks of others, and writes the config.

    Args:
        classes: Names in the order of their ids. Defaults to those of ``metainfo``.
        palette: RGB of each class, 0 to 255. Defaults to that of ``metainfo``, else to colours that
            people expect of the names.
        concepts: What a person would call each class, for the prompts of vision-language models.
            Defaults to those of ``metainfo``, else to the names with blanks for underscores.
        metainfo: The same in mmseg's way.
        ann_file: List of images: one path below ``data_prefix['img_path']`` a line, with or without
            suffix. Without a list all images are taken; of a dataset with masks, all that have one.
        data_prefix: Folders of images (``img_path``) and, of a labelled dataset, masks
            (``seg_map_path``). Defaults to ``data_root`` itself, without masks.
        **kwargs: Passed on to ``BaseSegDataset``; suffixes are none of it.

    Raises:
        ValueError: There are no classes, palette or concepts do not fit them, or a line of the list
            means several images or is an address.
        FileNotFoundError: A listed image does not exist.

    Examples:
        >>> dataset = FolderDataset(['roof', 'bare_soil'], lazy_init=True)
        >>> dataset.metainfo['concepts']
        [['roof'], ['bare soil']]
    """

    def __init__(
        self,
        classes: Sequence[str] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        concepts: Sequence[str | Sequence[str]] | None = None,
        metainfo: dict | None = None,
        ann_file: str = '',
        data_prefix: dict | None = None,
        **kwargs: Any,
    ) -> None:
        given = dict(classes=classes, palette=palette, concepts=concepts)
        meta = {**(metainfo or {}), **{k: v for k, v in given.items() if v is not None}}
        if not meta.get('classes'):
            raise ValueError(
                "FolderDataset needs classes: give them in the order of the masks' ids, e.g. "
                "classes=['building', 'road']."
            )
        names = [str(name) for name in meta['classes']]
        meta['classes'] = tuple(names)
        if not meta.get('palette'):
            meta['palette'] = class_colours(names)
        meta['palette'] = [[int(value) for value in colour] for colour in meta['palette']]
        if not meta.get('concepts'):
            meta['concepts'] = [name.replace('_', ' ') for name in names]
        meta['concepts'] = [
            [concept] if isinstance(concept, str) else list(concept) for concept in meta['concepts']
        ]
        for key in ('palette', 'concepts'):
            if len(meta[key]) != len(names):
                raise ValueError(
                    f'FolderDataset has {len(names)} classes ({", ".join(names)}) but '
                    f'{len(meta[key])} entries of {key}: give one per class.'
                )
        super().__init__(
            metainfo=meta,
            ann_file=ann_file,
            data_prefix=dict(img_path='') if data_prefix is None else data_prefix,
            **kwargs,
        )
        self.METAINFO = self.metainfo  # mmseg's tools ask the class

    def load_data_list(self) -> list[dict]:
        """Match images and masks; see the class."""
        img_dir = self.data_prefix['img_path']
        mask_dir = self.data_prefix.get('seg_map_path')
        images = list_images(img_dir)
        masks = None if mask_dir is None else list_images(mask_dir)
        if self.ann_file:
            lines = read_text(Path(self.ann_file)).splitlines()
            names = [self._resolve(line, images) for line in lines if line.strip()]
        else:
            names = [name for stem in images for name in images[stem]]
        data_list = []
        for name in names:
            info = dict(
                img_path=str(Path(img_dir) / name),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            if masks is not None and mask_dir is not None:
                stem = composed(Path(name).with_suffix('').as_posix())
                if stem not in masks and not self.ann_file:
                    continue
                # A listed image without a mask keeps the name that its mask ought to have, for
                # the checks before the first step to tell.
                found = masks.get(stem, [f'{stem}.png'])
                info['seg_map_path'] = str(Path(mask_dir) / found[0])
            data_list.append(info)
        return data_list

    def _resolve(self, line: str, images: dict[str, list[str]]) -> str:
        """File below the image folder that a line of the list means."""
        line = composed(line)
        if all(name not in images for name in (line, Path(line).with_suffix('').as_posix())):
            line = line.strip()  # blanks around a name may belong to it
        same = images.get(Path(line).with_suffix('').as_posix(), ())
        found = [name for name in same if composed(name) == line] or images.get(line, [])
        if not found and '://' in line:
            raise ValueError(
                f'{self.ann_file} names {line}, an address, which no training waits for: give the '
                f'list to `{command("init")}`, which fetches its rasters once.'
            )
        if not found:
            raise FileNotFoundError(
                f'{self.ann_file} names {line}, of which there is no image in '
                f'{self.data_prefix["img_path"]}: correct the list.'
            )
        if len(found) > 1:
            raise ValueError(
                f'{self.ann_file} names {line}, which may be {" or ".join(found)}: write the '
                'suffix into the list.'
            )
        return found[0]

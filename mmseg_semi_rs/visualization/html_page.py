# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Static pages from the templates beside this file: one look, in light and dark, and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from ..utils.files import replacing

__all__ = ['NONE', 'Cell', 'Table', 'data_uri', 'embed_picture', 'text', 'write_page']

#: Stands for a value that is not there.
NONE = '\N{EN DASH}'


class Cell(NamedTuple):
    """A cell of a table that is more than text.

    Attributes:
        text: What it shows.
        bar: Whether it holds a number, behind which there may be a bar.
        size: Length of the bar in percent of the cell.
        best: Whether it is the highest of its row.
        whole: All of a value of which ``text`` is an outline; unfolds.
    """

    text: str
    bar: bool = False
    size: float | None = None
    best: bool = False
    whole: str = ''


class Table(NamedTuple):
    """A table; the first entry of each row is its header.

    Attributes:
        caption: What it shows.
        heads: Text over each column; none for a list of names and values.
        rows: Text, or :class:`Cell`.
        bars: Columns of numbers.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    bars: Iterable[int] = ()


def _visible(value: Any) -> Any:
    """Make control characters of text visible; markup is taken as it is."""
    if isinstance(value, Markup):
        return value
    return ''.join(
        sign
        if sign in '\n\r\t' or (sign >= ' ' and sign != '\x7f')
        else '\N{REPLACEMENT CHARACTER}'
        for sign in str(value)
    )


def text(raw: object) -> Markup:
    """Escape for element content and quoted attributes; control characters become visible."""
    return escape(_visible(raw))


_PAGES = Environment(
    loader=PackageLoader('mmseg_semi_rs.visualization'),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_visible,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: str | Path, template: str, **context: Any) -> Path:
    """Write a page that needs no network and allows no script but its own.

    The page is written piece by piece as an iterable in its context is read; lone surrogates, which
    a model's answer may hold, become question marks.

    Args:
        path: Where to; folders are made. Written under a temporary name and renamed.
        template: Name of a file of ``templates``.
        **context: What the template reads. Text is escaped.

    Returns:
        The path.

    Raises:
        ValueError: The path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path} is a folder: name a file for the page, e.g. {path}/page.html.')
    with (
        replacing(path) as partial,
        partial.open('w', encoding='utf-8', errors='replace', newline='\n') as file,
    ):
        file.writelines(_PAGES.get_template(template).generate(**context))
    return path


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """A picture that stands in the page itself.

    Args:
        image: What it shows.
        kind: File format, as ``'png'``.
        **options: Of the format.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f'data:image/{kind};base64,' + base64.b64encode(buffer.getvalue()).decode()


def embed_picture(path: Path, longest: int) -> tuple[str, tuple[int, int]]:
    """A picture as a data URI, made smaller.

    Args:
        path: Its file.
        longest: Most pixels of its longer side.

    Returns:
        The URI and the size (width, height) in pixels.

    Raises:
        OSError: It is no picture, or damaged.
    """
    with Image.open(path) as opened:
        image = opened.convert('RGB')
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return data_uri(image, 'webp', quality=82, method=4), image.size

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Lenient parser for the answers of vision-language models: objects with class and box."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from ..prompts import ClassPrompts
from .lenient_json import NUMBER, Node, as_number, read_nodes

Box = tuple[float, float, float, float]

#: Maximum numbers of characters read and of objects kept, since an answer may be hostile.
MAX_LENGTH, MAX_OBJECTS = 65536, 500
_MAX_REASONS = 50

_NAME_KEYS = ('label', 'class', 'classname', 'category', 'categoryname', 'name', 'object', 'type')
_BOX_KEYS = (
    *('bbox2d', 'bbox', 'box', 'box2d', 'boundingbox', 'bboxes', 'boxes', 'boundingboxes'),
    *('rect', 'rectangle', 'coordinates', 'coords', 'location', 'position'),
)
_SCORE_KEYS = ('score', 'confidence', 'conf', 'probability', 'prob', 'certainty')
_CORNER_KEYS = (
    ('x1', 'y1', 'x2', 'y2'),
    ('x0', 'y0', 'x1', 'y1'),
    ('xmin', 'ymin', 'xmax', 'ymax'),
    ('left', 'top', 'right', 'bottom'),
)

_NONE = re.compile(
    r'\b(?:no|none|nothing|null|n/a|empty)\b|\bnot (?:any|found|visible|present)\b', re.IGNORECASE
)


class Detection(NamedTuple):
    """One object of an answer.

    Attributes:
        label: Class id.
        name: Name in the answer.
        box: Left, top, right, bottom, finite, with positive width and height, in the model's frame.
        score: Score in [0, 1].
    """

    label: int
    name: str
    box: Box
    score: float


class Answer(NamedTuple):
    """The parsed answer.

    Attributes:
        detections: Objects in the order of the answer, without duplicates.
        dropped: Parts that could not be used, each with the reason.
        truncated: Whether the answer ends before it is complete, or is too long to be read.
    """

    detections: tuple[Detection, ...]
    dropped: tuple[str, ...]
    truncated: bool


def parse_answer(text: str, prompts: ClassPrompts, score: float = 0.95) -> Answer:
    """Parse an answer in time linear in its length; never raises.

    Accepted are JSON lists, objects and lines, nested in any way, with or without fences and prose,
    also with single quotes, trailing commas or unquoted keys: objects with a name and a box under
    the usual keys in any order; boxes as values of a class name; and lines of the form
    ``class_name: [x1, y1, x2, y2]``. Numbers may be strings. The rules are:

    * A name is the full name or synonym of a class (:meth:`ClassPrompts.find`), optionally followed
      by a number ('building 2').
    * A box is given by two opposite corners in any order. Boxes without an area, or with numbers
      that are not finite, are dropped.
    * Parts that are not closed at the end of the answer are dropped; complete parts are kept.
    * Of equal boxes of a class, the one with the highest score is kept.
    * An empty list, or a text that says so, means that nothing was found. Any other answer without
      an object is reported as unreadable.

    Args:
        text: The answer.
        prompts: The classes.
        score: Score of an object that is given without one, in [0, 1].

    Returns:
        The objects, and what could not be used.

    Examples:
        >>> parse_answer('[{"bbox_2d": [1, 2, 30, 40], "label": "Car"}]', ClassPrompts(['car']))
        Answer(detections=(Detection(label=0, name='Car', box=(1.0, 2.0, 30.0, 40.0), \
score=0.95),), \
dropped=(), truncated=False)
    """
    reader = _Reader(prompts, score)
    if len(text) > MAX_LENGTH:
        reader.drop(f'what follows the first {MAX_LENGTH} characters')
    body = text[:MAX_LENGTH]
    nodes = 0
    for name, node in read_nodes(body):
        nodes += 1
        reader.read(node, name)
        reader.truncated |= not node.closed
    if not reader.detections and not reader.reasons and not reader.truncated:
        if not body.strip():
            reader.drop('the answer is empty')
        elif not _NONE.search(body) and (not nodes or reader.leaves):
            reader.drop(f'no object in {_short(body)}')
    return Answer(
        tuple(
            Detection(label, name, box, best)
            for (label, box), (name, best) in reader.detections.items()
        ),
        tuple(reader.reported()),
        reader.truncated or len(text) > MAX_LENGTH,
    )


class _Reader:
    """Collects the objects of an answer."""

    def __init__(self, prompts: ClassPrompts, score: float) -> None:
        self.prompts, self.score = prompts, score
        self.detections: dict[tuple[int, Box], tuple[str, float]] = {}
        self.reasons: list[str] = []
        self.unreported = self.leaves = 0
        self.truncated = False

    def drop(self, reason: str) -> None:
        if len(self.reasons) < _MAX_REASONS:
            self.reasons.append(reason)
        else:
            self.unreported += 1

    def reported(self) -> list[str]:
        more = [f'and {self.unreported} more'] if self.unreported else []
        return self.reasons + more

    def read(self, outermost: Node, name: str) -> None:
        """Read a list or object and its contents, in the order of the answer."""
        pending = [(outermost, name)]
        while pending:
            node, name = pending.pop()
            inner = self._object(node, name) if node.kind == '{' else self._list(node, name)
            pending.extend(reversed(inner))

    def _list(self, node: Node, name: str) -> list[tuple[Node, str]]:
        numbers: list[float] = []
        inner: list[tuple[Node, str]] = []
        for key, value in node.items:
            number = as_number(value)
            if isinstance(value, Node):
                inner.append((value, key or name))
            elif number is not None:
                numbers.append(number)
            elif isinstance(value, str):
                name = value
                self.leaves += 1
        pairs = [_numbers(child) for child, _ in inner]
        if len(pairs) == 2 and all(pair is not None and len(pair) == 2 for pair in pairs):
            numbers, inner = [*(pairs[0] or ()), *(pairs[1] or ())], []
        if numbers:
            self._detect(name, numbers, None, node)
        return inner

    def _object(self, node: Node, context: str) -> list[tuple[Node, str]]:
        fields: dict[str, Any] = {}
        for key, value in node.items:
            fields.setdefault(_plain(key), value)
        names = (fields[key] for key in _NAME_KEYS if isinstance(fields.get(key), str))
        own: str | None = next(names, None)
        score = next((fields[key] for key in _SCORE_KEYS if key in fields), None)
        box = next((fields[key] for key in _BOX_KEYS if key in fields), None)
        numbers = _numbers(box) or _corners(fields)
        if isinstance(box, Node) and numbers is None:
            inside = {_plain(key): value for key, value in box.items}
            numbers = _corners(inside)
        if numbers is not None:
            self._detect(own or context, numbers, score, node)
            return []
        inner: list[tuple[Node, str]] = []
        for key, value in node.items:
            known = key is not None and _find(self.prompts, key) is not None
            if isinstance(value, Node):
                inner.append((value, key if key and known else own or key or context))
            elif known and key and (numbers := _numbers(value)):
                self._detect(key, numbers, None, node)
            elif value is not None and value != '':
                self.leaves += 1
        if own is not None and not inner:
            self.drop(f'{_short(own)}: has no box' if node.closed else f'{_short(own)}: is cut off')
        return inner

    def _detect(self, name: str, numbers: list[float], score: Any, node: Node) -> None:
        """Keep a box with its name, or drop it with the reason."""
        box = f'{_short(name.strip())} [{", ".join(f"{number:g}" for number in numbers[:6])}]'
        label = _find(self.prompts, name)
        if len(numbers) == 5 and 0 <= numbers[4] <= 1:
            score = numbers.pop()
        if not node.closed:
            self.drop(f'{box}: is cut off')
        elif not name.strip():
            self.drop(f'{box}: has no name')
        elif label is None:
            self.drop(f'{box}: is no class that was asked for')
        elif len(numbers) != 4:
            self.drop(f'{box}: a box has 4 numbers, not {len(numbers)}')
        elif not all(map(math.isfinite, numbers)):
            self.drop(f'{box}: is not finite')
        elif numbers[0] == numbers[2] or numbers[1] == numbers[3]:
            self.drop(f'{box}: has no area')
        elif len(self.detections) >= MAX_OBJECTS:
            self.drop(f'{box}: is more than {MAX_OBJECTS} objects')
        else:
            (left, right), (top, bottom) = sorted(numbers[::2]), sorted(numbers[1::2])
            place = (label, (left, top, right, bottom))
            value = self._score(score, box)
            named, best = self.detections.get(place, (_clean(name), value))
            self.detections[place] = (named, max(best, value))

    def _score(self, score: Any, box: str) -> float:
        if score is None:
            return self.score
        percent = isinstance(score, str) and score.strip().endswith('%')
        value = as_number(score.strip().rstrip('%') if isinstance(score, str) else score)
        if value is not None and (percent or 1 < value <= 100):
            value /= 100
        if value is not None and 0 <= value <= 1:
            return value
        self.drop(f'{box}: the score {_short(str(score))} is not in [0, 1], {self.score} is taken')
        return self.score


def _numbers(value: Any) -> list[float] | None:
    """Numbers of a closed list of numbers only, or of a string with exactly 4; else None."""
    if isinstance(value, str):
        found = [float(number) for number in NUMBER.findall(value)]
        return found if len(found) == 4 else None
    if not isinstance(value, Node) or not value.closed:
        return None
    items = [as_number(item) for key, item in value.items if key is None]
    found = [item for item in items if item is not None]
    return found if found and len(found) == len(value.items) else None


def _corners(fields: dict[str, Any]) -> list[float] | None:
    """Corners of a box that are fields of an object; else None."""
    for keys in _CORNER_KEYS:
        found = [number for key in keys if (number := as_number(fields.get(key))) is not None]
        if len(found) == 4:
            return found
    return None


def _plain(key: str | None) -> str:
    return ''.join(sign for sign in (key or '').lower() if sign.isalnum())


def _clean(name: str) -> str:
    """Remove bullets, marks and numbers around a name."""
    return re.sub(r'^\W*(?:[0-9]+[.)])?[\W_]*|[\W_]*[0-9]*[\W_]*$', '', name)


def _find(prompts: ClassPrompts, name: str) -> int | None:
    """Find the class of a name, if necessary without its bullet or number."""
    if len(name) > 200:
        return None
    label = prompts.find(name)
    return prompts.find(_clean(name)) if label is None else label


def _short(text: str) -> str:
    text = ' '.join(text[:200].split())
    return repr(text if len(text) <= 60 else f'{text[:59]}…')

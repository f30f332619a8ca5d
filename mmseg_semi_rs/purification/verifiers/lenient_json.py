# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Lists and objects in any text, read as JSON is, but without ever refusing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

NUMBER = re.compile(r'[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?')
# A quote ends a string in single quotes only where one may end, so that "farmer's" needs no escape.
# No string is longer than this, which keeps the time linear.
_TOKEN = re.compile(
    r'(?P<open>[\[{])|(?P<close>[\]}])|(?P<sign>[:,])'
    r'|(?P<text>"(?:[^"\\\n]|\\.){0,200}"'
    r"|'(?:[^'\\\n]|\\.|'(?!\s{0,9}(?:[,:\]}]|$))){0,200}')"
    rf'|(?P<number>{NUMBER.pattern}(?![\w.]))|(?P<word>[-+]?\w[\w.%-]*)'
)
_OPEN = re.compile(r'[\[{]')
_WORDS = {'null': None, 'none': None, 'true': True, 'false': False}
# How many missing closing signs are forgiven.
_NEAR = 4


class Node:
    """A list or an object.

    Attributes:
        kind: The sign that opened it, '[' or '{'.
        items: Values with or without a key, in their order: strings, floats, booleans, None, and
            nodes.
        closed: Whether its end was found.
    """

    __slots__ = ('closed', 'items', 'kind')

    def __init__(self, kind: str) -> None:
        self.kind, self.closed = kind, False
        self.items: list[tuple[str | None, Any]] = []


def read_nodes(text: str) -> Iterator[tuple[str, Node]]:
    """Find the outermost lists and objects of a text.

    Single quotes, missing or trailing commas, keys and words without quotes, and up to four missing
    closing signs are forgiven; neighbouring words are one string. The time is linear in the length,
    and nothing recurses.

    Args:
        text: Any text.

    Yields:
        The last line with words before it, and the list or object; only the last one may not be
        closed.
    """
    name, start = '', 0
    while (found := _OPEN.search(text, start)) is not None:
        lines = [
            line for line in text[start : found.start()].splitlines() if re.search(r'\w', line)
        ]
        name = lines[-1].strip() if lines else name
        node, start = _node(text, found.start())
        yield name, node


def _node(text: str, start: int) -> tuple[Node, int]:
    """Read a list or object and all that is in it; also where it ends."""
    stack: list[Node] = []
    key: str | None = None
    joins = False  # whether the last token was a word that another one may continue
    for token in _TOKEN.finditer(text, start):
        kind, sign = token.lastgroup, token.group()
        if kind == 'open':
            node = Node(sign)
            if stack:
                stack[-1].items.append((key, node))
            stack.append(node)
            key = None
        elif kind == 'close':
            opened = '[' if sign == ']' else '{'
            if any(node.kind == opened for node in stack[-_NEAR:]):
                while True:
                    node = stack.pop()
                    node.closed = True
                    if node.kind == opened:
                        break
                if not stack:
                    return node, token.end()
            key = None
        elif sign == ':':
            items = stack[-1].items
            if items and isinstance(items[-1][1], str):
                key = items.pop()[1]
        elif sign == ',':
            key = None
        else:
            value = _value(sign, kind)
            items = stack[-1].items
            if joins and kind == 'word' and items and isinstance(items[-1][1], str):
                items[-1] = (items[-1][0], f'{items[-1][1]} {sign}')
            else:
                items.append((key, value))
                key = None
        joins = kind == 'word'
    return stack[0], len(text)


def _value(sign: str, kind: str | None) -> Any:
    if kind == 'text':
        try:
            return json.loads(f'"{sign[1:-1]}"')
        except ValueError:
            return sign[1:-1].replace('\\', '')
    word = sign.lower()
    if kind == 'word' and word in _WORDS:
        return _WORDS[word]
    number = as_number(sign)
    return sign if number is None else number


def as_number(value: Any) -> float | None:
    """A number, also one in a string; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None

# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A JSON-like parser that finds lists and objects in any text and never fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

NUMBER = re.compile(r'[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?')
# In single quotes, a quote ends the string only where one may end, so "farmer's" needs no escape.
# The length of strings is limited, which keeps the time linear.
_TOKEN = re.compile(
    r'(?P<open>[\[{])|(?P<close>[\]}])|(?P<sign>[:,])'
    r'|(?P<text>"(?:[^"\\\n]|\\.){0,200}"'
    r"|'(?:[^'\\\n]|\\.|'(?!\s{0,9}(?:[,:\]}]|$))){0,200}')"
    rf'|(?P<number>{NUMBER.pattern}(?![\w.]))|(?P<word>[-+]?\w[\w.%-]*)'
)
_OPEN = re.compile(r'[\[{]')
_WORDS = {'null': None, 'none': None, 'true': True, 'false': False}
# Maximum number of missing closing signs that are tolerated.
_NEAR = 4


class Node:
    """A list or an object.

    Attributes:
        kind: Its opening sign, '[' or '{'.
        items: Pairs of key (or None) and value in their order. Values are strings, floats,
            booleans, None, and nodes.
        closed: Whether its end was found.
    """

    __slots__ = ('closed', 'items', 'kind')

    def __init__(self, kind: str) -> None:
        self.kind, self.closed = kind, False
        self.items: list[tuple[str | None, Any]] = []


def read_nodes(text: str) -> Iterator[tuple[str, Node]]:
    """Find the outermost lists and objects of a text.

    Tolerated are single quotes, missing or trailing commas, keys and words without quotes, and up
    to four missing closing signs; adjacent words form one string. The time is linear in the length,
    and there is no recursion.

    Args:
        text: Any text.

    Yields:
        The last line with words before a list or object, and the list or object itself; only the
        last one may be unclosed.
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
    """Read a list or object with its contents; return it and the position after its end."""
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
    """Convert to a number, also from a string; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None

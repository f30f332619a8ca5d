# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Download of files over HTTP, with resumption and verification."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from huggingface_hub import get_token

from .files import file_digest, held, write_atomic
from .progress import progress_bar

HUB = 'https://huggingface.co'
_TIMEOUT = 60  # seconds without a byte
_BLOCK = 1 << 20


def mirrored(url: str, mirrors: Mapping[str, str] | None = None) -> str:
    """Return the address that a file is downloaded from.

    Args:
        url: Original address.
        mirrors: Replacements by prefix of the address. For the Hugging Face hub, the environment
            variable ``HF_ENDPOINT`` is the default.

    Returns:
        The address with its longest matching prefix replaced.
    """
    places = {HUB: os.environ.get('HF_ENDPOINT') or HUB, **(mirrors or {})}
    for begin in sorted(places, key=len, reverse=True):
        if url.startswith(begin):
            return places[begin].rstrip('/') + '/' + url[len(begin) :].lstrip('/')
    return url


def fetch(url: str, path: Path, sha256: str = '', gated: str = '') -> None:
    """Download a file; it gets its name only when it is complete and verified.

    An interrupted download is kept in ``<name>.part``, and resumed if the server still has the same
    file. Proxies are taken from the environment by urllib, and a token of the Hugging Face hub is
    sent to the hub or its mirror only.

    Args:
        url: Address of the file, or of its mirror.
        path: Target file; nothing is done if it exists.
        sha256: Expected SHA-256, or its first digits. If empty, the digest that the hub names for
            its own files is used.
        gated: What a user can do about a file with restricted access, for the error message.

    Raises:
        FileNotFoundError: The server has no such file.
        ValueError: The server refuses it, cannot be reached, broke off, or sent another file.
        InUseError: Another process is downloading it.
        OSError: The file cannot be written.
    """
    part = path.with_name(f'{path.name}.part')
    note = path.with_name(f'{path.name}.part.json')
    with held(path.with_name(f'.{path.name}.lock'), f'The download of {path}'):
        if path.exists():
            return
        try:
            sha256 = _receive(url, part, note, path, sha256) or sha256
        except HTTPError as error:
            raise _refused(url, path, error, gated) from error
        except (HTTPException, URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, 'reason', None) or error
            raise ValueError(
                f'{url} could not be fetched ({reason or type(error).__name__}): see to the '
                f'network or a proxy, or fetch it elsewhere and put it there as {path}; the same '
                'command goes on where this one stopped.'
            ) from error
        found = file_digest(part)
        if not found.startswith(sha256.lower()):
            part.unlink()
            note.unlink(missing_ok=True)
            raise ValueError(
                f'{url} gave a file with the SHA-256 {found}, where {sha256} was expected, and it '
                'was removed: run the same command again, and if that is no help, do not use it.'
            )
        part.replace(path)
        note.unlink(missing_ok=True)


def _receive(url: str, part: Path, note: Path, path: Path, sha256: str) -> str:
    """Complete the partial file, and return the digest that the hub names for it, if any."""
    start, validator = _begun(url, part, note)
    headers = {'User-Agent': 'mmseg_semi_rs', 'Accept-Encoding': 'identity'}
    if start:
        headers |= {'Range': f'bytes={start}-', 'If-Range': validator}
    request = Request(url, headers=headers)
    if url.startswith(mirrored(HUB)) and (token := get_token()):
        request.add_unredirected_header('Authorization', f'Bearer {token}')
    said = _HubDigest()
    opener = build_opener(said)
    try:
        answer = opener.open(request, timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers['Content-Range'] == f'bytes */{start}':  # it was already complete
            return '' if sha256 else said.digest
        del request.headers['Range'], request.headers['If-range']
        answer = opener.open(request, timeout=_TIMEOUT)
    with answer:
        # Without a Range header, or if the file has changed, the server sends the whole file.
        goes_on = answer.status == 206
        if goes_on and not str(answer.headers['Content-Range']).startswith(f'bytes {start}-'):
            note.unlink()
            raise ConnectionError('it sent another part than was asked for')
        start = start if goes_on else 0
        length = answer.headers['Content-Length']
        total = None if length is None else start + int(length)
        etag = answer.headers['ETag'] or ''
        validator = etag if etag.startswith('"') else answer.headers['Last-Modified'] or ''
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open('r+b' if goes_on else 'wb') as file, progress_bar(of_bytes=True) as bar:
            write_atomic(note, json.dumps({'url': url, 'validator': validator}).encode())
            file.seek(start)
            file.truncate()
            task = bar.add_task(path.name, total=total, completed=start)
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.advance(task, len(block))
        size = part.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f'it broke off after {size} of {total} bytes')
    return '' if sha256 else said.digest


def _begun(url: str, part: Path, note: Path) -> tuple[int, str]:
    """Return the size of the partial file, and the server's validator (ETag or date) for it."""
    try:
        told: dict[str, Any] = json.loads(note.read_text(encoding='utf-8'))
        if told['url'] == url and told['validator']:
            return part.stat().st_size, told['validator']
    except (OSError, ValueError, KeyError, TypeError):
        pass  # start from the beginning
    return 0, ''


class _HubDigest(HTTPRedirectHandler):
    """Redirect handler that remembers the SHA-256 which the hub names for a large file."""

    digest = ''

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        named = str(headers.get('X-Linked-ETag', '')).strip('"')
        if re.fullmatch('[0-9a-f]{64}', named):
            self.digest = named
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refused(url: str, path: Path, error: HTTPError, gated: str) -> Exception:
    if error.code in (404, 410):
        return FileNotFoundError(
            f'{url} does not exist (HTTP {error.code}): it has moved, so fetch it elsewhere and '
            f'put it there as {path}, or name a mirror.'
        )
    if error.code in (401, 403):
        page = url.partition('/resolve/')[0]
        how = gated or (
            f'accept its terms on {page} and set HF_TOKEN to a token of yours'
            if page != url
            else 'see on its page who may'
        )
        return ValueError(f'{url} is not given to everybody (HTTP {error.code}): {how}.')
    return ValueError(
        f'{url} could not be fetched (HTTP {error.code} {error.reason}): run the same command '
        f'again later, or fetch it elsewhere and put it there as {path}.'
    )

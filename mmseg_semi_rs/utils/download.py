# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Fetches a file over HTTP: goes on where it was interrupted, and checks what came."""

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
    """Where a file is fetched from.

    Args:
        url: Where it is published.
        mirrors: Begin of an address to what takes its place. ``HF_ENDPOINT`` does so for the
            Hugging Face hub.

    Returns:
        The address with the longest begin that fits replaced.
    """
    places = {HUB: os.environ.get('HF_ENDPOINT') or HUB, **(mirrors or {})}
    for begin in sorted(places, key=len, reverse=True):
        if url.startswith(begin):
            return places[begin].rstrip('/') + '/' + url[len(begin) :].lstrip('/')
    return url


def fetch(url: str, path: Path, sha256: str = '', gated: str = '') -> None:
    """Fetch a file; it gets its name only when it is whole and the one that was expected.

    What has come of an interrupted transfer stays beside it, in ``<name>.part``, and is gone on
    with if the server still has the same file. Proxies are taken from the environment, as urllib
    does, and a token of the Hugging Face hub is shown to the hub alone.

    Args:
        url: Its address, a mirror's where there is one.
        path: The file; nothing is done if it exists.
        sha256: Its first digits, or all 64. Empty where it is not known; what the hub says of its
            own files is then compared.
        gated: What a user does about a file that is not given to everybody, for the message.

    Raises:
        FileNotFoundError: The server has no such file.
        ValueError: It does not give it, cannot be reached, broke off, or sent another file.
        InUseError: Another process fetches it.
        OSError: It cannot be written.
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
    """Bring the part to its full length; returns the hash that the hub names, if any."""
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
        if error.headers['Content-Range'] == f'bytes */{start}':  # all of it had come
            return ''
        del request.headers['Range'], request.headers['If-range']
        answer = opener.open(request, timeout=_TIMEOUT)
    with answer:
        # Without the header, or if the file has changed, the server sends all of it.
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
    return said.digest if not sha256 else ''


def _begun(url: str, part: Path, note: Path) -> tuple[int, str]:
    """How much has come already, and by what the server knows whether its file is still that."""
    try:
        told: dict[str, Any] = json.loads(note.read_text(encoding='utf-8'))
        if told['url'] == url and told['validator']:
            return part.stat().st_size, told['validator']
    except (OSError, ValueError, KeyError, TypeError):
        pass  # from the beginning
    return 0, ''


class _HubDigest(HTTPRedirectHandler):
    """Remembers the SHA-256 that the hub names of a large file before it leads elsewhere."""

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

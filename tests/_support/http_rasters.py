# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""A web server on this machine that gives files in ranges, and fails when it is told to.

It is a process of its own: GDAL waits for it without letting other threads of Python run.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmseg_semi_rs.utils import range_server
from tests._support.processes import free_port, start

_LOG, _FAULTS = '.requests', '.faults'
_SLOW = 0.3  # seconds that an answer takes


@dataclass(frozen=True)
class RangeServer:
    """Serves the files of a folder.

    Attributes:
        folder: What is served.
        address: Where, without a slash at the end.
    """

    folder: Path
    address: str

    @property
    def requests(self) -> list[str]:
        """Bytes that each GET has asked for, as ``0-499``."""
        log = self.folder / _LOG
        return log.read_text().splitlines() if log.is_file() else []

    def fail(self, answer: int | str, first: int, last: int) -> None:
        """Answer GETs by a status; by ``'reset'``, which cuts the connection; or ``'slow'``.

        Args:
            answer: Which.
            first: Number of the first one from now on, from 1.
            last: Number of the last one.
        """
        done = len(self.requests)
        fault = [answer, done + first, done + last]
        (self.folder / _FAULTS).write_text(json.dumps(fault))

    def recover(self) -> None:
        """Fail no more."""
        (self.folder / _FAULTS).unlink()


class _Faulty(range_server.RangeHandler):
    def do_GET(self) -> None:
        log, faults = self.folder / _LOG, self.folder / _FAULTS
        with log.open('a') as file:
            file.write(self.headers.get('Range', 'bytes=0-').removeprefix('bytes=') + '\n')
        number = len(log.read_text().splitlines())
        answer, first, last = json.loads(faults.read_text()) if faults.is_file() else (0, 0, -1)
        if not first <= number <= last:
            self.answer(body=True)
        elif answer == 'slow':
            time.sleep(_SLOW)
            self.answer(body=True)
        elif answer == 'reset':
            hard = struct.pack('ii', 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.send_error(answer)


def _serve(folder: Path, port: int) -> None:
    range_server.make_server(folder, port, _Faulty).serve_forever()


@contextmanager
def serve(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder while a block runs."""
    port = free_port()
    process = start(_serve, folder, port, log=folder.with_name('server.log'))
    try:
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(('127.0.0.1', port)) == 0:
                    break
            time.sleep(0.02)
        yield RangeServer(folder, f'http://127.0.0.1:{port}')
    finally:
        process.kill()
        process.join()

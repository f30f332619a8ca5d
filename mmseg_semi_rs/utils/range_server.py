# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
"""Serve the files of a folder over HTTP with range requests, which http.server does not support.

Run as a script with a folder, it prints its address and serves only this machine until it is ended.
It is used to measure and test the reading of remote rasters.
"""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class RangeHandler(BaseHTTPRequestHandler):
    """Handler of HEAD and GET, for whole files or ranges of bytes.

    Attributes:
        folder: Folder with the served files.
    """

    folder: Path
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_: object) -> None:
        """Suppress the log."""

    def do_HEAD(self) -> None:
        """Send the header of a file."""
        self.answer(body=False)

    def do_GET(self) -> None:
        """Send a file or a range of it."""
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        """Send the header and, if ``body`` is set, the requested bytes of a file."""
        path = (self.folder / unquote(self.path).lstrip('/')).resolve()
        if not (path.is_file() and path.is_relative_to(self.folder.resolve())):
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        begin, end = 0, size
        if asked:
            begin, end = int(asked[1]), min(int(asked[2] or size) + 1, size)
        self.send_response(206 if asked else 200)
        self.send_header('Accept-Ranges', 'bytes')
        if asked:
            self.send_header('Content-Range', f'bytes {begin}-{end - 1}/{size}')
        self.send_header('Content-Length', str(end - begin))
        self.end_headers()
        if body:
            with path.open('rb') as file:
                file.seek(begin)
                self.wfile.write(file.read(end - begin))


def make_server(
    folder: Path, port: int = 0, handler: type[RangeHandler] = RangeHandler
) -> ThreadingHTTPServer:
    """Create a local server of a folder; port 0 takes any free port."""
    bound = type(handler.__name__, (handler,), {'folder': folder})
    return ThreadingHTTPServer(('127.0.0.1', port), bound)


def main() -> None:
    """Serve until the process is ended."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    server = make_server(Path(sys.argv[1]))
    print(f'http://127.0.0.1:{server.server_port}', flush=True)
    server.serve_forever()


if __name__ == '__main__':
    main()

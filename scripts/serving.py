"""A web server in this process, with ranges or without, that may break off and counts.

For tests and benchmarks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Content = bytes | memoryview


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        served = self.server.served
        content = served.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        begin, end, status = 0, len(content), 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and served.ranges and with_body:
            begin, end, status = int(asked[1]), min(int(asked[2]) + 1, end), 206
            if begin >= end:
                self.send_error(416)
                return
        size = end - begin if with_body else 0
        with served.lock:  # answers are sent side by side
            if status == 206 and served.sent + size > served.limit:
                self.close_connection = True
                return
            served.sent += size
            served.requests += with_body
        time.sleep(served.delay)
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        self.end_headers()
        if with_body:
            try:
                self.wfile.write(content[begin:end])
            except ConnectionError:
                return

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    served: Served

    def handle_error(self, *arguments: object) -> None:
        """Clients may be killed."""


class Served:
    """What a server has, by paths, and what it did.

    Attributes:
        files: contents by paths, which begin with a slash.
        ranges: whether it sends ranges.
        limit: bytes after which it breaks off.
        delay: seconds before every answer.
        url: its address, without a slash at the end.
        sent, requests: bytes and requests that it answered with content, or began to.
    """

    def __init__(
        self, files: Mapping[str, Content], ranges: bool, limit: int, delay: float, url: str
    ) -> None:
        self.files, self.ranges, self.limit, self.delay, self.url = files, ranges, limit, delay, url
        self.sent = self.requests = 0
        self.lock = threading.Lock()


@contextmanager
def serving(
    files: Mapping[str, Content], ranges: bool = True, limit: int = 1 << 60, delay: float = 0.0
) -> Iterator[Served]:
    """Serve some files, see `Served`."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.served = Served(
            files, ranges, limit, delay, f"http://127.0.0.1:{server.server_port}"
        )
        thread = threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True)
        thread.start()
        try:
            yield server.served
        finally:
            server.shutdown()
            thread.join()

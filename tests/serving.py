"""A real HTTP server on loopback, which can misbehave as real ones do."""

import http.server
import socket
import struct
import threading
import time
from pathlib import Path


class Www:
    """Serves the files of `folder`. What it does wrong is set by its attributes; `asked` lists (path, Range)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []
        self.breaks_after: int | None = None  # bytes of an answer, whereupon the connection ends
        self.resets = False  # it then ends with a reset
        self.claims: int | None = None  # another length than what is sent has
        self.ignores_ranges = False
        self.fails = 0  # so many answers are 503
        self.bytes_per_second: float | None = None
        www = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                www._answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()  # closes at once

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        file = self.folder / request.path.lstrip("/")
        if self.fails:
            self.fails -= 1
            request.send_error(503)
            return
        if not file.is_file():
            request.send_error(404)
            return
        content = file.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not self.ignores_ranges else 0
        if start >= len(content) and start:
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(self.claims or len(content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        part = content[start:]
        if self.breaks_after is not None:
            part = part[: self.breaks_after]
        try:
            for at in range(0, len(part), 65536):
                piece = part[at : at + 65536]
                request.wfile.write(piece)
                if self.bytes_per_second:
                    request.wfile.flush()
                    time.sleep(len(piece) / self.bytes_per_second)
        except OSError:  # the other side has gone
            return
        if self.resets:
            request.wfile.flush()
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(request.connection.detach())

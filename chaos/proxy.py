"""A proxy before an object store that answers as stores do on a bad day; a process of its own.

`python -m chaos.proxy PORT UPSTREAM FOLDER`. How bad the day is it reads from `FOLDER/mood.json`,
`{"seed": 7, "rate": 0.2, "down": 3, "kinds": […]}`: the first `down` requests all fail, then one
in five, in one of these ways; what it did is appended to `FOLDER/faults.log`. An answer comes late,
is an error, is cut off in the middle, or never comes; a write that was answered with an error may
have been done all the same. One that stalls keeps its client waiting longer than that will.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>chaos</Message></Error>'
ERRORS = {"SlowDown": 503, "InternalError": 500, "RequestTimeout": 408}
KINDS = (*ERRORS, "no answer", "half an answer", "done, and no answer", "late")
STALLS = ("stalls", "done, and stalls")
LATE_SECONDS = 2.0
# Longer than the patience that `store.py` leaves its clients.
STALLED_SECONDS = 8.0
# What a proxy must not hand on: they are about this connection, not about the object.
OWN = {"connection", "transfer-encoding", "keep-alive", "expect"}


class Mood:
    """What goes wrong next; told anew whenever the file changes."""

    def __init__(self, folder: Path):
        self._file, self._log = folder / "mood.json", folder / "faults.log"
        self._seen = 0
        self._dice, self._rate, self._down = random.Random(0), 0.0, 0
        self._kinds: list[str] = []

    def next(self, method: str, path: str) -> str:
        """Return the kind of fault for a request, or nothing, and write it down."""
        if (changed := self._file.stat().st_mtime_ns) != self._seen:
            mood = json.loads(self._file.read_text())
            self._seen, self._dice = changed, random.Random(mood["seed"])
            self._rate, self._down = mood["rate"], mood["down"]
            self._kinds = mood["kinds"]
        if self._down == 0 and self._dice.random() >= self._rate:
            return ""
        self._down = max(self._down - 1, 0)
        kind = self._dice.choice(self._kinds)
        with self._log.open("a") as file:
            file.write(f"{kind} · {method} {path.split('?')[0].strip('/').partition('/')[0]}\n")
        return kind


class Handler(BaseHTTPRequestHandler):
    """Hands a request on, or spoils it."""

    protocol_version = "HTTP/1.1"
    # Head and body are two packets, and the second would wait 40 ms for the first's receipt.
    disable_nagle_algorithm = True
    mood: Mood
    upstream: tuple[str, int]

    def handle_one_request(self) -> None:
        """Serve one request; each method is treated alike."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self._body()
        kind = self.mood.next(self.command, self.path)
        if kind in ERRORS:
            return self._answer(ERRORS[kind], {}, ERROR.format(code=kind).encode())
        if kind == "no answer":
            return self._hang_up()
        if kind == "stalls":
            return self._stall()
        if kind == "late":
            time.sleep(LATE_SECONDS)
        status, headers, content = self._ask(body)
        if kind == "done, and no answer":
            return self._hang_up()
        if kind == "done, and stalls":
            return self._stall()
        self._answer(status, headers, content, cut=kind == "half an answer")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return found

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in OWN}
        headers["Content-Length"] = str(len(body))
        connection = HTTPConnection(*self.upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body, headers)
            answer: HTTPResponse = connection.getresponse()
            content = answer.read()
            said = {k: v for k, v in answer.getheaders() if k.lower() not in OWN}
            return answer.status, said, content
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        if cut:
            self._hang_up()

    def _stall(self) -> None:
        time.sleep(STALLED_SECONDS)
        self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):  # Whoever asked may have gone.
            self.connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until killed."""
    port, upstream, folder = sys.argv[1:]
    Handler.mood = Mood(Path(folder))
    host, _, number = upstream.rpartition(":")
    Handler.upstream = host, int(number)
    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()

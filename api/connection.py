"""One client's connection: how long a request's head may be, and how long a client may take.

Stands below the ASGI app, which hears of a request only when its head is complete: uvicorn itself waits for ever for
one that never is, and takes a head of any length. Owns limits and time-outs of heads and bodies, of clients that send
nothing and of those that do not read. Leaves out what each complete request meets (`api.guard`).
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.problems import MEDIA_TYPE, PROBLEMS, problem_body

MAX_TARGET_BYTES: Final = 8_192
MAX_HEAD_BYTES: Final = 32_768
"""Of a request's line and headers together."""
MAX_HEADERS: Final = 100
HEAD_S: Final = 10.0
"""A request's line and headers must be here so long after the first byte; a new connection must say something."""
BODY_GRACE_S: Final = 20.0
BODY_LEAST_BYTES_PER_S: Final = 2_000
"""What a body must have come to on average, after the grace."""
STALLED_S: Final = 60.0
"""Who reads nothing of what waits for it for so long is gone."""
_Phase = Literal["waiting", "head", "body"]


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits; `check` is called about once a second (`api.main.GatewayServer`)."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._phase: _Phase = "waiting"
        self._since_s = self.loop.time()
        self._head_bytes = self._body_bytes = 0
        self._refusal = "malformed_request"
        self._unread: tuple[int, float] = (0, 0.0)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self.transport.is_closing():
            # Answered already: what still comes of a refused request is no second one.
            return
        super().data_received(data)
        if self._phase == "head" and self.parser is not None:
            # A header that does not end is told to nobody before its end.
            self._head_bytes += len(data)
            if self._head_bytes > 2 * MAX_HEAD_BYTES:
                self._refuse("headers_too_large")

    def on_message_begin(self) -> None:
        """A request's first byte is here."""
        super().on_message_begin()
        self._phase, self._since_s, self._head_bytes, self._body_bytes = "head", self.loop.time(), 0, 0
        self._told_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Of the target a part, or all of it."""
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._stop_parsing("target_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, whole."""
        super().on_header(name, value)
        self._told_bytes += len(name) + len(value) + 4
        if len(self.headers) > MAX_HEADERS or self._told_bytes > MAX_HEAD_BYTES:
            self._stop_parsing("headers_too_large")

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._phase, self._since_s = "body", self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Of the body a part."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of the request is here."""
        self._phase, self._since_s = "waiting", self.loop.time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """All of the answer is out."""
        if self._phase != "body":
            # What came before is no fault of the client's.
            self._since_s = self.loop.time()
        super().on_response_complete()

    def check(self, now_s: float) -> None:
        """End the connection if its client takes too long; `now_s` is the loop's time."""
        if self._is_stalled(now_s):
            self.transport.abort()
        elif not self.transport.is_closing() and self._is_overdue(now_s - self._since_s):
            if self._phase == "waiting":
                self.transport.close()
            else:
                self._refuse("request_timeout")

    def _is_overdue(self, elapsed_s: float) -> bool:
        if self._phase == "body":
            # While we do not read, the client cannot send.
            is_ours = self.flow.read_paused
            return not is_ours and elapsed_s > BODY_GRACE_S + self._body_bytes / BODY_LEAST_BYTES_PER_S
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        is_kept = self._phase == "waiting" and self.cycle is not None
        # uvicorn closes what is kept and idle, unless something came that is no request.
        return elapsed_s > (self.timeout_keep_alive + 1 if is_kept else HEAD_S)

    def _is_stalled(self, now_s: float) -> bool:
        """Whether nothing of what waits to be read was read for too long."""
        waiting = self.transport.get_write_buffer_size()
        before, since_s = self._unread
        if not waiting or waiting < before or not before:
            self._unread = (waiting, now_s)
            return False
        self._unread = (waiting, since_s)
        return now_s - since_s > STALLED_S

    def _stop_parsing(self, code: str) -> None:
        self._refusal = code
        # The parser ends, and asks for the answer below.
        raise ValueError(code)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or is beyond a limit, and end the connection."""
        self._refuse(self._refusal)

    def _refuse(self, code: str) -> None:
        # An answer that others wait for must not be taken for theirs.
        is_free = self.cycle is None or self.cycle.response_complete
        if is_free or (self._phase == "body" and not self.pipeline and not self.cycle.response_started):
            problem = PROBLEMS[code]
            body = json.dumps(problem_body(code, problem.remedy, "")).encode()
            head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[problem.status] + head.encode() + body)
        self.transport.close()

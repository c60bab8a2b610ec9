"""What the clients' scripts share: each scenario's outcome as JSON, and a receiver for webhooks. The standard library
alone: this runs in the environments of the clients."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RIFFUSION = "riffusion/riffusion:8cf61ea6c56afd61d8f5b9ffd14d7c216c0a93844ce2d82ac1c9ecc9c7f24e05"
CLIP = {"prompt": "calm strings", "seed": 3, "num_inference_steps": 4, "formats": ["wav"]}


def track(duration_s: float, seed: int) -> dict[str, object]:
    """A track's input: its frames are this process' own, so that nobody else has rendered them."""
    prompts = {"calm strings": os.getpid(), "loud brass": 10**6 * seed}
    keyframes = [{"prompt": prompt, "seed": number} for prompt, number in prompts.items()]
    return {"keyframes": keyframes, "duration_s": duration_s, "num_inference_steps": 4, "formats": ["wav"]}


# Of five frames, longer than the shortest wait; and too long to wait for.
TRACK, ANOTHER, LONG = track(25.6, 1), track(25.6, 2), track(640.0, 3)


def observed(scenario: Callable[[], object]) -> object:
    """What a scenario gives, or what it raised."""
    try:
        return scenario()
    except Exception as error:
        return {"raised": type(error).__name__, "text": str(error), "trace": traceback.format_exc()[-2_000:]}


def tell(scenarios: list[Callable[[], object]]) -> None:
    """Run the scenarios and print what came of each, as one JSON object."""
    told = {}
    for scenario in scenarios:
        began_s = time.monotonic()
        told[scenario.__name__] = observed(scenario)
        print(f"{scenario.__name__}: {time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps(told))


class Receiver:
    """Keeps what it is sent until it has heard of an end."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], str]] = []
        self._is_over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                receiver.calls.append((dict(self.headers), body))
                self.send_response(204)
                self.end_headers()
                if json.loads(body)["status"] in ("succeeded", "failed", "canceled"):
                    receiver._is_over.set()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def wait(self) -> list[tuple[dict[str, str], str]]:
        """What came, once an end was among it."""
        if not self._is_over.wait(30):
            raise TimeoutError(f"no end among {len(self.calls)} calls")
        self._server.shutdown()
        return self.calls

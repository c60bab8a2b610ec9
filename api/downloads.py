"""Outputs to files: checked by their SHA-256, and taken up where they broke off.

Leaves out which outputs there are (`api.client`).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from api.transport import FarmError, again_while_it_passes
from shared.contracts import Output

_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 0.5


def download(output: Output, path: Path, *, patience_s: float, trusts_environment: bool) -> None:
    """Download an output and check it; `path` appears whole or not at all.

    What came before a lost connection stays beside it, hidden and named after the content, and the rest alone is asked
    for, at once or by another process later. Raises FarmError.
    """
    partial = path.with_name(f".{path.name}.{output.sha256[:16]}.part")
    try:
        # What was damaged on its way is fetched once more, whole.
        for _ in range(2):
            for attempt in again_while_it_passes(patience_s):
                with attempt:
                    _fetch_rest(output, partial, trusts_environment=trusts_environment)
            with partial.open("rb") as file:
                is_whole = hashlib.file_digest(file, "sha256").hexdigest() == output.sha256
            if is_whole:
                partial.replace(path)
                return
            partial.unlink()
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise FarmError(f"{output.name} cannot be written to {path}: {error.strerror or error}") from error
    raise FarmError(f"{output.name} was damaged on its way; download it again")


def _fetch_rest(output: Output, partial: Path, *, trusts_environment: bool) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have == output.bytes:
        return
    is_resumed = 0 < have < output.bytes
    # As it lies in storage: a range of what a proxy compressed would be of something else.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if is_resumed else {})
    try:
        # The URL carries its own authority: the key stays with the gateway.
        with httpx.stream(
            "GET", output.url, headers=headers, timeout=_TIMEOUT_S, trust_env=trusts_environment, follow_redirects=False
        ) as answer:
            if not answer.is_success:
                raise FarmError(_refusal(output, answer), "url_expired" if answer.is_client_error else "unreachable")
            begins = answer.headers.get("content-range", "").startswith(f"bytes {have}-")
            with partial.open("ab" if is_resumed and begins else "wb") as file:
                for part in answer.iter_raw():
                    file.write(part)
    except httpx.HTTPError as error:
        message = f"{output.name} cannot be downloaded: {str(error) or type(error).__name__}"
        raise FarmError(message, retry_after_s=_PAUSE_S) from error


def _refusal(output: Output, answer: httpx.Response) -> str:
    hint = "; its link may have expired: read the job again" if answer.is_client_error else ""
    return f"{output.name} cannot be downloaded: the farm answered {answer.status_code}{hint}"

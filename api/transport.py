"""One request to a farm: sent again as long as that can help, and every error as a sentence.

Owns what is tried again and for how long, and what a problem becomes. Leaves out what is asked (`api.client`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx
import stamina

from shared.errors import RiffarmError

PATIENCE_S: Final = 60.0
_WAIT_MAX_S: Final = 5.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class FarmError(RiffarmError):
    """The farm refused the request or cannot be reached.

    code: the problem's (docs/api.md lists them all), or `unreachable`.
    retry_after_s: when the farm said that another try is worth while, after how many seconds; else None.
    problem: the farm's own answer, RFC 9457; empty when it gave none.
    """

    def __init__(
        self,
        message: str,
        code: str = "unreachable",
        retry_after_s: float | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s
        self.problem = problem or {}


class _LostError(FarmError):
    """The connection failed though the farm had answered before: it may be there again in a moment."""


class Transport:
    """Requests to one farm. Holds nothing but a pool of connections, so any number of threads may use it at once.

    Raises httpx.InvalidURL for an address that is none.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float, patience_s: float) -> None:
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise httpx.InvalidURL("it begins with http:// or https:// and has a host")
        self.url = url.rstrip("/")
        self._has_key = bool(api_key)
        self._patience_s = patience_s
        self._has_answered = False
        # A proxy of the environment cannot reach this machine's own addresses.
        self.trusts_environment = address.host not in _LOOPBACK
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_s, trust_env=self.trusts_environment
        )

    def call(self, method: str, path: str, *, idempotency_key: str | None = None, **options: Any) -> httpx.Response:
        """The farm's answer, once it is none of those that pass: a lost connection, a full queue, too many requests.

        What changes something carries an Idempotency-Key, the same at every try, so that it is done once.
        Raises FarmError.
        """
        headers = dict(options.pop("headers", {}))
        if method == "POST":
            headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        request = self.http.build_request(method, path, headers=headers, **options)
        for attempt in again_while_it_passes(self._patience_s):
            with attempt, self.reached():
                answer = self.http.send(request)
                # Gone at a later try: an earlier one did it, and its answer was lost.
                is_gone = method == "DELETE" and attempt.num > 1 and answer.status_code == httpx.codes.NOT_FOUND
                return answer if is_gone else self.checked(answer)
        raise AssertionError("stamina gives the last error on")

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Makes of a lost or missing connection a FarmError that says so."""
        try:
            yield
        except httpx.HTTPError as error:
            # A farm that never answered is not waited for: whoever asks for it hears so at once.
            kind = _LostError if self._has_answered else FarmError
            raise kind(f"no farm answers at {self.url} ({error}); start one with: riffarm up") from error

    def checked(self, answer: httpx.Response) -> httpx.Response:
        """The answer, when it is no problem. Raises FarmError."""
        self._has_answered = True
        if answer.is_success:
            return answer
        try:
            problem = answer.json()
            code, sentence = problem["code"], sentence_from_problem(problem)
        except (ValueError, KeyError, TypeError):
            raise FarmError(f"{self.url} answered {answer.status_code}, which is not a riffarm's answer") from None
        if code == "unauthorized" and not self._has_key:
            sentence = "this farm wants a key: set RIFFARM_API_KEY to one; `riffarm keys create` makes them"
        elif code == "unauthorized":
            sentence = f"{sentence.rstrip('.')}; check RIFFARM_API_KEY"
        raise FarmError(sentence, code, _seconds(answer.headers.get("retry-after")), problem)


def sentence_from_problem(problem: Mapping[str, Any]) -> str:
    """What a problem says, with what its first wrong field may be."""
    wrong = [one for one in problem.get("errors") or () if one["allowed"]]
    detail = str(problem["detail"])
    allowed = wrong[0]["allowed"] if wrong else []
    values = [str(one) for one in allowed] if isinstance(allowed, list) else [str(allowed)]
    return detail if all(one in detail for one in values) else f"{detail}; allowed: {', '.join(values)}"


def again_while_it_passes(patience_s: float) -> Iterator[stamina.Attempt]:
    """Attempts at something that raises FarmError, for at most so many seconds and never beyond them.

    A farm that says when to come again is taken at its word; else the pauses grow.
    """
    deadline_s = time.monotonic() + patience_s

    def pause(error: Exception) -> bool | float:
        if isinstance(error, FarmError) and error.retry_after_s is not None:
            return error.retry_after_s if time.monotonic() + error.retry_after_s <= deadline_s else False
        return isinstance(error, _LostError)

    hook: Callable[[Exception], bool | float] = pause
    return iter(stamina.retry_context(on=hook, attempts=None, timeout=patience_s, wait_max=_WAIT_MAX_S))


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.isdigit() else None

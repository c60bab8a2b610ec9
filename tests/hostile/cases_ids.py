"""Hostile ids, keys and links: what belongs to another, what is forged, what was withdrawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

from tests.hostile.rig import CLIP, Answer, Rig

Send = Callable[[Rig], Answer]
NOT_THERE: Final = {404}
REFUSED_KEY: Final = {401}
FORGED: Final = {403, 404, 422}


class Case(NamedTuple):
    """What is sent, and the statuses that are right; 0 is a connection that ends without an answer."""

    name: str
    send: Send
    wanted: set[int]


def get(path: str, **options: object) -> Send:
    return lambda rig: rig.call("GET", path, **options)


def _of_victim(method: str, path: str) -> Send:
    """A request for something of the victim's; {waiting}, {ended} and {upload} stand for its ids."""
    return lambda rig: rig.call(method, path.format(**vars(rig.goods)))


def _with_victims(name: str, **changes: object) -> Send:
    return lambda rig: rig.call("POST", "/v1/jobs", json={**CLIP, **changes, name: rig.goods.upload})


def others() -> Iterator[Case]:
    """Another tenant's jobs, uploads and outputs are not there: never 403, which would say that they are."""
    for what in ("", "/events", "/frames", "/frames/0/picture", "/deliveries"):
        for job in ("waiting", "ended"):
            yield Case(f"another's {job} job{what}", _of_victim("GET", f"/v1/jobs/{{{job}}}{what}"), NOT_THERE)
    for action in ("cancel", "pause", "resume", "retry"):
        for job in ("waiting", "ended"):
            yield Case(f"{action} another's {job} job", _of_victim("POST", f"/v1/jobs/{{{job}}}/{action}"), NOT_THERE)
    yield Case("delete another's waiting job", _of_victim("DELETE", "/v1/jobs/{waiting}"), NOT_THERE)
    yield Case("delete another's ended job", _of_victim("DELETE", "/v1/jobs/{ended}"), NOT_THERE)
    yield Case("replay another's delivery", _of_victim("POST", "/v1/jobs/{ended}/deliveries/dlv_0/replay"), NOT_THERE)
    for name in ("seed_image", "mask_image"):
        extra = {"seed_image": "og_beat"} if name == "mask_image" else {}
        yield Case(f"another's upload as {name}", _with_victims(name, **extra), {422})
    yield Case(
        "another's upload as source",
        lambda rig: rig.call("POST", "/v1/jobs", json={"type": "convert", "source": rig.goods.upload}),
        {422},
    )
    yield Case("another's prediction", _of_victim("GET", "/v1/predictions/{waiting}"), NOT_THERE)
    yield Case("cancel another's prediction", _of_victim("POST", "/v1/predictions/{waiting}/cancel"), NOT_THERE)
    yield Case("another's file", _of_victim("GET", "/v1/files/{upload}"), NOT_THERE)
    yield Case("delete another's file", _of_victim("DELETE", "/v1/files/{upload}"), {404, 405})
    yield Case(
        "another's output without its signature", _of_victim("GET", "/v1/jobs/{ended}/outputs/clip.flac"), FORGED
    )


def keys() -> Iterator[Case]:
    """Keys that are none, are no more, or may not do what is asked."""
    wrong: dict[str, Callable[[Rig], dict[str, str]]] = {
        "no key": lambda rig: {},
        "an empty key": lambda rig: {"authorization": "Bearer"},
        "another scheme": lambda rig: {"authorization": f"Basic {rig.key}"},
        "no scheme": lambda rig: {"authorization": rig.key},
        "a key cut short": lambda rig: {"authorization": f"Bearer {rig.key[:-1]}"},
        "a key with more": lambda rig: {"authorization": f"Bearer {rig.key}x"},
        "a key in capitals": lambda rig: {"authorization": f"Bearer {rig.key.upper()}"},
        "a guessed key": lambda rig: {"authorization": "Bearer rf_" + "0" * 60},
        "a key with a path": lambda rig: {"authorization": "Bearer rf_../../keys/x"},
        "a key with a star": lambda rig: {"authorization": "Bearer rf_*"},
        "two keys": lambda rig: {"authorization": f"Bearer {rig.key}, Bearer {rig.victims_key[:-1]}"},
        "a key that is long": lambda rig: {"authorization": "Bearer rf_" + "a" * 6_000},
        "a key in a cookie": lambda rig: {"cookie": f"key={rig.key}"},
    }
    for name, headers in wrong.items():
        yield Case(
            name, lambda rig, headers=headers: rig.call("GET", "/v1/jobs", key=None, headers=headers(rig)), REFUSED_KEY
        )  # type: ignore[misc]
    yield Case("a key in the query", lambda rig: rig.call("GET", f"/v1/jobs?key={rig.key}", key=None), {401, 422})
    yield Case("a revoked key", _revoked, REFUSED_KEY)
    yield Case("a key that has expired", _expired, REFUSED_KEY)
    for method, path in (
        ("POST", "/v1/jobs"),
        ("POST", "/v1/jobs/plan"),
        ("POST", "/v1/jobs/batch"),
        ("DELETE", "/v1/jobs/job_0"),
    ):
        yield Case(f"a reader's {method} {path}", _scoped("read", method, path), {403})
    yield Case("a submitter that reads", _scoped("submit", "GET", "/v1/jobs"), {403})
    for method, path in (
        ("POST", "/v1/farm/workers/w/drain"),
        ("POST", "/v1/farm/workers/w/lift"),
        ("GET", "/v1/webhooks/secret"),
        ("POST", "/v1/webhooks/secret/rotate"),
    ):
        yield Case(f"no operator's {method} {path}", lambda rig, call=(method, path): rig.call(*call), {403})  # type: ignore[misc]


def _revoked(rig: Rig) -> Answer:
    key = rig.made_key("mallory")
    assert rig.call("GET", "/v1/jobs", key=key).status == 200
    rig.revoke(key)
    return rig.call("GET", "/v1/jobs", key=key)


def _expired(rig: Rig) -> Answer:
    key = rig.made_key("mallory", "--expires", "1s")
    deadline_s = time.monotonic() + 10
    while (answer := rig.call("GET", "/v1/jobs", key=key)).status == 200 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return answer


def _scoped(scope: str, method: str, path: str) -> Send:
    body = {"json": CLIP} if method == "POST" else {}
    return lambda rig: rig.call(method, path, key=rig.scoped_key(scope), **body)


def links() -> Iterator[Case]:
    """Signed links that were changed in any part, or have run out."""
    changes: dict[str, Callable[[str], str]] = {
        "with another signature": lambda link: link[:-1] + ("0" if link[-1] != "0" else "1"),
        "without a signature": lambda link: link.partition("&signature")[0],
        "with an empty signature": lambda link: link.partition("signature=")[0] + "signature=",
        "with a signature that is no ASCII": lambda link: (
            link.partition("signature=")[0] + "signature=" + quote("é" * 32)
        ),
        "that lasts longer": lambda link: link.replace("expires=", "expires=9"),
        "that ran out": lambda link: link.replace(link.partition("expires=")[2].partition("&")[0], "1"),
        "that ends before 1970": lambda link: link.replace("expires=", "expires=-"),
        "that ends at no time": lambda link: link.replace("expires=", "expires=x"),
        "of no end": lambda link: link.replace("expires=", "expires=" + "9" * 400),
        "to another file": lambda link: link.replace("clip.flac", "clip.wav"),
        "to the manifest": lambda link: link.replace("outputs/clip.flac", "manifest.json"),
        "to the manifest by dots": lambda link: link.replace("clip.flac", "..%2Fmanifest.json"),
        "to a hidden file": lambda link: link.replace("clip.flac", ".writing-1"),
        "to an absolute path": lambda link: link.replace("clip.flac", "%2Fetc%2Fpasswd"),
        "to a name with NUL": lambda link: link.replace("clip.flac", "clip.flac%00"),
    }
    for name, change in changes.items():
        yield Case(
            f"a link {name}",
            lambda rig, change=change: rig.call("GET", change(rig.goods.link), key=None),
            FORGED,  # type: ignore[misc]
        )
    yield Case(
        "a link of another job",
        lambda rig: rig.call("GET", rig.goods.link.replace(rig.goods.ended, rig.goods.waiting), key=None),
        FORGED,
    )


def names() -> Iterator[Case]:
    """Ids and names that would lead elsewhere, if they were believed."""
    hostile = {
        "dots": "..%2F..%2Fetc%2Fpasswd",
        "dots twice encoded": "%252e%252e%252f",
        "backslashes": "..%5C..%5Cwindows",
        "NUL": "job_0%00",
        "a line's end": "job_0%0D%0AX-Evil:%201",
        "a colon": "job_0:frames",
        "a star": "job_*",
        "capitals": "JOB_0",
        "a homoglyph": quote("јob_0"),
        "full width": quote("ｊｏｂ＿０"),
        "right to left": quote("\u202ejob_0"),
        "an emoji": quote("job_🎵"),
        "much of it": "job_" + "0" * 4_000,
        "a shell": "job_%24(id)",
        "a template": "job_%7B%7B7*7%7D%7D",
        "SQL": "job_0'%20OR%201=1--",
        "markup": "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "invalid UTF-8": "job_%FF%FE",
    }
    for name, text in hostile.items():
        yield Case(f"a job's id of {name}", get(f"/v1/jobs/{text}"), {404, 422})
        yield Case(f"a problem of {name}", get(f"/problems/{text}"), {404, 422})
        yield Case(f"a seed image of {name}", get(f"/v1/seed-images/{text}/picture"), {404, 422})
    for name in ("dots", "NUL", "a colon", "a line's end", "much of it"):
        yield Case(
            f"a canceled id of {name}",
            lambda rig, text=hostile[name]: rig.call("POST", f"/v1/jobs/{text}/cancel"),
            {404, 422},
        )  # type: ignore[misc]
        yield Case(f"events of {name}", get(f"/v1/jobs/{hostile[name]}/events"), {404, 422})
        yield Case(f"a prediction of {name}", get(f"/v1/predictions/{hostile[name]}"), {404, 422})
        yield Case(f"a model of {name}", get(f"/v1/models/{hostile[name]}/x"), {404, 422})
    yield Case("frame -1", lambda rig: rig.call("GET", f"/v1/jobs/{rig.own_job()}/frames/-1/picture"), {404, 422})
    yield Case(
        "frame 10^40", lambda rig: rig.call("GET", f"/v1/jobs/{rig.own_job()}/frames/{10**40}/picture"), {404, 422}
    )
    for cursor in ("x", "%00", "-1", "9" * 150, quote("é"), "eyJhIjoxfQ%3D%3D", "..%2F"):
        yield Case(f"cursor {cursor[:12]}", get(f"/v1/jobs?cursor={cursor}"), {422})
    for query in (
        "limit=0",
        "limit=-1",
        "limit=201",
        "limit=1e3",
        f"limit={'9' * 300}",
        "status=%00",
        "type=x",
        "created_after=x",
    ):
        yield Case(f"list with {query[:20]}", get(f"/v1/jobs?{query}"), {422})

"""What the Python client 1 does with a farm; run in its own environment with the path of a picture."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import replicate
from observing import ANOTHER, CLIP, LONG, RIFFUSION, TRACK, Receiver, tell
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.webhook import Webhooks

PICTURE = Path(sys.argv[1])


def head(output: FileOutput) -> list[object]:
    """How an output begins, and how much came."""
    content = output.read()
    return [type(output).__name__, content[:4].decode("latin-1"), len(content)]


def run() -> object:
    output = replicate.run(RIFFUSION, input={"prompt_a": "jazz", "prompt_b": "techno", "alpha": 0.25})
    return {name: head(one) for name, one in output.items()}


def run_model() -> object:
    first, *others = replicate.run("riffarm/clip", input=CLIP)
    return {"first": head(first), "others": len(others), "in_pieces": sum(map(len, first))}


def run_async() -> object:
    output = asyncio.run(replicate.async_run("riffarm/clip", input=CLIP))
    return [str(one).startswith("https:") for one in output]


def create_wait_get() -> object:
    prediction = replicate.predictions.create(model="riffarm/track", input=TRACK)
    seen = {"first": prediction.status, "logs": [prediction.logs], "progress": []}
    while prediction.status not in ("succeeded", "failed", "canceled"):
        time.sleep(0.05)
        prediction.reload()
        seen["logs"].append(prediction.logs)
        if prediction.progress:
            seen["progress"].append(prediction.progress.percentage)
    prediction.wait()
    again = replicate.predictions.get(prediction.id)
    return seen | {"last": again.status, "output": again.output, "input": again.input, "metrics": again.metrics}


def wait_runs_out() -> object:
    prediction = replicate.predictions.create(version="riffarm/track", input=LONG, wait=1)
    status, now = prediction.status, replicate.predictions.get(prediction.id).status
    prediction.cancel()
    return {"answered": status, "really": now, "canceled": prediction.status}


def run_longer_than_the_wait() -> object:
    return [head(one) for one in replicate.run("riffarm/track", input=ANOTHER, wait=1)]


def fails() -> object:
    try:
        replicate.run("riffarm/clip", input=CLIP | {"prompt": "it refuses"})
    except ModelError as error:
        return {"status": error.prediction.status, "error": error.prediction.error}
    return None


def bad_input() -> object:
    try:
        replicate.run("riffarm/clip", input={"promt": "x"})
    except ReplicateError as error:
        return {"status": error.status, "title": error.title, "detail": error.detail}
    return None


def stream() -> object:
    events = [*replicate.stream("riffarm/clip", input=CLIP | {"seed": 4})]
    data = [one.data if isinstance(one.data, str) else type(one.data).__name__ for one in events]
    return [[one.event.value, text] for one, text in zip(events, data, strict=True)]


def stream_of_a_failure() -> object:
    try:
        return [one.event.value for one in replicate.stream("riffarm/clip", input=CLIP | {"prompt": "it refuses"})]
    except RuntimeError as error:
        return str(error)


def lists() -> object:
    made = [replicate.predictions.create(model="riffarm/clip", input=CLIP).id for _ in range(3)]
    pages = []
    page = replicate.predictions.list("/v1/predictions?limit=2")
    while len(pages) < 2:
        pages.append([one.id for one in page.results])
        page = replicate.predictions.list(page.next)
    default = replicate.predictions.list()
    return {"made": made, "pages": pages, "default": len(default.results), "previous": default.previous}


def files() -> object:
    made = replicate.files.create(PICTURE, metadata={"a": 1})
    seen, all_ids = replicate.files.get(made.id), [one.id for one in replicate.files.list()]
    output = replicate.run("riffarm/convert", input={"source": PICTURE.open("rb"), "formats": ["wav"]})
    inline = replicate.predictions.create(
        model="riffarm/clip", input=CLIP | {"seed_image": PICTURE}, file_encoding_strategy="base64"
    )
    return {
        "made": [made.name, made.content_type, made.size],
        "same": seen.id == made.id,
        "is_listed": made.id in all_ids,
        "converted": head(output[0]),
        "is_same_inline": inline.input["seed_image"] == made.id,
        "deleted": replicate.files.delete(made.id),
        "is_still_listed": made.id in [one.id for one in replicate.files.list()],
    }


def models() -> object:
    model = replicate.models.get("riffarm/clip")
    versions = model.versions.list().results
    version = model.versions.get(versions[0].id)
    inputs = version.openapi_schema["components"]["schemas"]["Input"]
    return {
        "name": model.id,
        "latest": model.latest_version.id == version.id,
        "inputs": sorted(inputs["properties"]),
        "required": inputs["required"],
        "account": replicate.default_client.accounts.current().username,
        "hardware": [one.sku for one in replicate.default_client.hardware.list()],
    }


def webhook() -> object:
    receiver = Receiver()
    prediction = replicate.predictions.create(
        model="riffarm/clip",
        input=CLIP | {"seed": 5},
        webhook=receiver.url,
        webhook_events_filter=["start", "completed"],
    )
    calls = receiver.wait()
    secret = replicate.webhooks.default.secret()
    for headers, body in calls:
        Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=60)
    try:
        Webhooks.validate(headers=calls[0][0], body=calls[0][1] + " ", secret=secret)
        is_tampered_refused = False
    except ValueError:
        is_tampered_refused = True
    return {"id": prediction.id, "bodies": [body for _, body in calls], "is_tampered_refused": is_tampered_refused}


tell(
    [
        run,
        run_model,
        run_async,
        create_wait_get,
        wait_runs_out,
        run_longer_than_the_wait,
        fails,
        bad_input,
        stream,
        stream_of_a_failure,
        lists,
        files,
        models,
        webhook,
    ]
)

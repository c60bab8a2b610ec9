"""What the Python client 2 does with a farm; run in its own environment with the path of a picture."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import replicate
from observing import ANOTHER, CLIP, LONG, RIFFUSION, TRACK, Receiver, tell
from replicate.exceptions import APIStatusError, ModelError
from replicate.lib._files import FileOutput

PICTURE = Path(sys.argv[1])
ENDS = ("succeeded", "failed", "canceled")


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
    output = asyncio.run(replicate.AsyncReplicate().run("riffarm/clip", input=CLIP))
    return [str(one).startswith("https:") for one in output]


def create_wait_get() -> object:
    prediction = replicate.models.predictions.create(model_owner="riffarm", model_name="track", input=TRACK)
    seen = {"first": prediction.status, "logs": [prediction.logs]}
    while prediction.status not in ENDS:
        time.sleep(0.05)
        prediction = replicate.predictions.get(prediction_id=prediction.id)
        seen["logs"].append(prediction.logs)
    again = replicate.predictions.wait(prediction.id)
    metrics = again.metrics.model_dump()
    return seen | {"last": again.status, "output": again.output, "input": again.input, "metrics": metrics}


def wait_runs_out() -> object:
    made = replicate.predictions.create(version="riffarm/track", input=LONG, prefer="wait=1")
    now = replicate.predictions.get(prediction_id=made.id).status
    canceled = replicate.predictions.cancel(prediction_id=made.id)
    return {"answered": made.status, "really": now, "canceled": canceled.status}


def run_longer_than_the_wait() -> object:
    return [head(one) for one in replicate.run("riffarm/track", input=ANOTHER, wait=1)]


def cancel_after() -> object:
    made = replicate.predictions.create(version="riffarm/track", input=LONG, cancel_after="2s")
    given_s = (made.deadline - made.created_at).total_seconds()
    ended = replicate.predictions.wait(made.id)
    took_s = (ended.completed_at - ended.created_at).total_seconds()
    return {"given_s": given_s, "took_s": took_s, "status": ended.status}


def fails() -> object:
    try:
        replicate.run("riffarm/clip", input=CLIP | {"prompt": "it refuses"})
    except ModelError as error:
        return {"status": error.prediction.status, "error": error.prediction.error}
    return None


def bad_input() -> object:
    try:
        replicate.run("riffarm/clip", input={"promt": "x"})
    except APIStatusError as error:
        return {"status": error.status_code, "title": error.body["title"], "detail": error.body["detail"]}
    return None


def use() -> object:
    clip = replicate.use("riffarm/clip")
    paths = clip(**CLIP)
    pieces = [*replicate.use("riffarm/clip", streaming=True)(**CLIP)]
    return {"files": [Path(one).read_bytes()[:4].decode("latin-1") for one in paths], "streamed": len(pieces)}


def lists() -> object:
    create = replicate.models.predictions.create
    made = [create(model_owner="riffarm", model_name="clip", input=CLIP).id for _ in range(3)]
    first = replicate.predictions.list(extra_query={"limit": 2})
    pages = [page.results for page, _ in zip(first.iter_pages(), range(2), strict=False)]
    default = replicate.predictions.list()
    newer = replicate.predictions.list(created_after=default.results[0].created_at)
    ids = [[one.id for one in page] for page in pages]
    return {"made": made, "pages": ids, "default": len(default.results), "newer": len(newer.results)}


def files() -> object:
    made = replicate.files.create(content=PICTURE, metadata={"a": 1})
    seen, all_ids = replicate.files.get(file_id=made.id), [one.id for one in replicate.files.list()]
    output = replicate.run("riffarm/convert", input={"source": PICTURE.open("rb"), "formats": ["wav"]})
    inline = replicate.models.predictions.create(
        model_owner="riffarm",
        model_name="clip",
        input=CLIP | {"seed_image": PICTURE},
        file_encoding_strategy="base64",
    )
    replicate.files.delete(file_id=made.id)
    return {
        "made": [PICTURE.name, made.content_type, made.size],
        "same": seen.id == made.id,
        "is_listed": made.id in all_ids,
        "converted": head(output[0]),
        "is_same_inline": inline.input["seed_image"] == made.id,
        "deleted": True,
        "is_still_listed": made.id in [one.id for one in replicate.files.list()],
    }


def models() -> object:
    model = replicate.models.get(model_owner="riffarm", model_name="clip")
    of_model = {"model_owner": "riffarm", "model_name": "clip"}
    versions = replicate.models.versions.list(**of_model).results
    version = replicate.models.versions.get(version_id=versions[0].id, **of_model)
    inputs = version.openapi_schema["components"]["schemas"]["Input"]
    return {
        "name": f"{model.owner}/{model.name}",
        "latest": model.latest_version.id == version.id,
        "inputs": sorted(inputs["properties"]),
        "required": inputs["required"],
        "account": replicate.account.get().username,
        "hardware": [one.sku for one in replicate.hardware.list()],
    }


def webhook() -> object:
    receiver = Receiver()
    made = replicate.models.predictions.create(
        model_owner="riffarm", model_name="clip", input=CLIP | {"seed": 6}, webhook=receiver.url
    )
    bodies = [body for _, body in receiver.wait()]
    return {"id": made.id, "bodies": bodies, "key": replicate.webhooks.default.secret.get().key}


tell(
    [
        run,
        run_model,
        run_async,
        create_wait_get,
        wait_runs_out,
        run_longer_than_the_wait,
        cancel_after,
        fails,
        bad_input,
        use,
        lists,
        files,
        models,
        webhook,
    ]
)

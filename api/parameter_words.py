"""What the OpenAPI document says of parameters that many routes have, where a route does not say it itself.

Leaves out bodies (`api.examples`).
"""

from __future__ import annotations

from typing import Final

from api.examples import BATCH_ID, CURSOR, DELIVERY_ID, JOB_ID, SHA256, UPLOAD_ID

PARAMETERS: Final[dict[str, tuple[str, object]]] = {
    "job_id": ("The job's id.", JOB_ID),
    "delivery_id": ("The delivery's id.", DELIVERY_ID),
    "number": ("The frame's number, from 0.", 0),
    "seed_image_id": ("The seed image's id.", "og_beat"),
    "name": ("The worker's name.", "w1"),
    "read_output name": ("The output's name.", "clip.flac"),
    "replicate_read_output name": ("The output's name.", "clip.flac"),
    **{
        f"replicate_{operation} name": ("The model's name: a job's type, or `riffusion`.", "clip")
        for operation in ("create_prediction_of_model", "read_model", "list_versions", "read_version")
    },
    "limit": ("How many on a page, 1..200.", 50),
    "cursor": ("Where the page begins: part of `next` of the page before.", CURSOR),
    "status": ("Only jobs in this state.", "running"),
    "type": ("Only jobs of this type.", "track"),
    "batch_id": ("Only jobs of this batch.", BATCH_ID),
    "created_after": ("Only jobs made after this time (RFC 3339; UTC when it names no zone).", "2026-03-01T00:00:00Z"),
    "created_before": (
        "Only jobs made before this time (RFC 3339; UTC when it names no zone).",
        "2026-03-02T00:00:00Z",
    ),
    "expires": ("Until when the link works, in seconds since 1970; part of the output's `url`.", 1_772_452_803),
    "signature": ("What makes the link good; part of the output's `url`.", SHA256),
    "code": ("The problem's code.", "invalid_request"),
    "prefer": ("`wait=N`: answer when the job ends, after N seconds (1..60) at the latest.", "wait=10"),
    "idempotency-key": (
        "1..255 printable ASCII characters of your own: sent again within 24 hours, the request answers what it "
        "answered first, with `Idempotent-Replayed: true`.",
        "album-night-track-07",
    ),
    "last-event-id": ("The `id` of the last event you have; the stream goes on after it.", "1772366400210-0"),
    "range": ("Part of the file: `bytes=FIRST-LAST`.", "bytes=0-65535"),
    "owner": ("Whose model it is: `riffarm`, or `riffusion`.", "riffarm"),
    "version": ("The version's id.", SHA256),
    "prediction_id": ("The prediction's id: its job's.", JOB_ID),
    "file_id": ("The file's id: its upload's.", UPLOAD_ID),
    "cancel-after": ("Cancel it if it has not ended by then.", "1m"),
    "if-range": ("Answer the range only if the file is still the one with this ETag.", f'"{SHA256}"'),
}
"""By name in lower case, alone or after the one operation that means something else by it: what it is, and what one
looks like."""

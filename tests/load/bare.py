"""What a submit and a status read are measured against: the least that FastAPI and Redis can do.

One route validates the same body and does one SET, the other does one GET and answers what it found; the server is the
gateway's own, with the same settings. `python -m tests.load.bare PORT REDIS_URL`.
"""

from __future__ import annotations

import sys

import redis.asyncio
import uvicorn
from fastapi import FastAPI, Response

from api.main import server_options
from api.stamps import new_stamp
from shared.contracts import JobRequest

app = FastAPI()
_REDIS: list[redis.asyncio.Redis] = []


@app.post("/v1/jobs", status_code=202)
async def submit(body: JobRequest) -> Response:
    """Validate, one SET."""
    job_id = new_stamp().job_id
    await _REDIS[0].set(f"bare:{job_id}", body.model_dump_json())
    return Response(f'{{"id":"{job_id}"}}', 202, media_type="application/json")


@app.get("/v1/jobs/{job_id}")
async def read(job_id: str) -> Response:
    """One GET."""
    found = await _REDIS[0].get(f"bare:{job_id}")
    return Response(found, 200 if found else 404, media_type="application/json")


if __name__ == "__main__":
    _REDIS.append(redis.asyncio.Redis.from_url(sys.argv[2]))
    uvicorn.run(app, port=int(sys.argv[1]), **server_options())

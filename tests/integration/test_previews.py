"""A track can be heard before it ends: what is finished of it is among its outputs, and stays when it ends early."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from shared.contracts import Output
from shared.errors import LeaseLostError
from shared.job_store import JobStore
from shared.object_store import output_key, preview_prefix
from shared.settings import Settings
from tests.integration.farm_by_hand import Farm
from workers.delivery import is_preview_due

LONG_S = 184.32
"""Three chunks."""


@pytest.fixture
def farm(settings: Settings, job_store: JobStore, tmp_path: Path) -> Farm:
    return Farm(settings, job_store, tmp_path, LONG_S)


def outputs(farm: Farm) -> list[Output]:
    return farm.jobs.read(farm.job_id).outputs


def read(farm: Farm, output: Output) -> bytes:
    return farm.objects.get(output_key(farm.job_id, output.name))


def test_a_track_is_heard_while_it_runs(farm: Farm) -> None:
    """From its beginning to what is finished, as sound and as picture; then longer; at the end whole and alone."""
    farm.work("c1")
    first_s = farm.plan.params.samples_from_columns(farm.plan.chunk(0).columns.stop) / farm.plan.params.sample_rate_hz
    sound, picture = outputs(farm)
    assert [one.media_type for one in (sound, picture)] == ["audio/mpeg", "image/png"]
    assert sound.is_preview
    assert sound.duration_s == pytest.approx(first_s, abs=1e-6)
    early, rate_hz = soundfile.read(io.BytesIO(read(farm, sound)))
    assert len(early) / rate_hz == pytest.approx(first_s, abs=0.06)
    width = Image.open(io.BytesIO(read(farm, picture))).width
    farm.work("c2")
    longer = outputs(farm)
    assert [one.duration_s for one in longer] > [first_s]
    assert Image.open(io.BytesIO(read(farm, longer[1]))).width > width
    assert [*farm.objects.keys(preview_prefix(farm.job_id))] == sorted(
        output_key(farm.job_id, one.name) for one in longer
    )
    farm.sha256()
    whole = outputs(farm)
    assert not any(one.is_preview for one in whole)
    assert [*farm.objects.keys(preview_prefix(farm.job_id))] == []
    wave, _ = soundfile.read(io.BytesIO(read(farm, whole[0])))
    middle = slice(rate_hz * 10, rate_hz * 20)
    assert np.corrcoef(early[middle], wave[middle])[0, 1] > 0.9


def test_a_canceled_track_keeps_what_can_be_heard(farm: Farm) -> None:
    """And goes on with it when it is retried."""
    farm.work("c2")
    heard = [one.name for one in outputs(farm)]
    job = farm.jobs.cancel(farm.job_id)
    assert (job.status, [one.name for one in job.outputs]) == ("canceled", heard)
    assert len(heard) == 2
    assert [one.name for one in farm.jobs.retry(farm.job_id).outputs] == heard
    assert farm.sha256()


def test_a_late_attempt_shows_nothing(farm: Farm) -> None:
    """What another attempt has shown since stays."""
    farm.work("c1")
    attempt = farm.store.take("sound", "w2", "w2/1").attempt
    assert attempt
    farm.store.give_back(attempt, "w2", "it broke")
    farm.work("c2")
    shown = outputs(farm)
    with pytest.raises(LeaseLostError):
        farm.store.show(attempt, [])
    with pytest.raises(LeaseLostError):
        farm.store.set_stage(attempt, "uploading")
    assert [one.name for one in outputs(farm)] == [one.name for one in shown]


def test_previews_grow_rarer_as_a_track_grows_longer() -> None:
    """So that they cost a few times the track's own files, however long it is; and none comes with the last chunk."""
    due = [chunks for chunks in range(1, 65) if is_preview_due(chunks, 64)]
    assert due == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert not is_preview_due(1, 1)

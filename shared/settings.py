"""How this process is run: addresses, secrets, limits. Read once from RIFFARM_* at each entry.

Leaves out everything that changes the sound: that is in the request and kept with the job.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.object_store import bucket_from_url
from shared.secrecy import hide

_MIN_SECRET_CHARACTERS: Final = 32


LOCAL_FARM_FILE: Final = "environment"
"""Where a local farm keeps its settings in its data folder while it runs."""


class Settings(BaseSettings):
    """Settings of every process of the farm; each uses what concerns it."""

    model_config = SettingsConfigDict(env_prefix="RIFFARM_", frozen=True, extra="ignore")

    redis_url: str = Field(description="Valkey or Redis: redis://host:port/db")
    storage_url: str = Field(description="file:DIR or s3://bucket/prefix")
    s3_endpoint_url: str | None = Field(None, description="S3 server other than AWS")
    s3_public_endpoint_url: str | None = Field(None, description="The same server as clients reach it, for their links")
    output_buckets: str = Field(
        "", description="Other buckets of that server that requests may name for their outputs, with commas"
    )
    secret: SecretStr = Field(description="Signs the URLs of outputs on local disk; at least 32 characters")
    webhook_secret: SecretStr | None = Field(
        None, description="whsec_<base64 of 24..64 bytes>; signs the default tenant's webhooks until it is rotated"
    )
    webhook_allow_loopback: bool = Field(False, description="Let webhooks go to http://127.0.0.1 (development)")
    webhook_allowed_hosts: str = Field(
        "", description="Private hosts that webhooks may reach by https, by name or address, with commas"
    )
    gateway_key: SecretStr | None = Field(None, description="Bearer key that clients must send; at least 32 characters")
    riffusion_tenant: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$",
        description="Open /run_inference/ to everybody without a key, as this tenant",
    )
    host: str = Field("127.0.0.1", description="Address the gateway listens on")
    port: int = Field(8000, ge=0, le=65_535, description="Port the gateway listens on")
    public_url: str | None = Field(None, description="Where clients reach the gateway; http://host:port by default")
    max_body_bytes: int = Field(1_000_000, gt=0, description="Largest JSON body")
    max_batch_bytes: int = Field(20_000_000, gt=0, description="Largest body of a batch of requests")
    max_upload_bytes: int = Field(
        350_000_000, gt=0, description="Largest uploaded file: half an hour of stereo WAV fits"
    )
    limit_requests_per_minute: int | None = Field(
        None, gt=0, description="Requests of one tenant; 6,000 when left out, on a farm without keys 1,000,000"
    )
    limit_jobs: int | None = Field(
        None, gt=0, description="One tenant's unfinished jobs; 10,000 when left out, on a farm without keys 1,000,000"
    )
    limit_audio_s: int | None = Field(
        None, gt=0, description="Seconds of sound in them; 360,000 when left out, on a farm without keys 36,000,000"
    )
    limit_upload_bytes: int | None = Field(
        None, gt=0, description="One tenant's uploads; 50 GB when left out, on a farm without keys 5 TB"
    )
    max_queued_jobs: int = Field(100_000, gt=0, description="Unfinished jobs of all tenants; above that none is taken")
    output_url_ttl_s: int = Field(
        86_400, gt=0, le=604_800, description="How long an output's URL works; 7 days at most"
    )
    models_file: Path | None = Field(None, description="models.toml of your own, beside the built-in model")
    model_memory_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Memory for models held side by side, in units of 10^9 bytes"
    )
    job_window: int = Field(32, gt=0, description="Batches of one job that may be under way at a time")
    device: Literal["auto", "cuda", "mps", "cpu"] = Field("auto", description="Where frames are rendered")
    sound_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where frames become sound; a GPU's samples differ from a CPU's by roundings"
    )
    lease_s: float = Field(
        30.0, ge=2, le=3_600, description="A worker that says nothing for so long is lost; its work starts elsewhere"
    )
    stuck_after_s: float = Field(
        600.0, gt=0, description="A running job with no news for so long is reported as stuck, with the reason"
    )
    keep_results_days: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Jobs that ended longer ago are removed; never when left out"
    )
    keep_frames_days: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Frames rendered longer ago are removed; never when left out"
    )
    keep_uploads_days: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Uploads this old that no job needs are removed; never if left out"
    )
    cors_origins: str = Field(
        "",
        description="Sites whose pages may use the API from a browser: https://a.example,https://b.example; or * for "
        "all, which a farm without keys does not let in",
    )
    metrics_key: SecretStr | None = Field(
        None, description="Bearer key that /metrics asks for; at least 32 characters; open to all when left out"
    )
    traces_url: str | None = Field(
        None, description="OTLP/HTTP receiver of traces, as in http://127.0.0.1:4318/v1/traces; none when left out"
    )
    log_format: Literal["console", "json"] = Field("json", description="How log lines look")

    @property
    def base_url(self) -> str:
        """Where clients reach the gateway, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.public_url or f"http://{host}:{self.port}").rstrip("/")

    @property
    def origins(self) -> list[str]:
        """The sites of `cors_origins`."""
        return _names(self.cors_origins)

    @property
    def output_bucket_names(self) -> list[str]:
        """The buckets that a request may name for its outputs."""
        return _names(self.output_buckets)

    @field_validator("output_buckets")
    @classmethod
    def _are_not_the_farms_own(cls, names: str, info: ValidationInfo) -> str:
        # A request's prefix would lead anywhere in it, to other tenants' jobs and to keys.
        own = bucket_from_url(info.data.get("storage_url", ""))
        if own and own in _names(names):
            raise ValueError("names the farm's own bucket; outputs that are to stay with the farm need none")
        return names

    @field_validator("secret", "gateway_key", "metrics_key")
    @classmethod
    def _is_long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < _MIN_SECRET_CHARACTERS:
            raise ValueError(
                f"must be at least {_MIN_SECRET_CHARACTERS} characters; make one with: openssl rand -hex 32"
            )
        return secret

    @field_validator("webhook_secret")
    @classmethod
    def _is_webhook_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None:
            return None
        scheme, _, encoded = secret.get_secret_value().partition("_")
        try:
            is_right = scheme == "whsec" and 24 <= len(base64.b64decode(encoded, validate=True)) <= 64
        except binascii.Error:
            is_right = False
        if not is_right:
            raise ValueError(
                'must be whsec_<base64 of 24 to 64 bytes>; make one with: echo "whsec_$(openssl rand -base64 32)"'
            )
        return secret


def _names(text: str) -> list[str]:
    return [name for one in text.split(",") if (name := one.strip())]


def _given(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {name: f"RIFFARM_{name.upper()}" for name in Settings.model_fields}
    return {name: environment[variable] for name, variable in variables.items() if variable in environment}


def settings_from_environment(data: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process, whose secrets are hidden from its log from now on; ends it with one sentence that
    names each wrong variable and never shows a value.

    With `data`, the folder of a running local farm, they are that farm's, where the environment does not say otherwise;
    with `environment` those of processes that will be started with it.
    """
    if data and not (data / LOCAL_FARM_FILE).exists():
        sys.exit(f"riffarm: no farm runs on {data}; start one with: riffarm up --data {data}")
    try:
        settings = Settings(_env_file=data / LOCAL_FARM_FILE if data else None, **_given(environment or {}))
    except ValidationError as error:
        wrong = (f"RIFFARM_{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        sys.exit("riffarm: " + "; ".join(wrong).replace("Value error, ", ""))
    secrets = (settings.secret, settings.gateway_key, settings.webhook_secret)
    hide(*(secret.get_secret_value() for secret in secrets if secret))
    return settings

"""Object storage in one bucket of any server that speaks S3.

Owns the client's time-outs, retries and signatures, and what S3's errors mean to the farm. Leaves out the scheme of
keys and the choice of a store, which are `shared.object_store`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Final

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import ObjectNotFoundError, StorageUnavailableError
from shared.object_store import PIECE_BYTES, checked_key, content_disposition, folder_of

MAX_URL_EXPIRY_S: Final = 7 * 24 * 3600
"""The longest life S3 grants a presigned link."""
MULTIPART_THRESHOLD_BYTES: Final = 16 * 2**20
CONNECT_TIMEOUT_S: Final = 2.0
"""A storage that is there at all accepts within this; with three attempts a dead one is known in seconds."""
READ_TIMEOUT_S: Final = 15.0
"""Between two bytes, not for the whole answer: enough for a busy server, and three of them stay under a minute."""
MAX_ATTEMPTS: Final = 3
MAX_CONNECTIONS: Final = 32
_NOT_FOUND_CODES: Final = frozenset({"404", "NoSuchKey"})


class S3Store:
    """Objects below a prefix of one bucket. Credentials come as boto3 finds them: environment, profile or role.

    They need to read, write, delete and list: without the right to list, S3 calls an absent object forbidden.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        endpoint_url: str | None = None,
        public_endpoint_url: str | None = None,
        region: str | None = None,
    ) -> None:
        """Nothing is asked of the server yet.

        `public_endpoint_url` is the address in links where clients reach the server under another name than we do.
        """
        self.bucket = bucket
        self._prefix = _folder(prefix)
        self._client = _s3_client(endpoint_url, region)
        self._public_client = _s3_client(public_endpoint_url, region) if public_endpoint_url else self._client
        self._transfer = TransferConfig(multipart_threshold=MULTIPART_THRESHOLD_BYTES, max_concurrency=4)

    def put(self, key: str, data: bytes, media_type: str = "application/octet-stream") -> None:
        with self._s3_errors(key):
            self._client.put_object(**self._address(key), Body=data, ContentType=media_type)

    def put_file(self, key: str, path: Path, media_type: str) -> None:
        address = self._address(key)
        with self._s3_errors(key):
            self._client.upload_file(
                str(path), address["Bucket"], address["Key"], {"ContentType": media_type}, Config=self._transfer
            )

    def get(self, key: str) -> bytes:
        with self._s3_errors(key):
            data: bytes = self._client.get_object(**self._address(key))["Body"].read()
            return data

    def pieces(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        with self._s3_errors(key):
            body = self._client.get_object(**self._address(key), Range=f"bytes={start}-{stop - 1}")["Body"]
            try:
                yield from body.iter_chunks(PIECE_BYTES)
            finally:
                body.close()

    def exists(self, key: str) -> bool:
        try:
            with self._s3_errors(key):
                self._client.head_object(**self._address(key))
        except ObjectNotFoundError:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _ in self.aged_keys(prefix))

    def aged_keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        folder_of(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        with self._s3_errors(prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._prefix), entry["LastModified"].timestamp()

    def delete(self, key: str) -> None:
        with self._s3_errors(key):
            self._client.delete_object(**self._address(key))

    def remove_unfinished(self, before_s: float) -> int:
        count = 0
        with self._s3_errors(self._prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                for one in page.get("Uploads", ()):
                    if one["Initiated"].timestamp() < before_s:
                        address = {"Bucket": self.bucket, "Key": one["Key"]}
                        self._client.abort_multipart_upload(**address, UploadId=one["UploadId"])
                        count += 1
        return count

    def url(self, key: str, expires_in_s: int, filename: str, media_type: str) -> str:
        if not 1 <= expires_in_s <= MAX_URL_EXPIRY_S:
            raise ValueError(f"expires_in_s is {expires_in_s}, right is 1 to {MAX_URL_EXPIRY_S}")
        headers = {"ResponseContentDisposition": content_disposition(filename), "ResponseContentType": media_type}
        with self._s3_errors(key):
            link: str = self._public_client.generate_presigned_url(
                "get_object", Params=self._address(key) | headers, ExpiresIn=expires_in_s
            )
            return link

    def check(self) -> None:
        try:
            with self._s3_errors(self.bucket):
                self._client.head_bucket(Bucket=self.bucket)
        except ObjectNotFoundError as error:
            raise StorageUnavailableError(f"there is no bucket s3://{self.bucket}") from error

    def beside(self, bucket: str, prefix: str) -> S3Store:
        other = copy(self)
        other.bucket, other._prefix = bucket, _folder(prefix)
        return other

    def _address(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._prefix + checked_key(key)}

    @contextmanager
    def _s3_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NOT_FOUND_CODES:
                raise ObjectNotFoundError(f"there is no object {key}") from error
            raise self._unavailable(error) from error
        except (BotoCoreError, Boto3Error) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StorageUnavailableError:
        return StorageUnavailableError(f"the bucket s3://{self.bucket} cannot be used: {error}")


def _folder(prefix: str) -> str:
    return f"{checked_key(prefix)}/" if prefix else ""


def _s3_client(endpoint_url: str | None, region: str | None) -> Any:
    config = Config(
        # The older signature, still a default in places, has no expiry that all servers check.
        signature_version="s3v4",
        # A server of one's own seldom has a name for each bucket.
        s3={"addressing_style": "path" if endpoint_url else "auto"},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        max_pool_connections=MAX_CONNECTIONS,
        # Several S3 servers refuse the checksums that boto3 adds by itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of its own: boto3's shared one is not safe between threads.
    session = boto3.session.Session()
    region = region or session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)

"""Object storage behind one protocol: a folder on the local disk, or a bucket on any server that speaks S3.

Owns the scheme of keys, the atomic write, and the translation of every failure to reach storage into
`StorageUnavailableError`. Leaves out what the objects mean, and the signing of links to files on the local disk,
which is the gateway's.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol
from urllib.parse import quote

from shared.errors import ObjectNotFoundError, StorageUnavailableError

MAX_KEY_LENGTH: Final = 512
PIECE_BYTES: Final = 2**18
"""How much of an object is read at once where it is passed on."""
UPLOAD_OWNERS_PREFIX: Final = "uploads-of/"
"""Where it is kept which tenant has uploaded what."""
KEYS_PREFIX: Final = "keys/"
"""Where the records of the gateway's keys are kept."""
_TEMPORARY_PREFIX: Final = ".writing-"
# A name never begins with a dot, so neither `..` nor a half-written file can be a key.
_NAME: Final = r"[A-Za-z0-9_=+@,-][A-Za-z0-9_=+@,.-]{0,254}"
_NAME_PATTERN: Final = re.compile(_NAME)
_KEY_PATTERN: Final = re.compile(rf"{_NAME}(?:/{_NAME})*")
_S3_URL_PATTERN: Final = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*?)/?)?")
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""How a file system says that a file has one name, or no more than it has."""
_HASH_PATTERN: Final = re.compile(r"[0-9a-f]{16,128}")


def checked_key(key: str) -> str:
    """The key itself: names of letters, digits and `_=+@,.-` with `/` between them, none beginning with a dot.

    Raises ValueError for anything else, so that no key can leave its store.
    """
    if len(key) > MAX_KEY_LENGTH or not _KEY_PATTERN.fullmatch(key):
        raise ValueError(
            f"{key[:80]!r} is no storage key: names of letters, digits and _=+@,.- with / between them, "
            f"none beginning with a dot, at most {MAX_KEY_LENGTH} characters"
        )
    return key


def folder_of(prefix: str) -> str:
    """The folders that a listing's prefix begins with, as in `jobs/` for `jobs/j1`, or nothing.

    Raises ValueError where they are no key.
    """
    folder = prefix.rpartition("/")[0]
    return f"{checked_key(folder)}/" if folder else ""


def job_manifest_key(job_id: str) -> str:
    """Where a job's request and resolved plan are kept."""
    return f"manifests/{_name(job_id)}.json"


def job_result_key(job_id: str, runs: int = 0) -> str:
    """Where a job's terminal state is kept: how it ended after it was retried `runs` times."""
    return f"jobs/{_name(job_id)}/result{f'-{runs}' if runs else ''}.json"


def job_told_key(job_id: str, runs: int = 0) -> str:
    """What says that the delivery of how a job ended, after it was retried `runs` times, is over."""
    return f"jobs/{_name(job_id)}/told{f'-{runs}' if runs else ''}.json"


def job_retry_key(job_id: str, runs: int) -> str:
    """What says that a job was retried for the `runs`th time: only a result of then counts."""
    return f"jobs/{_name(job_id)}/retry-{runs}.json"


def job_paused_key(job_id: str) -> str:
    """What says that a job is paused."""
    return f"jobs/{_name(job_id)}/paused.json"


def job_prefix(job_id: str) -> str:
    """Where all is kept that is one job's own."""
    return f"jobs/{_name(job_id)}/"


def chunk_key(job_id: str, part: int, chunk: int) -> str:
    """Where the sound of one chunk is kept; `part` and `chunk` count from 0."""
    return f"jobs/{_name(job_id)}/chunks/{part:03}-{chunk:05}.wav"


def chunk_state_key(job_id: str, part: int, chunk: int) -> str:
    """Where the state is kept with which the chunk after this one goes on."""
    return f"jobs/{_name(job_id)}/chunks/{part:03}-{chunk:05}.state.npz"


def preview_prefix(job_id: str) -> str:
    """What the keys of those outputs begin with that are there before the job ends."""
    return f"jobs/{_name(job_id)}/outputs/preview-"


def output_key(job_id: str, name: str) -> str:
    """Where one output of a job is kept, by its file name."""
    return f"jobs/{_name(job_id)}/outputs/{_name(name)}"


def delivered_key(job_id: str, name: str) -> str:
    """Where one output of a job is in a bucket that the job's request names, below the request's prefix."""
    return f"{delivered_prefix(job_id)}{_name(name)}"


def delivered_prefix(job_id: str) -> str:
    """What the keys of all begin with that was delivered of a job. Its id keeps two jobs, and so two tenants, apart."""
    return f"{_name(job_id)}/"


def frame_key(frame_hash: str) -> str:
    """Where a frame is kept, by the hash of all that determines it; shared by all jobs."""
    return f"frames/{_hash(frame_hash)[:2]}/{frame_hash}.png"


def upload_key(sha256: str) -> str:
    """Where an uploaded file is kept, by the hash of its bytes."""
    return f"uploads/{_hash(sha256)[:2]}/{sha256}"


def has_keys(object_store: ObjectStore) -> bool:
    """Whether the gateway has any key of its own, be it one that lets nobody in any more: then keys are required."""
    return next(object_store.keys(KEYS_PREFIX), None) is not None


def webhook_secret_key(tenant: str) -> str:
    """Where the secret is kept that signs a tenant's webhooks."""
    return f"webhook-secrets/{_name(tenant)}.json"


def key_record_key(key_id: str) -> str:
    """Where the record of a gateway's key is kept."""
    return f"{KEYS_PREFIX}{_name(key_id)}.json"


def upload_owner_key(tenant: str, sha256: str, size_bytes: int) -> str:
    """What says that a tenant has uploaded a file; its size is in the name, so that a listing tells the sum."""
    return f"{upload_owner_prefix(tenant)}{_hash(sha256)}-{size_bytes}"


def upload_owner_prefix(tenant: str) -> str:
    """What the keys of all begin with that says what a tenant has uploaded."""
    return f"{UPLOAD_OWNERS_PREFIX}{_name(tenant)}/"


def _name(name: str) -> str:
    if not _NAME_PATTERN.fullmatch(name):
        raise ValueError(f"{name[:80]!r} cannot be one name of a storage key: it has no '/', and no dot in front")
    return name


def _hash(text: str) -> str:
    if not _HASH_PATTERN.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no hash in lower-case hexadecimal digits")
    return text


def content_disposition(filename: str) -> str:
    """The header value under which a browser saves a file as `filename`, in pure ASCII whatever the name."""
    name = "".join(character if character.isprintable() else "_" for character in filename)
    fallback = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(name, safe='')}"


class ObjectStore(Protocol):
    """Objects by key. Every method raises ValueError for a bad key and StorageUnavailableError when storage fails."""

    def put(self, key: str, data: bytes, media_type: str = "application/octet-stream") -> None:
        """Write an object at once: a reader finds the old one or all of the new one."""

    def put_file(self, key: str, path: Path, media_type: str) -> None:
        """Write an object from a file of any size without holding it in memory, as atomically as `put`."""

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises ObjectNotFoundError."""

    def pieces(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """The object's bytes from `start` to before `stop`, piece by piece. Raises ObjectNotFoundError at the first."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys that begin with `prefix`, in ASCII order, found little by little."""

    def aged_keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        """As `keys`, each with the time at which the object was written, in Unix seconds."""

    def delete(self, key: str) -> None:
        """Remove the object; an absent one is fine."""

    def remove_unfinished(self, before_s: float) -> int:
        """Remove what killed writers that began before this time (Unix seconds) left of objects; how many."""

    def url(self, key: str, expires_in_s: int, filename: str, media_type: str) -> str | None:
        """A link that needs no key and expires (1 s to 7 days); None where the gateway has to serve the file."""

    def check(self) -> None:
        """Return when storage answers now."""

    def beside(self, bucket: str, prefix: str) -> ObjectStore | None:
        """Another bucket of the same server, below a prefix, with the same rights; None where there are no buckets."""


class LocalDiskStore:
    """Objects as files below one folder. No key may be the folder of another."""

    def __init__(self, root: Path) -> None:
        """Make the folder if need be; raises StorageUnavailableError where that is refused."""
        self.root = root.absolute()
        with self._disk_errors():
            self.root.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Where the object's file is, or would be."""
        return self.root / checked_key(key)

    def put(self, key: str, data: bytes, media_type: str = "application/octet-stream") -> None:
        with self._new_object(key) as file:
            file.write(data)

    def put_linked(self, keys: Sequence[str], data: bytes) -> None:
        """Write one object under several names of one folder: each as `put`, all for about the price of one."""
        with self._new_object(keys[0], keys[1:]) as file:
            file.write(data)

    def blank(self, key: str, start: int, stop: int) -> None:
        """Overwrite these bytes of an object with spaces, under all its names. Raises ObjectNotFoundError."""
        with self._opened(key, "r+b") as file:
            file.seek(start)
            file.write(b" " * (stop - start))

    def put_file(self, key: str, path: Path, media_type: str) -> None:
        with path.open("rb") as source, self._new_object(key) as file:
            shutil.copyfileobj(source, file, 2**20)

    def get(self, key: str) -> bytes:
        with self._opened(key, "rb") as file:
            return file.read()

    def pieces(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        with self._opened(key, "rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(PIECE_BYTES, stop - start))):
                start += len(piece)
                yield piece

    def exists(self, key: str) -> bool:
        with self._disk_errors():
            if self.path(key).is_file():
                return True
            self._require_root()
            return False

    def keys(self, prefix: str) -> Iterator[str]:
        folder = folder_of(prefix)
        with self._disk_errors():
            self._require_root()
            yield from self._walk(folder, prefix)

    def aged_keys(self, prefix: str) -> Iterator[tuple[str, float]]:
        for key in self.keys(prefix):
            # One that was removed since it was listed is not there.
            with self._disk_errors(), suppress(FileNotFoundError):
                yield key, self.path(key).stat().st_mtime

    def delete(self, key: str) -> None:
        with self._disk_errors():
            self.path(key).unlink(missing_ok=True)

    def remove_unfinished(self, before_s: float) -> int:
        count = 0
        with self._disk_errors():
            self._require_root()
            for path in self.root.rglob(f"{_TEMPORARY_PREFIX}*"):
                # Its writer may be done with it just now.
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before_s:
                        path.unlink()
                        count += 1
        return count

    def url(self, key: str, expires_in_s: int, filename: str, media_type: str) -> None:
        checked_key(key)

    def check(self) -> None:
        # Writing is the only honest question: a full or read-only disk still reads well.
        with self._disk_errors(), tempfile.TemporaryFile(dir=self.root) as file:
            file.write(b"riffarm")
            file.flush()

    def beside(self, bucket: str, prefix: str) -> None:
        return None

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        try:
            entries = [entry for entry in os.scandir(self.root / folder) if not entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return
        # With its slash a folder stands where its keys stand: `a-b` comes before `a/b`.
        for key in sorted(folder + entry.name + ("/" if entry.is_dir() else "") for entry in entries):
            if not key.endswith("/"):
                if key.startswith(prefix):
                    yield key
            elif key.startswith(prefix) or prefix.startswith(key):
                yield from self._walk(key, prefix)

    def _require_root(self) -> None:
        # Without its root everything looks absent, and would be rendered once more.
        if not self.root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "the folder is gone", str(self.root))

    @contextmanager
    def _opened(self, key: str, mode: Literal["rb", "r+b"]) -> Iterator[BinaryIO]:
        with self._disk_errors():
            try:
                file = self.path(key).open(mode)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                self._require_root()
                raise ObjectNotFoundError(f"there is no object {key}") from error
            with file:
                yield file

    @contextmanager
    def _new_object(self, key: str, more_keys: Sequence[str] = ()) -> Iterator[BinaryIO]:
        path, more = self.path(key), [self.path(one) for one in more_keys]
        with self._disk_errors():
            # A lost mount must not be replaced by a folder of its name on another disk.
            self._require_root()
        with self._new_file(path, more) as file:
            yield file

    @contextmanager
    def _new_file(self, path: Path, more: Sequence[Path]) -> Iterator[BinaryIO]:
        """A file that takes its name, and more names beside it, when it is complete and safe on the disk."""
        with self._disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                for other in more:
                    _link(temporary, other)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason, where = error.strerror or str(error), error.filename or self.root
            raise StorageUnavailableError(f"the local storage cannot be used: {reason}: {where}") from error


def _link(path: Path, other: Path) -> None:
    """Let a whole file have another name beside its own, in place of whatever had that name."""
    with suppress(OSError):
        os.link(path, other)
        return
    aside = other.parent / f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        os.link(path, aside)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(path, aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
    os.replace(aside, other)


def _sync_folder(folder: Path) -> None:
    """Make a new name in the folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def bucket_from_url(url: str) -> str | None:
    """The bucket that `s3://bucket/prefix` names; None for any other URL."""
    match = _S3_URL_PATTERN.fullmatch(url)
    return match["bucket"] if match else None


def object_store_from_url(
    url: str, endpoint_url: str | None = None, public_endpoint_url: str | None = None
) -> ObjectStore:
    """The store that `file:DIR` or `s3://bucket/prefix` names; the end points are for S3 servers other than AWS.

    Raises ValueError for any other URL, StorageUnavailableError for a folder that cannot be made.
    """
    if match := _S3_URL_PATTERN.fullmatch(url):
        # Here and not above: a farm on the local disk is spared a client that takes long to load.
        from shared.s3_store import S3Store

        return S3Store(match["bucket"], match["prefix"] or "", endpoint_url, public_endpoint_url)
    folder = re.sub(r"^///+", "/", url.removeprefix("file:"))
    if url.startswith("file:") and folder and not folder.startswith("//") and "\0" not in folder:
        return LocalDiskStore(Path(folder))
    raise ValueError(f"the storage {url!r} is neither file:DIR nor s3://bucket/prefix")

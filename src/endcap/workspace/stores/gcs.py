"""An object's name in, its bytes in Google Cloud Storage out, by the official client; writes ask for a generation.

`STORAGE_EMULATOR_HOST` names another server.
"""

from __future__ import annotations

import base64
import importlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from endcap.contracts.errors import EndcapError, InputError, TransientError
from endcap.workspace.stores import store
from endcap.workspace.stores.patience import Patience, persist
from endcap.workspace.stores.store import Condition, Content, ReplacedError, Sink, Stat

T = TypeVar("T")

WHOLE_BYTES: Final = 8 << 20
"""Up to here an object travels in one request, beyond in chunks of a session that a broken connection doesn't end."""

_MAX_SESSIONS: Final = 3
_QUANTUM_BYTES: Final = 256 << 10
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"
_clients: dict[tuple[int, str | None], Any] = {}
_connecting = threading.Lock()


class GcsBucket:
    """One bucket."""

    def __init__(self, name: str, patience: Patience) -> None:
        """Nothing is reached yet. Raises InputError when the client isn't installed or finds no credentials."""
        self._name = name
        self._patience = patience
        self._client = _connected()
        self._bucket = self._client.bucket(name)

    def stat(self, key: str) -> Stat | None:
        """What is known of an object; None when there is none."""
        blob = self._bucket.blob(key)
        try:
            self._call(f"Looking at {self._where(key)}", lambda wait: blob.reload(timeout=wait, retry=None))
        except _AbsentError:
            return None
        return _described(blob)

    def fetch(self, key: str, stat: Stat, into: Sink) -> None:
        """Append the bytes of exactly this generation, chunk by chunk."""
        blob = self._bucket.blob(key)
        for start in range(0, stat.num_bytes, store.CHUNK_BYTES):
            stop = min(start + store.CHUNK_BYTES, stat.num_bytes)
            into.write(self._chunk(blob, key, stat, start, stop))

    def _chunk(self, blob: Any, key: str, stat: Stat, start: int, stop: int) -> bytes:
        def read(silence_s: float) -> bytes:
            held: bytes = blob.download_as_bytes(
                start=start, end=stop - 1, raw_download=True, checksum=None,
                if_generation_match=int(stat.generation), timeout=silence_s, retry=None,
            )  # fmt: skip
            if len(held) != stop - start:
                raise TransientError(f"{len(held)} bytes arrived, expected {stop - start}.")
            return held

        try:
            return self._call(f"Reading {self._where(key)}", read)
        except (_AbsentError, _RefusedError) as error:
            raise ReplacedError(f"{self._where(key)} was replaced while it was read. Try again.") from error

    def write(self, key: str, content: Content, condition: Condition) -> Stat:
        """Put all of it there, or nothing. Raises ConflictError when the condition doesn't hold."""
        where = self._where(key)
        blob = self._bucket.blob(key)
        blob.metadata = content.metadata
        blob.md5_hash = base64.b64encode(content.md5).decode()  # the server refuses bytes that differ
        expected = 0 if condition.if_absent else _number(condition.if_generation)
        try:
            if content.num_bytes <= WHOLE_BYTES:
                data = content.chunk(0, content.num_bytes)
                self._call(f"Writing {where}", lambda wait: _put_whole(blob, data, expected, wait))
                written = _described(blob)
            else:
                written = self._put_chunks(blob, content, expected)
        except _AbsentError as error:
            raise _no_bucket(self._name) from error
        except _RefusedError as error:
            found = self.stat(key)
            # An earlier try of this very call may have arrived although its answer didn't.
            if found is None or found.write_id != content.write_id:
                raise store.conflict(where, found, condition) from error
            written = found
        if written.md5 != content.md5.hex() or written.num_bytes != content.num_bytes:
            raise TransientError(f"{where}: the store holds other bytes than were sent. Write it again.")
        return written

    def _put_chunks(self, blob: Any, content: Content, expected: int | None) -> Stat:
        where = self._where(blob.name)
        for _ in range(_MAX_SESSIONS):
            session: str = self._call(
                f"Beginning to write {where}",
                lambda wait: blob.create_resumable_upload_session(
                    content_type="application/octet-stream", size=content.num_bytes, checksum=None,
                    if_generation_match=expected, timeout=wait, retry=None,
                ),
            )  # fmt: skip
            upload = _Upload(self._client, session, content)
            try:
                while upload.written is None:
                    self._call(f"Writing {where}", upload.go_on)
            except _OverError:
                # A session is over when all has arrived, which an answer that got lost may have said; or when it is too old.
                found = self.stat(blob.name)
                if found is not None and found.write_id == content.write_id:
                    return found
            else:
                return _described(self._bucket.blob(blob.name), upload.written)
        raise TransientError(f"{where}: the store ended {_MAX_SESSIONS} uploads before their time. Write it again.")

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Every object below the folder `prefix`."""
        found = self._call(
            f"Listing {self._where(prefix)}",
            lambda wait: list(self._client.list_blobs(self._name, prefix=_folder(prefix), timeout=wait, retry=None)),
        )
        return ((blob.name, _described(blob)) for blob in found if not blob.name.endswith("/"))

    def names(self, prefix: str) -> Sequence[str]:
        """Names directly below the folder `prefix`, of objects and of folders."""

        def read(silence_s: float) -> list[str]:
            found = self._client.list_blobs(
                self._name, prefix=_folder(prefix), delimiter="/", timeout=silence_s, retry=None
            )
            return [blob.name for blob in found if not blob.name.endswith("/")] + list(found.prefixes)

        names = self._call(f"Listing {self._where(prefix)}", read)
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in names]

    def delete(self, key: str) -> None:
        """Take an object away; nothing happens where there is none."""
        blob = self._bucket.blob(key)
        try:
            self._call(f"Deleting {self._where(key)}", lambda wait: blob.delete(timeout=wait, retry=None))
        except _AbsentError:
            return

    def _where(self, key: str) -> str:
        return f"gs://{self._name}/{key}"

    def _call(self, what: str, call: Callable[[float], T]) -> T:
        try:
            return persist(what, self._patience, call, _explain)
        except _AbsentError as error:
            if "bucket does not exist" in str(error):
                raise _no_bucket(self._name) from error
            raise


class _AbsentError(EndcapError):
    """The store answered 404."""


class _RefusedError(EndcapError):
    """The store answered 412: the condition doesn't hold."""


class _OverError(EndcapError):
    """The store knows no more of the session of an upload."""


class _Upload:
    """A session that takes an object's chunks; after a failure it is asked how far it came."""

    def __init__(self, client: Any, session: str, content: Content) -> None:
        self._http = client._http  # authorized as the client's own requests are
        self._session = session
        self._content = content
        self._offset = 0
        self._is_sure = True
        self.written: dict[str, Any] | None = None

    def go_on(self, silence_s: float) -> None:
        """Send what comes next."""
        total = self._content.num_bytes
        if not self._is_sure:
            self._note(self._put(b"", f"bytes */{total}", silence_s))
            if self.written is not None:
                return
        self._is_sure = False
        stop = min(self._offset + store.CHUNK_BYTES, total)
        chunk = self._content.chunk(self._offset, stop)
        if len(chunk) != stop - self._offset:
            raise InputError(f"{self._content.source!s} became shorter while it was sent. Try when nobody writes it.")
        self._note(self._put(chunk, f"bytes {self._offset}-{stop - 1}/{total}", silence_s))
        self._is_sure = True

    def _put(self, data: bytes, what: str, silence_s: float) -> Any:
        return self._http.request("PUT", self._session, data=data, headers={"Content-Range": what}, timeout=silence_s)

    def _note(self, answer: Any) -> None:
        if answer.status_code in (200, 201):
            self.written = answer.json()
        elif answer.status_code == 308:  # the next chunk, please; without a range nothing has arrived yet
            last = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            # An emulator's range is never empty; what is kept of an unfinished upload are whole quanta.
            self._offset = 0 if last is None else (int(last[1]) + 1) // _QUANTUM_BYTES * _QUANTUM_BYTES
        elif answer.status_code in (404, 410):
            raise _OverError(answer.text[:200])
        else:
            raise _of_status(answer.status_code, answer.text[:200])


def _put_whole(blob: Any, data: bytes, expected: int | None, silence_s: float) -> None:
    blob.upload_from_string(
        data, content_type="application/octet-stream", if_generation_match=expected, checksum=None, timeout=silence_s,
        retry=None,
    )  # fmt: skip


def _connected() -> Any:
    # A client doesn't survive a fork, and tests move the emulator.
    key = (os.getpid(), os.environ.get(_EMULATOR))
    with _connecting:
        if key not in _clients:
            try:
                storage = importlib.import_module("google.cloud.storage")
                auth = importlib.import_module("google.auth.exceptions")
            except ImportError as error:
                raise store.no_library("gs://", "gcp") from error
            try:
                # The project matters for making buckets alone.
                _clients[key] = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or "unused")
            except auth.DefaultCredentialsError as error:
                raise InputError(
                    "No credentials for gs:// were found: run `gcloud auth application-default login`, set "
                    "GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account."
                ) from error
        return _clients[key]


def _described(blob: Any, resource: dict[str, Any] | None = None) -> Stat:
    if resource is not None:
        blob._set_properties(resource)
    metadata = blob.metadata or {}
    return Stat(
        num_bytes=int(blob.size),
        generation=str(blob.generation),
        sha256=metadata.get(store.SHA256),
        md5=base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else None,
        write_id=metadata.get(store.WRITE),
        written_at=blob.updated.isoformat() if blob.updated else "",
    )


def _explain(error: Exception) -> EndcapError | None:
    api = importlib.import_module("google.api_core.exceptions")
    auth = importlib.import_module("google.auth.exceptions")
    requests = importlib.import_module("requests.exceptions")
    media = importlib.import_module("google.cloud.storage.exceptions")
    urllib3 = importlib.import_module("urllib3.exceptions")
    if isinstance(error, api.GoogleAPICallError):
        return _of_status(error.code, str(error))
    if isinstance(error, media.InvalidResponse):
        return _of_status(error.response.status_code, str(error))
    passing = (
        requests.RequestException,
        auth.TransportError,
        media.DataCorruption,
        urllib3.HTTPError,
        ConnectionError,
        TimeoutError,
    )
    if isinstance(error, passing):
        return TransientError(f"{type(error).__name__}: {error}.")
    if isinstance(error, auth.RefreshError):
        if getattr(error, "retryable", False):
            return TransientError(f"{type(error).__name__}: {error}.")
        return InputError(f"The credentials for gs:// are not accepted: {error}. Renew them.")
    return None


def _of_status(status: int, text: str) -> EndcapError:
    if status == 404:
        return _AbsentError(text)
    if status == 412:
        return _RefusedError(text)
    # 400 with a word about a digest: the bytes were damaged on their way.
    if status in (408, 429) or status >= 500 or (status == 400 and "MD5" in text):
        return TransientError(f"the store answered {status}: {text}.")
    if status in (401, 403):
        return InputError(f"The store refused it ({status}): {text}. Check the credentials and their rights.")
    return InputError(f"The store refused it ({status}): {text}.")


def _no_bucket(name: str) -> InputError:
    return InputError(f"There is no bucket gs://{name}. Check its name, or make it first.")


def _number(generation: str | None) -> int | None:
    if generation is None:
        return None
    if not generation.isdigit():
        raise InputError(f"Found the generation {generation!r}; expected the number that `stat` gives for gs://.")
    return int(generation)


def _folder(prefix: str) -> str | None:
    return f"{prefix}/" if prefix else None

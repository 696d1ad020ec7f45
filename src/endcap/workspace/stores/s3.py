"""An object's name in, its bytes in S3 (or what speaks like it) out, by botocore; conditional writes ask for an ETag.

`AWS_ENDPOINT_URL` names another server.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from endcap.contracts.errors import EndcapError, InputError, TransientError
from endcap.workspace.stores import store
from endcap.workspace.stores.patience import Patience, persist
from endcap.workspace.stores.store import Condition, Content, ReplacedError, Sink, Stat

T = TypeVar("T")

WHOLE_BYTES: Final = 16 << 20
"""Up to here an object travels in one request, beyond in parts."""

_MAX_PARTS: Final = 10_000
_SILENCES_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0)
"""One client for each of them: making one takes a tenth of a second."""

_clients: dict[tuple[object, ...], Any] = {}
_connecting = threading.Lock()


class S3Bucket:
    """One bucket."""

    def __init__(self, name: str, patience: Patience) -> None:
        """Nothing is reached yet. Raises InputError when the client isn't installed."""
        self._name = name
        self._patience = patience

    def stat(self, key: str) -> Stat | None:
        """What is known of an object; None when there is none."""
        try:
            return _described(self._call("head_object", key, "Looking at"))
        except _AbsentError:
            return None

    def fetch(self, key: str, stat: Stat, into: Sink) -> None:
        """Append the bytes of exactly this generation, chunk by chunk."""
        for start in range(0, stat.num_bytes, store.CHUNK_BYTES):
            stop = min(start + store.CHUNK_BYTES, stat.num_bytes)
            try:
                into.write(self._chunk(key, stat, start, stop))
            except (_AbsentError, _RefusedError) as error:
                raise ReplacedError(f"{self._where(key)} was replaced while it was read. Try again.") from error

    def _chunk(self, key: str, stat: Stat, start: int, stop: int) -> bytes:
        def read(answer: Any) -> bytes:
            with answer["Body"] as body:
                held: bytes = body.read()
            if len(held) != stop - start:
                raise TransientError(f"{len(held)} bytes arrived, expected {stop - start}.")
            return held

        asked: dict[str, Any] = {"Range": f"bytes={start}-{stop - 1}", "IfMatch": _quoted(stat.generation)}
        held: bytes = self._call("get_object", key, "Reading", read, **asked)
        return held

    def write(self, key: str, content: Content, condition: Condition) -> Stat:
        """Put all of it there, or nothing. Raises ConflictError when the condition doesn't hold."""
        where = self._where(key)
        try:
            put = self._put_whole if content.num_bytes <= WHOLE_BYTES else self._put_parts
            answer = put(key, content, condition)
            written = Stat(content.num_bytes, _tag_of(answer), content.sha256, _md5_of(answer), content.write_id)
        except (_AbsentError, _RefusedError) as error:
            found = self.stat(key)
            # An earlier try of this very call may have arrived although its answer didn't.
            if found is None or found.write_id != content.write_id:
                raise store.conflict(where, found, condition) from error
            written = found
        if written.num_bytes != content.num_bytes or written.md5 not in (None, content.md5.hex()):
            raise TransientError(f"{where}: the store holds other bytes than were sent. Write it again.")
        return written

    def _put_whole(self, key: str, content: Content, condition: Condition) -> Any:
        return self._call(
            "put_object", key, "Writing",
            Body=content.chunk(0, content.num_bytes), ContentMD5=base64.b64encode(content.md5).decode(),
            Metadata=content.metadata, **_asked(condition),
        )  # fmt: skip

    def _put_parts(self, key: str, content: Content, condition: Condition) -> Any:
        begun = self._call("create_multipart_upload", key, "Beginning to write", Metadata=content.metadata)
        upload: dict[str, Any] = {"UploadId": begun["UploadId"]}
        size = max(store.CHUNK_BYTES, -(-content.num_bytes // _MAX_PARTS))
        parts = []
        try:
            for number, start in enumerate(range(0, content.num_bytes, size), start=1):
                data = content.chunk(start, min(start + size, content.num_bytes))
                if len(data) != min(size, content.num_bytes - start):
                    raise InputError(f"{content.source!s} became shorter while it was sent. Try when nobody writes it.")
                md5 = hashlib.md5(data, usedforsecurity=False)
                digest = base64.b64encode(md5.digest()).decode()
                sent = self._call(
                    "upload_part", key, "Writing", Body=data, PartNumber=number, ContentMD5=digest, **upload
                )
                if _md5_of(sent) not in (None, md5.hexdigest()):
                    raise TransientError(f"{self._where(key)}: part {number} arrived damaged. Write it again.")
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            return self._call(
                "complete_multipart_upload", key, "Publishing",
                MultipartUpload={"Parts": parts}, **upload, **_asked(condition),
            )  # fmt: skip
        except EndcapError:
            self._abort(key, upload)
            raise

    def _abort(self, key: str, upload: dict[str, Any]) -> None:
        try:
            self._call("abort_multipart_upload", key, "Giving up", **upload)
        except EndcapError:
            return  # what failed first is what matters; the bucket's own rule clears parts that are left

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Every object below the folder `prefix`; without its metadata."""
        return (
            (found["Key"], Stat(found["Size"], _tag_of(found)))
            for page in self._pages(prefix)
            for found in page.get("Contents", ())
            if not found["Key"].endswith("/")
        )

    def names(self, prefix: str) -> Sequence[str]:
        """Names directly below the folder `prefix`, of objects and of folders."""
        found: list[str] = []
        for page in self._pages(prefix, Delimiter="/"):
            found += [one["Key"] for one in page.get("Contents", ()) if not one["Key"].endswith("/")]
            found += [one["Prefix"] for one in page.get("CommonPrefixes", ())]
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in found]

    def _pages(self, prefix: str, **asked: Any) -> Iterator[Any]:
        more: dict[str, Any] = {"Prefix": f"{prefix}/"} if prefix else {}
        while True:
            page = self._call("list_objects_v2", None, "Listing", **more, **asked)
            yield page
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        """Take an object away; nothing happens where there is none."""
        try:
            self._call("delete_object", key, "Deleting")
        except _AbsentError:
            return

    def _where(self, key: str | None) -> str:
        return f"s3://{self._name}/{key}" if key else f"s3://{self._name}"

    def _call(
        self, name: str, key: str | None, what: str, read: Callable[[Any], Any] = lambda answer: answer, **asked: Any
    ) -> Any:
        named = {"Bucket": self._name} | ({"Key": key} if key is not None else {})

        def call(silence_s: float) -> Any:
            return read(getattr(_connected(silence_s), name)(**named, **asked))

        return persist(f"{what} {self._where(key)}", self._patience, call, self._explain)

    def _explain(self, error: Exception) -> EndcapError | None:
        known = importlib.import_module("botocore.exceptions")
        parsers = importlib.import_module("botocore.parsers")
        urllib3 = importlib.import_module("urllib3.exceptions")
        if isinstance(error, known.ClientError):
            return self._of_answer(error.response)
        if isinstance(error, (known.NoCredentialsError, known.PartialCredentialsError)):
            return InputError(
                "No credentials for s3:// were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or "
                "give the machine a role."
            )
        passing = (
            known.HTTPClientError, known.ConnectionError, known.IncompleteReadError, known.ChecksumError,
            known.FlexibleChecksumError, parsers.ResponseParserError, urllib3.HTTPError, ConnectionError, TimeoutError,
        )  # fmt: skip
        if isinstance(error, passing):
            return TransientError(f"{type(error).__name__}: {error}.")
        return None

    def _of_answer(self, answer: Any) -> EndcapError:
        code, status = answer["Error"].get("Code", ""), answer["ResponseMetadata"]["HTTPStatusCode"]
        text = f"{code} {answer['Error'].get('Message', '')}".strip()
        if code == "NoSuchBucket":
            return InputError(f"There is no bucket s3://{self._name}. Check its name, or make it first.")
        if status == 404:
            return _AbsentError(text)
        if status == 412:
            return _RefusedError(text)
        # 409: another conditional write is going on; whether it wins will be known in a moment.
        if status in (408, 409, 429) or status >= 500 or code in ("BadDigest", "RequestTimeout", "SlowDown"):
            return TransientError(f"the store answered {status}: {text}.")
        if status in (401, 403):
            return InputError(f"The store refused it ({status}): {text}. Check the credentials and their rights.")
        return InputError(f"The store refused it ({status}): {text}.")


class _AbsentError(EndcapError):
    """The store answered 404."""


class _RefusedError(EndcapError):
    """The store answered 412: the condition doesn't hold."""


def _connected(silence_s: float) -> Any:
    # A client doesn't survive a fork, tests move the endpoint, and the time-out belongs to the client.
    silence_s = max((one for one in _SILENCES_S if one <= silence_s), default=_SILENCES_S[0])
    key = (os.getpid(), os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_ENDPOINT_URL_S3"), silence_s)
    with _connecting:
        if key not in _clients:
            try:
                session = importlib.import_module("botocore.session")
                config = importlib.import_module("botocore.config")
            except ImportError as error:
                raise store.no_library("s3://", "aws") from error
            settings = config.Config(
                connect_timeout=silence_s,
                read_timeout=silence_s,
                retries={"total_max_attempts": 1},
                # Content-MD5 is what every server that speaks like S3 understands.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            _clients[key] = session.get_session().create_client("s3", config=settings)
        return _clients[key]


def _described(answer: Any) -> Stat:
    metadata = answer.get("Metadata", {})
    written = answer.get("LastModified")
    return Stat(
        num_bytes=answer["ContentLength"],
        generation=_tag_of(answer),
        sha256=metadata.get(store.SHA256),
        md5=_md5_of(answer),
        write_id=metadata.get(store.WRITE),
        written_at=written.isoformat() if written else "",
    )


def _asked(condition: Condition) -> dict[str, Any]:
    if condition.if_absent:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": _quoted(condition.if_generation)} if condition.if_generation is not None else {}


def _quoted(tag: str) -> str:
    return f'"{tag}"'


def _tag_of(answer: Any) -> str:
    return str(answer["ETag"].strip('"'))


def _md5_of(answer: Any) -> str | None:
    """The ETag where it is an MD5: not of objects in parts, nor of those that a customer's key encrypts."""
    tag = _tag_of(answer)
    is_keyed = "kms" in str(answer.get("ServerSideEncryption", "")) or "SSECustomerAlgorithm" in answer
    return tag if len(tag) == 32 and not is_keyed else None

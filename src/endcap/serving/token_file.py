"""A YAML or JSON file of tokens' hashes in, its checked entries out, and the file again with one more or one less."""

from __future__ import annotations

import hashlib
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from endcap.contracts.errors import InputError

Scope = Literal["predict", "read", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("predict", "read", "admin")
MAX_FILE_BYTES: Final = 2**20

_PREFIX: Final = "endcap_"
_NUM_RANDOM_BYTES: Final = 32
_SECRET_MODE: Final = 0o600
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEAD: Final = "# Who may ask this server. The tokens themselves stand nowhere: `endcap tokens new` shows each once.\n"


class TokenEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One token."""

    name: str
    """What logs and limits know its holder by."""
    sha256: str
    """Of the token in UTF-8, as 64 hexadecimal digits."""
    scopes: list[Scope]
    """What it may be used for."""
    models: list[str] | None = None
    """Of which models; without, of all."""
    requests_per_second: float | None = None
    """Predictions answered; without, as the server's own limit says."""
    concurrent_requests: int | None = None
    """Predictions under way at once; without, as the server's own limit says."""


class _TokenFile(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[TokenEntry]


def read_tokens(file: Path) -> list[TokenEntry]:
    """What the file holds. Raises InputError, with all that is wrong in it, where it is none."""
    expected = f"Expected tokens: a list with name, sha256 and scopes ({', '.join(SCOPES)}) each."
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{file} is over {MAX_FILE_BYTES:,} bytes, too large for a file of tokens. {expected}")
        entries = msgspec.convert(_parse(file.read_bytes(), file), _TokenFile).tokens
    except OSError as error:
        raise InputError(
            f"{file} can't be read: {error.strerror}. Make it with: endcap tokens new NAME --scope predict --file {file}"
        ) from None
    except msgspec.ValidationError as error:
        raise InputError(f"{file} is no file of tokens: {error}. {expected}") from None
    problems = [f"tokens[{place}].{problem}" for place, entry in enumerate(entries) for problem in _problems(entry)]
    counts = Counter(entry.name for entry in entries)
    problems += [f"tokens: {count} are named {name}" for name, count in counts.items() if count > 1]
    if len({entry.sha256 for entry in entries}) < len(entries):
        problems.append("tokens: two have one sha256")
    if problems:
        raise InputError(f"{file}: {'; '.join(problems)}.")
    return entries


def add_token(file: Path, entry: TokenEntry) -> str:
    """Make a token, put its hash into `entry` and that into the file, which is made where it isn't there; the token.

    Raises InputError where the file has one of that name, or the entry isn't right.
    """
    import secrets  # a server makes none

    from endcap.workspace.exclusive import alone_in

    token = _PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)
    entry = msgspec.structs.replace(entry, sha256=hash_of(token).hex())
    problems = _problems(entry)
    if problems:
        raise InputError(f"No token was made. {'; '.join(problems)}.")
    with alone_in(file.absolute().parent):
        entries = read_tokens(file) if file.exists() else []
        if any(one.name == entry.name for one in entries):
            raise InputError(
                f"{file} has a token {entry.name} already. Choose another name, or remove that one first: "
                f"endcap tokens remove {entry.name}"
            )
        _write(file, [*entries, entry])
    return token


def remove_token(file: Path, name: str) -> None:
    """Take a token out of the file. Raises InputError where it has none of that name."""
    from endcap.workspace.exclusive import alone_in

    with alone_in(file.absolute().parent):
        entries = read_tokens(file)
        kept = [entry for entry in entries if entry.name != name]
        if len(kept) == len(entries):
            there = ", ".join(entry.name for entry in entries) or "none"
            raise InputError(f"{file} has no token {name!r}; it has: {there}.")
        _write(file, kept)


def hash_of(token: str) -> bytes:
    """What the file says of a token, as bytes. A token is random and long: there is nothing that a slow hash would add."""
    return hashlib.sha256(token.encode()).digest()


def _parse(raw: bytes, file: Path) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # no JSON: YAML
    # Imported for those that have such a file alone: a server without starts sooner.
    import yaml

    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        # The error's own words quote the file.
        raise InputError(f"{file} is neither YAML nor JSON{place}. Mend it, or restore it from a backup.") from None


def _problems(entry: TokenEntry) -> list[str]:
    problems = []
    if not _NAME.fullmatch(entry.name):
        problems.append("name: expected 1 to 64 letters, digits, '_', '.', '-', the first a letter or digit")
    if not _SHA256.fullmatch(entry.sha256):
        problems.append("sha256: expected 64 hexadecimal digits in lower case, the token's hash and never the token")
    if not entry.scopes:
        problems.append(f"scopes: expected at least one of {', '.join(SCOPES)}")
    if entry.requests_per_second is not None and not 0 < entry.requests_per_second < float("inf"):
        problems.append("requests_per_second: expected a number over 0")
    if entry.concurrent_requests is not None and entry.concurrent_requests < 1:
        problems.append("concurrent_requests: expected 1 or more")
    return problems


def _write(file: Path, entries: list[TokenEntry]) -> None:
    from endcap.workspace.atomic import write_json, write_text

    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else _SECRET_MODE
    content = {"tokens": [msgspec.to_builtins(entry) for entry in entries]}
    if file.suffix == ".json":
        write_json(file, content, mode=mode)
    else:
        import yaml

        write_text(file, _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), mode=mode)

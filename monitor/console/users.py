"""Who may use the console: a file of names, roles and digests of tokens.

    users:
      - name: anna.meyer
        role: reviewer        # or viewer
        sha256: 9b74c9897bac770ffc029102a200c5de...   # of the token; without it only a proxy can name this user

A token is 256 random bits (`guardline console --new-token NAME`), so its plain digest cannot be guessed back.
The file is read again when it changes: a user who is taken out is out at the next request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from monitor.errors import ConfigurationError

_log = structlog.get_logger(__name__)
_TOKEN_BYTES = 32
#: Takes the place of a digest that a user does not have; no token has it, because nobody knows what it is of.
_NO_DIGEST = secrets.token_hex(32)


class Role(StrEnum):
    """What a user may do: a viewer sees the queue, the evidence and the trends, a reviewer also texts, and decides."""

    VIEWER = "viewer"
    REVIEWER = "reviewer"


class User(BaseModel):
    """One user."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(min_length=1, max_length=200)
    role: Role
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @property
    def credential(self) -> str:
        """What stands for the token in a session, so that a session ends with its token."""
        return (self.sha256 or "")[:16]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    users: list[User]

    @model_validator(mode="after")
    def _distinct(self) -> _File:
        names = [user.name for user in self.users]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


def digest(token: str) -> str:
    """Return the SHA-256 of a token, in hex."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def new_token() -> str:
    """Return a fresh token."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def load_users(path: Path) -> list[User]:
    """Read a file of users.

    Raises:
        ConfigurationError: it cannot be used; the message says where.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _File.model_validate(content).users
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        raise ConfigurationError(f"{path}: not YAML{line}: see docs/console.md for the format") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "file"
        raise ConfigurationError(f"{path}: {place}: {problem['msg']}: see docs/console.md for the format") from error


class Users:
    """The users of now."""

    def __init__(self, path: Path | None, guests: Iterable[User] = ()) -> None:
        """Read the users of a file; `guests` are others, for as long as the process lives.

        Raises:
            ConfigurationError: the file cannot be used.
        """
        self._path = path
        self._guests = list(guests)
        self._stamp = self._stat()
        self._users = load_users(path) if path else []

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size) if found else None

    def _current(self) -> list[User]:
        stamp = self._stat()
        if self._path is not None and stamp != self._stamp:
            self._stamp = stamp
            try:
                self._users = load_users(self._path)
                _log.info("users_read_again", users=len(self._users))
            except ConfigurationError as error:
                # Fails closed: whoever was to be taken out must not stay for a slip in the file.
                self._users = []
                _log.error("users_unreadable", error=str(error), action="nobody can use the console until it is mended")
        return self._users + self._guests

    def by_token(self, token: str) -> User | None:
        """Return whose token this is, comparing with every user's in constant time."""
        given, found = digest(token), None
        for user in self._current():
            if hmac.compare_digest(given, user.sha256 or _NO_DIGEST):
                found = user
        return found

    def by_credential(self, name: str, credential: str) -> User | None:
        """Return the user of that name whose token is still the one that they logged in with."""
        return next((u for u in self._current() if u.sha256 and (u.name, u.credential) == (name, credential)), None)

    def by_name(self, name: str) -> User | None:
        """Return the user of that name."""
        return next((user for user in self._current() if user.name == name), None)

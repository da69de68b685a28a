"""Who may send: a file of names and digests of tokens.

    senders:
      - name: riverside-chat
        sha256: 9b74c9897bac770ffc029102a200c5de...   # of the token, in hex

A token is 256 random bits (`guardline intake --new-token NAME`), so its plain digest cannot be guessed back. The file
is read again when it changes: a sender who is taken out is out at the next request.
"""

from __future__ import annotations

import hmac
from pathlib import Path

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.console.users import digest
from monitor.errors import ConfigurationError

_log = structlog.get_logger(__name__)


class Sender(BaseModel):
    """One sender."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(min_length=1, max_length=200)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    senders: list[Sender]


def load_senders(path: Path) -> list[Sender]:
    """Read a file of senders.

    Raises:
        ConfigurationError: it cannot be used; the message says where.
    """
    try:
        return _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).senders
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError:  # its text repeats the file
        raise ConfigurationError(f"{path}: not YAML: see docs/plugging-in.md for the format") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "file"
        raise ConfigurationError(
            f"{path}: {place}: {problem['msg']}: see docs/plugging-in.md for the format"
        ) from error


class Senders:
    """The senders of now."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigurationError: it cannot be used.
        """
        self._path = path
        self._stamp = self._stat()
        self._senders = load_senders(path)

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _current(self) -> list[Sender]:
        stamp = self._stat()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._senders = load_senders(self._path)
                _log.info("senders_read_again", senders=len(self._senders))
            except ConfigurationError as error:
                # Fails closed: whoever was to be taken out must not stay for a slip in the file.
                self._senders = []
                _log.error("senders_unreadable", error=str(error), action="nobody can send until it is mended")
        return self._senders

    def by_token(self, token: str) -> Sender | None:
        """Return whose token this is, comparing with every sender's in constant time."""
        given, found = digest(token), None
        for sender in self._current():
            if hmac.compare_digest(given, sender.sha256):
                found = sender
        return found

"""From bytes to text or JSON, as the `content-type` says (RFC 9110, section 8.3; charsets by their IANA names).

JSON is UTF-8 (RFC 8259, section 8.1); a byte order mark is passed over. Where a producer declares another charset, the
value is decoded with it first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from monitor.errors import InvalidMessage
from monitor.text import well_formed

BOM = b"\xef\xbb\xbf"
_MEDIA_TYPE = re.compile(r"([a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60})\s*(?:;(.*))?", re.ASCII | re.DOTALL)
_CHARSET = re.compile(r"(?:^|;)\s*charset\s*=\s*\"?([a-z0-9_:.+-]{1,40})\"?\s*(?=;|$)", re.ASCII)
_UTF8 = "utf-8"
#: By IANA's name, Python's codec: what platforms send beside UTF-8.
_CODECS = {
    "utf-8": _UTF8,
    "utf8": _UTF8,
    "us-ascii": _UTF8,  # a subset; no reason to refuse a producer that says less than it sends
    "iso-8859-1": "iso-8859-1",
    "windows-1252": "windows-1252",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
}
_JSON = "application/json"
#: Says nothing about the content: the default of serializers that take bytes.
_UNSPECIFIED = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class MediaType:
    """A content type that can be read: JSON (perhaps a structured CloudEvent) or plain text, and its charset."""

    name: str = _JSON
    charset: str = _UTF8

    @property
    def text(self) -> bool:
        """Whether the value is the answer itself."""
        return self.name == "text/plain"

    @property
    def codec(self) -> str:
        """Python's name of the charset.

        Raises:
            InvalidMessage: `unsupported_charset`.
        """
        try:
            return _CODECS[self.charset]
        except KeyError:
            raise InvalidMessage("unsupported_charset", f"charset {self.charset}: send UTF-8") from None

    @property
    def structured(self) -> bool:
        """Whether the value is a CloudEvent in structured mode."""
        return self.name.startswith("application/cloudevents")


_UNDECLARED = MediaType()


def header_value(headers: Sequence[tuple[str, bytes | None]], name: str) -> str | None:
    """Return the last header of that name, in any case; None where there is none, or a null one.

    Raises:
        InvalidMessage: it is not UTF-8.
    """
    for key, value in reversed(headers):
        if key.lower() == name:
            if value is None:
                return None
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise InvalidMessage("invalid_field", f"header {name}: not UTF-8") from None
    return None


def media_type(value: str | None) -> MediaType:
    """Return what a `content-type` (or `datacontenttype`) says.

    Raises:
        InvalidMessage: `unsupported_content_type`.
    """
    if value is None or not value.strip():
        return _UNDECLARED
    match = _MEDIA_TYPE.fullmatch(value.strip().lower())
    if match is None:
        raise InvalidMessage("unsupported_content_type", "content-type: not a media type such as application/json")
    name, parameters = match[1], match[2] or ""
    if name.startswith("application/cloudevents") and name != "application/cloudevents+json":
        raise InvalidMessage(
            "unsupported_content_type", f"{name}: send one event a record, as application/cloudevents+json or binary"
        )
    if name == _UNSPECIFIED:
        name = _JSON
    if name not in (_JSON, "text/json", "text/plain") and not name.endswith("+json"):
        raise InvalidMessage("unsupported_content_type", f"{name}: send JSON or text/plain")
    charset = _CHARSET.search(parameters)
    return MediaType(name, charset[1] if charset else _UTF8)


def decode_text(payload: bytes, declared: MediaType) -> str:
    """Return the text that the bytes stand for, without a byte order mark.

    Raises:
        InvalidMessage: they are not of the declared charset.
    """
    try:
        return payload.removeprefix(BOM).decode(declared.codec)
    except UnicodeDecodeError as error:
        if declared.codec == _UTF8:
            raise InvalidMessage("invalid_utf8", f"byte {error.start} is not UTF-8; declare the charset") from None
        raise InvalidMessage("invalid_charset", f"byte {error.start} is not {declared.codec}, as declared") from None


def parse_json(payload: bytes, declared: MediaType) -> object:
    """Return the JSON value; lone surrogates in its strings are replaced by U+FFFD, one for one.

    Raises:
        InvalidMessage: it is none.
    """
    content = payload.removeprefix(BOM) if declared.codec == _UTF8 else decode_text(payload, declared).encode()
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as strict:
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise InvalidMessage("invalid_utf8", f"byte {error.start} is not UTF-8; send JSON in UTF-8") from None
        # orjson refuses escaped lone surrogates, which a producer that cuts UTF-16 text leaves behind. The text around
        # them still has to be screened, so the lenient parser gets a try before the record is given up.
        try:
            value = json.loads(content, parse_constant=_refuse_constant)
            return orjson.loads(well_formed(json.dumps(value, ensure_ascii=False)))
        except (ValueError, RecursionError):
            raise InvalidMessage("unreadable_json", f"not JSON: {strict.msg} at {strict.pos}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)

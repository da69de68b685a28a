"""TLS contexts of the clients: certificates are checked, host names too, TLS 1.2 or newer (Python's defaults)."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import AccessDenied, ConfigurationError
from monitor.settings import Settings


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of one connection, all PEM.

    `ca`: the authorities that may vouch for the server; none: the system's. `certificate` and `key`: what proves this
    client, where the server asks for it. `prefix`: of the settings' names, for messages.
    """

    prefix: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def check(self) -> None:
        """Raise what is wrong with the files before a client library says it less clearly.

        Raises:
            ConfigurationError: one cannot be read, or only one of certificate and key is given.
        """
        for name, path in (("CA", self.ca), ("CERTIFICATE", self.certificate), ("KEY", self.key)):
            if path is None:
                continue
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"GUARDLINE_{self.prefix}_{name}_FILE: {path}: {error.strerror}") from error
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError(
                f"set GUARDLINE_{self.prefix}_CERTIFICATE_FILE and GUARDLINE_{self.prefix}_KEY_FILE, or neither: "
                "together they prove this client"
            )

    def context(self) -> ssl.SSLContext:
        """Return a client's TLS context.

        Raises:
            ConfigurationError: a file cannot be read, or holds no certificate or key in PEM.
        """
        self.check()
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None and self.key is not None:
                # Without a password OpenSSL would ask for one on the terminal, and wait.
                context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(
                f"GUARDLINE_{self.prefix}_CA_FILE, _CERTIFICATE_FILE, _KEY_FILE: not PEM, encrypted, or not a pair "
                f"({error}): give the certificates, and the unencrypted key of the certificate, as PEM"
            ) from error
        return context


def kafka_certificates(settings: Settings) -> Certificates:
    """Return the files for the connection to Kafka."""
    own = settings
    return Certificates("KAFKA", own.kafka_ca_file, own.kafka_certificate_file, own.kafka_key_file)


def redis_certificates(settings: Settings) -> Certificates:
    """Return the files for the connection to Redis."""
    own = settings
    return Certificates("REDIS", own.redis_ca_file, own.redis_certificate_file, own.redis_key_file)


def triton_certificates(settings: Settings) -> Certificates:
    """Return the files for the connection to Triton."""
    own = settings
    return Certificates("TRITON", own.triton_ca_file, own.triton_certificate_file, own.triton_key_file)


def refused_by_tls(error: BaseException | None, where: str, prefix: str) -> AccessDenied | None:
    """Return what to do about a failed handshake; none when `error` and its causes have nothing to do with TLS."""
    # aiohttp wraps OpenSSL's error in one of the same class that lacks its fields.
    while error is not None and (not isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError)):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return AccessDenied(
            f"{where} shows a certificate that is not trusted ({error.verify_message}): set GUARDLINE_{prefix}_CA_FILE "
            "to the authority that signed it, and use the host name that it is made out to"
        )
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if "wrong version number" in reason or "http request" in reason or "record layer" in reason:
        return AccessDenied(f"{where} does not speak TLS: is it the right port?")
    return AccessDenied(
        f"{where} ends the TLS handshake ({reason}): set GUARDLINE_{prefix}_CERTIFICATE_FILE and _KEY_FILE to a pair "
        "that it accepts"
    )

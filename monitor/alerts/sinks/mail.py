"""Mail over SMTP (RFC 5321), with the standard library's client in a thread.

The `Message-ID` is made of the alert's id, so a repeat is recognised; `References` holds the group, so that a storm is
one thread. Temporary answers (4xx) and lost connections are tried again, permanent ones (5xx) are not.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime

from pydantic import SecretStr

from monitor.alerts.config import EmailSink
from monitor.alerts.notification import Notification
from monitor.alerts.sinks import SinkRefused, SinkUnavailable
from monitor.alerts.sinks.text import lines

_DOMAIN = "guardline.invalid"  # RFC 2606: an id needs a domain, and this one is nobody's


def message(notification: Notification, sender: str, to: tuple[str, ...]) -> EmailMessage:
    """Return the mail."""
    subject, *body = lines(notification)
    mail = EmailMessage()
    mail["Subject"] = f"[Guardline] {subject}"[:200]
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Date"] = format_datetime(notification.first.received_at)
    mail["Message-ID"] = f"<{notification.id}@{_DOMAIN}>"
    mail["References"] = f"<{notification.key}@{_DOMAIN}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday answers, please
    mail.set_content("\n\n".join([subject, *body]) + "\n")
    return mail


class Email:
    """Sends to the same people each time; a connection for each mail."""

    def __init__(self, name: str, config: EmailSink, password: SecretStr | None) -> None:
        self.name = name
        self._config = config
        self._password = password

    async def send(self, notification: Notification) -> None:
        """See `Sink.send`. Some recipients refused are not all: the mail counts as delivered."""
        mail = message(notification, self._config.sender, self._config.to)
        try:
            await asyncio.to_thread(self._send, mail)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            if any(code < 500 for code in codes):
                raise SinkUnavailable(f"SMTP {codes}: no recipient was taken") from None
            raise SinkRefused(f"SMTP {codes}: no recipient was taken") from None
        except smtplib.SMTPResponseException as error:
            if error.smtp_code < 500:
                raise SinkUnavailable(f"SMTP {error.smtp_code}") from None
            raise SinkRefused(f"SMTP {error.smtp_code}, {type(error).__name__}") from None
        except smtplib.SMTPNotSupportedError:
            raise SinkRefused("the server has no STARTTLS, or no login: set tls and username") from None
        except (smtplib.SMTPException, OSError) as error:
            raise SinkUnavailable(type(error).__name__) from None

    def _send(self, mail: EmailMessage) -> None:
        config = self._config
        context = ssl.create_default_context()
        with (
            smtplib.SMTP_SSL(config.host, config.port, timeout=config.timeout, context=context)
            if config.tls == "implicit"
            else smtplib.SMTP(config.host, config.port, timeout=config.timeout)
        ) as client:
            if config.tls == "starttls":
                client.starttls(context=context)
            if config.username is not None and self._password is not None:
                client.login(config.username, self._password.get_secret_value())
            client.send_message(mail)

    async def close(self) -> None:
        """Nothing is held."""

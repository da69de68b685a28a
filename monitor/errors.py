"""Every error of the monitor, named by what the caller does next.

GuardlineError
├── ConfigurationError   tell the user what to change and exit with 2
├── AccessDenied         a credential, certificate or grant is refused: say which and exit with 3; waiting is no help
├── ModelMismatch        refuse the model package, keep the one that serves
├── InvalidMessage       dead letter with the reason, the stream goes on
├── ScorerFailed         the model answered with an error or nonsense: bounded retries, then a dead letter
├── ScorerUnavailable    wait and retry: intake pauses, nothing is skipped (fails closed)
├── StoreUnavailable     go on without cache and de-duplication (fails open)
└── DeadLetterLimit      too many failures of our own: stop instead of discarding the stream
"""


class GuardlineError(Exception):
    """Base of all errors that Guardline raises on purpose."""


class ConfigurationError(GuardlineError):
    """A setting, file or installation is not usable; the message says what to do."""


class AccessDenied(GuardlineError):
    """A service refuses a credential, a certificate or an operation; the message says which setting or grant."""


class ModelMismatch(GuardlineError):
    """A model package cannot be used by this version of the monitor."""


class InvalidMessage(GuardlineError):
    """An input that cannot be read.

    `reason` is a stable slug for headers and metrics, `detail` a sentence for people. Neither repeats message text.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ScorerFailed(GuardlineError):
    """The model answered these very texts with an error or with numbers that are none."""


class ScorerUnavailable(GuardlineError):
    """The model server does not answer now."""


class StoreUnavailable(GuardlineError):
    """Redis does not answer now."""


class DeadLetterLimit(GuardlineError):
    """More messages failed inside Guardline than a healthy deployment ever would."""

"""Every error of the trainer, named by what the user does next."""

from monitor.errors import ConfigurationError, GuardlineError


class PackError(ConfigurationError):
    """A guideline pack or its document is not usable: mend the file that the message names."""


class CorpusError(ConfigurationError):
    """A corpus file is not usable: mend the line that the message names."""


class StageMissing(ConfigurationError):
    """An artefact of an earlier stage is not there: run that stage."""


class ParityError(GuardlineError):
    """An exported model does not give what the trained one gives: nothing was exported."""


class PromptError(ConfigurationError):
    """A prompt file is not usable: mend the file that the message names, or give the value that it needs."""


class ProviderError(ConfigurationError):
    """A language model cannot be used as configured (key, model, quota, price): change what the message names."""


class CostLimitReached(GuardlineError):
    """Going on would cost more than `--max-cost`: raise it and run again; what was answered is kept."""


class CompletionsError(ConfigurationError):
    """The folder of recorded completions cannot be used: mend the line, or end the process, that the message names."""

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

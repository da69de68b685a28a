"""Command-line options that choose a language model, for every command that may ask one.

    @click.command()
    @provider_options
    def command(..., llm: ProviderOptions) -> None: ...

Without `--provider` nothing is sent: recorded completions answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from trainer.errors import ProviderError
from trainer.llm.completions import CompletionCache, RecordedCompleter
from trainer.llm.costs import Estimate, estimate
from trainer.llm.port import Completer, Request
from trainer.llm.providers import BUILT_IN, ProviderSettings, custom_provider, load_provider

F = TypeVar("F", bound=Callable[..., Any])

#: Whose recorded completions are read where no provider is named.
DEFAULT_PROVIDER = "gpt-4o-mini"


@dataclass(frozen=True)
class ProviderOptions:
    """What the options said. `online`: a provider was named, and may be asked."""

    settings: ProviderSettings
    online: bool = False
    batch: bool = False
    max_cost: float | None = None
    estimate_only: bool = False
    preview: int = 0

    @property
    def sends(self) -> bool:
        """Tell whether the command is to do its work, rather than only show prompts or a price."""
        return not self.estimate_only and not self.preview

    def judge(self, settings: ProviderSettings) -> ProviderOptions:
        """Return the options for a judge of its own: asked, within the same limit, as a batch where it takes any."""
        own = settings.model_copy(update={"retry_refused": self.settings.retry_refused or settings.retry_refused})
        return replace(self, settings=own, online=True, batch=self.batch and settings.batch_discount is not None)

    def completer(self, folder: Path) -> Completer:
        """Return what answers requests, with the answers kept in `folder` (`RunFolder.completions`).

        Raises:
            ProviderError: no key, no Batch API, or a cost limit without known prices.
            CompletionsError: the folder's answers cannot be read.
        """
        cache = CompletionCache(folder)
        if not self.online:
            return RecordedCompleter(self.settings, cache)
        # Here, since the client takes a second to import and most runs never need it.
        from trainer.llm.openai_completer import OpenAICompleter

        return OpenAICompleter(self.settings, cache, batch=self.batch, max_cost=self.max_cost)

    def recorded(self, folder: Path) -> Completer:
        """Return the off-line completer over the same answers, whatever the options say."""
        return RecordedCompleter(self.settings, CompletionCache(folder))

    def estimate(self, requests: Sequence[Request], folder: Path) -> Estimate:
        """Return what the requests would cost at most; sends nothing and needs no key."""
        return estimate(requests, self.settings, CompletionCache(folder), batch=self.batch)


def provider_options(command: F) -> F:
    """Add the options; the command gets them as one keyword argument, `llm: ProviderOptions`."""

    @wraps(command)
    def with_options(
        *args: Any,
        provider: str | None,
        provider_url: str | None,
        provider_model: str | None,
        batch: bool,
        retry_refused: bool,
        max_cost: float | None,
        estimate: bool,
        preview: int,
        **rest: Any,
    ) -> Any:
        settings = _settings(provider, provider_url, provider_model)
        online = settings is not None
        # A judge (an option of some commands) is asked without a provider, too.
        asks = online or rest.get("judge_")
        if not asks and (batch or max_cost is not None or retry_refused):
            raise ProviderError("--batch, --max-cost and --retry-refused need a --provider")
        settings = settings or load_provider(DEFAULT_PROVIDER)
        llm = ProviderOptions(
            settings.model_copy(update={"retry_refused": retry_refused or settings.retry_refused}),
            online=online,
            batch=batch,
            max_cost=max_cost,
            estimate_only=estimate,
            preview=preview,
        )
        return command(*args, llm=llm, **rest)

    options = [
        click.option(
            "--provider",
            metavar="NAME|FILE",
            help=f"Language model to ask: {', '.join(BUILT_IN)}, or a YAML or JSON file.  [default: none is asked]",
        ),
        click.option("--provider-url", metavar="URL", help="Any OpenAI-compatible endpoint, with --provider-model."),
        click.option("--provider-model", metavar="NAME", help="The model there."),
        click.option("--batch", is_flag=True, help="Use the Batch API: cheaper, within a day."),
        click.option("--retry-refused", is_flag=True, help="Ask again what was refused or malformed before."),
        click.option(
            "--max-cost", type=click.FloatRange(min=0), metavar="USD", help="Stop before this run folder costs more."
        ),
        click.option("--estimate", is_flag=True, help="Say what it would cost at most, and send nothing."),
        click.option(
            "--preview", type=click.IntRange(min=0), default=0, metavar="N", help="Print N prompts, and send nothing."
        ),
    ]
    decorated: Any = with_options
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _settings(provider: str | None, url: str | None, model: str | None) -> ProviderSettings | None:
    if provider and (url or model):
        raise ProviderError("give --provider, or --provider-url with --provider-model, not both")
    if provider:
        return load_provider(provider)
    if not url and not model:
        return None
    if not (url and model):
        raise ProviderError("--provider-url and --provider-model go together")
    return custom_provider(url, model)

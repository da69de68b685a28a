"""Which language model is asked, at what address and price: settings of a provider, built in or from a file.

Any endpoint that speaks OpenAI's chat completions will do. A key is read from the environment or a secret file when
it is needed and is never part of the settings, so that nothing that is printed, stored or hashed can hold one.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trainer.errors import ProviderError

_SECRETS = Path("/run/secrets")
#: Where the key of an endpoint given by `--provider-url` is looked for.
CUSTOM_KEY = "GUARDLINE_LLM_API_KEY"

_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RetrySettings(BaseModel):
    """Full-jitter exponential backoff: before attempt n, wait a random time up to `base * 2**n`, at most `cap`.

    After Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. A `Retry-After` of the server
    is waited for in full.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempts: int = Field(default=6, ge=1)
    base_seconds: float = Field(default=1.0, ge=0)
    cap_seconds: float = Field(default=60.0, ge=0)
    max_wait_seconds: float = Field(default=600.0, ge=0)  # all waits of one request together


class ProviderSettings(BaseModel):
    """One model of one provider. Prices are US dollars per million tokens; None where they are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    base_url: str
    model: str = Field(min_length=1)
    #: Name of the environment variable that holds the key; None for an endpoint without one.
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    input_price: _Price | None = None
    output_price: _Price | None = None
    price_date: date | None = None  # when the prices were read
    price_source: str | None = None
    context_tokens: int = Field(default=128_000, ge=1)  # prompt and answer together
    max_output_tokens: int = Field(default=16_384, ge=1)
    in_flight: int = Field(default=8, ge=1)  # requests at a time
    timeout_seconds: float = Field(default=120.0, gt=0)
    retry: RetrySettings = RetrySettings()
    #: Share taken off the price by the Batch API; None where the provider has none.
    batch_discount: float | None = Field(default=None, ge=0, lt=1)
    batch_requests: int = Field(default=10_000, ge=1, le=50_000)  # of one batch; lower it for small token queues
    poll_seconds: float = Field(default=30.0, gt=0)
    #: False: the answer is only promised to be JSON, and the schema goes into the prompt.
    supports_json_schema: bool = True
    supports_seed: bool = True
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # noqa: S105 - not a secret
    #: Further fields of every request body, for what only this provider knows.
    extra_body: dict[str, Any] = {}
    #: Ask again what was refused or malformed earlier, instead of answering from the cache.
    retry_refused: bool = False

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address like https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address without user, password, query or fragment: keys belong into the environment")
        return value.rstrip("/")

    @property
    def priced(self) -> bool:
        """Tell whether a price can be computed."""
        return self.input_price is not None and self.output_price is not None

    def price(self, input_tokens: int, output_tokens: int, *, batch: bool = False) -> float | None:
        """Return what the tokens cost in US dollars, or None where the prices are not known."""
        if self.input_price is None or self.output_price is None:
            return None
        share = 1 - (self.batch_discount or 0) if batch else 1
        return share * (input_tokens * self.input_price + output_tokens * self.output_price) / 1e6


BUILT_IN = {
    settings.name: settings
    for settings in (
        ProviderSettings(
            name="gpt-4o-mini",
            base_url="https://api.openai.com/v1",
            model="gpt-4o-mini",
            api_key_env="OPENAI_API_KEY",
            input_price=0.15,
            output_price=0.60,
            price_date=date(2026, 5, 7),
            price_source="OpenAI's price list since July 2024, https://openai.com/api/pricing, read at second hand",
            batch_discount=0.5,
        ),
        ProviderSettings(
            name="deepseek",
            base_url="https://api.deepseek.com",
            model="deepseek-flash",
            api_key_env="DEEPSEEK_API_KEY",
            input_price=0.30,  # peak hours, cache miss: an upper bound; off-peak is half
            output_price=1.20,
            price_date=date(2026, 10, 27),
            price_source="https://api-docs.deepseek.com/quick_start/pricing, DeepSeek-V4.1-Flash, peak hours",
            context_tokens=1_000_000,
            supports_json_schema=False,
            supports_seed=False,
            # Thinking is on by default, ignores the temperature and bills its tokens as output.
            extra_body={"thinking": {"type": "disabled"}},
        ),
    )
}

#: Names that used to work, and what to say now.
_RETIRED = {"deepseek-chat": "DeepSeek retired the model deepseek-chat on 24 July 2026: use --provider deepseek"}


def _validated(values: dict[str, Any], where: str) -> ProviderSettings:
    try:
        return ProviderSettings(**values)
    except ValidationError as error:
        # Never the values: one of them may be a key that was put where it does not belong.
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ProviderError(f"{where}: {wrong}; fields are those of trainer.llm.providers.ProviderSettings") from None


def load_provider(name_or_file: str) -> ProviderSettings:
    """Return a built-in provider, or one from a YAML or JSON file with the fields of `ProviderSettings`.

    Raises:
        ProviderError: neither; the message lists the names, or what is wrong with the file.
    """
    if name_or_file in BUILT_IN:
        return BUILT_IN[name_or_file]
    if name_or_file in _RETIRED:
        raise ProviderError(_RETIRED[name_or_file])
    path = Path(name_or_file)
    if not path.is_file():
        raise ProviderError(f"{name_or_file}: neither a file nor one of {', '.join(BUILT_IN)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ProviderError(f"{path}: not YAML or JSON") from None
    if not isinstance(content, dict):
        raise ProviderError(f"{path}: expected fields of a provider: name, base_url, model, ...")
    return _validated({str(key): value for key, value in content.items()}, str(path))


def custom_provider(url: str, model: str) -> ProviderSettings:
    """Return settings for any OpenAI-compatible endpoint. Its prices are not known, so `--max-cost` refuses it.

    The key is taken from `GUARDLINE_LLM_API_KEY` where that is set; many local servers need none.
    """
    key = CUSTOM_KEY if _find_key(CUSTOM_KEY) else None
    return _validated({"name": model, "base_url": url, "model": model, "api_key_env": key}, "--provider-url")


def _find_key(name: str) -> str | None:
    if value := os.environ.get(name, "").strip():
        return value
    files = [Path(os.environ[f"{name}_FILE"])] if f"{name}_FILE" in os.environ else []
    for path in [*files, _SECRETS / name, _SECRETS / name.lower()]:
        if path.is_file() and (value := path.read_text(encoding="utf-8").strip()):
            return value
    return None


def api_key(settings: ProviderSettings) -> str | None:
    """Return the provider's key from the environment (`NAME`), a file (`NAME_FILE`) or `/run/secrets/NAME`.

    None where the endpoint needs no key.

    Raises:
        ProviderError: the provider needs a key and there is none.
    """
    if settings.api_key_env is None:
        return None
    name = settings.api_key_env
    if not (key := _find_key(name)):
        raise ProviderError(
            f"{settings.name}: no API key: set {name}, or {name}_FILE to a file that holds it, "
            f"or put it into {_SECRETS / name.lower()}"
        )
    return key

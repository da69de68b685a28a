"""What language models cost: an upper bound before anything is sent, a ledger of what was spent, and a limit.

`completions/ledger.jsonl` has two lines a call: `sent`, with the most that it can cost, and then how it ended
(`billed` with the provider's own count, `unbilled`, or `unknown` where the connection broke after sending). A call
without its second line was in flight when the process was killed, and counts as spent at its bound, as an unknown one
does. So the limit holds over kills and resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from trainer.errors import CompletionsError, CostLimitReached
from trainer.llm.chat import Reply, body, input_bound, interpret, key_of, max_tokens, messages, repair_messages
from trainer.llm.completions import CompletionCache, whole_lines
from trainer.llm.port import Request, Status
from trainer.llm.providers import ProviderSettings

LEDGER = "ledger.jsonl"


class CallState(StrEnum):
    """How far a call has come."""

    SENT = "sent"
    BILLED = "billed"
    UNBILLED = "unbilled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a call and their price in US dollars; None where the provider's prices are not known."""

    input_tokens: int
    output_tokens: int
    price: float | None


def usage(settings: ProviderSettings, input_tokens: int, output_tokens: int, *, batch: bool = False) -> Usage:
    """Return tokens with their price."""
    return Usage(input_tokens, output_tokens, settings.price(input_tokens, output_tokens, batch=batch))


def call_bound(content: dict[str, Any], settings: ProviderSettings, *, batch: bool = False) -> Usage:
    """Return the most that one call with this body can use."""
    return usage(settings, input_bound(content), content[settings.token_limit_field], batch=batch)


class Ledger:
    """The calls of one folder of completions, the last state of each.

    `spent` is in US dollars: what was billed, and the bounds of calls of which that is not known. Calls to providers
    without prices are not in it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LEDGER
        self._bounds: dict[str, Usage] = {}
        self._last: dict[str, tuple[CallState, Usage]] = {}
        self._mended = False
        self.spent = 0.0
        for number, line in enumerate(whole_lines(self._path), 1):
            try:
                row = orjson.loads(line)
                own = Usage(row["input_tokens"], row["output_tokens"], row["price"])
                self._take(row["id"], CallState(row["state"]), own)
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                raise CompletionsError(f"{self._path}:{number}: not a line of the ledger: mend or remove it") from None

    def _take(self, call: str, state: CallState, own: Usage) -> None:
        if state is CallState.SENT:
            self._bounds[call] = own
        if call in self._last:
            self.spent -= self._last[call][1].price or 0
        self.spent += own.price or 0
        self._last[call] = state, own

    def write(self, call: str, state: CallState, own: Usage, **facts: str) -> None:
        """Append a line: the call's id, time, state, tokens and price, and further facts."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"id": call, "time": now, "state": state, **asdict(own), **facts}
        if not self._mended:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            whole_lines(self._path, mend=True)
            self._mended = True
        # Not synced: a kill does not lose what the system has taken, and answers are synced in the cache.
        with self._path.open("ab") as file:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self._take(call, state, own)

    def bound(self, call: str) -> Usage:
        """Return the bound that a call was sent with."""
        return self._bounds[call]

    @property
    def billed_share(self) -> float | None:
        """Price of the billed calls as a share of their bounds; None before the first, or without prices."""
        pairs = [
            (own.price, self._bounds[call].price)
            for call, (state, own) in self._last.items()
            if state is CallState.BILLED and call in self._bounds
        ]
        prices = sum(price or 0 for price, _ in pairs)
        bounds = sum(bound or 0 for _, bound in pairs)
        return prices / bounds if bounds else None


class Budget:
    """Lets calls go out while what was spent and what is under way stay within `max_cost` US dollars."""

    def __init__(self, settings: ProviderSettings, ledger: Ledger, max_cost: float | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._max_cost = max_cost
        self._open: set[str] = set()

    @property
    def spent(self) -> float:
        """US dollars, of all runs on this folder; calls under way count at their bound."""
        return self._ledger.spent

    @property
    def under_way(self) -> int:
        """Calls of this process that have not ended."""
        return len(self._open)

    def fits(self, bound: Usage) -> bool:
        """Tell whether a call could go out now."""
        return self._max_cost is None or self.spent + (bound.price or 0) <= self._max_cost

    def reserve(self, call: str, bound: Usage, **facts: str) -> None:
        """Write down that a call goes out.

        Raises:
            CostLimitReached: it could bring the cost over the limit.
        """
        if not self.fits(bound):
            raise CostLimitReached(
                f"${self.spent:.4f} of at most ${self._max_cost:.4f} are spent, and the next call could cost "
                f"${bound.price or 0:.4f}: run again with a higher --max-cost; what was answered is kept"
            )
        self._ledger.write(call, CallState.SENT, bound, **self._facts, **facts)
        self._open.add(call)

    def settle(self, call: str, own: Usage) -> None:
        """Write down what a call cost, by the provider's count."""
        self._end(call, CallState.BILLED, own)

    def release(self, call: str, *, billed: bool) -> None:
        """Write down that a call gave nothing; `billed`: it may have been charged, and counts at its bound."""
        if billed:
            self._end(call, CallState.UNKNOWN, self._ledger.bound(call))
        else:
            self._end(call, CallState.UNBILLED, usage(self._settings, 0, 0))

    def _end(self, call: str, state: CallState, own: Usage) -> None:
        self._ledger.write(call, state, own, **self._facts)
        self._open.discard(call)

    @property
    def _facts(self) -> dict[str, str]:
        return {"provider": self._settings.name, "model": self._settings.model}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests would cost, before anything is sent. Prices in US dollars; None where they are not known.

    `price` is an upper bound for one call a request: as many input tokens as the text has bytes, answers as long as
    allowed. `ceiling` also lets every answer be malformed and repaired. `expected` scales `price` by what earlier
    calls of this folder cost of their bounds; None before the first.
    """

    requests: int
    cached: int
    input_tokens: int
    output_tokens: int
    price: float | None
    ceiling: float | None
    expected: float | None
    spent: float

    def __str__(self) -> str:
        """Say it in a few lines."""
        asked = self.requests - self.cached
        lines = [
            f"{self.requests} requests, {self.cached} of them answered already, {asked} to send",
            f"at most {self.input_tokens:,} tokens in and {self.output_tokens:,} out"
            + (" (a quarter of that in is usual for English)" if asked else ""),
        ]
        if self.price is None or self.ceiling is None:
            lines.append("price unknown: give input_price and output_price in a provider file")
        else:
            lines.append(f"at most ${self.price:.4f}, ${self.ceiling:.4f} if every answer had to be repaired")
        if self.expected is not None:
            lines.append(f"about ${self.expected:.4f} at the rate of the calls so far")
        if self.spent:
            lines.append(f"${self.spent:.4f} spent so far")
        return "\n".join(lines)


def estimate(
    requests: Sequence[Request],
    settings: ProviderSettings,
    cache: CompletionCache | None = None,
    *,
    batch: bool = False,
) -> Estimate:
    """Return an upper bound of what the requests would cost; those in the cache, and repeats, cost nothing."""
    unique = {key_of(request, settings): request for request in requests}
    asked = [r for key, r in unique.items() if not _answered(r, cache.get(key) if cache else None, settings)]
    first = [call_bound(body(r, settings, messages(r, settings)), settings, batch=batch) for r in asked]
    second = [_repair_bound(r, settings) for r in asked]
    ledger = Ledger(cache.folder) if cache else None
    price = _total(first)
    repairs = _total(second)
    share = ledger.billed_share if ledger else None
    return Estimate(
        requests=len(requests),
        cached=len(requests) - len(asked),
        input_tokens=sum(u.input_tokens for u in first),
        output_tokens=sum(u.output_tokens for u in first),
        price=price,
        ceiling=None if price is None or repairs is None else price + repairs,
        expected=None if price is None or share is None else price * share,
        spent=ledger.spent if ledger else 0.0,
    )


def _answered(request: Request, reply: Reply | None, settings: ProviderSettings) -> bool:
    if reply is None:
        return False
    return not settings.retry_refused or interpret(request, reply).status is Status.OK


def _repair_bound(request: Request, settings: ProviderSettings) -> Usage:
    # The answer comes back as input: as many tokens as it had, which its text cannot exceed by more than a little.
    empty = Reply(key="", prompt="", provider="", model="", content="{}")
    asked = call_bound(body(request, settings, repair_messages(request, settings, empty, "x" * 1000)), settings)
    return usage(settings, asked.input_tokens + max_tokens(request, settings), asked.output_tokens)


def _total(bounds: Sequence[Usage]) -> float | None:
    prices = [bound.price for bound in bounds if bound.price is not None]
    return sum(prices) if len(prices) == len(bounds) else None

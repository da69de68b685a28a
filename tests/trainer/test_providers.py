"""Providers: settings and keys, retries, faults, cost, batches, and what a kill costs. Against a local API server."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.openai_server import BILLED, KEY, Fact, Fault, OpenAIServer, fact, local
from trainer.errors import CompletionsError, CostLimitReached, ProviderError
from trainer.llm.calls import Caller, _retry_after
from trainer.llm.completions import CompletionCache, RecordedCompleter
from trainer.llm.costs import Ledger, estimate
from trainer.llm.openai_completer import OpenAICompleter
from trainer.llm.options import ProviderOptions, provider_options
from trainer.llm.port import Request, Status
from trainer.llm.providers import BUILT_IN, ProviderSettings, RetrySettings, api_key, custom_provider, load_provider

ANSWER = '{"text": "fine"}'


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_KEY", KEY)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=lambda _: ANSWER) as running:
        yield running


def several(number: int) -> list[Request]:
    return [fact(f"Say {n}.") for n in range(number)]


def everything_below(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


# Settings


def test_built_in_prices_say_when_and_where_they_were_read() -> None:
    for settings in BUILT_IN.values():
        assert settings.priced
        assert settings.price_date
        assert settings.price_source


def test_provider_file_is_yaml_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{name: x, base_url: 'http://localhost:1/v1/', model: m, retry: {attempts: 2}}")
    settings = load_provider(str(tmp_path / "a.yaml"))
    assert (settings.base_url, settings.retry.attempts, settings.priced) == ("http://localhost:1/v1", 2, False)
    (tmp_path / "b.json").write_text(settings.model_dump_json())
    assert load_provider(str(tmp_path / "b.json")) == settings


@pytest.mark.parametrize(
    "fault",
    [
        "- a list",
        "name: [",
        f"{{name: x, base_url: 'http://x', model: m, api_key: {KEY}}}",
        f"{{name: x, base_url: 'http://x', model: m, api_key_env: {KEY}}}",
        f"{{name: x, base_url: 'http://u:{KEY}@x/', model: m}}",
        "{name: x, base_url: ftp://x, model: m}",
        "{name: x, base_url: 'http://x'}",
        "{name: x, base_url: 'http://x', model: m, input_price: -1}",
    ],
)
def test_wrong_provider_file_is_an_error_that_never_repeats_a_key(tmp_path: Path, fault: str) -> None:
    (tmp_path / "p.yaml").write_text(fault)
    with pytest.raises(ProviderError, match=r"p\.yaml") as caught:
        load_provider(str(tmp_path / "p.yaml"))
    assert KEY not in str(caught.value)


def test_unknown_and_retired_names_say_what_there_is() -> None:
    with pytest.raises(ProviderError, match="gpt-4o-mini"):
        load_provider("gpt-5o")
    with pytest.raises(ProviderError, match="--provider deepseek"):
        load_provider("deepseek-chat")


def test_key_comes_from_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = custom_provider("http://localhost:1", "m").model_copy(update={"api_key_env": "SOME_KEY"})
    with pytest.raises(ProviderError, match="set SOME_KEY"):
        api_key(settings)
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("SOME_KEY_FILE", str(tmp_path / "key"))
    assert api_key(settings) == "from-file"
    monkeypatch.setenv("SOME_KEY", "from-environment")
    assert api_key(settings) == "from-environment"
    assert api_key(custom_provider("http://localhost:1", "m")) is None


# Faults


PASSING = [
    Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.HTML_ERROR, Fault.BODY_CUT, Fault.CONNECTION_CUT, Fault.DROPPED,
]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_passing_fault_is_retried_and_counted(server: OpenAIServer, tmp_path: Path, fault: Fault) -> None:
    server.faults = [fault, fault]
    settings = local(server)
    [completion] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert (completion.status, completion.value) == (Status.OK, Fact(text="fine"))
    assert len(server.bodies) == 3
    # Where the provider may have billed an answer that never arrived, the ledger has it at its bound.
    billed = server.cost(1, 4)
    spent = Ledger(tmp_path).spent
    if fault in BILLED:
        assert spent > billed
    elif fault is not Fault.DROPPED:
        assert spent == pytest.approx(billed)


@pytest.mark.parametrize("fault", PASSING)
def test_lasting_fault_is_recorded_not_raised_and_not_cached(
    server: OpenAIServer, tmp_path: Path, fault: Fault
) -> None:
    server.fault_always = fault
    settings = local(server)
    [completion] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert completion.status is Status.FAILED
    assert "3 attempts" in (completion.reason or "")
    assert len(server.bodies) == 3
    server.fault_always = None
    [again] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert again.status is Status.OK


def test_endpoint_that_is_not_there_fails_at_no_cost(tmp_path: Path, server: OpenAIServer) -> None:
    settings = local(server, base_url="http://127.0.0.1:9/v1")
    [completion] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert completion.status is Status.FAILED
    assert Ledger(tmp_path).spent == 0


def test_retry_after_is_waited_for(server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(_: Caller, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Caller, "sleep", sleep)
    server.faults, server.retry_after = [Fault.RATE_LIMIT], "7"
    OpenAICompleter(local(server), CompletionCache(tmp_path)).complete([fact()])
    assert max(waits) == pytest.approx(7)


def test_retry_after_beyond_the_allowed_wait_fails_at_once(server: OpenAIServer, tmp_path: Path) -> None:
    server.fault_always, server.retry_after = Fault.RATE_LIMIT, "3600"
    [completion] = OpenAICompleter(local(server), CompletionCache(tmp_path)).complete([fact()])
    assert completion.status is Status.FAILED
    assert "longer than allowed" in (completion.reason or "")
    assert len(server.bodies) == 1


@given(st.integers(0, 10**6))
def test_retry_after_is_read_as_seconds_and_as_a_date(seconds: int) -> None:
    assert _retry_after({"retry-after": str(seconds)}) == seconds
    date = datetime.now(UTC) + timedelta(seconds=seconds)
    assert seconds - 60 <= _retry_after({"retry-after": format_datetime(date, usegmt=True)}) <= seconds + 60


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-5"])
def test_nonsense_in_retry_after_is_no_wait(value: str) -> None:
    assert _retry_after({"retry-after": value}) == 0


def test_backoff_stays_within_its_full_jitter_bound(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []
    monkeypatch.setattr("trainer.llm.calls.random.uniform", lambda low, high: bounds.append((low, high)) or 0.0)
    server.fault_always = Fault.SERVER_ERROR
    retry = RetrySettings(attempts=6, base_seconds=1, cap_seconds=5)
    OpenAICompleter(local(server, retry=retry), CompletionCache(tmp_path)).complete([fact()])
    assert bounds == [(0, 1), (0, 2), (0, 4), (0, 5), (0, 5)]


@pytest.mark.parametrize("fault", [Fault.LENGTH, Fault.NOT_JSON, Fault.AGAINST_SCHEMA])
def test_malformed_answer_is_repaired_once(server: OpenAIServer, tmp_path: Path, fault: Fault) -> None:
    server.faults = [fault]
    settings = local(server)
    [completion] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert completion.status is Status.OK
    assert len(server.bodies) == 2
    assert completion.output_tokens == sum(p.output_tokens for p in server.paid)
    assert server.bodies[0]["seed"] != server.bodies[1]["seed"]

    server.fault_always = fault
    [lasting] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact("Other.")])
    assert lasting.status is Status.MALFORMED
    assert lasting.reason
    assert len(server.bodies) == 4
    OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact("Other.")])
    assert len(server.bodies) == 4, "what is malformed after a repair is not asked again"


@pytest.mark.parametrize("fault", [Fault.REFUSAL, Fault.CONTENT_FILTER])
def test_refusal_is_kept_and_asked_again_only_on_request(server: OpenAIServer, tmp_path: Path, fault: Fault) -> None:
    server.faults = [fault]
    settings = local(server)
    for _ in range(2):
        [completion] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
        assert completion.status is Status.REFUSED
        assert completion.reason
    assert len(server.bodies) == 1
    again = settings.model_copy(update={"retry_refused": True})
    assert OpenAICompleter(again, CompletionCache(tmp_path)).complete([fact()])[0].status is Status.OK
    assert OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])[0].status is Status.OK
    assert len(server.bodies) == 2


def test_prompt_that_is_too_long_fails_alone(server: OpenAIServer, tmp_path: Path) -> None:
    server.faults = [Fault.TOO_LONG]
    settings = local(server, in_flight=1, context_tokens=4000)
    asked = [fact(), fact("Other."), fact("long " * 4000)]
    completions = OpenAICompleter(settings, CompletionCache(tmp_path)).complete(asked)
    assert [c.status for c in completions] == [Status.FAILED, Status.OK, Status.FAILED]
    assert "context" in (completions[0].reason or "")
    assert len(server.bodies) == 2, "the longest is not even sent"


@pytest.mark.parametrize(("fault", "advice"), [(Fault.QUOTA, "no credit"), (Fault.FORBIDDEN, "may not use this model")])
def test_hopeless_fault_stops_the_run_and_keeps_what_was_answered(
    server: OpenAIServer, tmp_path: Path, fault: Fault, advice: str
) -> None:
    server.faults = [Fault.NONE, Fault.NONE, fault]
    completer = OpenAICompleter(local(server, in_flight=1), CompletionCache(tmp_path))
    with pytest.raises(ProviderError, match=advice):
        completer.complete(several(8))
    assert len(server.bodies) == 3
    assert len(CompletionCache(tmp_path)) == 2
    assert all(c.status is Status.OK for c in completer.complete(several(8)))
    assert not server.paid_twice


def test_hopeless_fault_of_one_stops_the_others(server: OpenAIServer, tmp_path: Path) -> None:
    server.faults = [Fault.QUOTA]
    with pytest.raises(ProviderError, match="no credit"):
        OpenAICompleter(local(server, in_flight=3), CompletionCache(tmp_path)).complete(several(30))
    assert len(server.bodies) < 15
    assert len(CompletionCache(tmp_path)) == len(server.paid), "what the others were asking is kept"


def test_no_more_than_allowed_are_in_flight(server: OpenAIServer, tmp_path: Path) -> None:
    server.hold_after, server.release_at = 0, 3
    OpenAICompleter(local(server, in_flight=3), CompletionCache(tmp_path)).complete(several(15))
    assert server.most_at_a_time == 3


def test_batch_that_the_provider_has_lost_says_how_to_give_it_up(server: OpenAIServer, tmp_path: Path) -> None:
    server.batch_polls = 10**9
    completer = OpenAICompleter(local(server), CompletionCache(tmp_path), batch=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Caller, "sleep", lose(server))
        with pytest.raises(ProviderError, match="removing its record"):
            completer.complete(several(2))


def lose(server: OpenAIServer) -> Callable[[Caller, float], Awaitable[None]]:
    async def sleep(_: Caller, seconds: float) -> None:
        if seconds > 0:
            server.batches.clear()

    return sleep


def test_unknown_model_and_address_say_so(server: OpenAIServer, tmp_path: Path) -> None:
    for changes in ({"model": "gpt-9"}, {"base_url": server.base_url + "/nowhere"}):
        completer = OpenAICompleter(local(server, **changes), CompletionCache(tmp_path))
        with pytest.raises(ProviderError, match="check base_url and model"):
            completer.complete([fact()])


def test_provider_without_json_schema_works(server: OpenAIServer, tmp_path: Path) -> None:
    settings = local(server, model="deepseek-flash", supports_json_schema=False, supports_seed=False)
    [completion] = OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert completion.status is Status.OK


@pytest.mark.parametrize("wrong", [True, False])
def test_key_is_in_no_log_file_or_error(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: bool
) -> None:
    secret = "sk-wrong-abcdef0123456789" if wrong else KEY
    monkeypatch.setenv("LOCAL_KEY", secret)
    caplog.set_level(logging.DEBUG)
    server.answer = lambda _: json.dumps({"text": f"your key is {secret}"})
    completer = OpenAICompleter(local(server), CompletionCache(tmp_path), batch=not wrong)
    if wrong:
        with pytest.raises(ProviderError, match="check the key in LOCAL_KEY") as caught:
            completer.complete([fact()])
        assert secret not in str(caught.value)
    else:
        assert completer.complete([fact()])[0].value == Fact(text="your key is [key]")
    assert caplog.text
    assert secret not in caplog.text
    assert secret not in everything_below(tmp_path)
    assert secret not in repr(completer.__dict__["_settings"])


def test_openai_account_headers_go_to_openai_only(
    server: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    OpenAICompleter(local(server), CompletionCache(tmp_path)).complete([fact()])
    assert not {"openai-organization", "openai-project"} & {name.lower() for name in server.headers[0]}


# Cost


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("faults", [[], [Fault.NOT_JSON, Fault.AGAINST_SCHEMA] * 20])
def test_cost_is_within_the_estimate(server: OpenAIServer, tmp_path: Path, batch: bool, faults: list[Fault]) -> None:
    settings = local(server)
    server.answer = lambda _: json.dumps({"text": "word " * 300})
    server.faults = faults
    asked = several(12)
    before = estimate(asked, settings, CompletionCache(tmp_path), batch=batch)
    OpenAICompleter(settings, CompletionCache(tmp_path), batch=batch).complete(asked)
    billed = server.cost(1, 4, discount=0.5)
    assert before.ceiling is not None
    assert billed <= before.ceiling
    if not faults:
        assert before.price is not None
        assert billed <= before.price
    assert Ledger(tmp_path).spent == pytest.approx(billed)
    after = estimate([*asked, fact("New.")], settings, CompletionCache(tmp_path))
    assert (after.requests, after.cached, after.spent) == (13, 12, pytest.approx(billed))
    assert after.expected is not None
    assert after.price is not None
    assert 0 < after.expected < after.price


def test_cost_limit_stops_in_time_and_a_higher_one_goes_on(server: OpenAIServer, tmp_path: Path) -> None:
    settings = local(server)
    server.answer = lambda _: json.dumps({"text": "word " * 1200})
    asked = several(20)
    one = estimate(asked[:1], settings).price
    assert one
    limit = 6 * one
    with pytest.raises(CostLimitReached, match="higher --max-cost"):
        OpenAICompleter(settings, CompletionCache(tmp_path), max_cost=limit).complete(asked)
    assert 0 < server.cost(1, 4) <= limit
    # Calls cost less than their bounds, so that more than six fit; the bound of the next one did not.
    assert 6 < len(server.bodies) < 20
    assert len(CompletionCache(tmp_path)) == len(server.bodies)
    with pytest.raises(CostLimitReached):
        OpenAICompleter(settings, CompletionCache(tmp_path), max_cost=limit).complete(asked)
    OpenAICompleter(settings, CompletionCache(tmp_path), max_cost=20 * one).complete(asked)
    assert len(server.paid) == 20
    assert not server.paid_twice


def test_batch_over_the_cost_limit_is_not_sent(server: OpenAIServer, tmp_path: Path) -> None:
    with pytest.raises(CostLimitReached, match="batch"):
        OpenAICompleter(local(server), CompletionCache(tmp_path), batch=True, max_cost=1e-6).complete(several(3))
    assert not server.files


def test_unknown_prices_give_tokens_and_refuse_a_limit(server: OpenAIServer, tmp_path: Path) -> None:
    settings = local(server, input_price=None, output_price=None)
    unpriced = estimate(several(2), settings)
    assert unpriced.price is None
    assert unpriced.input_tokens > 0
    assert "price unknown" in str(unpriced)
    with pytest.raises(ProviderError, match="input_price"):
        OpenAICompleter(settings, CompletionCache(tmp_path), max_cost=1)
    OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert Ledger(tmp_path).spent == 0


def test_answer_without_token_counts_is_charged_at_its_bound(server: OpenAIServer, tmp_path: Path) -> None:
    server.faults = [Fault.NO_USAGE]
    settings = local(server)
    bound = estimate([fact()], settings).price
    OpenAICompleter(settings, CompletionCache(tmp_path)).complete([fact()])
    assert Ledger(tmp_path).spent == pytest.approx(bound)


def test_wrong_line_of_the_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(CompletionsError, match=r"ledger\.jsonl:1"):
        Ledger(tmp_path)


# Batches


def test_batch_rows_that_failed_are_asked_one_by_one(server: OpenAIServer, tmp_path: Path) -> None:
    server.batch_faults = {0: Fault.SERVER_ERROR, 2: Fault.DROPPED, 4: Fault.NOT_JSON}
    server.batch_polls = 3
    advanced: list[int] = []
    completer = OpenAICompleter(local(server), CompletionCache(tmp_path), batch=True)
    completions = completer.complete(several(6), advanced.append)
    assert [c.status for c in completions] == [Status.OK] * 6
    assert sum(advanced) == 6
    assert len(server.bodies) == 3, "two failed rows and a repair"
    assert Ledger(tmp_path).spent == pytest.approx(server.cost(1, 4, discount=0.5))


def test_large_batches_are_split(server: OpenAIServer, tmp_path: Path) -> None:
    completer = OpenAICompleter(local(server, batch_requests=4), CompletionCache(tmp_path), batch=True)
    assert all(c.status is Status.OK for c in completer.complete(several(10)))
    assert len(server.batches) == 3
    assert not server.bodies


def test_batch_that_is_not_taken_says_why_and_costs_nothing(server: OpenAIServer, tmp_path: Path) -> None:
    server.batch_invalid = "token_limit_exceeded"
    completer = OpenAICompleter(local(server), CompletionCache(tmp_path), batch=True)
    with pytest.raises(ProviderError, match="token_limit_exceeded"):
        completer.complete(several(3))
    assert Ledger(tmp_path).spent == 0
    server.batch_invalid = None
    assert completer.complete(several(3))[0].status is Status.OK


def test_batch_whose_creation_got_no_answer_is_found_again(server: OpenAIServer, tmp_path: Path) -> None:
    server.drop_batch_answers = 1
    assert OpenAICompleter(local(server), CompletionCache(tmp_path), batch=True).complete(several(3))
    assert len(server.batches) == 1
    assert not server.paid_twice


def test_provider_without_batches_says_so(server: OpenAIServer, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="no Batch API"):
        OpenAICompleter(local(server, batch_discount=None), CompletionCache(tmp_path), batch=True)


# Kills

_RUN = """
import sys
from pathlib import Path
from tests.trainer.openai_server import fact
from trainer.llm.completions import CompletionCache
from trainer.llm.openai_completer import OpenAICompleter
from trainer.llm.providers import load_provider

settings, folder, batch = sys.argv[1:]
OpenAICompleter(load_provider(settings), CompletionCache(Path(folder)), batch=batch == "batch").complete(
    [fact(f"Say {n}.") for n in range(30)]
)
"""


def start(settings: ProviderSettings, folder: Path, mode: str) -> subprocess.Popen[bytes]:
    file = folder.parent / "provider.json"
    file.write_text(settings.model_dump_json())
    return subprocess.Popen([sys.executable, "-c", _RUN, str(file), str(folder), mode], cwd=Path.cwd())


def test_killed_run_goes_on_without_paying_twice(server: OpenAIServer, tmp_path: Path) -> None:
    settings = local(server, in_flight=3)
    folder = tmp_path / "completions"
    server.hold_after = 12
    with start(settings, folder, "online") as process:
        server.holding.wait(120)
        process.kill()
    server.hold_after = None
    server.release.set()

    in_flight = len(server.paid) - len(CompletionCache(folder))
    assert 0 < in_flight <= 3
    at_kill = server.cost(1, 4)
    assert Ledger(folder).spent >= at_kill, "what was in flight counts at its bound"
    completions = OpenAICompleter(settings, CompletionCache(folder)).complete(several(30))
    assert all(c.status is Status.OK for c in completions)
    assert len(server.paid_twice) == in_flight
    assert len(server.paid) == 30 + in_flight


def test_killed_batch_is_picked_up_again(server: OpenAIServer, tmp_path: Path) -> None:
    settings = local(server)
    folder = tmp_path / "completions"
    server.batch_polls = 10**9
    with start(settings, folder, "batch") as process:
        server.polled.wait(120)
        process.kill()
    [batch] = server.batches.values()
    batch.polls_left = 2

    # Also without --batch: what is on its way is not paid for again.
    completions = OpenAICompleter(settings, CompletionCache(folder)).complete(several(31))
    assert all(c.status is Status.OK for c in completions)
    assert len(server.batches) == 1
    assert len(server.paid) == 31
    assert not server.paid_twice
    assert Ledger(folder).spent == pytest.approx(server.cost(1, 4, discount=0.5))


# Options


@click.command()
@provider_options
def command(llm: ProviderOptions) -> None:
    """Show what was chosen."""
    click.echo(f"{llm.settings.name} {llm.online} {llm.batch} {llm.max_cost} {llm.sends}")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ("", "gpt-4o-mini False False None True"),
        ("--provider deepseek --max-cost 3", "deepseek True False 3.0 True"),
        ("--provider-url http://localhost:1/v1 --provider-model m --estimate", "m True False None False"),
        ("--provider gpt-4o-mini --batch --preview 2", "gpt-4o-mini True True None False"),
    ],
)
def test_options_choose_a_provider(arguments: str, shown: str) -> None:
    assert CliRunner().invoke(command, arguments.split(), catch_exceptions=False).output.strip() == shown


@pytest.mark.parametrize(
    "arguments", ["--batch", "--max-cost 1", "--provider-url http://x", "--provider deepseek --provider-model m"]
)
def test_options_that_do_not_go_together_are_an_error(arguments: str) -> None:
    assert isinstance(CliRunner().invoke(command, arguments.split()).exception, ProviderError)


def test_options_build_the_completer(server: OpenAIServer, tmp_path: Path) -> None:
    settings = local(server)
    assert isinstance(ProviderOptions(settings).completer(tmp_path), RecordedCompleter)
    assert isinstance(ProviderOptions(settings, online=True).completer(tmp_path), OpenAICompleter)
    assert ProviderOptions(settings).estimate(several(2), tmp_path).requests == 2

"""The console in headless Chromium: the whole journey, by keyboard alone, without JavaScript, and its pictures.

`GUARDLINE_SCREENSHOTS=docs/images make test` (or any folder) writes the pictures of the documentation.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.keys import Keys

from monitor.feedback.adjudication import Status, adjudicate
from monitor.feedback.export import by_flag
from monitor.records import Decision, FeedbackRecord
from monitor.types import Message
from tests.console.browser import Browser, browsing
from tests.console.gallery import publish_decisions, publish_gallery
from tests.console.stage import SPAN, TEXT, Console, Published, Scene
from tests.fixtures_kafka import CHECKOUT, Broker, consume_all


async def published(scene: Scene, count: int = 2) -> list[Published]:
    messages = []
    for number in range(count):
        kinds = [
            scene.statement(TEXT, SPAN, score=0.97 - number / 100, category="dose", recommendation="2.1-loading-dose")
        ]
        messages.append((Message(f"m-{number}", TEXT, "north", "llm", None), kinds))
    return await scene.publish(messages)


async def drive(console: Console, folder: Path, steps: Callable[[Browser], None], *, scripts: bool = True) -> None:
    """Take steps in a browser, in a thread of its own: selenium waits, and the broker's clients must not."""

    def run() -> None:
        with browsing(console.url, folder / "profile", scripts=scripts) as browser:
            steps(browser)
            assert browser.complaints() == []

    await asyncio.to_thread(run)


async def decisions(scene: Scene) -> list[FeedbackRecord]:
    return [
        FeedbackRecord.model_validate_json(record.value)
        for record in await consume_all(scene.broker.bootstrap, scene.names["feedback"])
    ]


def decide(browser: Browser, decision: Decision, note: str = "") -> None:
    browser.find(f"#choose-{decision}").click()
    browser.find("#note").send_keys(note)
    browser.find("#save").click()
    assert browser.find("#decided").get_attribute("data-decision") == decision


async def test_the_journey_of_a_flag(best_broker: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(best_broker)
    first, second = await published(scene)
    flag = first.flags[0]
    path = f"/flags/{flag.id}"

    def steps(browser: Browser) -> None:
        browser.login("anna")
        browser.until(lambda: browser.find("#waiting").text == "2", "two flags, told by the server")
        browser.open("/")
        assert [row.get_attribute("data-flag") for row in browser.all("#queue tr[data-flag]")] == [
            flag.id,
            second.flags[0].id,
        ]
        browser.find("#queue tr[data-flag] .open").click()
        browser.find("#reveal")
        assert "400 mg" not in browser.text()
        browser.find("#reveal").click()
        assert browser.find("#statement").text == "Give 400 mg on day 1."
        assert browser.find("#text").text == TEXT
        assert "single loading dose of 200 mg" in browser.find("#recommendation").text
        decide(browser, Decision.ACCEPT, "Twice the dose.")
        assert browser.find("#text").text == TEXT  # only the form was replaced
        browser.until(
            lambda: browser.find("#state").get_attribute("data-status") == "second", "the state, told by the server"
        )
        assert browser.find("#waiting").text == "1"
        browser.find("#go-on").click()
        browser.until(lambda: second.flags[0].id in browser.driver.current_url, "the next flag")

        browser.login("ben")
        browser.open(path)
        assert browser.find("#blind").is_displayed()
        assert "Twice the dose." not in browser.text()
        decide(browser, Decision.REJECT)
        browser.until(lambda: browser.find("#state").get_attribute("data-status") == "disputed", "a dispute")
        browser.until(lambda: "Twice the dose." in browser.text(), "the first reviewer's note")

        browser.login("cara")
        browser.find("#queue a[href*='view=disputed']").click()
        browser.until(lambda: len(browser.all("#queue tr[data-flag]")) == 1, "the disputed flag")
        browser.until(lambda: "view=disputed" in browser.driver.current_url, "the view in the address")
        browser.open(path)
        decide(browser, Decision.ACCEPT)
        browser.until(lambda: browser.find("#state").get_attribute("data-status") == "settled", "a settlement")

        browser.open("/trends")
        assert "anna, ben" in browser.find("#agreement").text
        before = browser.find("#what-if-result").get_attribute("data-would")
        slider = browser.find("#threshold")
        slider.send_keys(Keys.END)
        browser.until(lambda: browser.find("#what-if-result").get_attribute("data-threshold") == "1.00", "the slider")
        assert (before, browser.find("#what-if-result").get_attribute("data-would")) == ("2", "0")

    async with Console(scene, tmp_path) as console:
        await drive(console, tmp_path, steps)
        assert await console.stop() == 0
    made = await decisions(scene)
    assert [(r.reviewer, r.decision, r.note) for r in made] == [
        ("anna", Decision.ACCEPT, "Twice the dose."),
        ("ben", Decision.REJECT, None),
        ("cara", Decision.ACCEPT, None),
    ]
    assert {r.flag for r in made} == {flag}


async def test_by_keyboard_alone(best_broker: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(best_broker)
    messages = await published(scene, 3)
    ids = [p.flags[0].id for p in messages]

    def at(browser: Browser, flag: str) -> None:
        browser.until(lambda: f"/flags/{flag}" in browser.driver.current_url, f"flag {flag}")

    def steps(browser: Browser) -> None:
        browser.login("anna")
        browser.until(lambda: browser.find("#waiting").text == "3", "three flags")
        browser.open("/")
        browser.press("?")
        assert browser.find("#help").is_displayed()
        browser.press(Keys.ESCAPE)
        browser.until(lambda: not browser.all("#help[open]"), "the help to close")
        browser.press("j", "j", "k", Keys.ENTER)
        at(browser, ids[0])
        browser.press("v")
        browser.find("#statement")
        browser.press("r", Keys.ENTER)
        assert browser.find("#decided").get_attribute("data-decision") == "reject"
        browser.press("j")
        at(browser, ids[1])
        browser.find("#decision")
        browser.press("w")
        browser.press("2.1-maintenance-dose", Keys.ESCAPE, "n")
        browser.press("jk stay letters here", Keys.CONTROL + Keys.ENTER)
        assert browser.find("#decided").get_attribute("data-decision") == "wrong_recommendation"
        browser.press("j")
        at(browser, ids[2])
        browser.find("#decision")
        browser.press("a", Keys.ARROW_DOWN, "u", Keys.ENTER)
        assert browser.find("#decided").get_attribute("data-decision") == "unsure"
        browser.press("q")
        assert browser.find("#empty").is_displayed()

    async with Console(scene, tmp_path) as console:
        await drive(console, tmp_path, steps)
    assert [(r.flag.id, r.decision, r.recommendation, r.note) for r in await decisions(scene)] == [
        (ids[0], Decision.REJECT, None, None),
        (ids[1], Decision.WRONG_RECOMMENDATION, "2.1-maintenance-dose", "jk stay letters here"),
        (ids[2], Decision.UNSURE, None, None),
    ]


async def test_new_flags_are_told_and_shown_when_asked_for(best_broker: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(best_broker)
    await published(scene, 1)
    loop = asyncio.get_running_loop()

    def steps(browser: Browser) -> None:
        browser.login("anna")
        browser.until(lambda: browser.find("#waiting").text == "1", "a flag")
        browser.open("/")
        assert len(browser.all("#queue tr[data-flag]")) == 1
        assert not browser.driver.find_element("id", "news").is_displayed()
        asyncio.run_coroutine_threadsafe(published(scene, 3), loop).result()  # one of them is known
        browser.until(lambda: "2 new flags." in browser.find("#news").text, "the news")
        assert len(browser.all("#queue tr[data-flag]")) == 1  # nothing moves under the reader's hand
        browser.find("#news a").click()
        browser.until(lambda: len(browser.all("#queue tr[data-flag]")) == 3, "the new flags")
        browser.until(lambda: not browser.driver.find_element("id", "news").is_displayed(), "the news to go")

    async with Console(scene, tmp_path) as console:
        await drive(console, tmp_path, steps)


async def test_a_form_that_does_nothing_says_so(best_broker: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(best_broker)
    loop = asyncio.get_running_loop()
    (only,) = await published(scene, 1)

    def steps(browser: Browser) -> None:
        browser.login("anna")
        browser.until(lambda: browser.find("#waiting").text == "1", "a flag")
        browser.open(f"/flags/{only.flags[0].id}")
        browser.driver.execute_script("document.querySelectorAll('[name=csrf]').forEach(e => { e.value = 'old' })")
        browser.find("#reveal").click()
        assert "out of date" in browser.find("#error").text
        browser.press("r", Keys.ENTER)
        browser.until(lambda: len(browser.all("#error")) == 2, "the second error")
        assert not browser.all("#decided")
        browser.open(f"/flags/{only.flags[0].id}")
        browser.find("#decision")
        asyncio.run_coroutine_threadsafe(console.stop(), loop).result()
        browser.press("r", Keys.ENTER)
        assert "nothing was saved" in browser.find("#away").text
        assert browser.find("#choose-reject").is_selected()
        told = ("403", "ERR_CONNECTION", "htmx:error")  # both refusals, and the server that is gone
        assert [m for m in browser.complaints() if not any(what in m for what in told)] == []

    console = Console(scene, tmp_path)
    async with console:
        await drive(console, tmp_path, steps)
    assert await decisions(scene) == []


async def test_without_javascript(best_broker: Broker, tmp_path: Path) -> None:
    scene = await Scene.create(best_broker)
    flag = (await published(scene, 1))[0].flags[0]

    def steps(browser: Browser) -> None:
        browser.login("anna")
        browser.until(lambda: browser.all("#queue tr[data-flag]") or browser.open("/"), "the queue")
        assert not browser.all("html.scripted")
        browser.find("#filter-q").send_keys("m-0")
        browser.find("#apply").click()
        browser.until(lambda: "q=m-0" in browser.driver.current_url, "q=m-0")
        browser.find("#queue tr[data-flag] .open").click()
        browser.find("#reveal").click()
        assert browser.find("#statement").text == "Give 400 mg on day 1."
        decide(browser, Decision.REJECT, "By form alone.")
        browser.open("/trends")
        browser.find("#threshold-form button").click()
        browser.until(lambda: "threshold=0.76" in browser.driver.current_url, "threshold=0.76")

    async with Console(scene, tmp_path) as console:
        await drive(console, tmp_path, steps, scripts=False)
    assert [(r.flag.id, r.decision, r.note) for r in await decisions(scene)] == [
        (flag.id, Decision.REJECT, "By form alone.")
    ]


_SIZES = {"wide": (1280, 860), "narrow": (390, 844)}


async def test_pages_fit_and_are_pictured(best_broker: Broker, tmp_path: Path) -> None:
    """Two widths, two themes: no page is wider than its window, none blocks what it needs itself."""
    scene = await Scene.create(best_broker)
    gallery = await publish_gallery(scene)
    shown = next(p for p in reversed(gallery) if len(p.flags) > 1)
    made = await publish_decisions(scene, gallery, undecided=[shown.message.id])
    total = sum(len(p.flags) for p in gallery)
    settled = sum(adjudicate(records).status is Status.SETTLED for records in by_flag(made).values())
    asked = os.environ.get("GUARDLINE_SCREENSHOTS")

    def picture(browser: Browser, name: str) -> None:
        """Write what the window shows, in 256 colours: a third of the bytes, and no eye tells."""
        seen = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
        seen.quantize(256).save(CHECKOUT / str(asked) / f"{name}.png", optimize=True)

    def steps(browser: Browser) -> None:
        browser.login("anna")

        def complete() -> bool:
            browser.open("/?view=settled")
            queue = browser.find("#queue")
            return (queue.get_attribute("data-arrived"), queue.get_attribute("data-total")) == (
                str(total),
                str(settled),
            )

        browser.until(complete, "all flags and decisions")
        for theme in ("light", "dark"):
            browser.driver.add_cookie({"name": "theme", "value": theme, "path": "/"})
            for size, (width, height) in _SIZES.items():
                metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
                for name, path in {"queue": "/", "flag": f"/flags/{shown.flags[0].id}", "trends": "/trends"}.items():
                    browser.open(path)
                    if name == "flag":
                        browser.find("#reveal").click()
                        browser.find("#statement")
                    if name == "trends":
                        assert f"{total} flags kept" in browser.find(".tiles").text
                    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width, (
                        name,
                        size,
                    )
                    if asked and size == "wide":
                        picture(browser, f"console-{name}-{theme}")

    async with Console(scene, tmp_path) as console:
        await drive(console, tmp_path, steps)

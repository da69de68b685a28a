"""Headless Chromium for tests: Debian's `chromium` and `chromium-driver`, or what the PATH has under those names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.console.stage import TOKENS

_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
#: Longer than any wait of a healthy console on a busy machine.
_SECONDS = 60
T = TypeVar("T")


class Browser:
    """A browser with the few things that the tests do with it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        """Go to a page, and wait until its scripts have run."""
        self.driver.get(path if path.startswith("http") else self.url + path)

    def login(self, name: str) -> None:
        """Log in as a new visitor."""
        self.driver.delete_all_cookies()
        self.open("/login")
        self.find("#token").send_keys(TOKENS[name], Keys.ENTER)
        self.find("#logout")

    def find(self, selector: str) -> WebElement:
        """Return an element as soon as it is there and shown."""
        return self.until(lambda: next((e for e in self.all(selector) if e.is_displayed()), None), selector)

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], T | None], what: str) -> T:
        """Return what the condition gives as soon as that is true."""
        wait = WebDriverWait(self.driver, _SECONDS, 0.05, ignored_exceptions=[StaleElementReferenceException])
        try:
            return wait.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"{what} in vain on {self.driver.current_url}:\n{self.text()[:2000]}") from None

    def text(self) -> str:
        """Return what the page says."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def complaints(self) -> list[str]:
        """Return what the browser's console says: blocked by policy, scripts that failed."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def browsing(url: str, profile: Path, *, scripts: bool = True) -> Iterator[Browser]:
    """Yield a browser with a fresh profile; without `scripts` it runs no JavaScript."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    started = Chrome(options=options, service=Service(driver))
    try:
        yield Browser(started, url)
    finally:
        started.quit()

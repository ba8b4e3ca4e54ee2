"""A real browser that looks at a page: Chromium without a window, by its driver."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

HEIGHT = 900


def chromium() -> str | None:
    """The browser that the driver found belongs to: Google's where it is installed, else Debian's."""
    return shutil.which("google-chrome") or shutil.which("chromium")


def is_missing() -> bool:
    """Whether the browser or its driver is not installed."""
    return chromium() is None or shutil.which("chromedriver") is None


class Browser:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, page: Path, width: int, scheme: str = "light", media: str = "screen") -> None:
        """Opens a file in a window so wide (in CSS pixels), as people who prefer `light` or `dark` see it, or print."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=media, features=features)
        self.log()  # what came before is of another page
        self._driver.get(page.as_uri())

    def run(self, script: str) -> Any:
        """What a function body returns in the page."""
        return self._driver.execute_script(script)

    def screenshot(self, to: Path) -> Path:
        """The whole page, however long, as a PNG file."""
        width, height = self.run("const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        to.write_bytes(base64.b64decode(shot["data"]))
        return to

    def pdf(self, to: Path) -> Path:
        """The page as it is printed, with the paper's size taken from the page."""
        self._call("Emulation.setEmulatedMedia", media="print", features=[])
        printed = self._call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        to.write_bytes(base64.b64decode(printed["data"]))
        return to

    def log(self) -> list[str]:
        """What the page complained of since it was asked last: errors, warnings and blocked parts."""
        return [entry["message"] for entry in self._driver.get_log("browser")]

    def requests(self) -> list[str]:
        """All that pages have asked of the network or the disk since this was asked last.

        Without what the browser's own first page asks for, which is late on a busy machine.
        """
        entries = self._driver.get_log("performance")
        events = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [of["params"] for of in events if of["method"] == "Network.requestWillBeSent"]
        return [of["request"]["url"] for of in sent if not of["documentURL"].startswith("chrome")]

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._driver.execute_cdp_cmd(method, arguments)


@contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in the folder `profile`, which ends with the block."""
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        "--force-color-profile=srgb", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.binary_location = chromium() or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service(shutil.which("chromedriver"), log_output=os.devnull)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()

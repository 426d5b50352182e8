"""A headless Chromium, spoken to over its debugging pipe.

As a program, `python browser.py PAGE.html OUT.png 390 dark` takes a picture of a page.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60


def find_browser() -> str:
    """Path of the program; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is installed")
    return found


class Browser:
    """One tab."""

    def __init__(self, requests: int, answers: int) -> None:
        self._to, self._from = requests, answers
        self._buffer = b""
        self._last = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Loads a file and waits until it is complete."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        # two frames later everything that the page starts by itself has been started
        wait = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        assert self.evaluate(wait) is True

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself not counted; data in the page is no request."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        addresses = [request["request"]["url"] for request in sent if request.get("type") != "Document"]
        return [address for address in addresses if not address.startswith("data:")]

    def complaints(self) -> list[Any]:
        """Errors, warnings and messages on the console."""
        names = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in names]

    def screenshot(self) -> bytes:
        """PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with nothing remembered and nothing to reach; ended with the block."""
    program = find_browser()
    to_browser, from_us = os.pipe()[::1], os.pipe()[::1]
    reads, writes = (to_browser[0], from_us[1])
    # processes of a browser that was killed may still write while the folder is removed
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        flags += [f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9", "--disable-background-networking"]

        def wire() -> None:
            # the browser reads commands from descriptor 3 and writes to 4
            os.dup2(reads, 13)
            os.dup2(writes, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        process = subprocess.Popen(
            [program, *flags, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=wire,
        )
        os.close(reads)
        os.close(writes)
        tab = Browser(to_browser[1], from_us[0])
        try:
            tab.attach()
            yield tab
        finally:
            process.kill()
            process.wait(SECONDS)
            os.close(to_browser[1])
            os.close(from_us[0])


if __name__ == "__main__":
    with browser() as tab:
        tab.open(Path(sys.argv[1]), width=int(sys.argv[3]), scheme=sys.argv[4])
        print(tab.requests(), tab.complaints(), tab.evaluate("document.documentElement.scrollWidth"))
        Path(sys.argv[2]).write_bytes(tab.screenshot())

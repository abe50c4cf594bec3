"""A headless Chromium, driven through pipes: the DevTools protocol without a library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_PATIENCE = 60.0  # seconds until a page that does not draw counts as broken


def chromium() -> str:
    """Path of the browser; the test is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("needs Chromium (on Debian: apt-get install chromium)")


class Tab:
    """One page in the browser; `events` has all that it told so far."""

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self._number = 0
        self.events = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _call(self, method, session=None, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self._send(message)
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def call(self, method, **params):
        return self._call(method, self._session, **params)

    def run(self, code):
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, code):
        end = time.monotonic() + _PATIENCE
        while not self.run(code):
            assert time.monotonic() < end, f"{code} did not become true; {self.complaints()}"
            time.sleep(0.05)

    def colours(self, dark):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path, width=1366, height=768, dark=False):
        self.colours(dark)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url="about:blank")
        self.wait_for("!document.documentElement?.dataset.drawn")
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.documentElement?.dataset.drawn === 'yes'")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            code = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}[key]
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
            )

    def screenshot(self, path: Path, whole=False):
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def complaints(self):
        """Exceptions, errors and warnings on the console so far."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [
            event
            for event in self.events
            if event.get("method") in kinds
            and event["params"].get("type") not in ("log", "info", "debug")
            and event["params"].get("entry", {}).get("level") not in ("verbose", "info")
        ]

    def requests(self):
        """Addresses that the page asked for."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]


@contextmanager
def browser(profile: Path):
    """Start Chromium with an empty profile; yields a `Tab`."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # Out of the way of 3 and 4, from which Chromium reads commands and where it writes answers.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_read, from_write)]
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", _HAND_OVER, *map(str, ends)),
            *(chromium(), *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
        ],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_read, from_write, *ends):
        os.close(end)
    answers = os.fdopen(from_read, "rb", buffering=0)
    rest = bytearray()

    def send(message):
        os.write(to_write, json.dumps(message).encode() + b"\0")

    def receive():
        while b"\0" not in rest:
            part = answers.read(1 << 16)
            assert part, "Chromium ended"
            rest.extend(part)
        line, _, left = bytes(rest).partition(b"\0")
        rest[:] = left
        return json.loads(line)

    try:
        yield Tab(send, receive)
    finally:
        os.close(to_write)
        answers.close()
        process.terminate()
        process.wait(10)

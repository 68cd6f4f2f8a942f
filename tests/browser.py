"""Drives a headless Chromium by the DevTools protocol over two pipes; needs no package."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
TIMEOUT_SECONDS = 60.0


def find_browser() -> str | None:
    """Returns the path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of a Chromium; keeps everything that the page logs and requests."""

    def __init__(self, path: str, profile):
        """Starts Chromium with an empty profile folder."""
        to_browser, self._output = os.pipe()
        self._input, from_browser = os.pipe()

        def place_pipes():
            # Chromium reads from 3 and writes to 4. Copies at high numbers keep either pipe end
            # from being overwritten before it is in place.
            high = [
                os.dup2(end, number) for end, number in ((to_browser, 103), (from_browser, 104))
            ]
            for end, number in zip(high, (3, 4)):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            [path, *ARGUMENTS, f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place_pipes,
            close_fds=False,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._unread = 0, b""
        self.events: list[dict] = []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Stops the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._output)
        os.close(self._input)

    def call(self, method: str, **parameters):
        """Calls a method of the DevTools protocol and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._output, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, url: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Opens a page in a window of the given size and waits until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read()

    def evaluate(self, expression: str):
        """Returns the value of a JavaScript expression; awaits a promise."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result.get("exceptionDetails")
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key: Tab, Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Scrolls an element into view and clicks on its centre with the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({behavior: 'instant', block: 'center'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        common = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **common)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **common)

    def find_complaints(self) -> list[str]:
        """Returns the errors, warnings and exceptions that the page has logged."""
        complaints = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                complaints.append(parameters["exceptionDetails"]["text"])
            elif event["method"] == "Log.entryAdded":
                complaints.append(parameters["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                complaints.append(str(parameters["args"]))
        return complaints

    def list_requests(self) -> list[str]:
        """Returns the URLs that the page has requested, except data URIs."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in sent]
        return [url for url in urls if not url.startswith("data:")]

    def take_picture(self, path) -> None:
        """Writes a PNG of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _read(self) -> dict:
        """Returns the next message; keeps it if it is an event."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._input], [], [], deadline - time.monotonic())
            data = os.read(self._input, 1 << 16) if ready else b""
            assert data, f"the browser is gone or silent for {TIMEOUT_SECONDS:.0f} s"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(message)
        if "method" in message:
            self.events.append(message)
        return message

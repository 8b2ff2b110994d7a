"""A headless Chromium for tests, by the DevTools protocol over two pipes (--remote-debugging-pipe): JSON texts that end
in a zero byte, read from descriptor 4 and written to 3 of the browser. Every wait has an end."""
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIMIT = 60 * int(os.environ.get("HV_STRETCH", "1"))


def find():
    """The browser, or the end of the test: it is skipped."""
    if int(os.environ.get("HV_STRETCH", "1")) >= 6:  # tests/run
        print("an emulated processor takes minutes to start a browser")
        sys.exit(77)
    for name in NAMES:
        if path := shutil.which(name):
            return path
    print(f"no browser here ({', '.join(NAMES)}); tests/deps browser installs one")
    sys.exit(77)


class Browser:
    def __init__(self, folder: pathlib.Path):
        to_browser, self.writes = os.pipe()
        self.reads, from_browser = os.pipe()
        high = [os.dup2(fd, number) for fd, number in ((to_browser, 103), (from_browser, 104))]
        for fd in (to_browser, from_browser):
            os.close(fd)
        # The browser wants them as 3 and 4; a shell puts them there after the fork.
        self.process = subprocess.Popen(
            ["bash", "-c", 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"', "bash", "103", "104", find(), "--headless", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
             f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(103, 104),
            env={**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)})
        for fd in high:
            os.close(fd)
        self.number, self.buffer, self.session = 0, b"", None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(1280)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.session = None
            self.send("Browser.close")
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(10)
        os.close(self.writes)
        os.close(self.reads)

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writes, data):]
        return self.number

    def receive(self, end):
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.reads], [], [], left)[0]:
                raise TimeoutError("the browser doesn't answer")
            data = os.read(self.reads, 1 << 20)
            if not data:
                raise EOFError("the browser has ended")
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method, **params):
        number, end = self.send(method, **params), time.monotonic() + LIMIT
        while True:
            message = self.receive(end)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def open(self, path, fragment=""):
        """Loads a page and waits for it; what it complained of is in complaints()."""
        self.call("Page.navigate", url="about:blank")  # a page that differs in its fragment only would not load again
        self.events.clear()
        url = pathlib.Path(path).as_uri()
        self.call("Page.navigate", url=url + fragment)
        end = time.monotonic() + LIMIT
        while not self.loaded(url):
            if time.monotonic() > end:
                raise TimeoutError(f"{url} isn't loaded")
            time.sleep(0.02)

    def loaded(self, url):
        try:
            return self.js(f"location.href.startsWith({url!r}) && document.readyState === 'complete'")
        except RuntimeError:  # the page before goes away
            return False

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def complaints(self):
        """Errors of scripts and of the console, and requests that leave the page."""
        found = []
        for e in self.events:
            method, params = e.get("method"), e.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", "an exception"))
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "about:", "data:")):
                found.append("a request to " + params["request"]["url"])
            elif method == "Page.javascriptDialogOpening":
                found.append("a dialog: " + params["message"])
        return found

    def key(self, key, shift=False):
        for kind in ("keyDown", "keyUp"):
            more = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **more)

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x, y):
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def media(self, **features):
        self.call("Emulation.setEmulatedMedia", media=features.pop("media", ""),
                  features=[{"name": k.replace("_", "-"), "value": v} for k, v in features.items()])

    def size(self, width, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path, full=True):
        import base64
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

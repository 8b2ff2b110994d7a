#!/usr/bin/env python3
# limit: 180
# once
"""The page of hvlab view in a browser: its script runs without an error, zoom, keys, mouse and filter do what they say,
and what a hostile trace says never runs."""
import os
import pathlib
import subprocess
import sys

SRC, TMP = pathlib.Path(os.environ["SRC"]), pathlib.Path(os.environ["TMP"])
sys.path.insert(0, str(SRC / "labs"))
import labs_browser  # noqa: E402
from labs_trace_samples import Sample, two_vcpus  # noqa: E402


def check(ok, text, *details):
    if not ok:
        print("FAILED:", text, *map(repr, details))
        sys.exit(1)
    print("ok  ", text)


def page_of(name, text):
    (TMP / name).write_text(text)
    subprocess.run([sys.executable, "-m", "kit.view", TMP / name], cwd=SRC / "labs", check=True, timeout=100 * int(os.environ["HV_STRETCH"]),
                   stdout=subprocess.DEVNULL)
    return TMP / f"{name}.html"


SHOWN = "document.getElementById('range').textContent"
HEAD = "document.querySelector('#details h2').textContent"
LETTERS = "[...document.querySelectorAll('#chart .badge-text')].map(t => t.textContent).join('')"


def middle(b, selector):
    """Where on the screen something is."""
    return b.js(f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect(); "
                "return [r.x + r.width / 2, r.y + r.height / 2]; })()")


def ordinary(b):
    b.open(page_of("two.trace", two_vcpus().text()))
    check(not b.complaints(), "no complaint", b.complaints())
    check(b.js(LETTERS).replace(" ", "") == "IO" * 5 + "KS" + "WRH", "each exit has its letter", b.js(LETTERS))
    check(b.js("document.querySelectorAll('#chart [data-m]').length") == 7 and
          b.js("document.querySelectorAll('#chart [data-i]').length") == 5, "marks and ioctls",)
    check(b.js("document.querySelectorAll('#chart .tick.bad').length") == 1, "the ioctl that failed looks like it")
    check(b.js(HEAD) == "S Exit 15 of vCPU 0: shutdown" or "shutdown" in b.js(HEAD), "where it went wrong is selected", b.js(HEAD))
    b.js("document.getElementById('chart').focus()")
    b.key("Home")
    check("Exit 1 of vCPU 0: io, in" in b.js(HEAD), "Home", b.js(HEAD))
    b.key("ArrowRight")
    b.key("ArrowRight")
    b.key("ArrowLeft")
    check("Exit 2 of vCPU 0: io, out" in b.js(HEAD), "arrows go from exit to exit", b.js(HEAD))
    text = b.js("document.getElementById('details').innerText")
    for want in ("out 0x3f8, 1 byte: 0x48", "48 \u201cH\u201d", "5.00 \u00b5s", "3.00 \u00b5s", "device/serial.c", "(lab 6)", "real mode", "0x1008",
                 "device/chardev.c"):
        check(want in text, f"its details: {want!r}", text)
    check(b.js("[...document.querySelectorAll('.regs .changed dt')].map(n => n.textContent).join()") == "rax,rip", "registers that changed")
    check(b.js("document.querySelector('#exits tr.chosen').dataset.n") == "2", "its row in the table")
    b.key("ArrowDown")
    check("of vCPU 1" in b.js(HEAD), "down to the other vCPU", b.js(HEAD))
    b.key("Escape")
    check("Nothing" in b.js(HEAD), "Escape")

    before = b.js(SHOWN)
    b.key("+")
    zoomed = b.js(SHOWN)
    check(zoomed != before, "+ zooms in", before, zoomed)
    b.key("ArrowRight", shift=True)
    check(b.js(SHOWN) != zoomed, "Shift and an arrow move")
    b.key("0")
    check(b.js(SHOWN) == before, "0 shows all")
    b.key("e")
    check("even steps" not in b.js(SHOWN) and b.js("document.getElementById('even').getAttribute('aria-pressed')") == "false",
          "E goes to true time")
    x, y = middle(b, "#chart")
    b.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
    wheel = b.js(SHOWN)
    check(wheel != before and "0 ns to" not in wheel, "the wheel zooms in", wheel)
    b.mouse("mousePressed", x, y, button="left", clickCount=1)
    b.mouse("mouseMoved", x - 150, y, button="left", buttons=1)
    b.mouse("mouseReleased", x - 150, y, button="left", clickCount=1)
    dragged = b.js(SHOWN)
    check(dragged != wheel and dragged.split(", ")[-1] == wheel.split(", ")[-1], "dragging moves and keeps the scale", wheel, dragged)
    b.click(*middle(b, "#all"))
    b.click(*middle(b, "#even"))
    check(b.js(SHOWN) == before, "the buttons do the same")
    b.click(*middle(b, "#chart g[data-e='0']"))
    check("Exit 1 of" in b.js(HEAD), "a click selects", b.js(HEAD))
    b.click(*middle(b, "#chart [data-i='0'] .hit"))
    check("KVM_CREATE_VM" in b.js(HEAD), "an ioctl too", b.js(HEAD))

    b.js("document.querySelector('input.filter[value=io-in]').click()")
    check("I" not in b.js(LETTERS) and b.js("document.querySelectorAll('#exits tbody tr:not([hidden])').length") == 10, "the filter")
    b.js("new Promise(done => setTimeout(done, 300))")
    fragment = b.js("location.hash")
    check("hide=io-in" in fragment and "scale=even" in fragment, "the address keeps the view", fragment)
    b.open(TMP / "two.trace.html", fragment)
    check("I" not in b.js(LETTERS) and "KVM_CREATE_VM" in b.js(HEAD), "and brings it back")
    b.open(TMP / "two.trace.html", "#scale=__proto__&from=NaN&to=zz&select=e99999&hide=constructor,io-out")
    check(not b.complaints() and "O" not in b.js(LETTERS), "an address that says nonsense does no harm")


def looks(b):
    """On paper, in the dark, on a phone: nothing wider than the screen, text that stands out."""
    b.open(TMP / "two.trace.html")
    for width in (1280, 800, 380):
        b.size(width)
        b.js("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        check(b.js("document.documentElement.scrollWidth") <= width, f"{width} wide", b.js("document.documentElement.scrollWidth"))
    b.size(1280)
    colours = "getComputedStyle(document.body).backgroundColor"
    b.media(prefers_color_scheme="light")
    light = b.js(colours)
    b.media(prefers_color_scheme="dark")
    check(b.js(colours) != light, "dark is dark")
    b.media(media="print")
    check(b.js("getComputedStyle(document.querySelector('.buttons')).display") == "none", "no buttons on paper")
    b.media()
    names = b.js("[...document.querySelectorAll('#time button, input')].every(n => (n.labels && n.labels.length) || n.textContent.trim())")
    check(names, "each button and box has a name")


def hostile(b):
    words = ["</script><script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>", "javascript:window.hit=1", "${window.hit = 1}",
             "__proto__", "constructor", "'-(window.hit=1)-'"]
    evil = Sample(words, words[0])
    for number, word in enumerate(words):
        evil.ioctl("vcpu", word, vcpu=0, word=word)
        evil.run(0, word)
        evil.add(k="forbidden", t=number, tid=1, what=word, detail=word)
        evil.add(k="end", t=number, why=word)
    b.open(page_of("evil.trace", evil.text()))
    b.js("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    b.js("document.getElementById('chart').focus()")
    for key in ("Home", "Enter", "End", "+", "ArrowLeft"):
        b.key(key)
    for what in ("[data-i]", "[data-m]"):
        b.js(f"document.querySelectorAll('#chart {what}').forEach(n => n.dispatchEvent(new PointerEvent('pointermove', {{bubbles: true}})))")
    check(b.js("window.hit") is None and not b.complaints(), "nothing of a hostile trace runs", b.complaints())
    check(b.js("document.querySelectorAll('img').length") == 0, "nor becomes a tag")
    b.js("(() => { const s = document.createElement('script'); s.textContent = 'window.hit = 2'; document.body.append(s); })()")
    check(b.js("window.hit") is None, "and the policy would stop it")


def big(b):
    huge = Sample()
    for number in range(8_000):
        huge.out(number % 2, 0x3F8, "41", rip=number, user=3000 + number % 7 * 1000)
    b.open(page_of("huge.trace", huge.text()))
    took = b.js("(() => { const t = performance.now(); for (let i = 0; i < 10; i++) document.getElementById('in').click(); return performance.now() - t; })()")
    check(took < 10_000 * int(os.environ["HV_STRETCH"]), f"ten zooms of a big trace in {took:.0f} ms")
    check(b.js("document.querySelectorAll('#chart *').length") < 8000, "what is drawn has a bound", b.js("document.querySelectorAll('#chart *').length"))
    check(not b.complaints(), "no complaint", b.complaints())


with labs_browser.Browser(TMP) as browser:
    ordinary(browser)
    looks(browser)
    hostile(browser)
    big(browser)
    for folder in os.environ.get("HV_SHOTS", "").split():  # to look at: HV_SHOTS=DIR
        browser.open(TMP / "two.trace.html")
        browser.screenshot(f"{folder}/view.png")

#!/usr/bin/env python3
# limit: 120
"""hvlab view: what the page holds, what it makes of damaged, hostile and huge traces. labs_view_browser.py looks at it
in a browser."""
import html.parser
import json
import os
import pathlib
import re
import subprocess
import sys

SRC, TMP = pathlib.Path(os.environ["SRC"]), pathlib.Path(os.environ["TMP"])
sys.path.insert(0, str(SRC / "labs"))
from kit import exits, view  # noqa: E402
from labs_trace_samples import Sample, two_vcpus  # noqa: E402

LIMIT = 100 * int(os.environ["HV_STRETCH"])  # seconds: a watchdog
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "\" onclick=\"alert(3)", "]]>-->", "&lt;",
           "\u202egnp.exe", "\ud800", "\u2028", "a" * 100_000]


def check(ok, text, *details):
    if not ok:
        print("FAILED:", text, *map(repr, details))
        sys.exit(1)
    print("ok  ", text)


def hvlab_view(*args):
    return subprocess.run([sys.executable, "-m", "kit.view", *map(str, args)], cwd=SRC / "labs", capture_output=True,
                          text=True, timeout=LIMIT, check=False)


def page_of(name, text, *args):
    path = TMP / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    done = hvlab_view(path, "-o", TMP / f"{name}.html", *args)
    check(done.returncode == 0, f"{name}: {done.stdout.strip()[-60:]}", done.stderr)
    return (TMP / f"{name}.html").read_text()


class Page(html.parser.HTMLParser):
    """Tags, attributes, and what stands in scripts and in text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text, self.open = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open == "script":
            self.scripts.append(data)
        elif self.open != "style":
            self.text += data

    def data(self):
        return json.loads(self.scripts[0])


# --- an ordinary one ----------------------------------------------------------------------------------------------------
text = page_of("two.trace", two_vcpus().text())
page = Page(text)
data = page.data()
check(len(data["exits"]) == 15 and len(data["lanes"]) == 2, "15 exits on 2 vCPUs")
first = data["exits"][0]
check(first["what"] == "in 0x3fd, 1 byte" and first["reply"] == "60", "an answer goes to the exit before it", first)
check([s["where"] for s in data["paths"][first["p"]]] ==
      ["KVM_RUN", "machine/smp.c", "machine/exit.c", "device/bus.c", "device/serial.c", "KVM_RUN"], "an in's path")
last = [e for e in data["exits"] if e["k"] == "shutdown"][0]
check([s["where"] for s in data["paths"][last["p"]]][-1] == "machine/machine.c", "a shutdown's path ends there")
check(data["exits"][0]["u"] == 3000 and data["exits"][0]["t1"] - data["exits"][0]["t0"] == 5000, "times")
check(last["u"] is None, "after the last exit nothing is known")
lost = [e for e in data["exits"] if e.get("a") == "0xd1000000"][0]
check(data["paths"][lost["p"]][4]["where"] == "no device", "where no device is")
check([lane["tids"] for lane in data["lanes"]] == [[101], [102]], "the thread of each vCPU")
check(data["kinds"]["io-out"]["letter"] == "O", "letters")
check(len({k.letter for k in exits.KINDS}) == len(exits.KINDS), "each kind has a letter of its own")
for want in ("KVM_SET_USER_MEMORY_REGION(", "guest_phys_addr: 0", "memory_size: 0x100000", "signal 10 to thread 101 (vCPU 0), inside",
             "memory at 0x1000 kept, 64 bytes", "thread 102 starts", "serial port, device/serial.c", "io, out"):
    check(want in page.text, f"in the page's text: {want}")
row = re.search(r'<tr data-kind="io-in">.*?</tr>', text, re.S)[0]
check(re.findall(r'<td class="num">(.*?)</td>', row) == ["5", "33.3 %", "5.00 \u00b5s", "3.00 \u00b5s", "3.00 \u00b5s"], "counts and means", row)
policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
check("default-src 'none'" in policy and "unsafe" not in policy, "a strict policy")
check(not any(k in a for _, a in page.tags for k in ("src", "href", "style", "onclick")), "nothing from elsewhere")
check(not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), "no address of the network")

cut = Sample()
cut.out(0, 0x3F8, "41")
cut.add(k="run", t=cut.now[0], d=500, tid=101, vcpu=0, immediate=0, reason=None)
page = Page(page_of("cut.trace", cut.text()))
data = page.data()
check([e["k"] for e in data["exits"]] == ["io-out", "inside"] and "1 exit on 1 vCPU" in page.text and data["lanes"][0]["exits"] == 1,
      "an entry from which the program never came back is no exit", data)

# --- hvrun's own trace -----------------------------------------------------------------------------------------------------
chrome = TMP / "hello.json"
subprocess.run([os.environ["HVRUN"], "--trace", chrome, f"{os.environ['GUESTS']}/hello.bin"], check=True, timeout=60,
               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
data = Page(page_of("hello.json", chrome.read_bytes())).data()
said = "".join(chr(int(e["value"], 16)) for e in data["exits"] if e.get("a") == "0x3f8")
check(said == "Hello from real mode!\n", "what hvrun --trace wrote, byte by byte", said)
check(data["exits"][-1]["k"] == "hlt" and data["exits"][3]["t0"] >= data["exits"][2]["t1"], "and in order")

# --- observe's own record --------------------------------------------------------------------------------------------
observe = pathlib.Path(os.environ["BUILD"], "labs/observe")
if observe.exists() and not os.environ["HV_SAN"]:
    subprocess.run([observe, "--no-sandbox", "--trace", TMP / "hello.trace", "--", os.environ["HVRUN"], "--sandbox", "off",
                    f"{os.environ['GUESTS']}/hello.bin"], check=True, timeout=LIMIT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    page = Page(page_of("hello.trace", (TMP / "hello.trace").read_bytes()))
    data = page.data()
    said = b"".join(bytes.fromhex(e["data"]) for e in data["exits"] if e.get("a") == "0x3f8")
    check(said == b"Hello from real mode!\n", "what observe recorded, byte by byte", said)
    check(all(len(e["r"].split()) == 18 and e["s"] is not None for e in data["exits"]), "with registers at every exit")
    check("could not be read" not in page.text, "each of its lines is known")
    check(any(i["n"] == "KVM_CREATE_VM" for i in data["ioctls"]) and any(m["m"] == "mmap" for m in data["marks"]), "and the rest")

# --- hostile ones --------------------------------------------------------------------------------------------------------
evil = Sample(HOSTILE, HOSTILE[0])
for number, word in enumerate(HOSTILE):
    evil.add(k="ioctl", t=number, d=1, tid=1, on=word, vcpu=0, name=word, **{"in": {word: word}}, out={"x": [word, {word: 1}]}, ret=-1)
    evil.add(k="forbidden", t=number, tid=1, what=word, detail=word)
    evil.add(k="dump", t=number, when=word, gpa=1, length=1)
    evil.run(0, word)
    evil.run(0, "io", io={"port": 1, "out": True, "size": 1, "count": 1, "data": word})
    evil.add(k="end", t=number, why=word)
text = page_of("evil.trace", evil.text())
page = Page(text)
check([t for t, _ in page.tags].count("script") == 2, "no script but ours and the data")
check(not any(t == "img" for t, _ in page.tags) and not any("onclick" in a for _, a in page.tags), "no tag, no attribute of theirs")
check("\u202e" not in text and "\u2028" not in text and "\\u202e" in page.text, "what turns text around is shown as an escape")
check(len(text) < 2_000_000, "long names are cut", len(text))
check(page.data()["exits"][0]["k"] == "other", "a reason that doesn't exist is another")

odd = Sample()
odd.run(0, "hlt")
for line in ('{"k":"run"}', '{"k":"run","t":-1,"d":1,"vcpu":0}', '{"k":"run","t":1e400,"d":1,"vcpu":0}', '[' * 100_000, "{}", "nonsense",
             '{"k":"run","t":1,"d":1,"vcpu":true}', '{"k":"run","t":1,"d":9007199254740993,"vcpu":0}', '{"k":["run"]}', '{"k":null}', "\0\0",
             '{"k":"run","t":NaN,"d":1,"vcpu":0}', '{"k":"ioctl","t":{},"name":[]}', '{"k":"signal"}', "7", '"k"', "[]",
             '{"k":"run","t":1,"d":1,"vcpu":0,"regs":7,"sregs":[],"io":3,"reason":{},"reply":[]}',
             '{"k":"run","t":' + "9" * 1000 + ',"d":1,"vcpu":0}', '{"k":"run","t":1,"d":1,"vcpu":99999999999}'):
    odd.lines.append(line)
odd.lines.append('{"k":"run","x":"' + "y" * 3_000_000 + '"}')
odd.run(0, "hlt")
page = Page(page_of("odd.trace", odd.text()))
check("could not be read" in page.text and len(page.data()["exits"]) >= 2, "damaged lines are counted, the others shown")
many = Sample()
for cpu in range(70):
    many.run(cpu, "hlt")
page = Page(page_of("many.trace", many.text()))
check(len(page.data()["lanes"]) == 64 and "beyond the 64th" in page.text, "too many vCPUs are left out, and it says so")

# --- a huge one -----------------------------------------------------------------------------------------------------------
huge = Sample()
for number in range(6_000):
    if number == 3_000:
        huge.run(0, "irq-window-open")
    huge.out(0, 0x3F8, "41", rip=number)
text = page_of("huge.trace", huge.text(), "--limit", 500)
page = Page(text)
data = page.data()
check(len(data["exits"]) <= 500 and len(text) < 1_500_000, "a huge trace is thinned", len(data["exits"]), len(text))
check("6,001 exits" in page.text and "are shown" in page.text, "and it says so")
check(data["exits"][0]["n"] == 1 and data["exits"][-1]["n"] == 6_001, "beginning and end are kept")
check(any(e["k"] == "irq-window-open" for e in data["exits"]), "what is rare is kept")
check(re.search(r'data-kind="io-out">.*?<td class="num">6,000</td>', text, re.S), "the counts are of all")
numbers = [e["n"] for e in data["exits"]]
check(numbers == sorted(set(numbers)), "in order, each once")
check(text.count("<tr data-n=") == len(numbers), "a row for each")

# --- none -----------------------------------------------------------------------------------------------------------------
for name, bytes_, status in (("empty", b"", 3), ("text", b"hello\n", 3), ("object", b"{\"a\":1}", 3), ("cut", b'{"traceEvents":[{"ph":', 3),
                             ("noise", bytes(range(256)) * 50, 3), ("deep", b"[" * 200_000, 3), ("notexits", b'{"traceEvents":[{"ph":"B"}]}', 3)):
    path = TMP / name
    path.write_bytes(bytes_)
    done = hvlab_view(path)
    check(done.returncode == status and done.stderr.startswith("hvlab view: ") and "Traceback" not in done.stderr and
          not (TMP / f"{name}.html").exists(), f"{name} is refused: {done.stderr.strip()[-70:]}", done.returncode)
page = Page(page_of("unrun.trace", '{"k":"start","argv":[],"backend":"x"}\n'))
check("has no exit" in page.text, "a trace without a run is shown, and says so")
done = hvlab_view(TMP / "nowhere")
check(done.returncode == 1 and "No such file" in done.stderr, "no file")
for path in ("/dev/zero", TMP):
    check(hvlab_view(path).returncode == 3, f"{path} is no file")
done = hvlab_view(TMP / "two.trace", "-o", TMP / "no/such/folder.html")
check(done.returncode == 1 and "Traceback" not in done.stderr, "no folder", done.stderr)
check(hvlab_view(TMP / "two.trace", "--limit", "7").returncode == 2 and hvlab_view().returncode == 2, "wrong usage")
check(hvlab_view(TMP / "two.trace", "-o", "-").stdout.startswith("<!DOCTYPE html>"), "to standard output")
check(not list(TMP.glob(".view-*")), "no half-written file is left")

# --- the devices are those of docs/devices.md ---------------------------------------------------------------------------
ours = {(address, d.file) for d in exits.DEVICES for address in range(d.first, d.last + 1)}
theirs = set()
for line in (SRC / "docs/devices.md").read_text().splitlines():
    cells = [c.strip() for c in line.split("|")]
    if len(cells) == 7 and cells[4].endswith(".c"):
        for first, last in re.findall(r"0x([0-9a-f]+)(?:-0x([0-9a-f]+))?", cells[2]):
            start = int(first, 16)
            end = int(last, 16) if last else start + (0xFFF if start > 0xFFFF else 0)
            theirs |= {(address, cells[4]) for address in range(start, end + 1)}
windows = re.search(r"^Window n, of (\d+), is at 0x([0-9a-f]+) \+ n \* 0x1000 and 0x([0-9a-f]+) bytes long", (SRC / "docs/devices.md").read_text(), re.M)
count, base, length = int(windows[1]), int(windows[2], 16), int(windows[3], 16)
theirs |= {(base + n * 0x1000 + i, "virtio/mmio.c") for n in range(count) for i in range(length)}
check(ours == theirs and len(ours) > 8, "the devices are those of docs/devices.md", ours ^ theirs)
for name in re.findall(r'\[KVM_EXIT_\w+\] = "([a-z-]+)"', (SRC / "core/kvm/vcpu.c").read_text()):
    kind = exits.kind_of(name)
    check(kind.key != "failed" and exits.path_of(kind, None, True)[0].where == "KVM_RUN", f"{name}: {kind.letter}")

# --- letters can be read on their colours, in the light and in the dark (WCAG 2.1, 1.4.3) ------------------------------
def luminance(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


style = (SRC / "labs/kit/view.css").read_text()
themes = [dict(re.findall(r"--([\w-]+): (#\w{6})\b", block)) for block in re.findall(r":root \{(.*?)\n\s*\}", style, re.S)[:2]]
for theme in (themes[0], {**themes[0], **themes[1]}):
    for kind in exits.KINDS:
        dark_text = re.search(rf"^\.k-{kind.key} \{{[^}}]*color: #111", style, re.M)
        check(contrast(theme[f"k-{kind.key}"], "#111111" if dark_text else "#ffffff") >= 4.5, f"{kind.letter} can be read", theme[f"k-{kind.key}"])
    for text, ground in (("ink", "paper"), ("quiet", "paper"), ("quiet", "lane"), ("accent", "paper")):
        check(contrast(theme[text], theme[ground]) >= 4.5, f"{text} on {ground}")

"""The page of hvlab view: one HTML text with its style, its script and its data inside.

The page's Content-Security-Policy lets nothing in but this style and this script, by their hashes; the data is a JSON
block that no browser runs. Every text of the trace is escaped here, and the script puts texts into the page as text
only. Tables of everything that the time line shows are written here too, so that the page can be read without a
script, by a screen reader, and on paper.
"""
from __future__ import annotations

import base64
import hashlib
import html
import json
import pathlib

from . import exits as exit_kinds

HERE = pathlib.Path(__file__).resolve().parent
ROWS_MAX = 1000  # of the table of exits; the time line has more
PLACES_SHOWN = 20


def escape(value) -> str:
    return html.escape(str(value), quote=True)


def duration(ns) -> str:
    """12.3 us; a dash where it isn't known."""
    if ns is None:
        return "-"
    for unit, size in (("s", 10**9), ("ms", 10**6), ("\u00b5s", 1000)):
        if ns >= size:
            digits = 2 if ns < 10 * size else 1 if ns < 100 * size else 0
            return f"{ns / size:.{digits}f} {unit}"
    return f"{ns} ns"


def badge(kind: exit_kinds.Kind) -> str:
    return f'<span class="badge k-{kind.key}" aria-hidden="true">{escape(kind.letter)}</span>'


def table(caption: str, heads: list[str], rows: list[str], identity: str = "") -> str:
    """rows are ready-made <tr>; a head that begins with # is of numbers."""
    cells = "".join(f'<th scope="col"{" class=num" if h.startswith("#") else ""}>{escape(h.lstrip("#"))}</th>' for h in heads)
    name = f' id="{identity}"' if identity else ""
    return (f'<div class="scroll"><table{name}><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>\n'
            f'<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>")


def num(value) -> str:
    return f'<td class="num">{escape(value)}</td>'


def reasons_table(model) -> str:
    """Counts and mean times of all exits, the most frequent kind first; its boxes are the filter."""
    rows, whole = [], model.exits.count or 1
    for key, total in sorted(model.kinds.items(), key=lambda e: -e[1].count):
        kind, row = exit_kinds.BY_KEY[key], total.row()
        rows.append(
            f'<tr data-kind="{key}"><td><label><input type="checkbox" class="filter" value="{key}" checked> {badge(kind)} '
            f'<b>{escape(kind.name)}</b></label></td><td>{escape(kind.meaning)}</td>{num(format(row["count"], ","))}'
            f'{num(format(100 * row["count"] / whole, ".1f") + " %")}{num(duration(row["guest"]))}{num(duration(row["user"]))}'
            f'{num(duration(row["longest"]))}</tr>')
    return table("Exits by reason; a box that is cleared hides its exits",
                 ["Reason", "What it is", "#Count", "#Share", "#In the guest before, mean",
                  "#In user space after, mean", "#Longest in user space"], rows, "reasons")


def places_table(model) -> str:
    rows = []
    places = [(*place, count) for place, count in model.places.items() if place[1] is not None]
    for key, address, count in sorted(places, key=lambda e: -e[2])[:PLACES_SHOWN]:
        kind, mmio = exit_kinds.BY_KEY[key], key.startswith("mmio")
        device = exit_kinds.device_at(address, mmio)
        rows.append(f'<tr><td>{badge(kind)} {escape(kind.name)}</td><td class="mono">{address:#x}</td>'
                    f'<td>{escape(device.name + ", device/" + device.file if device else "no device of hvkit")}</td>'
                    f'{num(format(count, ","))}</tr>')
    if not rows:
        return ""
    return table("Where the guest went", ["Reason", "Port or address", "Device", "#Count"], rows, "places")


def path_text(path) -> str:
    return " \u2192 ".join(step.where for step in path)


def exit_rows(model, items, paths) -> list[str]:
    rows = []
    for number, item in shown_rows(items):
        kind = exit_kinds.BY_KEY[item["k"]]
        reply = f" (answer {escape(item['reply'])})" if item.get("reply") else ""
        rows.append(
            f'<tr data-n="{number}" data-kind="{kind.key}"><td class="num">{number}</td>{num(duration(item["t1"]))}'
            f'<td>{escape(model.lanes[item["v"]]["name"])}</td><td>{badge(kind)} {escape(kind.name)}</td><td class="mono">{escape(item["what"])}{reply}</td>'
            f'{num(duration(None if item.get("t0") is None else item["t1"] - item["t0"]))}{num(duration(item["u"]))}'
            f'<td>{escape(path_text(paths[item["p"]]))}</td></tr>')
    return rows


def shown_rows(items: list) -> list:
    return items if len(items) <= ROWS_MAX else items[:ROWS_MAX // 2] + items[-ROWS_MAX // 2:]


def other_rows(model, ioctls, marks) -> list[str]:
    """ioctls, signals, threads and the rest, in time."""
    rows = []
    for _, i in ioctls:
        whom = i["on"] if i["v"] is None else model.lanes[i["v"]]["name"]
        text = f'{i["n"]}({i.get("in", "")})' + (f" \u2192 {i['out']}" if i.get("out") else "")
        rows.append((i["t"], f'<tr>{num(duration(i["t"]))}<td>{escape(whom)}</td><td>ioctl</td>'
                     f'<td class="mono">{escape(text)}</td>{num(i["ret"])}{num(duration(i["d"]))}</tr>'))
    for _, m in marks:
        whom = model.lanes[m["v"]]["name"] if m["v"] is not None else f"thread {m['tid']}" if m["tid"] is not None else ""
        rows.append((m["t"], f'<tr>{num(duration(m["t"]))}<td>{escape(whom)}</td><td>{escape(m["m"])}</td>'
                     f'<td>{escape(m["text"])}</td><td></td><td></td></tr>'))
    return [row for _, row in shown_rows(sorted(rows, key=lambda r: r[0]))]


def data_block(value) -> str:
    """JSON that can't end its own block, whatever it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_of(model, items, ioctls, marks, paths) -> dict:
    used = [exit_kinds.BY_KEY[k] for k in model.kinds]
    return {
        "end": max(model.end, 1),
        "lanes": [model.lanes[v] for v in sorted(model.lanes)],
        "kinds": {k.key: {"letter": k.letter, "name": k.name, "meaning": k.meaning} for k in used},
        "paths": [[{"where": s.where, "what": s.what, "lab": s.lab} for s in p] for p in paths],
        "exits": [dict(item, n=n) for n, item in items],
        "ioctls": [item for _, item in ioctls],
        "marks": [item for _, item in marks],
        "sregs": model.sregs,
    }


def find_paths(items) -> list:
    """Each different path once; an exit keeps its number."""
    paths, index = [], {}
    for _, item in items:
        address = int(item["a"], 16) if "a" in item else None
        path = tuple(exit_kinds.path_of(exit_kinds.BY_KEY[item["k"]], address, bool(item.get("again"))))
        if path not in index:
            index[path] = len(paths)
            paths.append(path)
        item["p"] = index[path]
    return paths


def policy_hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def asset(name: str) -> str:
    """A style or a script with a blank line around it: what is hashed is exactly what stands between the tags."""
    text = (HERE / name).read_text(encoding="utf-8")
    if "</" in text.replace("</svg", ""):
        raise ValueError(f"{name} must not hold a closing tag")
    return "\n" + text


KEYS = (
    ("wheel, + and -", "zoom"), ("drag, Shift + arrows", "move"), ("Shift + drag", "zoom to what was marked"),
    ("arrow left, right", "the exit before, after, on this vCPU"), ("arrow up, down", "the vCPU above, below"),
    ("Home, End", "first, last exit"), ("Enter", "zoom to the exit"), ("0", "show all"), ("E", "even steps or true time"),
    ("Esc", "select nothing"),
)


def render(model) -> str:
    """The whole page."""
    items, ioctls, marks = model.exits.items(), model.ioctls.items(), model.marks.items()
    paths = find_paths(items)
    style, script = asset("view.css"), asset("view.js")
    about = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in model.about)
    count = model.returned
    numbers = (f"{count:,} exit{'' if count == 1 else 's'} on {len(model.lanes)} vCPU{'' if len(model.lanes) == 1 else 's'}, "
               f"{model.ioctls.count:,} other ioctls, {duration(model.end)}")
    notes = "".join(f"<p>{escape(n)}</p>" for n in model.notes)
    threads = [f'<tr><td class="num">{tid}</td><td>{escape(role or "other")}</td></tr>' for tid, role in sorted(model.threads.items())]
    keys = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(w)}</dd></div>" for k, w in KEYS)
    cut = "" if len(items) <= ROWS_MAX else f" (the first and the last {ROWS_MAX // 2})"
    exit_table = table(f"Exits in the order of the record{cut}",
                       ["#No.", "#When", "vCPU", "Reason", "What", "#In the guest before", "#In user space after", "Path"],
                       exit_rows(model, items, paths), "exits")
    other_table = table("Everything else, in time", ["#When", "Whose", "What", "Details", "#Result", "#Took"],
                        other_rows(model, ioctls, marks), "others")
    thread_table = table("Threads", ["#Thread", "Role"], threads, "threads") if threads else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src {policy_hash(style)}; script-src {policy_hash(script)}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>Exits of {escape(model.title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>Exits of <span class="mono">{escape(model.title)}</span></h1>
<p>{escape(numbers)}</p>
<dl class="about">{about}</dl>
</header>
<main>
{f'<section class="notes" aria-label="Notes">{notes}</section>' if notes else ''}
<section id="time" aria-label="Time line" hidden>
<div class="bar">
<div class="buttons">
<button type="button" id="in" title="zoom in (+)">Zoom in</button>
<button type="button" id="out" title="zoom out (-)">Zoom out</button>
<button type="button" id="all" title="show all (0)">Show all</button>
<button type="button" id="even" aria-pressed="false" title="every event takes the same room (E)">Even steps</button>
<button type="button" id="before" title="the exit before (arrow left)">&#8592; Exit</button>
<button type="button" id="after" title="the exit after (arrow right)">Exit &#8594;</button>
</div>
<p id="range" aria-live="off"></p>
</div>
<div id="chart" tabindex="0" role="application" aria-label="Time line of each vCPU. Arrow keys go from exit to exit; the same is in the table of exits below." aria-describedby="keys"></div>
<p id="tip" aria-hidden="true">Hover over a mark for what it is; select it for the details.</p>
<ul class="legend" aria-label="Legend">
<li><span class="sample guest"></span> in the guest</li>
<li><span class="sample user"></span> in user space, in its exit's colour</li>
<li><span class="badge k-other">12</span> that many exits; select to zoom in</li>
<li><svg width="12" height="12" aria-hidden="true"><path class="signal" d="M1 1h10l-5 9z"/></svg> signal to the vCPU</li>
<li><svg width="12" height="12" aria-hidden="true"><path class="tick" d="M6 0v12"/></svg> ioctl</li>
<li><svg width="12" height="12" aria-hidden="true"><path class="tick bad" d="M6 0v12M2 8l8 -6"/></svg> ioctl that failed</li>
<li><svg width="12" height="12" aria-hidden="true"><path class="mark" d="M6 1l5 5-5 5-5-5z"/></svg> thread, mapping, end</li>
</ul>
<details class="keys"><summary>Mouse and keys</summary><dl id="keys">{keys}</dl></details>
</section>
<section id="details" aria-label="What is selected" aria-live="polite" hidden><h2>Nothing is selected</h2></section>
<section aria-label="Counts"><h2>Counts</h2>
{reasons_table(model)}
{places_table(model)}
{thread_table}
</section>
<section aria-label="Tables"><h2>The same as tables</h2>
<details{' open' if len(items) <= 60 else ''}><summary>All exits</summary>
{exit_table}
</details>
<details><summary>ioctls, signals, threads, memory kept</summary>
{other_table}
</details>
</section>
<noscript><p>The time line needs a script; the tables hold the same.</p></noscript>
</main>
<script type="application/json" id="trace">{data_block(data_of(model, items, ioctls, marks, paths))}</script>
<script>{script}</script>
</body>
</html>
"""

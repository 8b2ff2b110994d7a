#!/usr/bin/env python3
"""Every link in the documentation leads somewhere: to a file that is there, to a heading that it has.

Links to the outside are looked at for their form only; no network is used. Without arguments it reads the Markdown of
the repository; with --site it reads the pages that `make docs` made.

    check_doc_links.py [--site DIR | --root DIR]
"""
import argparse
import html.parser
import os
import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
INLINE = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\)[^()\s]*)?)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[([^\]]+)\]:\s*<?(\S+?)>?(?:\s+\"[^\"]*\")?\s*$", re.M)


def without_code(text: str) -> str:
    """Fences and code between backquotes taken out, line numbers kept."""
    out, fence = [], None
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            out.append("")
        elif mark:
            fence = mark[1]
            out.append("")
        else:
            out.append(line)
    return re.sub(r"(`+)(?!`)(?:(?!\n\n).)*?(?<!`)\1(?!`)", lambda m: re.sub(r"[^\n]", "x", m[0]), "\n".join(out), flags=re.S)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and pandoc's gfm make it."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[`*]", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path: pathlib.Path, known: dict = {}) -> set[str]:  # noqa: B006 - a cache
    """The anchors of a Markdown file."""
    if path not in known:
        found, count = set(), {}
        plain = without_code(path.read_text(encoding="utf-8", errors="replace"))
        original = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(plain.splitlines()):
            if re.match(r"#{1,6} ", line):
                name = slug(re.sub(r"^#+ | #+\s*$", "", original[number]))
                again = count.get(name, 0)
                count[name] = again + 1
                found.add(f"{name}-{again}" if again else name)
        found |= set(re.findall(r"<\w+[^>]*\b(?:id|name)=\"([^\"]+)\"", plain))
        known[path] = found
    return known[path]


def bad_outside(target: str) -> str | None:
    """What is wrong with the form of a link that leaves the repository."""
    parts = urllib.parse.urlsplit(target)
    if parts.scheme == "mailto":
        return None if re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", parts.path) else "no address"
    if parts.scheme not in ("http", "https"):
        return f"{parts.scheme}: is no scheme for a document"
    if not re.fullmatch(r"[\w.-]+\.\w+(:\d+)?", parts.netloc) or "//" in parts.path:
        return "a malformed address"
    return None


def markdown_files(root: pathlib.Path):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "build")) and f not in ("seeds", "__pycache__"))
        for name in sorted(names):
            if name.endswith(".md"):
                yield pathlib.Path(folder, name)


def check_markdown(root: pathlib.Path) -> tuple[list[str], int]:
    bad, count = [], 0
    for path in markdown_files(root):
        text = without_code(path.read_text(encoding="utf-8", errors="replace"))
        name = path.relative_to(root)
        for found in [(m.start(), m[1]) for m in INLINE.finditer(text)] + [(m.start(), m[2]) for m in REFERENCE.finditer(text)]:
            count += 1
            line = text.count("\n", 0, found[0]) + 1
            if why := bad_target(found[1], path, root):
                bad.append(f"{name}:{line}: {found[1]}: {why}")
    return bad, count


def bad_target(target: str, path: pathlib.Path, root: pathlib.Path) -> str | None:
    if re.match(r"[A-Za-z][\w+.-]*:", target):
        return bad_outside(target)
    where, _, anchor = target.partition("#")
    file = (path.parent / urllib.parse.unquote(where)).resolve() if where else path
    if target.startswith("/") or not file.is_relative_to(root):
        return "leads out of the repository"
    if not file.exists():
        return "is not there"
    if anchor and file.suffix == ".md" and urllib.parse.unquote(anchor) not in anchors(file):
        return f"{file.name} has no heading #{anchor}"
    return None


class Html(html.parser.HTMLParser):
    """The links and ids of a page."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.links, self.ids, self.wrong = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for key in ("href", "src"):
            if key in attributes:
                self.links.append(attributes[key] or "")
        if tag in ("script", "iframe", "object", "embed"):
            self.wrong.append(f"<{tag}> has no place here")
        if tag == "img" and not (attributes.get("alt") or "").strip():
            self.wrong.append(f"the picture {attributes.get('src')} has no text")


def check_site(site: pathlib.Path) -> tuple[list[str], int]:
    pages = {path: Html(path) for path in sorted(site.rglob("*.html"))}
    bad, count = [] if pages else [f"{site} has no page"], 0
    for path, page in pages.items():
        name = path.relative_to(site)
        bad += [f"{name}: {text}" for text in page.wrong]
        bad += [f"{name}: the id {i} stands there twice" for i in sorted({i for i in page.ids if page.ids.count(i) > 1})]
        for target in page.links:
            count += 1
            if re.match(r"[A-Za-z][\w+.-]*:", target):
                why = bad_outside(target)
            else:
                where, _, anchor = target.partition("#")
                file = (path.parent / urllib.parse.unquote(where)).resolve() if where else path
                anchor = urllib.parse.unquote(anchor)
                if not file.is_relative_to(site) or not file.is_file():
                    why = "is not there"
                else:
                    why = None if not anchor or file not in pages or anchor in pages[file].ids else f"no anchor #{anchor}"
            if why:
                bad.append(f"{name}: {target}: {why}")
    return bad, count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=pathlib.Path)
    parser.add_argument("--root", type=pathlib.Path, default=ROOT)
    args = parser.parse_args()
    bad, count = check_site(args.site.resolve()) if args.site else check_markdown(args.root.resolve())
    print("\n".join(bad) if bad else f"{count} links lead somewhere")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

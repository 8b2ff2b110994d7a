#!/usr/bin/env python3
"""Tells which submissions of a lab resemble each other more than the lab explains. Evidence for a talk, never a verdict.

The method is winnowing (Schleimer, Wilkerson, Aiken: "Winnowing: Local Algorithms for Document Fingerprinting", SIGMOD
2003): a file becomes tokens, each run of K tokens a hash, and of each window of W hashes the least is kept. Two files
that share K + W - 1 tokens in a row share a fingerprint, wherever in the file that is. Comments and layout are no
tokens; a name is itself only when the course gave it (it stands in the starter or the headers, so nobody can rename it)
or when it is all capitals; every other name is the same token. What the starter holds doesn't count, and what many
submissions share doesn't either.

  similar.py --lab 4 SUBMISSION...          archives of hvlab submit, or folders with core/... in them
"""
import argparse
import collections
import hashlib
import html
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kit import submit  # noqa: E402
from kit.report import clean, replace_file  # noqa: E402

K = 12  # tokens of a hash: shorter runs are anyone's
W = 6  # hashes of a window: runs of K + W - 1 tokens are always found
COMMON = 0.4  # of all submissions (of eight at least): what so many share was told in class
TOKEN = re.compile(r"""
    (?P<gap>\s+|//[^\n]*|/\*.*?\*/|/\*.*\Z|\\\n)
  | (?P<string>L?"(?:\\.|[^"\\\n])*")
  | (?P<char>L?'(?:\\.|[^'\\\n])*')
  | (?P<number>\.?[0-9](?:[eEpP][+-]|[0-9A-Za-z_.])*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark>->|\+\+|--|<<=|>>=|<<|>>|[<>=!]=|&&|\|\||[-+*/%&|^]=|\.\.\.|.)
""", re.X | re.S)
KEYWORDS = frozenset("""auto break case char const continue default do double else enum extern float for goto if inline
    int long register restrict return short signed sizeof static struct switch typedef union unsigned void volatile
    while _Bool bool true false NULL uint8_t uint16_t uint32_t uint64_t int8_t int16_t int32_t int64_t size_t
    """.split())


def number_token(text):
    """1U, 0x1 and 1 are the same; a number is hard to change without changing what the program does."""
    text = re.sub("[uUlL]+$", "", text)
    try:
        return str(int(text, 0))
    except ValueError:
        return text


def tokens(text, given):
    """[(token, line)] of a C text. given: names that the course gave."""
    found, line = [], 1
    for match in TOKEN.finditer(text):
        kind, word = match.lastgroup, match[0]
        if kind == "name":
            keep = word in KEYWORDS or word in given or (word.isupper() and len(word) > 3)
            found.append((word if keep else "v", line))
        elif kind in ("string", "char"):
            found.append((kind, line))
        elif kind == "number":
            found.append((number_token(word), line))
        elif kind == "mark" and word not in "{}":  # braces around one statement come and go
            found.append((word, line))
        line += word.count("\n")
    return found


def names(text):
    return {m[0] for m in TOKEN.finditer(text) if m.lastgroup == "name"}


def hashes(words):
    """One 64-bit hash for each run of K tokens: [(hash, first line, last line)]."""
    return [(int.from_bytes(hashlib.blake2b("\0".join(w for w, _ in words[i:i + K]).encode(), digest_size=8).digest(),
                            "big"), words[i][1], words[i + K - 1][1]) for i in range(len(words) - K + 1)]


def winnow(found):
    """{hash: [(first line, last line), ...]}: the least of each window, the rightmost of equals, each once."""
    kept, last = {}, -1
    for start in range(max(1, len(found) - W + 1)) if found else ():
        window = range(start, min(start + W, len(found)))
        best = min(window, key=lambda i: (found[i][0], -i))
        if best != last:
            kept.setdefault(found[best][0], []).append(found[best][1:])
            last = best
    return kept


class Work:
    """One submission: who, its files' texts, and where its fingerprints are: {hash: [(file, first, last), ...]}."""

    def __init__(self, name, texts, starter, given):
        self.name, self.texts = name, texts
        self.prints = {}
        for path, text in sorted(texts.items()):
            old = {h for h, _, _ in hashes(tokens(starter.get(path, ""), given))}
            new = [h for h in hashes(tokens(text, given)) if h[0] not in old]
            for value, places in winnow(new).items():
                self.prints.setdefault(value, []).extend((path, *place) for place in places)


def common_prints(works):
    """Fingerprints that too many share to tell anything."""
    if len(works) < 8:
        return set()
    count = collections.Counter(value for work in works for value in work.prints)
    return {value for value, n in count.items() if n > COMMON * len(works)}


def spans(work, shared):
    """{file: [(first, last), ...]}: the lines of work that shared fingerprints cover, joined where they touch."""
    lines = collections.defaultdict(set)
    for value in shared:
        for path, first, last in work.prints[value]:
            lines[path].update(range(first, last + 1))
    joined = {}
    for path, wanted in sorted(lines.items()):
        runs = joined.setdefault(path, [])
        for line in sorted(wanted):
            if runs and line <= runs[-1][1] + 1:
                runs[-1][1] = line
            else:
                runs.append([line, line])
    return joined


def compare(works):
    """Pairs, the most alike first. similarity: of the smaller one's fingerprints, how many the other has."""
    ignored = common_prints(works)
    sets = [set(work.prints) - ignored for work in works]
    pairs = []
    for i, a in enumerate(works):
        for j in range(i + 1, len(works)):
            shared = sets[i] & sets[j]
            least = min(len(sets[i]), len(sets[j]))
            if shared:
                pairs.append({"a": a.name, "b": works[j].name, "similarity": round(len(shared) / least, 3),
                              "shared": len(shared), "lines_a": spans(a, shared), "lines_b": spans(works[j], shared)})
    return sorted(pairs, key=lambda p: (-p["similarity"], -p["shared"], p["a"], p["b"]))


# --- reading ------------------------------------------------------------------------------------------------------------
def read_folder(folder, files):
    """{file: text} of a folder that holds core/...; links are not followed."""
    texts = {}
    for name in files:
        path = folder / name
        if path.is_file() and not any(p.is_symlink() for p in (path, *path.parents) if folder in p.parents):
            texts[name] = path.read_bytes()[:submit.FILE_LIMIT].decode("utf-8", "replace")
    return texts


def read_submission(path, number, files):
    """(name, {file: text}) of an archive or a folder. Raises OSError, submit.Unsafe or submit.Damaged."""
    if path.is_dir():
        return path.name, read_folder(path, files)
    manifest, found = submit.read(path, number, files)
    return manifest["user"], {name: data.decode("utf-8", "replace") for name, data in found.items()}


def read_all(paths, number, files):
    """([(name, texts), ...], [sentence, ...]): what could be read, and what could not."""
    found, lost = [], []
    for path in paths:
        try:
            name, texts = read_submission(path, number, files)
        except (OSError, submit.Unsafe, submit.Damaged) as e:
            lost.append(f"{path}: {getattr(e, 'strerror', None) or e}")
            continue
        if texts:
            found.append((clean(name), texts))
        else:
            lost.append(f"{path}: it holds none of the lab's files")
    seen = collections.Counter()
    for i, (name, texts) in enumerate(found):
        seen[name] += 1
        if seen[name] > 1:
            found[i] = (f"{name} ({seen[name]})", texts)
    return found, lost


def vocabulary(root):
    """Names that the course gave: those of the headers."""
    return set().union(*(names(p.read_text(errors="replace")) for p in Path(root).glob("core/**/*.h")))


# --- reports ------------------------------------------------------------------------------------------------------------
STYLE = """body{font:15px/1.45 sans-serif;margin:1.5em;color:#111;background:#fff}table{border-collapse:collapse}
td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}.pair{display:flex;gap:1em}
.side{flex:1;min-width:0;overflow:auto;border:1px solid #ccc}pre{margin:0;font-size:12px}
.hit{background:#ffe9a8}.hit::before{content:"\\25b6"}.no::before{content:"\\a0\\a0"}summary{cursor:pointer;margin:.6em 0}"""


def html_side(work, runs):
    parts = []
    for path, text in sorted(work.texts.items()):
        hit = {n for first, last in runs.get(path, ()) for n in range(first, last + 1)}
        lines = "".join(f'<span class="{"hit" if n in hit else "no"}">{n:4} {html.escape(clean(line))}\n</span>'
                        for n, line in enumerate(text.splitlines(), 1))
        parts.append(f"<h4>{html.escape(work.name)}: {html.escape(path)}</h4><pre>{lines}</pre>")
    return f'<div class="side">{"".join(parts)}</div>'


def as_html(number, works, pairs, lost, shown):
    by_name = {work.name: work for work in works}
    row = "<tr><td>{similarity:.0%}</td><td>{shared}</td><td>{a}</td><td>{b}</td></tr>"
    rows = "".join(row.format(**dict(p, a=html.escape(p["a"]), b=html.escape(p["b"]))) for p in pairs)
    detail = "".join(
        f"<details><summary>{html.escape(p['a'])} and {html.escape(p['b'])}: {p['similarity']:.0%}</summary>"
        f'<div class="pair">{html_side(by_name[p["a"]], p["lines_a"])}{html_side(by_name[p["b"]], p["lines_b"])}</div>'
        "</details>" for p in pairs[:shown])
    gone = "".join(f"<li>{html.escape(clean(x))}</li>" for x in lost)
    return (f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Lab {number}: similar submissions</title>'
            f"<style>{STYLE}</style><h1>Lab {number}: similar submissions</h1>"
            f"<p>{len(works)} submissions. A share is of the smaller one's fingerprints, the starter left out. It is a "
            "reason to look, not a finding: short tasks have few right answers.</p>"
            f"<table><tr><th>share</th><th>fingerprints</th><th></th><th></th></tr>{rows}</table>"
            + (f"<h2>Not read</h2><ul>{gone}</ul>" if lost else "") + f"<h2>Side by side</h2>{detail}</html>\n")


def lab_files(root, number):
    """The lab's files, from its lab.ini."""
    import configparser
    ini = configparser.ConfigParser(inline_comment_prefixes=(";",), interpolation=None)
    if not ini.read(root / f"labs/lab{number:02d}/lab.ini", encoding="utf-8"):
        raise OSError(2, f"there is no lab {number} in {root}")
    return ini["lab"]["files"].split()


def starters(root, folder, files):
    """{file: text} of the starters: of folder, of the staff's tree, or in the repository cut from the solutions."""
    folder = Path(folder) if folder else root / "starters"
    if folder.is_dir():
        return read_folder(folder, files)
    from kit import cut
    return {name: cut.cut((root / name).read_text(), name=name) for name in files}


def main(args=None):
    here = Path(__file__).resolve().parent.parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION")
    parser.add_argument("--lab", type=int, required=True, metavar="N")
    parser.add_argument("--known", action="append", type=Path, default=[], metavar="SUBMISSION",
                        help="something to compare with beside them: last year's, a public solution")
    parser.add_argument("--tree", type=Path, default=here, help="the staff's tree (this one)")
    parser.add_argument("--starter", metavar="FOLDER", help="where the starters are (starters/ of the staff's tree)")
    parser.add_argument("--files", nargs="+", help="the files to compare, instead of the lab's")
    parser.add_argument("--least", type=float, default=0.3, metavar="SHARE", help="tell pairs from this share on (0.3)")
    parser.add_argument("--html", metavar="FILE", help="write a page with both texts side by side")
    parser.add_argument("--json", metavar="FILE", help="write the pairs with their lines ('-': standard output)")
    given = parser.parse_args(args)
    try:
        files = given.files or lab_files(given.tree, given.lab)
        starter = starters(given.tree, given.starter, files)
    except OSError as e:
        print(f"similar.py: {e.strerror}", file=sys.stderr)
        return 1
    found, lost = read_all(given.submissions + given.known, given.lab, files)
    words = vocabulary(given.tree).union(*(names(text) for text in starter.values()))
    works = [Work(name, texts, starter, words) for name, texts in found]
    pairs = [p for p in compare(works) if p["similarity"] >= given.least]
    for line in lost:
        print(f"similar.py: {clean(line)}", file=sys.stderr)
    if given.json:
        text = json.dumps({"lab": given.lab, "submissions": [w.name for w in works], "not_read": lost, "pairs": pairs},
                          indent=1) + "\n"
        sys.stdout.write(text) if given.json == "-" else replace_file(given.json, text)
    if given.html:
        replace_file(given.html, as_html(given.lab, works, pairs, lost, 50))
    if given.json != "-":
        for pair in pairs:
            print(f"{pair['similarity']:4.0%}  {pair['shared']:4} fingerprints  {pair['a']}  {pair['b']}")
        print(f"{len(works)} submissions, {len(pairs)} pairs from {given.least:.0%} on")
    return 3 if lost else 0


if __name__ == "__main__":
    sys.exit(main())

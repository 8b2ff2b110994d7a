#!/usr/bin/env python3
"""The similarity report: disguised copies are found, independent solutions of the same task aren't, starters don't count."""
# kvm: none
import re
import tarfile

from labs_staff_lib import *

from kit import submit

STARTER = """/* A bus: ranges of ports and who answers there. */
#include "device/bus.h"
#include <errno.h>
struct bus { struct range { uint64_t first, size; const struct ops *ops; void *device; } ranges[64]; size_t count; };
/* Registers a range. */
int hv_bus_add(struct bus *b, uint64_t first, uint64_t size, const struct ops *ops, void *device)
{
	/* TODO */
	return -ENOSYS;
}
/* Finds who answers. */
int hv_bus_find(struct bus *b, uint64_t at, size_t length)
{
	/* TODO */
	return -ENOSYS;
}
int hv_bus_write(struct bus *b, uint64_t at, const void *data, size_t length)
{
	/* TODO */
	return -ENOSYS;
}
"""
HEAD = STARTER[:STARTER.index("/* Registers")]

# Sorted ranges, binary search.
ADA = HEAD + """
static bool overlaps(const struct range *r, uint64_t first, uint64_t size)
{
	return first < r->first + r->size && r->first < first + size;
}
int hv_bus_add(struct bus *b, uint64_t first, uint64_t size, const struct ops *ops, void *device)
{
	size_t place = 0;
	if (size == 0 || first + size < first)
		return -EINVAL;
	if (b->count == 64)
		return -ENOSPC;
	for (size_t i = 0; i < b->count; i++) {
		if (overlaps(&b->ranges[i], first, size))
			return -EEXIST;
		if (b->ranges[i].first < first)
			place = i + 1;
	}
	memmove(&b->ranges[place + 1], &b->ranges[place], (b->count - place) * sizeof(b->ranges[0]));
	b->ranges[place] = (struct range){ first, size, ops, device };
	b->count++;
	return 0;
}
int hv_bus_find(struct bus *b, uint64_t at, size_t length)
{
	size_t low = 0, high = b->count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		const struct range *r = &b->ranges[middle];
		if (at < r->first)
			high = middle;
		else if (at - r->first >= r->size)
			low = middle + 1;
		else
			return at + length <= r->first + r->size ? (int)middle : -ERANGE;
	}
	return -ENOENT;
}
int hv_bus_write(struct bus *b, uint64_t at, const void *data, size_t length)
{
	int found = hv_bus_find(b, at, length);
	if (found < 0)
		return found;
	const struct range *r = &b->ranges[found];
	if (!r->ops->write)
		return -EPERM;
	return r->ops->write(r->device, at - r->first, data, length);
}
"""

# A plain list, scanned from its end; tests in another order; helpers of other kinds.
BOB = HEAD + """
static const struct range *lookup(const struct bus *b, uint64_t port)
{
	const struct range *end = b->ranges + b->count;
	for (const struct range *p = b->ranges; p != end; ++p)
		if (port >= p->first && port <= p->first + (p->size - 1))
			return p;
	return NULL;
}
int hv_bus_add(struct bus *b, uint64_t first, uint64_t size, const struct ops *ops, void *device)
{
	uint64_t last;
	if (!size || __builtin_add_overflow(first, size - 1, &last))
		return -EINVAL;
	for (int i = (int)b->count - 1; i >= 0; --i) {
		uint64_t other = b->ranges[i].first + b->ranges[i].size - 1;
		if (!(last < b->ranges[i].first || first > other))
			return -EBUSY;
	}
	if (b->count >= sizeof b->ranges / sizeof *b->ranges)
		return -ENOMEM;
	struct range *new = b->ranges + b->count++;
	new->device = device;
	new->ops = ops;
	new->size = size;
	new->first = first;
	return 0;
}
int hv_bus_find(struct bus *b, uint64_t at, size_t length)
{
	const struct range *hit = lookup(b, at);
	if (hit == NULL)
		return -ENODEV;
	if (lookup(b, at + length - 1) != hit)
		return -EFAULT;
	return (int)(hit - b->ranges);
}
int hv_bus_write(struct bus *b, uint64_t at, const void *data, size_t length)
{
	const struct range *hit = lookup(b, at);
	if (hit && hit->ops->write)
		return hit->ops->write(hit->device, at - hit->first, data, length);
	return hit ? -ENOTSUP : -ENODEV;
}
"""

# Recursion, goto, a table of results.
CLEO = HEAD + """
enum verdict { FREE, TAKEN, MAD };
static enum verdict judge(const struct bus *b, size_t i, uint64_t lo, uint64_t hi)
{
	if (hi <= lo)
		return MAD;
	if (i == b->count)
		return FREE;
	uint64_t l = b->ranges[i].first;
	uint64_t h = l + b->ranges[i].size;
	uint64_t left = lo > l ? lo : l, right = hi < h ? hi : h;
	return left < right ? TAKEN : judge(b, i + 1, lo, hi);
}
int hv_bus_add(struct bus *b, uint64_t first, uint64_t size, const struct ops *ops, void *device)
{
	static const int answers[] = { [FREE] = 0, [TAKEN] = -EEXIST, [MAD] = -EINVAL };
	int rc = answers[judge(b, 0, first, first + size)];
	if (rc != 0)
		goto out;
	if (b->count > 63) {
		rc = -ENOSPC;
		goto out;
	}
	b->ranges[b->count].first = first, b->ranges[b->count].size = size;
	b->ranges[b->count].ops = ops, b->ranges[b->count].device = device;
	b->count += 1;
out:
	return rc;
}
int hv_bus_find(struct bus *b, uint64_t at, size_t length)
{
	int best = -ENOENT;
	size_t i = b->count;
	while (i-- > 0) {
		uint64_t into = at - b->ranges[i].first;
		if (into < b->ranges[i].size && b->ranges[i].size - into >= length)
			best = (int)i;
	}
	return best;
}
int hv_bus_write(struct bus *b, uint64_t at, const void *data, size_t length)
{
	int n = hv_bus_find(b, at, length);
	return n < 0 ? n : b->ranges[n].ops->write ? b->ranges[n].ops->write(b->ranges[n].device,
		at - b->ranges[n].first, data, length) : -ENOTTY;
}
"""


def renamed(text):
    """Every name that may be changed is, the comments too, and the layout."""
    for old, new in (("overlaps", "clash"), ("place", "idx"), ("middle", "m"), ("low", "a0"), ("high", "a1"),
                     ("found", "res"), ("lookup", "get"), ("first, uint64_t size", "start, uint64_t len"), ("hit", "x1")):
        text = re.sub(rf"\b{old}\b", new, text)
    text = text.replace("\t", "  ").replace("{\n", "\n{\n").replace(";\n", "; // mine\n")
    return "/* All my own work. */\n" + text


def reordered(text):
    """The functions in another order."""
    parts = re.split(r"(?m)^(?=(?:static \w[\w ]*\*?\w+\(|int hv_bus)[^;]*$)", text)
    return parts[0] + "".join(reversed(parts[1:]))


FILES = ["core/device/bus.c"]
starter = TMP / "starter/core/device/bus.c"
starter.parent.mkdir(parents=True)
starter.write_text(STARTER)
(TMP / "tree/core/device").mkdir(parents=True)
(TMP / "tree/core/device/bus.h").write_text("int hv_bus_add(void), hv_bus_find(void), hv_bus_write(void);\n")
archives = TMP / "in"
archives.mkdir()


def hand_in(user, text, folder=archives):
    path = TMP / "work" / user / FILES[0]
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return submit.submit(2, "Exit loop", {FILES[0]: path}, user, None, "0", folder)[0]


def similar(*args, status=0):
    out = TMP / "pairs.json"
    done = run(SRC / "labs/staff/similar.py", "--lab", 2, "--tree", TMP / "tree", "--starter", TMP / "starter",
               "--json", out, *args, "--files", *FILES, status=status)
    told = json.loads(out.read_text())
    return {frozenset((p["a"], p["b"])): p for p in told["pairs"]}, told, done


for user, text in (("ada", ADA), ("bob", BOB), ("cleo", CLEO), ("untouched", STARTER), ("untouched2", STARTER),
                   ("copycat", renamed(ADA)), ("shuffler", reordered(ADA)), ("both", renamed(reordered(BOB)))):
    hand_in(user, text)
check(reordered(ADA) != ADA and len(reordered(ADA)) == len(ADA), "the shuffled copy is one")
pairs, told, _ = similar("--least", 0, *sorted(archives.iterdir()))
share = {tuple(sorted(k)): p["similarity"] for k, p in pairs.items()}
print(share)
check(share["ada", "copycat"] >= 0.9, "a copy with other names, comments and layout")
check(share["ada", "shuffler"] >= 0.85, "a copy with its functions in another order")
check(share["bob", "both"] >= 0.8, "both at once")
check(share["copycat", "shuffler"] >= 0.8, "two copies of a third")
honest = max(share.get(pair, 0) for pair in (("ada", "bob"), ("ada", "cleo"), ("bob", "cleo")))
check(honest <= 0.2, "independent solutions are apart", honest)
check(not any("untouched" in name for pair in share for name in pair), "starters resemble nobody, not even each other")

pairs, told, done = similar(*sorted(archives.iterdir()), "--html", TMP / "page.html")
check(set(pairs) == {frozenset(p) for p in (("ada", "copycat"), ("ada", "shuffler"), ("copycat", "shuffler"), ("bob", "both"))},
      "the report names these pairs and no other", sorted(map(sorted, pairs)))
check("4 pairs" in done.stdout and "copycat" in done.stdout, "and says so")
lines = pairs[frozenset(("ada", "shuffler"))]["lines_a"][FILES[0]]
covered = {n for first, last in lines for n in range(first, last + 1)}
body = range(HEAD.count("\n") + 1, ADA.count("\n") + 1)
check(len(covered & set(body)) > 0.8 * len(body), "it tells the lines", lines)

# A partial copy: one function of another's.
at, end = ADA.index("int hv_bus_find"), ADA.index("int hv_bus_write")
mine = CLEO[:CLEO.index("int hv_bus_find")] + ADA[at:end] + CLEO[CLEO.index("int hv_bus_write"):]
(TMP / "part").mkdir()
pairs, _, _ = similar("--least", 0.1, archives / "lab02-ada.tar.gz", hand_in("part", mine, TMP / "part"))
lines = pairs[frozenset(("ada", "part"))]["lines_a"][FILES[0]]
inside = {n for first, last in lines for n in range(first, last + 1)}
there = range(ADA[:at].count("\n") + 1, ADA[:end].count("\n") + 1)
check(len(inside & set(there)) > 0.7 * len(there) and len(inside - set(there)) <= 4, "one borrowed function, by its lines", lines)

# Last year's, as a folder; the same user twice; hostile names and texts in the page.
pairs, told, _ = similar(archives / "lab02-ada.tar.gz", "--known", TMP / "work/copycat")
check(set(pairs) == {frozenset(("ada", "copycat"))}, "--known takes a folder")
(TMP / "evil").mkdir()
evil = hand_in("<script>alert(1)</script>", renamed(ADA).replace("mine", "</pre><script>alert(2)</script>"), TMP / "evil")
with tarfile.open(TMP / "evil/bad.tar.gz", "w:gz") as tar:
    link = tarfile.TarInfo("lab02/x")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(link)
linked = TMP / "linked/core/device"
linked.mkdir(parents=True)
(linked / "bus.c").symlink_to("/etc/passwd")
pairs, told, done = similar(archives / "lab02-ada.tar.gz", evil, evil, TMP / "evil/bad.tar.gz", TMP / "linked",
                            "--html", TMP / "page.html", status=3)
page = (TMP / "page.html").read_text()
check("<script" not in page and "alert(2)" in page, "hostile text stays text")
check("root:" not in page and len(told["not_read"]) == 2 and "symbolic link" in done.stderr, "links are not followed", told["not_read"])
check(any("(2)" in name for pair in pairs for name in pair), "the same user twice is told apart")

# What eight of ten share was told in class.
common = {f"s{i}": HEAD + ADA[at:end] + f"int f{i}(int a) {{ return {' + '.join(f'a * {i * 100 + j}' for j in range(40))}; }}\n"
          for i in range(10)}
(TMP / "class").mkdir()
pairs, _, _ = similar(*(hand_in(user, text, TMP / "class") for user, text in common.items()))
check(not pairs, "what many share is no sign", list(pairs)[:3])

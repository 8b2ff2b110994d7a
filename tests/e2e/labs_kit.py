#!/usr/bin/env python3
"""The kit's own parts: cutting, lab files with mistakes in them, records, seeds, the watchdog, an interrupted grading."""
# limit: 180
import json
import signal
import subprocess
import time

from labs_lib import *

from kit import build, record, run as running, testing

# Cutting.
TEXT = """/* Head. */
#include <errno.h>

static struct pair *make(int a,
			 int b)
{
	int x = 0;
	/* hv:solution lab=4 task=2 */
	x = a + b; /* return; */
	return NULL;
	/* hv:end */
}

void set(int a)
{
	/* hv:solution lab=4 task=1 */
	if (a)
		return;
	/* hv:end */
}

int both(int a)
{
	for (int i = 0; i < a; i++) {
		/* hv:solution lab=4 task=1 */
		if (i == 3)
			return -1;
		/* hv:end */
	}
	/* hv:solution lab=4 task=3 */
	switch (a) {
	default:
		return 1;
	}
	/* hv:end */
}

static uint8_t byte(void)
{
	/* hv:solution lab=4 task=3 */
	{
		return 3;
	}
out:
	return 0x20;
	/* hv:end */
}
"""
out = cut.cut(TEXT, {(4, 2): "Make a pair", (4, 1): "A title " * 20})
check(out.startswith("/* Head. */\n/* Some") and out.count("#pragma") == 4, "the pragmas stand behind the head comment")
check("	/* Lab 4, task 2: Make a pair. Your code goes here. */\n	return NULL;\n}" in out, "a pointer's hole is NULL", out)
check("		/* Lab 4, task 1: A title" not in out and "\n		 * " in out, "a long title is wrapped", out)
check("	return -ENOSYS;\n}" in out, "a switch at a function's end leaves -ENOSYS", out)
check("	return 0;\n}" in out, "an integer's hole is 0", out)
check("hv:" not in out and "a + b" not in out and "0x20" not in out, "nothing of the solution is left")
check(out.count("return") == 3, "a void function and a block get no return", out)
for bad in ("int f(void)\n{\n\t/* hv:solution lab=1 task=1 */\n}\n", "{\n\t/* hv:end */\n", "/* hv:solution lab=x */\n",
            "/* hv:solution lab=1 task=1 */\n/* hv:solution lab=1 task=2 */\n/* hv:end */"):
    try:
        cut.cut(bad)
        check(False, "misplaced marks are told", bad)
    except cut.CutError as error:
        check(":" in str(error), f"misplaced marks are told: {error}")

# A teacher's mistakes.
GOOD = """[lab]
number = 1
title = A lab
files = core/kvm/kvm.c
hidden_points = 2   ; a comment
[task 1]
title = One
[points]
a_test = 4
"""
labs = TMP / "labs"
(labs / "lab01").mkdir(parents=True)
(labs / "kit").mkdir()
shutil.copy(SRC / "labs/kit/diagnoses.ini", labs / "kit")
fake = tree.Tree(str(labs), str(TMP), False)


def says(text, name="lab.ini"):
    """What Lab and its diagnoses say of a file with this text."""
    (labs / "lab01/lab.ini").write_text(GOOD)
    (labs / "lab01/diagnoses.ini").write_text("")
    (labs / "lab01/hints.ini").write_text("")
    (labs / "lab01" / name).write_text(text)
    try:
        one = lab.Lab(fake, 1)
        return f"{one.max:g} {one.hidden_points:g} {len(one.diagnoses)} {one.hints()}"
    except lab.LabError as error:
        return str(error)


check(says(GOOD).startswith("4 2 "), "a good lab.ini is read", says(GOOD))
for old, new, word in (("number = 1", "number = 2", "number"), ("title = A lab", "", "title"), ("= 4", "= four", "four"),
                       ("= 4", "= -4", "-4"), ("core/kvm/kvm.c", "/etc/passwd", "passwd"), ("core/kvm", "../../kvm", ".."),
                       ("[lab]", "[Lab]", "[lab]"), ("[task 1]", "[tusk 1]", "tusk"), ("[points]", "[points]\n[points]", "points"),
                       ("a_test = 4", "a_test", "a_test"), ("= 4", "= 4\na_test = 5", "a_test")):
    told = says(GOOD.replace(old, new))
    check(word in told and "lab.ini" in told and "\n" not in told, f"a mistake is told: {told.replace(str(TMP), '')}")
ONE = "[SOME_ID]\nseen = {a:#x} and {b} {{}}\nwhy = w; x\nread = r\n"
for text, word in ((ONE.replace("SOME_ID", "some"), "some"), (ONE.replace("why = w; x\n", ""), "why"), (ONE.replace("{b}", "{b"), "seen"),
                   (ONE + "more = 1\n", "more")):
    told = says(text, "diagnoses.ini")
    check(word in told and "diagnoses.ini" in told, f"a mistake is told: {told.replace(str(TMP), '')}")
says(ONE, "diagnoses.ini")
entry = lab.Lab(fake, 1).diagnoses["SOME_ID"]
check(entry.filled({"a": 16, "b": "x"})["seen"] == "0x10 and x {}", "braces are filled", entry.filled({"a": 16, "b": "x"}))
check(entry.filled({"a": None})["seen"] == "? and ? {}", "what is not known is a question mark", entry.filled({"a": None}))
check("text" in entry.filled({"a": "text"})["seen"], "what has the wrong type is shown all the same", entry.filled({"a": "text"}))
check("'9'" not in says("[task 1]\n2 = b\n1 = a\n10 = c\n", "hints.ini"), "hints are in the order of their numbers")
check("['a', 'b', 'c']" in says("[task 1]\n2 = b\n1 = a\n10 = c\n", "hints.ini"), "hints are in the order of their numbers")
check("task 7" in says("[task 7]\n1 = a\n", "hints.ini"), "a hint for no task is told")

# Records.
path = TMP / "a.trace"
lines = [{"k": "start"}, {"k": "ioctl", "name": "KVM_RUN_NOT", "on": "vm", "in": {"a": 1}, "out": {}, "ret": 0},
         {"k": "run", "vcpu": 0, "ret": 0, "reason": "io", "io": {"port": 5, "out": False, "size": 2, "count": 1, "data": "0000"}},
         {"k": "run", "vcpu": 1, "ret": 0, "reason": "hlt"}, {"k": "run", "vcpu": 0, "ret": -4, "reply": "abcd", "immediate": 1},
         {"k": "dump", "when": "last", "gpa": 0x1000, "length": 4, "offset": 0}, {"k": "dump", "when": "last", "gpa": 0x1004, "length": 4, "offset": 8},
         {"k": "news"}, {"k": "end", "why": "exit", "status": 0}]
path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\"k\":\"run\",\"vc")
(TMP / "a.trace.mem").write_bytes(b"abcd....efgh")
one = record.Run("x", [], str(path))
exits = one.trace.exits(vcpu=0)
check([e.reason for e in exits] == ["io", None] and exits[1].immediate, "exits by vCPU; a failed one has no reason")
check(exits[0].reply == b"\xab\xcd" and exits[1].reply is None, "an answer belongs to the exit that asked")
check(exits[0].port == 5 and exits[0].out is False and exits[0].size == 2, "an exit's fields")
check(one.trace.ioctls("KVM_RUN_NOT")[0].args == {"a": 1}, "an ioctl's arguments")
check(one.memory("last", 0x1002, 4) == b"cdef", "memory from two pieces", one.memory("last", 0x1002, 4))
check(one.memory("last", 0x1006, 4) is None and one.memory("first", 0x1000, 1) is None, "memory that was not kept")
check([a.rc for a in record.answers_of(b'{"rc":0}\n{"rc":-5,"x":1}\nxx\n{"rc":1}\n')] == [0, -5], "answers end where they are none")

# Seeds.
if 1 in LABS:
    def numbers(*words, name="t"):
        session = testing.Session.__new__(testing.Session)
        session.seed_words, session.lab, session.files = words, lab.Lab(tree.find(), 1), str(TMP / f"f{time.monotonic_ns()}")
        os.mkdir(session.files)
        function = lambda t: None  # noqa: E731
        function.__name__ = name
        t = testing.T(session, testing.TestInfo(function, 1, False))
        return t.seed, t.nonce, t.random.random()
    check(numbers("s", "t", "ada") == numbers("s", "t", "ada"), "a seed gives the same numbers again")
    check(len({numbers("s", "t", "ada"), numbers("s2", "t", "ada"), numbers("s", "t2", "ada"), numbers("s", "t", "bob"),
               numbers("s", "t", "ada", name="u")}) == 5, "others with each seed, term, user and test")

# Guests.
(TMP / "g.S").write_text(".globl _start\n_start: .long NONCE\nvalue: .byte 1\n.data\nword: .long 7\n.bss\nroom: .skip 99\n")
for kind, magic in (("flat", None), ("elf32", 1), ("elf64", 2)):
    image = build.build_guest(str(TMP / "g.S"), str(TMP / f"g.{kind}"), kind, 0x3000, str(SRC / "labs/kit/guest.ld"),
                              {"NONCE": 0x12345678}, str(TMP))
    check(image.symbols["value"] == 0x3004 and image.symbols["_start"] == 0x3000, f"{kind}: symbols", image.symbols)
    check(image.data[4] == magic if magic else image.data[:5] == b"\x78\x56\x34\x12\x01", f"{kind}: the image", image.data[:8])
    check(b"\x07\0\0\0" in image.data and image.entry == 0x3000, f"{kind}: data and entry")

# Ctrl-C while a program hangs: nothing is left, nothing more is graded.
if 1 in LABS:
    folder = solution(1, TMP / "hang")
    with open(folder / "core/kvm/kvm.c", "a") as file:
        file.write("__attribute__((constructor)) static void act(void)\n{\n\tfor (;;)\n\t\tpause();\n}\n")
    for signo in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([SRC / "labs/hvlab", "grade", "1", "--work", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 60 * STRETCH
        while not list(TMP.glob("hvlab-*/records/*.trace")) and time.monotonic() < until:  # now a program hangs
            time.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signo)
        said = process.communicate(timeout=30 * STRETCH)[1].decode()
        check(process.returncode == 130, f"{signo.name} ends a grading with status 130", process.returncode, said)
        check(time.monotonic() - began < 3 * STRETCH, f"{signo.name} ends it soon", time.monotonic() - began)
        check("Traceback" not in said, "without a trace of Python", said)
    check(not list(TMP.glob("hvlab-*")), "and leaves no scratch folder")

    # The watchdog's limit comes from the reference.
    result = graded(1, folder)
    seconds = [t["duration_s"] for t in result["tests"] if t["diagnosis"] and t["diagnosis"]["id"] == "TIMED_OUT"]
    check(seconds and max(seconds) < 8 * STRETCH, "a hanging program is ended soon", seconds)
    check(running.LEAST * 0.9 <= min(seconds), "but not before its time", seconds)

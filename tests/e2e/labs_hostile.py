#!/usr/bin/env python3
"""Hostile submissions through the whole grader: each scores zero by name, in bounded time, and harms nothing.

Each act is a constructor's, so that every run of the student's program does it, before main and beside a right solution.
"""
# limit: 400
# box: long
import json
import time

from labs_lib import *

if SAN:
    skip("a sanitizer ends an attack before it shows what it does")
if 1 not in LABS:
    skip("there is no lab 1 yet")
FILE = "core/kvm/kvm.c"
SECRET = "the_hidden_tests_of_the_staff"
BYSTANDER = TMP / "bystander"
RESULTS = TMP / "results.json"
HEAD = ("#include <arpa/inet.h>\n#include <pthread.h>\n#include <signal.h>\n#include <stdio.h>\n#include <string.h>\n#include <sys/ptrace.h>\n"
        "#include <sys/socket.h>\n#include <sys/uio.h>\n#include <sys/wait.h>\n")
hidden = SRC / "labs/lab01/hidden.py"
if not hidden.exists():
    hidden = SRC / "labs/lab01/tests.py"

HARMLESS = ""  # refused like anything else that can't be, and no more said of it

# What is done, and by which name it is known.
ACTS = {
    "fork bomb": ("for (;;) fork();", "FORK_FORBIDDEN"),
    "a child that stays": ("if (fork() == 0) for (;;) pause();", "FORK_FORBIDDEN"),
    "vfork": ("if (vfork() == 0) _exit(0);", "FORK_FORBIDDEN"),
    "a shell": ('execl("/bin/sh", "sh", "-c", "echo pwned", (char *)NULL);', "EXEC_FORBIDDEN"),
    "system": ('if (system("true")) { }', "FORK_FORBIDDEN"),
    "kills its parent": ("kill(getppid(), SIGKILL);", "KILL_FORBIDDEN"),
    "kills the grader": (f"kill({os.getpid()}, SIGKILL);", "KILL_FORBIDDEN"),
    "kills everybody": ("kill(-1, SIGKILL);", "KILL_FORBIDDEN"),
    "reads the hidden tests": (f'if (open("{hidden}", O_RDONLY) < 0) {{ }}', "FILE_FORBIDDEN"),
    "lists the labs": (f'if (open("{SRC}/labs", O_RDONLY | O_DIRECTORY) < 0) {{ }}', "FILE_FORBIDDEN"),
    "writes the results": (f'if (open("{RESULTS}", O_WRONLY | O_CREAT | O_TRUNC, 0666) < 0) {{ }}', "FILE_FORBIDDEN"),
    "removes a file": (f'unlink("{BYSTANDER}");', HARMLESS),
    "calls home": ("if (socket(AF_INET, SOCK_STREAM, 0) < 0) { }", "NETWORK_FORBIDDEN"),
    "debugs its parent": ("ptrace(PTRACE_ATTACH, getppid(), 0, 0);", "PTRACE_FORBIDDEN"),
    "reads its parent": ('char b[8]; struct iovec l = {b, 8}, r = {(void *)4096, 8}; process_vm_readv(getppid(), &l, 1, &r, 1, 0);',
                         "PTRACE_FORBIDDEN"),
    "endless loop": ("for (volatile int i = 0;; i++) { }", "TIMED_OUT"),
    "sleeps for ever": ("for (;;) pause();", "TIMED_OUT"),
    "10 GB of output": ('static char b[65536]; memset(b, 120, sizeof(b)); for (int i = 0; i < 163840; i++) fwrite(b, 1, sizeof(b), stdout);',
                        "OUTPUT_FLOOD"),
    "10 GB of answers": ('static char b[65536]; memset(b, 120, sizeof(b)); for (int i = 0; i < 163840; i++) '
                         'for (int fd = 3; fd < 64; fd++) if (write(fd, b, sizeof(b)) < 0) { }', None),
    "a null pointer": ("*(volatile int *)8 = 1;", "CRASHED"),
}

# What a source asks of the compiler.
SOURCES = {
    "includes the hidden tests": (f'#include "{hidden}"\n', "FILE_FORBIDDEN"),
    "pastes the hidden tests": (f'__asm__(".data\\n.incbin \\"{hidden}\\"\\n.text");\n', "FILE_FORBIDDEN"),
    "includes the shadow file": ('#include "/etc/shadow"\n', None),
    "includes a device that never ends": ('#include "/dev/zero"\n', HARMLESS),  # to clang an empty file
    "keeps the compiler busy": ("#define A(x) x x x x x x x x x x\n#define B(x) A(A(A(A(x))))\nint big[] = {B(B(B(1,)))};\n",
                                "DOES_NOT_COMPILE"),
    "defines main": ("int main(void);\nint main(void) { return 0; }\n", "DOUBLE_FUNCTION"),
    "lacks a function": ("#define hv_vm_destroy hv_vm_destroy_not\n", "MISSING_FUNCTION"),
    "is no C": ("this is no C\n", "DOES_NOT_COMPILE"),
}


def submit(name, edit):
    folder = solution(1, TMP / name.replace(" ", "_"))
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(edit(text))
    return folder


def grade_it(name, folder, expected, limit=90):
    """One grading by the command, as a teacher runs it; the results file is looked at, not what is printed."""
    RESULTS.unlink(missing_ok=True)
    began = time.monotonic()
    done = run(SRC / "labs/hvlab", "grade", "1", "--json", "--output", RESULTS, "--work", folder, status=None, limit=120 * STRETCH)
    took = time.monotonic() - began
    check(done.returncode == 1 or expected == HARMLESS, f"{name}: status 1", done.returncode, done.stderr[-2000:])
    result = json.loads(RESULTS.read_text())
    validate("results", result, f"{name}: the results file")
    named = set(ids(result).values())
    if expected != HARMLESS:
        check(result["score"] == 0 and result["extra"] == 0, f"{name}: zero points", story(result))
    if expected:
        check(expected in named, f"{name}: {expected}", story(result))
    check(took < limit * STRETCH, f"{name}: in bounded time", f"{took:.1f} s")
    check(BYSTANDER.read_text() == SECRET, f"{name}: other files are as they were")
    whole = RESULTS.read_text() + done.stdout + done.stderr
    secret = [line for line in hidden.read_text().splitlines() if len(line) > 40 and line in whole]
    check(not secret, f"{name}: the hidden tests' text is nowhere", secret[:1])
    return result


BYSTANDER.write_text(SECRET)
for name, (code, expected) in ACTS.items():
    folder = submit(name, lambda text, code=code: f"{HEAD}{text}\n__attribute__((constructor)) static void act(void)\n{{\n\t{code}\n}}\n")
    result = grade_it(name, folder, expected)
    if expected and expected.endswith("_FORBIDDEN"):
        check(result["verdict"] and result["verdict"]["id"] == expected, f"{name}: the whole lab by this name")
for name, (code, expected) in SOURCES.items():
    grade_it(name, submit(name, lambda text, code=code: code + text), expected)

# Files that are none.
for name, make in {
    "a link to the hidden tests": lambda path: path.symlink_to(hidden),
    "a FIFO": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
}.items():
    folder = solution(1, TMP / name.replace(" ", "_"))
    (folder / FILE).unlink()
    make(folder / FILE)
    grade_it(name, folder, "UNSAFE_FILE")
folder = solution(1, TMP / "linked_folder")
(folder / "core/kvm").rename(folder / "elsewhere")
(folder / "core/kvm").symlink_to(folder / "elsewhere")
grade_it("a link to a folder", folder, "UNSAFE_FILE")
folder = solution(1, TMP / "nothing")
(folder / FILE).unlink()
grade_it("a file that isn't there", folder, "FILE_MISSING")

left = [p for p in TMP.glob("hvlab-*")]
check(not left, "no scratch folder is left", left)

#!/usr/bin/env python3
"""The box with VT-x, up to its start: what is refused and how, what is packed, what may come back, and that nothing stays."""
# limit: 180
# kvm: none
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

from labs_staff_lib import SRC, TMP, check, run

from kit import bochs, box, pack

HVLAB = SRC / "labs" / "hvlab"
ENV = dict(os.environ, XDG_CACHE_HOME=str(TMP / "cache"), TMPDIR=str(TMP))

# Options.
for words, told in ((("--root", "/"), "--pack"), (("--cache", "no"), "--pack"), (("--memory", "4096"), "2047 MiB"),
                    (("--memory", "128"), "256 MiB"), (("--cpus", "9"), "1 to 8 CPUs"), (("--timeout", "-1"), "negative"),
                    (("--pack", str(TMP / "none")), "not there")):
    done = run(HVLAB, "box", "--cpu", "intel", *words, "--", "true", status=2, env=ENV)
    check(told in done.stderr, f"{' '.join(words)} is refused by a sentence", done.stderr)
done = run(HVLAB, "box", "--cpu", "intel", "--", "true", status=1, env=ENV, cwd="/")
check("too much" in done.stderr or "lacks" in done.stderr, "the whole machine is not copied", done.stderr)
done = run(HVLAB, "box", "--cpu", "vax", "--", "true", status=2, env=ENV)
check("intel" in done.stderr, "another processor is refused", done.stderr)
done = run(HVLAB, "box", "--pack", "/etc", "--", "true", status=2, env=ENV)
check("--cpu intel" in done.stderr, "--pack is for VT-x", done.stderr)
options = box.arguments(["--cpu", "intel", "--", "true", "-x"])
check((options.memory, options.cpus, options.timeout, options.command) == (1024, 1, 3600, ["true", "-x"]), "what wasn't said", options)
options = box.arguments(["--", "true"])
check((options.cpu, options.memory, options.cpus, options.timeout, options.cache) == ("amd", 2048, 2, 600, "yes"), "AMD-V's stay", options)

# What is missing is told by its package, before anything else is done.
every = bochs.lacking(lambda name: None, lambda path: False)
check({"bochs", "bochs-term", "bochsbios", "vgabios", "isolinux", "syslinux-common", "xorriso"} <= set(every), "packages by name", every)
check(bochs.lacking(lambda name: name, lambda path: True) == [], "nothing is missing where all is there")
tools = TMP / "bin"
tools.mkdir()
(tools / "python3").symlink_to(sys.executable)
done = subprocess.run([sys.executable, str(HVLAB), "box", "--cpu", "intel", "--", "true"], env={**ENV, "PATH": str(tools)},
                      capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
check(done.returncode == 1 and "xorriso" in done.stderr and "tests/deps bochs" in done.stderr, "the sentence has the cure", done)
deps = run("sh", SRC / "tests/deps", "--check", "bochs", status=None, env=ENV)
check(deps.returncode in (0, 1) and (deps.returncode == 0 or "packages" in deps.stdout), "tests/deps knows the group", deps)
check((deps.returncode == 0) == (not bochs.lacking()), "and they agree", deps.stdout, bochs.lacking())

# Which kernel: the newest of those that have all inside.
os.environ["XDG_CACHE_HOME"] = str(TMP / "cache")
check(bochs.small_kernel() is None, "no kernel has been built")
for age, (name, config) in enumerate((("a", bochs.INSIDE), ("b", bochs.INSIDE), ("c", {"CONFIG_KVM_INTEL=m"}), ("d", None))):
    folder = TMP / "cache/hvkit/linux" / name
    folder.mkdir(parents=True)
    (folder / "bzImage").write_bytes(b"")
    os.utime(folder / "bzImage", (1000 + age, 1000 + age))
    if config is not None:
        (folder / "config").write_text("\n".join(sorted(config)) + "\n")
check(bochs.small_kernel() == str(TMP / "cache/hvkit/linux/b/bzImage"), "the newest that fits", bochs.small_kernel())

# Packing: links one by one, libraries, one build folder, no history.
tree = TMP / "tree with a blank"
for name in ("labs/hvlab", ".git/HEAD", "build/bin/it", "build/obj/core/x.o", "build-clang/bin/it", "core/kvm/a.c", "guests/obj/x.o"):
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(name)
(tree / "to-build").symlink_to("build/bin")
(tree / "loop").symlink_to("loop")
(tree / "core/secret").write_text("s")
os.mkfifo(tree / "core/pipe")
check(pack.tree_of(tree / "core/kvm") == str(tree), "a folder belongs to the repository above it", pack.tree_of(tree / "core/kvm"))
check(pack.tree_of(TMP / "bin") == str(TMP / "bin"), "or is its own")
found = pack.Pack()
pack.add_work(found, str(tree), "build")
inside = {str(pathlib.Path(path).relative_to(tree)) for path in found.files}
check(inside == {"labs/hvlab", "build/bin/it", "core/kvm/a.c", "core/secret"}, "what is packed of a tree", inside)
check(found.links[str(tree / "to-build")] == "build/bin" and str(tree / "loop") in found.links, "links stay links", found.links)
found = pack.Pack()
(TMP / "one").symlink_to("two")
(TMP / "two").symlink_to(tree / "to-build")
check(found.add(str(TMP / "one/it")) == str(tree / "build/bin/it"), "a file behind three links is found")
check({str(TMP / "one"), str(TMP / "two"), str(tree / "to-build")} <= set(found.links), "and the links with it", found.links)
check(found.add(str(tree / "loop")) is None and found.add(str(TMP / "nothing")) is None, "a loop and a hole are none")
shell = pack.Pack()
shell.add(shutil.which("sh"))
shell.add_libraries()
check(any("libc.so" in path for path in shell.files), "a program's libraries are packed", sorted(shell.files))
if shutil.which("mke2fs") or os.path.exists("/sbin/mke2fs"):
    image = TMP / "disk"
    (TMP / "scratch").mkdir()
    pack.add_work(shell, str(tree), "build")
    pack.make_disk(shell, str(TMP / "scratch"), str(image), {"/script": "echo \udcff\n"})
    check(image.stat().st_size % (16 * 63 * 512) == 0 and not list((TMP / "scratch").iterdir()), "whole cylinders, no copy left")
    debugfs = shutil.which("debugfs", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if debugfs:
        said = run(debugfs, "-R", f'cat "{tree}/core/kvm/a.c"', image).stdout
        check(said == "core/kvm/a.c", "a file on the disk is what it was", said)

# What changed is found to a fraction of a second.
(TMP / "before").touch()
os.utime(TMP / "before", ns=(1_000_000_000_500_000_000, 1_000_000_000_500_000_000))
changing = TMP / "it's changed"
changing.mkdir()
for name, when in (("earlier", 400_000_000), ("later", 600_000_000)):
    (changing / name).write_text(name)
    os.utime(changing / name, ns=(10**18 + when, 10**18 + when))
run("sh", "-c", bochs.collecting(str(changing), str(TMP / "before"), str(TMP / "archive")))
with tarfile.open(TMP / "archive", "r:") as archive:
    check(archive.getnames() == ["./later"], "what changed is collected", archive.getnames())

# What comes back is the machine's word: only plain files below the tree.
results = TMP / "results"
outside = TMP / "outside"
outside.mkdir()
(tree / "out").symlink_to(outside)
with tarfile.open(results, "w") as archive:
    for name, kind, link in (("./core/kvm/a.c", tarfile.REGTYPE, ""), ("new/deep/file", tarfile.REGTYPE, ""), ("../escaped", tarfile.REGTYPE, ""),
                             ("/tmp/escaped", tarfile.REGTYPE, ""), ("out/escaped", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "/etc/passwd"),
                             ("fifo", tarfile.FIFOTYPE, ""), ("hard", tarfile.LNKTYPE, "core/kvm/a.c")):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = kind, link, 0o4755
        entry.size = 4 if kind == tarfile.REGTYPE else 0
        archive.addfile(entry, io.BytesIO(b"back"))
told = []
bochs.take_back(str(results), str(tree), told.append)
check((tree / "core/kvm/a.c").read_text() == "back" == (tree / "new/deep/file").read_text(), "changed and new files are here")
check((tree / "new/deep/file").stat().st_mode & 0o7777 == 0o755, "with their modes, without set-user-ID")
check(len(told) == 6 and not list(outside.iterdir()) and not (TMP / "escaped").exists() and not (tree / "link").exists(), "no other", told)
for bad in (b"x" * 4096, results.read_bytes()[:700], b""):
    results.write_bytes(bad)
    told.clear()
    bochs.take_back(str(results), str(tree), told.append)
    check(bool(told) == bool(bad), f"{len(bad)} damaged bytes are told", told)
check(not list(TMP.glob("hvlab-box.*")) and not list(tree.rglob(".hvlab-box.*")), "nothing stays")

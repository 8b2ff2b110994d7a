#!/usr/bin/env python3
"""hvrun's options: help, version, what is refused, exit statuses, the configuration file."""
from hvrun_lib import *

hello = image("hello.bin", say("hi\n") + leave(0))

done = hvrun("--help")
check(done.returncode == 0 and "usage: hvrun" in done.out and "--irqchip" in done.out, "--help")
check(max(map(len, done.out.splitlines())) <= 110, "no line of it is too long")
done = hvrun("--version")
check(done.returncode == 0 and done.out.startswith("hvrun 0."), "--version")

done = hvrun("--colour", hello)
check(done.returncode == 2 and "colour" in done.err and "--help" in done.err, "an unknown option")
refused("no image", hvrun(), 2, "image")
refused("two images", hvrun(hello, hello), 2, "one image")
refused("a kernel and an image", hvrun("--kernel", hello, hello), 2, "one image")
refused("--json alone", hvrun("--json", hello), 2, "--doctor")
done = hvrun("--mem")
check(done.returncode == 2 and "mem" in done.err, "a missing value", done.err)

for code, status in ((0, 1), (1, 3), (3, 7), (127, 255)):
    done = hvrun(image("exit.bin", leave(code)))
    check(done.returncode == status and done.err == "", f"the guest's own status: {code} is {status}", done.err)
done = hvrun(image("halt.bin", HALT))
check(done.returncode == 0 and done.err == "", "an orderly end", done.returncode, done.err)

# The code finds out where it is: call the next instruction, pop, compare with the address that was asked for.
where = b"\xe8\x00\x00\x5b\x81\xfb\x03\x7c\x75\x06" + leave(1)[:-1] + leave(2)
done = hvrun("--load-addr", "0x7c00", image("where.bin", where))
check(done.returncode == 3, "--load-addr", done.returncode, done.err)
done = hvrun("--boot", "flat", hello)
check(done.out == "hi\n" and done.returncode == 1, "--boot flat")
done = hvrun("--kernel", hello)
check(done.out == "hi\n" and done.returncode == 1, "--kernel names the image")
done = hvrun("--verbose", hello)
check(done.out == "hi\n", "--verbose keeps the guest's output clean", done.out)

(TMP / "box.conf").write_text("# a VM\nimage hello.bin\nmem = 16M\nname 'from-file'\nserial \"file:out.txt\"\n")
done = hvrun("--config", TMP / "box.conf")
check(done.returncode == 1 and (TMP / "out.txt").read_text() == "hi\n", "--config, its paths relative to it", done.err)
done = hvrun("--config", TMP / "box.conf", "--serial", "stdio")
check(done.out == "hi\n", "a later option wins")
(TMP / "bad.conf").write_text("image hello.bin\ncpus none\n")
refused("a mistake in a file", hvrun("--config", TMP / "bad.conf"), 2, "bad.conf:2: ")
refused("a file that isn't there", hvrun("--config", TMP / "no.conf"), 1, "no.conf")

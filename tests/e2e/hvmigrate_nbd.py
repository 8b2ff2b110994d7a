#!/usr/bin/env python3
"""hvmigrate and NBD servers: QEMU's, nbdkit, and one of ours that is slow, unusual or hostile."""
# limit: 180
# kvm: none
from hvmigrate_common import *

MIB = 1 << 20
disk = pattern(7 * MIB + 512, 3)
raw = write("disk.raw", disk)

# --- a server of our own: what it is asked, and what it can do wrong -------------------------------------------------


def converted(server, name, *options):
    done = hvmigrate("convert", "--force", *options, server.uri, TMP / name)
    check(done.returncode == 0 and (TMP / name).read_bytes() == bytes(server.data), f"{name}: the same bytes", done.err)


with Server(disk) as plain:
    converted(plain, "plain.raw", "-j4")
    check(plain.connections > 1, "a server that allows it gets several connections", plain.connections)
    done = hvmigrate("info", plain.uri)
    check("several" in done.out and "does not tell where holes are" in done.out, "info tells what the server can")
    done = hvmigrate("map", "--json", plain.uri)
    check(json.loads(done.out) == [{"offset": 0, "length": len(disk), "kind": "data", "encoding": "remote", "depth": 0}],
          "without block status all is data", done.out)


class Single(Server):
    flags = 1 | 4


with Single(disk) as single:
    converted(single, "single.raw", "-j4")
    check(single.connections == 1, "a server that promises nothing gets one connection", single.connections)


class Holes(Server):
    extents = [(MIB, 0), (MIB, 3), (MIB, 2), (MIB, 1), (3 * MIB + 512, 0)]


with Holes(bytes(disk[:MIB]) + bytes(2 * MIB) + disk[3 * MIB:]) as holes:
    done = hvmigrate("map", "--json", holes.uri)
    kinds = [(r["offset"], r["length"], r["kind"]) for r in json.loads(done.out)]
    check(kinds == [(0, MIB, "data"), (MIB, MIB, "hole"), (2 * MIB, MIB, "zero"), (3 * MIB, 4 * MIB + 512, "data")],
          "the map: a hole that need not read as zeros is data", kinds)
    converted(holes, "holes.raw")
    check((TMP / "holes.raw").stat().st_blocks * 512 <= 5 * MIB + 65536, "holes of a server stay holes")


class Blocks(Server):
    limits = (4096, 65536, 131072)

    def read(self, offset, length):
        wrong = offset % 4096 or length % 4096 or length > 131072
        return 22 if wrong else super().read(offset, length)

    def write(self, offset, data):
        return 22 if offset % 4096 or len(data) % 4096 else super().write(offset, data)


with Blocks(pattern(4 * MIB, 5)) as blocks:
    converted(blocks, "blocks.raw")
    odd = write("odd.raw", pattern(3 * MIB + 1234, 6))
    done = hvmigrate("convert", odd, blocks.uri)
    check(done.returncode == 0 and blocks.data[:3 * MIB + 1234] == odd.read_bytes()
          and not any(blocks.data[3 * MIB + 1234:]),
          "a disk of no whole blocks is written, and zeros behind it", done.err)
    check("what lies behind it becomes zeros" in done.err and blocks.flushes > 0, "that is said, and flushed at the end", done.err)

thin = sparse("thin.raw", len(disk), (MIB, disk[:MIB]), (5 * MIB, disk[MIB:2 * MIB]))
with Server(b"\xff" * len(disk)) as target:
    done = hvmigrate("convert", thin, target.uri)
    check(done.returncode == 0 and bytes(target.data) == thin.read_bytes(), "a disk goes to a server", done.err)
    check(target.zeroed >= 5 * MIB, "holes are sent as zeros without bytes", target.zeroed)


class NoZeroes(Server):
    flags = 1 | 4


with NoZeroes(b"\xff" * len(disk)) as target:
    done = hvmigrate("convert", thin, target.uri)
    check(done.returncode == 0 and bytes(target.data) == thin.read_bytes() and not target.zeroed,
          "or as bytes, where the server knows no better", done.err)

with Server(bytes(MIB)) as small:
    refused("a server that is too small", hvmigrate("convert", raw, small.uri), 1, "holds 1 MiB")


class ReadOnly(Server):
    flags = 1 | 2


with ReadOnly(disk) as fixed:
    refused("a server for reading only", hvmigrate("convert", raw, fixed.uri), 1, "reading only")


class Broken(Server):
    def read(self, offset, length):
        return 5 if offset <= 5 * MIB < offset + length else super().read(offset, length)


with Broken(disk) as broken:
    refused("a server's error", hvmigrate("convert", "-q", broken.uri, TMP / "broken.raw"), 1, "Input/output error")
    check(not (TMP / "broken.raw").exists(), "nothing under the final name")


class Shrinking(Server):
    def size_of(self, connection):
        return len(self.data) if connection == 1 else MIB

    def read(self, offset, length):
        self.over.wait(0.05)
        return super().read(offset, length)


with Shrinking(disk) as shrinking:
    refused("an export that changes its size", hvmigrate("convert", "-q", "-j4", shrinking.uri, TMP / "s.raw"), 3, "now has")


class Stalling(Server):
    def read(self, offset, length):
        return None if offset > MIB else super().read(offset, length)


with Stalling(disk) as stalling:
    refused("a server that falls silent", hvmigrate("convert", "-q", "--timeout", 1, stalling.uri, TMP / "t.raw"), 1,
            "has not answered for 1 seconds")


class Silent(Server):
    def serve(self, peer, number):
        self.over.wait()


with Silent(disk) as silent:
    refused("a server that never says hello", hvmigrate("info", "--timeout", 0.5, silent.uri), 1, "not answered")


class Lying(Server):
    extents = [(8 * MIB, 0)]

    def status(self, offset, length):
        return [(0, 0)]


with Lying(disk) as lying:
    done = hvmigrate("map", lying.uri)
    check(done.returncode in (1, 3) and "hvmigrate: " in done.err, "a map of nothing is refused", done.returncode, done.err)


class Garbage(Server):
    def negotiate(self, peer, number):
        peer.sendall(random.Random(1).randbytes(4096))
        return False


with Garbage(disk) as garbage:
    refused("no NBD server at all", hvmigrate("info", garbage.uri), 1, "cannot connect")


class Dropping(Server):
    """Its first connection goes away once."""
    dropped = False

    def read(self, offset, length):
        if offset >= 2 * MIB and not self.dropped:
            self.dropped = True
            raise EOFError
        return super().read(offset, length)


with Dropping(disk) as dropping:
    converted(dropping, "dropping.raw", "-j1")

refused("no server", hvmigrate("info", f"nbd+unix:///?socket={TMP}/none.sock"), 1, "cannot connect")
refused("another format", hvmigrate("info", "-f", "vhd", "nbd://localhost/x"), 2, "raw")
refused("a server and another format", hvmigrate("convert", "-O", "vhd", raw, "nbd://localhost/x"), 2, "raw")

# --- other people's servers -----------------------------------------------------------------------------------------


def serve(command, path):
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: os.path.exists(path) or server.poll() is not None, "the server's socket")
    return server


def stop(server):
    server.terminate()
    server.wait(LIMIT)
    for path in TMP.glob("*.sock"):
        path.unlink()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


qemu_nbd = shutil.which("qemu-nbd")
if qemu_nbd:
    sock = str(TMP / "q.sock")
    holey = sparse("holey.raw", 64 * MIB, (MIB, disk[:MIB]), (40 * MIB, disk[:3 * MIB]))
    server = serve([qemu_nbd, "-f", "raw", "-r", "-t", "-e", "4", "-x", "disk", "-k", sock, str(holey)], sock)
    uri = f"nbd+unix:///disk?socket={sock}"
    done = hvmigrate("convert", "--digest", uri, TMP / "from-qemu.raw")
    check(done.returncode == 0 and (TMP / "from-qemu.raw").read_bytes() == holey.read_bytes(), "from qemu-nbd", done.err)
    check((TMP / "from-qemu.raw").stat().st_blocks * 512 < 8 * MIB, "with its holes")
    done = hvmigrate("compare", uri, holey)
    check(done.returncode == 0, "compared over the wire", done.out)
    refused("an export that isn't there", hvmigrate("info", f"nbd+unix:///other?socket={sock}"), 1, "cannot connect")
    stop(server)

    port = free_port()
    target = sparse("target.raw", 8 * MIB)
    server = subprocess.Popen([qemu_nbd, "-f", "raw", "-t", "-b", "127.0.0.1", "-p", str(port), str(target)])
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "the server's port")
    done = hvmigrate("convert", raw, f"nbd://127.0.0.1:{port}/")
    check(done.returncode == 0 and target.read_bytes()[:len(disk)] == disk, "to qemu-nbd over TCP", done.err)
    stop(server)
else:
    print("skip qemu-nbd is not installed")

nbdkit = shutil.which("nbdkit") or shutil.which("nbdkit", path="/usr/sbin")
if nbdkit:
    sock = str(TMP / "k.sock")
    server = serve([nbdkit, "-f", "-U", sock, "memory", "8M"], sock)
    uri = f"nbd+unix:///?socket={sock}"
    done = hvmigrate("convert", raw, uri)
    check(done.returncode == 0, "to nbdkit", done.err)
    done = hvmigrate("compare", "--json", uri, raw)
    check(done.returncode == 0 and json.loads(done.out)["same"], "and it holds the same", done.out, done.err)
    done = hvmigrate("convert", uri, "-", stdout=open(TMP / "piped.raw", "wb"))
    check(done.returncode == 0 and (TMP / "piped.raw").read_bytes()[:len(disk)] == disk, "and out of a pipe again", done.err)
    stop(server)
else:
    print("skip nbdkit is not installed")

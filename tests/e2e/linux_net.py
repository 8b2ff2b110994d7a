#!/usr/bin/env python3
"""The distribution's own kernel uses virtio network cards: user networking (DHCP, ping and names by the router, TCP in both
directions with checksums, forwarded TCP and UDP ports, a cable that is pulled out), and a tap that is handed over, with the
offloads that tap and driver have agreed on, until the interface is deleted under the running VM.

Everything goes over loopback and over network namespaces that the test makes. Where /dev/kvm has no hardware behind it all
runs are put into the box; there the test runs as root and gives hvrun its tap.
"""
# limit: 900
# kvm: none
# once
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

HVRUN = os.environ["HVRUN"]
SECONDS = 240  # for one boot: 3 on hardware, 30 to 60 emulated
SIZE = 3_000_000
MODULES = ("virtio_mmio", "failover", "net_failover", "virtio_net", "af_packet")
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in %s; do $b insmod /m/$m.ko; done 2>/dev/null
$b ip link set lo up
n=/sys/class/net/eth0
echo "CARD $($b cat $n/address) mtu $($b cat $n/mtu) features $($b cat $n/device/features)"
carrier() { i=0; until [ "$($b cat $n/carrier 2>/dev/null)" = $1 ] || [ $i -gt 600 ]; do $b usleep 100000; i=$((i + 1)); done
	echo "CARRIER $($b cat $n/carrier)"; }
sum() { $b sha256sum | $b cut -c1-64; }
case $do in
user)
	$b ip link set eth0 up
	$b udhcpc -i eth0 -n -q -f -t 10 -s /lease >/dev/null || echo "NO-LEASE"
	echo "ADDRESS $($b ip -4 -o addr show eth0 | $b tr -s ' ' | $b cut -d' ' -f4) $($b ip route | $b head -1)"
	$b cat /etc/resolv.conf
	$b ping -c 3 -W 20 10.0.2.2 | $b grep -q ' 3 packets received' && echo "PING OK"
	for name in first second; do $b nslookup $name.test 10.0.2.3 | $b grep -q 192.0.2.7 && echo "NAME $name"; $b sleep 2; done
	echo "DOWN $($b nc -w 60 10.0.2.2 8000 </dev/null | sum)"
	$b nc -w 60 10.0.2.2 8001 </pattern; echo "UP SENT"
	echo "FORWARD READY"; $b nc -l -p 22 </pattern >/tmp/in; echo "FORWARDED $(sum </tmp/in)"
	carrier 0; carrier 1
	$b poweroff -f;;
tap)
	$b ip addr add 192.168.77.2/24 dev eth0; $b ip link set eth0 up
	$b ping -c 3 -W 20 192.168.77.1 | $b grep -q ' 3 packets received' && echo "PING OK"
	echo "DOWN $($b nc -w 60 192.168.77.1 8000 </dev/null | sum)"
	$b nc -w 60 192.168.77.1 8001 </pattern; echo "UP SENT"
	echo "SECOND $($b cat /sys/class/net/eth1/address)"
	echo "DELETE IT"; carrier 0
	$b ping -c 1 -W 1 192.168.77.1 >/dev/null || echo "ALIVE"
	$b poweroff -f;;
esac
"""
LEASE = """#!/bin/busybox sh
[ "$1" = bound ] || exit 0
/bin/busybox ip addr add $ip/$mask dev $interface
/bin/busybox ip route add default via $router
for d in $dns; do echo "nameserver $d"; done >/etc/resolv.conf
"""
PATTERN = random.Random(9).randbytes(SIZE)
DOWN = random.Random(10).randbytes(SIZE)
UP = hashlib.sha256(PATTERN).hexdigest()


def here(good, what, *seen):
    if not good:
        sys.exit(f"FAIL {what}: {' | '.join(map(str, seen))}")
    print("ok  ", what, flush=True)


# --- where Linux runs -----------------------------------------------------------------------------------------------------
def hand_out(listener):
    """Gives everyone who comes the bytes."""
    while True:
        peer = listener.accept()[0]
        peer.settimeout(SECONDS)
        peer.sendall(DOWN)
        peer.close()


class Upload(threading.Thread):
    """Takes one connection's bytes on a port."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.listener = socket.create_server(address)
        self.listener.settimeout(SECONDS)
        self.data = b""
        self.start()

    def run(self):
        peer = self.listener.accept()[0]
        peer.settimeout(SECONDS)
        while len(self.data) < SIZE:
            more = peer.recv(65536)
            if not more:
                break
            self.data += more
        peer.close()


def serve(address):
    threading.Thread(target=hand_out, args=(socket.create_server((address, 8000)),), daemon=True).start()
    return Upload((address, 8001))


def answer_names(server):
    """A name server that knows every name as 192.0.2.7."""
    while True:
        query, peer = server.recvfrom(512)
        end = query.index(b"\0", 12) + 5
        kind = query[end - 4:end - 2]
        record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + bytes((192, 0, 2, 7)) if kind == b"\0\1" else b""
        server.sendto(query[:2] + b"\x81\x80\0\1" + (b"\0\1" if record else b"\0\0") + b"\0\0\0\0" + query[12:end] + record, peer)


def own_namespace(flags):
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        sys.exit(f"FAIL unshare: {os.strerror(ctypes.get_errno())}")


CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000


class Guest:
    """hvrun with its output line by line."""

    def __init__(self, do, *options, **more):
        command = [HVRUN, "--name", f"net-{do}", "--mem", "512M", "--timeout", str(SECONDS), "--initrd", "initrd", "--append",
                   f"console=ttyS0 panic=-1 quiet do={do}", *options, "kernel"]
        self.lines, self.text = [], ""
        with open(f"{do}.err", "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, **more)
        self.err = pathlib.Path(f"{do}.err")

    def until(self, start):
        """Reads on to a line that starts so; the rest of that line."""
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").strip()
            self.lines.append(line)
            if line.startswith(start):
                return line[len(start):].strip()
        sys.exit(f"FAIL '{start}' never came: {self.lines[-30:]} | {self.err.read_text()}")

    def end(self):
        self.lines += self.process.stdout.read().decode(errors="replace").splitlines()
        status = self.process.wait(SECONDS)
        here(status == 0, "the guest turns itself off", status, self.lines[-20:], self.err.read_text())


def qmp(name, *commands):
    """Carries commands out over the VM's socket."""
    folder = pathlib.Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "hvkit"
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(SECONDS)
        s.connect(str(folder / f"{name}.sock"))
        file = s.makefile("rwb")
        file.readline()
        answers = []
        for execute, arguments in (("qmp_capabilities", {}), *commands):
            file.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
            file.flush()
            line = json.loads(file.readline())
            while "event" in line:
                line = json.loads(file.readline())
            answers.append(line)
        return answers[1:]


def card(guest, mtu=1500):
    words = guest.until("CARD").split()
    here(words[2] == str(mtu), "the card's MTU is the network's", words)
    bits = {i for i, bit in enumerate(words[4]) if bit == "1"}
    here({5, 15, 16, 17, 18, 21, 23, 32} <= bits, "the driver takes MAC, mergeable buffers, status, control queue", sorted(bits))
    return words[0], bits


def exchange(guest, upload):
    here("PING OK" in guest.lines or guest.until("PING OK") == "", "the other side answers to ping")
    here(guest.until("DOWN") == hashlib.sha256(DOWN).hexdigest(), f"{SIZE} bytes by TCP to the guest", guest.lines[-5:])
    guest.until("UP SENT")
    upload.join(SECONDS)
    here(hashlib.sha256(upload.data).hexdigest() == UP, f"{SIZE} bytes by TCP from the guest", len(upload.data))


def user_network():
    own_namespace(CLONE_NEWNS | CLONE_NEWNET)  # ports and the name server's address are the test's own
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=60)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, timeout=60)
    pathlib.Path("resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    subprocess.run(["mount", "--bind", "resolv.conf", os.path.realpath("/etc/resolv.conf")], check=True, timeout=60)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    threading.Thread(target=answer_names, args=(names,), daemon=True).start()
    upload = serve("127.0.0.1")
    guest = Guest("user", "--net", "user,hostname=hv-guest,hostfwd=tcp::2222-:22,hostfwd=udp::2223-:23")
    mac, _ = card(guest)
    here(mac.startswith("02:"), "the address is made from the VM's name", mac)
    here(guest.until("ADDRESS") == "10.0.2.15/24 default via 10.0.2.2 dev eth0", "the router's DHCP gives an address and a route",
         guest.lines[-3:])
    here(guest.until("nameserver") == "10.0.2.3", "and a name server")
    here(guest.until("PING OK") == "", "the router answers to ping")
    here(guest.until("NAME first") == "" and guest.until("NAME second") == "", "the name server is asked, from inside the sandbox")
    exchange(guest, upload)
    guest.until("FORWARD READY")
    with forwarded() as peer:
        received = hashlib.sha256()
        threading.Thread(target=lambda: (peer.sendall(DOWN), peer.shutdown(socket.SHUT_WR)), daemon=True).start()
        while data := peer.recv(65536):
            received.update(data)
    here(received.hexdigest() == UP, "a forwarded port: the guest's bytes come", guest.lines[-3:])
    here(guest.until("FORWARDED") == hashlib.sha256(DOWN).hexdigest(), "and the host's bytes reach it")
    answers = qmp("net-user", ("set_link", {"name": "net7", "up": False}), ("set_link", {"name": "net0", "up": False}))
    here("error" in answers[0] and "return" in answers[1], "set_link takes the cable out", answers)
    here(guest.until("CARRIER") == "0", "the guest sees it")
    devices = qmp("net-user", ("set_link", {"name": "net0", "up": True}), ("x-hv-info", {"what": "devices"}))[1]["return"]
    state = next(d["state"] for d in devices if d["device"] == "virtio-net0")
    counts = [int(n) for n in re.findall(r"(\d+) bytes", state)]
    here(len(counts) == 2 and min(counts) > 2 * SIZE, "info devices counts bytes in and out", state)
    here(guest.until("CARRIER") == "1", "and sees it put back in")
    guest.end()
    here(guest.err.read_text() == "", "hvrun has nothing to say", guest.err.read_text())


def forwarded():
    """The guest's listener may take a moment: whoever comes too early is turned away."""
    for _ in range(SECONDS):
        peer = socket.create_connection(("127.0.0.1", 2222), SECONDS)
        peer.settimeout(5)
        try:
            if peer.recv(1, socket.MSG_PEEK):
                peer.settimeout(SECONDS)
                return peer
        except OSError:
            pass
        peer.close()
        time.sleep(1)
    sys.exit("FAIL nobody listens behind the forwarded port")


def make_tap(name):
    """A tap as libvirt and others hand it over."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000))  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    return fd


def tap_network():
    own_namespace(CLONE_NEWNET)
    fd = make_tap("hvt0")
    for words in ("link set lo up", "addr add 192.168.77.1/24 dev hvt0", "link set hvt0 up"):
        subprocess.run(["ip", *words.split()], check=True, timeout=60)
    upload = serve("192.168.77.1")
    guest = Guest("tap", "--net", f"tap,fd={fd},mac=52:54:00:12:34:56", "--net", "tap,ifname=hvt1,mac=52:54:00:12:34:57",
                  pass_fds=(fd,))
    os.close(fd)
    words = guest.until("CARD").split()
    bits = {i for i, bit in enumerate(words[4]) if bit == "1"}
    here(words[0] == "52:54:00:12:34:56", "the address is the one that was given", words)
    here({0, 1, 7, 8, 9, 11, 12, 13, 15} <= bits, "the driver takes checksums and segmentation in both directions", sorted(bits))
    exchange(guest, upload)
    here(guest.until("SECOND") == "52:54:00:12:34:57", "a second card", guest.lines[-3:])
    here(os.path.exists("/sys/class/net/hvt1") or "hvt1" in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True,
         timeout=60).stdout, "whose tap hvrun has made")
    guest.until("DELETE IT")
    subprocess.run(["ip", "link", "del", "hvt0"], check=True, timeout=60)
    here(guest.until("CARRIER") == "0", "an interface that is deleted is a cable that is pulled out")
    here(guest.until("ALIVE") == "", "and the VM lives")
    guest.end()
    said = guest.err.read_text()
    here(said.count("\n") == 1 and "tap hvt0 is gone" in said, "hvrun says so once", said)


if len(sys.argv) > 1:
    {"user": user_network, "tap": tap_network}[sys.argv[1]]()
    sys.exit(0)

# --- here -----------------------------------------------------------------------------------------------------------------
from linux_lib import Linux, SRC, TMP, check, skip, write  # noqa: E402

linux = Linux()
if not shutil.which("ip"):
    skip("ip is missing (iproute2)")
if linux.direct and os.geteuid() != 0:
    skip("only root may make network namespaces and a tap here")
modules = linux.modules(*MODULES)
linux.initrd("initrd", INIT % " ".join(name for name, _ in modules), modules,
             [("lease", 0o100755, LEASE.encode()), ("pattern", 0o100644, PATTERN)])
shutil.copyfile(linux.image, TMP / "kernel")
insert = []
for module, data in linux.modules("tun"):
    write(f"{module}.ko", data)
    if not linux.direct:
        insert.append(f"busybox insmod ./{module}.ko")
for what in ("user", "tap"):
    linux.execute([*insert, f"HVRUN={HVRUN} python3 {SRC}/tests/e2e/linux_net.py {what} >{what}.log 2>&1; echo $? >{what}.status"])
    log = (TMP / f"{what}.log").read_text(errors="replace")
    print(log, end="")
    check((TMP / f"{what}.status").read_text().strip() == "0", f"{what}: all of it")

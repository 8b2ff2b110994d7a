#!/usr/bin/env python3
"""hvmigrate import: whole appliances, as other systems export them, to the same bytes and a description that hvrun
takes; and what is refused in them."""
# kvm: none
import gzip
import hashlib
import io
import tarfile

from hvmigrate_common import *

QEMU_IMG = tool("qemu-img")
HVRUN = os.environ.get("HVRUN") or str(pathlib.Path(HVMIGRATE).with_name("hvrun"))
SIZE = 6 * 1024 * 1024 + 512


def make_raw(name, seed):
    """Random bytes, text and holes."""
    rng = random.Random(seed)
    data = bytearray(SIZE)
    for at in (0, 1 << 20, 3 << 20, SIZE - 70000):
        data[at:at + 65536] = rng.randbytes(65536)
    data[2 << 20:(2 << 20) + 100000] = b"plain text " * 9090 + b"0123456789"
    data = bytes(data[:SIZE])
    (TMP / name).write_bytes(data)
    return data


def qemu(*args):
    subprocess.run([QEMU_IMG, *map(str, args)], check=True, cwd=TMP, stdout=subprocess.DEVNULL)


def imported(name, done, folder, disks, config, status=0):
    """That status; those disks with those bytes; a description with those lines, which hvrun reads."""
    check(done.returncode == status, f"{name}: status {status}", done.returncode, done.err[-400:])
    for file, data in disks.items():
        check((TMP / folder / file).read_bytes() == data, f"{name}: {file} has the same bytes")
    left = sorted(p.name for p in (TMP / folder).iterdir())
    check(left == sorted([*disks, config[0]]), f"{name}: and nothing else is there", left)
    text = (TMP / folder / config[0]).read_text()
    for line in config[1:]:
        check(line in text, f"{name}: the description says {line!r}", text)
    run = subprocess.run([HVRUN, "--config", TMP / folder / config[0]], capture_output=True, timeout=LIMIT, check=False)
    check(run.returncode == 2 and b"no image is given" in run.stderr, f"{name}: hvrun reads it", run.stderr)


one, two = make_raw("one.raw", 1), make_raw("two.raw", 2)
qemu("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "one.raw", "web-disk1.vmdk")
qemu("convert", "-O", "vmdk", "-o", "subformat=streamOptimized", "two.raw", "web-disk2.vmdk")

# --- OVA, as VirtualBox and VMware write them ---------------------------------------------------------------------------

RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"


def item(**fields):
    return "<Item>" + "".join(f"<rasd:{k}>{v}</rasd:{k}>" for k, v in fields.items()) + "</Item>"


OVF = f"""<?xml version="1.0"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="{RASD}" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
 <References>
  <File ovf:id="file1" ovf:href="web-disk1.vmdk"/>
  <File ovf:id="file2" ovf:href="web-disk2.vmdk"/>
 </References>
 <DiskSection><Info>disks</Info>
  <Disk ovf:capacity="{SIZE}" ovf:diskId="vmdisk1" ovf:fileRef="file1"/>
  <Disk ovf:capacity="{SIZE}" ovf:diskId="vmdisk2" ovf:fileRef="file2"/>
 </DiskSection>
 <VirtualSystem ovf:id="Web &amp; more"><Info>a machine</Info>
  <OperatingSystemSection ovf:id="96"><Info>os</Info><Description>Debian_64</Description></OperatingSystemSection>
  <VirtualHardwareSection><Info>hardware</Info>
   {item(ElementName="2 CPUs", InstanceID=1, ResourceType=3, VirtualQuantity=2)}
   {item(AllocationUnits="MegaBytes", ElementName="memory", InstanceID=2, ResourceType=4, VirtualQuantity=768)}
   {item(Address=0, ElementName="sata", InstanceID=5, ResourceSubType="AHCI", ResourceType=20)}
   {item(AddressOnParent=0, HostResource="/disk/vmdisk1", InstanceID=8, Parent=5, ResourceType=17)}
   {item(AddressOnParent=1, HostResource="/disk/vmdisk2", InstanceID=9, Parent=5, ResourceType=17)}
   {item(Address="080027AABBCC", Connection="NAT", InstanceID=10, ResourceSubType="E1000", ResourceType=10)}
  </VirtualHardwareSection>
  <vbox:Machine name="web"><Hardware><Firmware type="EFI"/></Hardware></vbox:Machine>
 </VirtualSystem>
</Envelope>
""".encode()


def ova(name, members, links=()):
    with tarfile.open(TMP / name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for member, target in links:
            info = tarfile.TarInfo(member)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)


def manifest(members, algorithm="sha256"):
    return "".join(f"{algorithm.upper()}({n})= {hashlib.new(algorithm, d).hexdigest()}\n" for n, d in members.items()).encode()


members = {"web.ovf": OVF, "web-disk1.vmdk": (TMP / "web-disk1.vmdk").read_bytes(),
           "web-disk2.vmdk": (TMP / "web-disk2.vmdk").read_bytes()}
ova("web.ova", {"web.ovf": OVF, "web.mf": manifest(members), **members})
CONFIG = ("Web-more.conf", "name Web-more\n", "mem 768M\n", "cpus 2\n", "# - firmware efi", "08:00:27:aa:bb:cc",
          "web-disk2.raw was at sata0:1")
DISKS = {"web-disk1.raw": one, "web-disk2.raw": two}
done = hvmigrate("import", "--verify", "--digest", "web.ova", "from-ova")
imported("an OVA", done, "from-ova", DISKS, CONFIG)
check("read back and equal" in done.err, "an OVA: what --verify found is told", done.err)
check(hashlib.sha256(one).hexdigest() in done.out, "an OVA: its disks' digests are printed")

listed = hvmigrate("import", "--list", "web.ova")
check(listed.returncode == 0 and "web-disk1.vmdk" in listed.out and "Debian_64" in listed.out, "--list tells what is in it")
listed = json.loads(hvmigrate("import", "--list", "--json", "web.ova").out)
check(listed["machines"][0]["drives"][1]["bus"] == "sata" and listed["files"][1]["name"] == "web.mf", "--list --json too")
events = [json.loads(line) for line in hvmigrate("import", "--json", "web.ova", "json-ova").out.splitlines()]
check(events[-1]["event"] == "done" and events[-1]["status"] == 0
      and events[-1]["machines"][0]["drives"][0]["imported"] == "web-disk1.raw"
      and all(f["digest"] == "good" for f in events[-1]["files"] if f["name"] != "web.mf"), "--json tells it in the end")

refused("disks that are there already", hvmigrate("import", "web.ova", "from-ova"), 1, "exists already")
imported("--force", hvmigrate("import", "--force", "web.ova", "from-ova"), "from-ova", DISKS, CONFIG)
done = hvmigrate("import", "-O", "vhdx", "web.ova", "as-vhdx")
check(done.returncode == 0, "-O writes another format", done.err)
qemu("convert", "-O", "raw", "as-vhdx/web-disk1.vhdx", "back.raw")
check((TMP / "back.raw").read_bytes()[:SIZE] == one, "-O: qemu-img reads it to the same bytes")

wrong = bytearray(members["web-disk2.vmdk"])
wrong[len(wrong) // 2] ^= 1
ova("wrong.ova", {"web.ovf": OVF, "web.mf": manifest(members), **members, "web-disk2.vmdk": bytes(wrong)})
refused("a member with a wrong digest", hvmigrate("import", "wrong.ova", "wrong"), 3, "web-disk2.vmdk", "digest")
check(not (TMP / "wrong").exists(), "a member with a wrong digest: nothing is converted")
done = hvmigrate("import", "--salvage", "wrong.ova", "salvaged")
check(done.returncode == 3 and (TMP / "salvaged/web-disk1.raw").read_bytes() == one, "--salvage: the rest, and status 3",
      done.returncode, done.err)
for algorithm in ("sha1", "sha512"):
    ova("alg.ova", {"web.ovf": OVF, "web.mf": manifest(members, algorithm), **members})
    check(hvmigrate("import", "-q", "alg.ova", f"alg-{algorithm}").returncode == 0, f"a manifest of {algorithm}")

# --- disks in pieces, compressed ones, and both -----------------------------------------------------------------------------


def pieces(name, data, size):
    return {f"{name}.{i:09}": data[at:at + size] for i, at in enumerate(range(0, len(data), size))}


def package(name, first, more, description):
    """An OVA and an OVF of the first disk in that form; the second as ever."""
    put = {"web.ovf": description, **first, "web-disk2.vmdk": members["web-disk2.vmdk"], **more}
    put = {"web.ovf": description, "web.mf": manifest(put), **{k: v for k, v in put.items() if k != "web.ovf"}}
    ova(f"{name}.ova", put)
    (TMP / name).mkdir()
    for file, data in put.items():
        (TMP / name / file).write_bytes(data)


def reference(attributes, href="web-disk1.vmdk"):
    return OVF.replace(b'ovf:href="web-disk1.vmdk"', f'ovf:href="{href}" {attributes}'.encode())


disk1 = members["web-disk1.vmdk"]
zipped = gzip.compress(one, 1)
cut = len(disk1) // 3 + 1
FORMS = {
    "cut": (pieces("web-disk1.vmdk", disk1, cut), f'ovf:chunkSize="{cut}" ovf:size="{len(disk1)}"', "web-disk1.vmdk"),
    "one": ({"web-disk1.vmdk": disk1}, f'ovf:chunkSize="{len(disk1)}"', "web-disk1.vmdk"),
    "gz": ({"web-disk1.raw": zipped}, f'ovf:compression="gzip" ovf:size="{len(zipped)}"', "web-disk1.raw"),
    "both": (pieces("web-disk1.raw", zipped, 70000), f'ovf:compression="gzip" ovf:chunkSize="70000" ovf:size="{len(zipped)}"',
             "web-disk1.raw"),
}
for form, (files, attributes, href) in FORMS.items():
    package(f"p-{form}", files, {}, reference(attributes, href))
    for kind in (f"p-{form}.ova", f"p-{form}/web.ovf"):
        done = hvmigrate("import", "--verify", kind, f"from-{kind.replace('/', '-')}")
        imported(f"{kind}", done, f"from-{kind.replace('/', '-')}", DISKS, CONFIG)
        check("nothing vouches" not in done.err, f"{kind}: the manifest vouches for all its files", done.err)
listed = hvmigrate("import", "--list", "p-both.ova")
check(f"in {len(FORMS['both'][0])} pieces, compressed" in listed.out, "--list tells of pieces and compression", listed.out)

WRONG = {
    "a missing piece": ({**dict(list(FORMS["cut"][0].items())[:-1])}, *FORMS["cut"][1:], "one is missing"),
    "a short piece": ({**FORMS["cut"][0], "web-disk1.vmdk.000000001": b"x" * 100}, *FORMS["cut"][1:], "piece 1"),
    "no piece at all": ({}, *FORMS["cut"][1:], "web-disk1.vmdk"),
    "pieces of 0 bytes": (FORMS["cut"][0], 'ovf:chunkSize="0"', "web-disk1.vmdk", "'0' bytes"),
    "a cut gzip": ({"web-disk1.raw": zipped[:-9]}, 'ovf:compression="gzip"', "web-disk1.raw", "web-disk1.raw"),
    "a gzip with a wrong checksum": ({"web-disk1.raw": zipped[:-5] + b"x" + zipped[-4:]}, 'ovf:compression="gzip"',
                                     "web-disk1.raw", "checksum"),
    "a gzip with something behind it": ({"web-disk1.raw": zipped + b"behind"}, 'ovf:compression="gzip"', "web-disk1.raw",
                                        "checksum"),
    "no gzip": ({"web-disk1.raw": one}, 'ovf:compression="gzip"', "web-disk1.raw", "can't be unpacked"),
    "a gzip bomb": ({"web-disk1.raw": gzip.compress(bytes(100 << 20))}, 'ovf:compression="gzip"', "web-disk1.raw",
                    "unpacks to more"),
    "another compression": ({"web-disk1.raw": zipped}, 'ovf:compression="bzip2"', "web-disk1.raw", "another means"),
}
for number, (name, (files, attributes, href, word)) in enumerate(WRONG.items()):
    package(f"w{number}", files, {}, reference(attributes, href))
    for kind in (f"w{number}.ova", f"w{number}/web.ovf"):
        done = hvmigrate("import", "-q", kind, "wrong-form")
        check(done.returncode == (1 if "another" in name or "0 bytes" in name else 3) and word in done.err, f"{name}: {done.err.strip()[-150:]}",
              done.returncode)
        check(not (TMP / "wrong-form").exists(), f"{name}: nothing is left")

# --- hostile archives ---------------------------------------------------------------------------------------------------
for name in ("../evil.raw", "/tmp/evil.raw", "a/../../evil"):
    ova("evil.ova", {**members, name: b"evil"})
    refused(f"a member called {name}", hvmigrate("import", "evil.ova", "evil"), 3, "out of the archive")
ova("evil.ova", members, [("link.vmdk", "/etc/passwd")])
refused("a symbolic link", hvmigrate("import", "evil.ova", "evil"), 3, "link.vmdk", "no plain file")
ova("evil.ova", {"web.ovf": OVF, "web-disk1.vmdk": members["web-disk1.vmdk"]})
refused("a missing member", hvmigrate("import", "evil.ova", "evil"), 3, "web-disk2.vmdk", "missing")
bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "&%c;&%c;&%c;&%c;&%c;&%c;&%c;&%c;">' % ((c, *[c - 1] * 8)) for c in range(98, 110)) + b"]>"
ova("evil.ova", {"web.ovf": OVF.replace(b"?>\n", b"?>\n" + bomb, 1).replace(b"a machine", b"&m;"), **{
    k: v for k, v in members.items() if k != "web.ovf"}})
refused("an entity bomb", hvmigrate("import", "evil.ova", "evil"), 3, "DOCTYPE")
flat = b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n' \
       b'RW 1 FLAT "/etc/passwd" 0\n'
ova("evil.ova", {**members, "web-disk1.vmdk": flat})
done = hvmigrate("import", "evil.ova", "evil")
check(done.returncode == 3 and "root:" not in done.out + done.err, "a member that leads to /etc/passwd", done.err)
check(not (TMP / "evil").exists() or not list((TMP / "evil").iterdir()), "none of them left a file",
      [p.name for p in (TMP / "evil").iterdir()] if (TMP / "evil").exists() else [])
data = (TMP / "web.ova").read_bytes()
for cut in range(512, len(data) - 2048, len(data) // 40 // 512 * 512):
    (TMP / "cut.ova").write_bytes(data[:cut])
    done = hvmigrate("import", "-q", "cut.ova", "cut")
    check(done.returncode in (1, 3) and not (TMP / "cut").exists(), f"an archive cut at {cut}", done.returncode, done.err)

# --- VMX with a snapshot --------------------------------------------------------------------------------------------------
(TMP / "vm").mkdir()
qemu("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "one.raw", "vm/disk.vmdk")
qemu("create", "-q", "-f", "vmdk", "-b", "disk.vmdk", "-F", "vmdk", "vm/disk-000001.vmdk")
subprocess.run([tool("qemu-io"), "-f", "vmdk", "-c", "write -P 0x5a 1M 128k", "vm/disk-000001.vmdk"], check=True, cwd=TMP,
               stdout=subprocess.DEVNULL)
changed = bytearray(one)
changed[1 << 20:(1 << 20) + 131072] = b"\x5a" * 131072
(TMP / "vm/box.vmx").write_text("""#!/usr/bin/vmware
.encoding = "UTF-8"
config.version = "8"
displayName = "box"
memsize = "512"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "disk-000001.vmdk"
ethernet0.present = "TRUE"
ethernet0.generatedAddress = "00:0c:29:01:02:03"
""")
(TMP / "vm/box.vmsd").write_text('snapshot.numSnapshots = "1"\n')
BOX = ("box.conf", "mem 512M\n", "# - 1 snapshot: ", "scsi0:0 (lsilogic)")
imported("a VMX", hvmigrate("import", "vm/box.vmx", "from-vmx"), "from-vmx", {"disk-000001.raw": bytes(changed)}, BOX)
imported("a VMX by its folder", hvmigrate("import", "vm", "from-folder"), "from-folder",
         {"disk-000001.raw": bytes(changed)}, BOX)
(TMP / "vm/disk.vmdk").rename(TMP / "gone.vmdk")
refused("a snapshot without its base", hvmigrate("import", "vm", "no-base"), 1, "disk.vmdk")

# --- Hyper-V's export -----------------------------------------------------------------------------------------------------
export = TMP / "export" / "Server"
(export / "Virtual Machines").mkdir(parents=True)
(export / "Virtual Hard Disks").mkdir()
qemu("convert", "-O", "vhdx", "one.raw", export / "Virtual Hard Disks" / "Server.vhdx")
qemu("convert", "-O", "vpc", "-o", "force_size", "two.raw", export / "Virtual Hard Disks" / "data.vhd")
HV = r"""<?xml version="1.0" encoding="UTF-16" standalone="yes"?>
<configuration>
 <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <controller0>
   <drive0><pathname type="string">C:\Users\Public\Virtual Hard Disks\Server.vhdx</pathname><type type="string">VHD</type></drive0>
   <drive1><pathname type="string">\\?\D:\VMs\data.vhd</pathname><type type="string">VHD</type></drive1>
  </controller0>
  <controller1><drive0><pathname type="string"></pathname><type type="string">ISO</type></drive0></controller1>
 </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
 <_11111111-aaaa-bbbb-cccc-222222222222_>
  <ChannelInstanceGuid type="string">{x}</ChannelInstanceGuid>
  <MacAddress type="string">00155D010203</MacAddress><Connection><AltSwitchName type="string">LAN</AltSwitchName></Connection>
 </_11111111-aaaa-bbbb-cccc-222222222222_>
 <properties><name type="string">Server ü</name><subtype type="integer">0</subtype></properties>
 <settings><memory><bank><size type="integer">2048</size></bank></memory>
  <processors><count type="integer">3</count></processors></settings>
</configuration>
"""
(export / "Virtual Machines" / "1A2B.xml").write_bytes(HV.encode("utf-16"))
done = hvmigrate("import", export, "from-hyperv")
padded = (TMP / "from-hyperv/data.raw").read_bytes() if done.returncode == 0 else b""
check(padded[:SIZE] == two and not padded[SIZE:].strip(b"\0"), "a Hyper-V export's VHD has the same bytes", done.err)
imported("a Hyper-V export", done, "from-hyperv", {"Server.raw": (one), "data.raw": padded},
         ("Server.conf", "mem 2048M\n", "cpus 3\n", "generation 1", "CD drive at ide1:0", "00:15:5d:01:02:03", "'LAN'"))

# --- locked in ----------------------------------------------------------------------------------------------------------
(TMP / "far").mkdir()
qemu("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", "one.raw", "far/disk.vmdk")
(TMP / "near").mkdir()
(TMP / "near/box.vmx").write_text((TMP / "vm/box.vmx").read_text().replace("disk-000001.vmdk", str(TMP / "far/disk.vmdk")))
refused("a disk outside the machine's folder", hvmigrate("import", "near/box.vmx", "near-out"), 3, "--allow-external")
check(not (TMP / "near-out").exists(), "and the folder that was made for it is gone")
done = hvmigrate("import", "--allow-external", TMP / "far/disk.vmdk", "near/box.vmx", "near-out")
check(done.returncode == 0 and (TMP / "near-out/disk.raw").read_bytes() == one, "--allow-external lets it in, its extent too",
      done.err)
(TMP / "kept").mkdir()
refused("a digest", hvmigrate("import", "wrong.ova", "kept"), 3, "digest")
check((TMP / "kept").is_dir(), "a folder that was there already stays")
refused("a folder below one that isn't there", hvmigrate("import", "web.ova", "not/there"), 1, "cannot make the folder")
(TMP / "link.ovf").symlink_to("web.ova")
check(hvmigrate("import", "-q", "link.ovf", "by-link").returncode == 0, "an appliance by a symbolic link")

# --- usage ----------------------------------------------------------------------------------------------------------------
refused("an OVA as a disk", hvmigrate("convert", "web.ova", "x.raw"), 2, "hvmigrate import")
(TMP / "disk.raw.gz").write_bytes(zipped)
refused("a packed disk", hvmigrate("convert", "disk.raw.gz", "x.raw"), 2, "unpack it first")
check(hvmigrate("convert", "-f", "raw", "disk.raw.gz", "x.raw").returncode == 0, "but --format raw is believed")
refused("no folder", hvmigrate("import", "web.ova"), 2, "--list")
refused("no appliance", hvmigrate("import", "one.raw", "x"), 1, "no appliance")
refused("a folder without a machine", hvmigrate("import", "from-ova", "x"), 1, "no machine's description")

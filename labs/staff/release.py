#!/usr/bin/env python3
"""Makes a term's release out of the student's tree that `make handout` wrote.

Below OUT/TERM are then: the students' archive; the staff's (the same tree with hidden tests, solutions and labs/staff);
for each lab a zip for Gradescope and a folder for Autolab; seeds.ini, which keeps the term's two seeds so that a release
can be made again; and SHA256SUMS. The seeds are random, and only the students' one is in what students get: hidden tests
run with numbers that nobody outside has seen. Archives are sorted and carry fixed times, so the same tree gives the same
bytes.
"""
import argparse
import configparser
import gzip
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))
from kit.report import replace_file  # noqa: E402

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
EPOCH = 315532800  # 1980, the earliest that a zip can tell; SOURCE_DATE_EPOCH stands in for it
LEFT_OUT = {"__pycache__", "work", ".hvlab"}
GLUE = ("setup.sh", "run_autograder")


class ReleaseError(Exception):
    """A sentence for the teacher."""


def when():
    return max(EPOCH, int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH))


def tree_files(folder):
    """Paths of a tree's files below it, sorted; what work left there stays out."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f not in LEFT_OUT]
        found += [Path(where, n).relative_to(folder) for n in names if not n.endswith(".pyc")]
    return sorted(found)


# --- archives -----------------------------------------------------------------------------------------------------------
def tar_bytes(folder, top):
    """A tar of folder, named top inside; owners and times are fixed, of modes only the x counts."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in tree_files(folder):
            data = (folder / path).read_bytes()
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size, info.mtime = len(data), when()
            info.mode = 0o755 if os.access(folder / path, os.X_OK) else 0o644
            tar.addfile(info, io.BytesIO(data))
    return whole.getvalue()


def write_targz(path, folder, top):
    with open(path, "wb") as out, gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as packer:
        packer.write(tar_bytes(folder, top))


def write_zip(path, members):
    """members: {name: (bytes, executable)}."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, (data, executable) in sorted(members.items()):
            info = zipfile.ZipInfo(name, time.gmtime(when())[:6])
            info.external_attr = (0o100755 if executable else 0o100644) << 16
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".gz") else zipfile.ZIP_DEFLATED
            out.writestr(info, data)


# --- seeds --------------------------------------------------------------------------------------------------------------
def seeds_of(path, term, fresh):
    """The term's seeds: those that path keeps, or new ones, which it keeps from then on."""
    ini = configparser.ConfigParser(interpolation=None)
    if not fresh and ini.read(path, encoding="utf-8"):
        if ini.get("seeds", "term", fallback=None) != term:
            raise ReleaseError(f"{path} holds another term's seeds")
        return ini["seeds"]["student"], ini["seeds"]["staff"]
    student, staff = secrets.token_hex(16), secrets.token_hex(32)
    replace_file(path, f"[seeds]\nterm = {term}\nstudent = {student}\nstaff = {staff}\n")
    os.chmod(path, 0o600)
    return student, staff


def personal(seed, user):
    """The seed of one student's archive."""
    return hmac.new(seed.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]


def write_term(tree, term, seed, kind):
    (tree / "labs/term.ini").write_text(f"[term]\nterm = {term}\nseed = {seed}\nkind = {kind}\n", encoding="utf-8")


# --- trees --------------------------------------------------------------------------------------------------------------
def copy_tree(source, target):
    for path in tree_files(source):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)
        shutil.copymode(source / path, target / path)


def copy_files(paths, source, target):
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)
        shutil.copymode(source / path, target / path)


def labs_of(tree):
    return sorted(int(p.parent.name[3:]) for p in tree.glob("labs/lab[0-9][0-9]/lab.ini"))


def check_student_tree(tree):
    """What a student must never get. The handout is checked when it is made; a second look costs nothing."""
    for path in tree_files(tree):
        if path.name in ("hidden.py", "hidden.ini") or "staff" in path.parts or "solutions" in path.parts:
            raise ReleaseError(f"{tree}: {path} is the staff's; make the handout anew")


def make_staff_tree(student, repo, tree):
    """The student's tree, and what only staff have."""
    copy_tree(student, tree)
    for number in labs_of(tree):
        copy_files([f"labs/lab{number:02d}/{n}" for n in ("hidden.py", "hidden.ini")
                    if (repo / f"labs/lab{number:02d}" / n).is_file()], repo, tree)
    copy_tree(repo / "labs/staff", tree / "labs/staff")
    copy_files(["labs/kit/cut.py"], repo, tree)
    for path in tree_files(tree / "starters"):
        (tree / "solutions" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repo / path, tree / "solutions" / path)


# --- the release ----------------------------------------------------------------------------------------------------------
def gradescope_zip(path, number, staff_name, staff_data):
    members = {name: ((HERE / "gradescope" / name).read_bytes(), True) for name in GLUE}
    members["lab"] = (f"{number}\n".encode(), False)
    members[staff_name] = (staff_data, False)
    write_zip(path, members)


def autolab_folder(folder, number, staff_name, staff_data, tree):
    """autograde.tar, its Makefile, and the assessment's problems, as Autolab's importer reads them."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        inside = Path(scratch, "autograde")
        inside.mkdir()
        (inside / "lab").write_text(f"{number}\n", encoding="utf-8")
        (inside / staff_name).write_bytes(staff_data)
        shutil.copyfile(HERE / "autolab/grade", inside / "grade")
        os.chmod(inside / "grade", 0o755)
        (folder / "autograde.tar").write_bytes(tar_bytes(inside, "autograde"))
    shutil.copyfile(HERE / "autolab/Makefile", folder / "autograde-Makefile")
    (folder / f"hvlab{number:02d}.yml").write_text(autolab_yml(tree, number), encoding="utf-8")


def points(path, section):
    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    ini.optionxform = str
    ini.read(path, encoding="utf-8")
    return sum(map(float, ini[section].values())) if section in ini else 0


def autolab_yml(tree, number):
    """The assessment: one problem for each task, one for the hidden tests, one for challenges (kit/report.py's names)."""
    folder = tree / f"labs/lab{number:02d}"
    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    ini.read(folder / "lab.ini", encoding="utf-8")
    problems = [(f"task{s[5:]}", ini[s]["title"]) for s in ini.sections() if s.startswith("task ")]
    sums = task_points(tree, number)
    lines = ["---", "general:", f"  name: hvlab{number:02d}",
             f"  display_name: {json.dumps('Lab %d: %s' % (number, ini['lab']['title']))}",
             "  handin_filename: handin.tar.gz", "  handin_directory: handin", "  max_size: 4",
             "  has_svn: false", "problems:"]
    for name, title in problems:
        lines += [f"- name: {name}", f"  description: {json.dumps(title)}", f"  max_score: {sums.get(name, 0):g}",
                  "  optional: false"]
    lines += ["- name: hidden", "  description: \"Hidden tests\"",
              f"  max_score: {points(folder / 'hidden.ini', 'points'):g}", "  optional: false",
              "- name: extra", "  description: \"Challenges\"",
              f"  max_score: {points(folder / 'lab.ini', 'extra'):g}", "  optional: true",
              "autograder:", "  autograde_timeout: 300", "  autograde_image: hvlab", "  release_score: true"]
    return "\n".join(lines) + "\n"


def task_points(tree, number):
    """{"task1": points, ...}: which task a test belongs to stands in tests.py, as its decorator's argument."""
    text = (tree / f"labs/lab{number:02d}/tests.py").read_text(encoding="utf-8")
    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    ini.optionxform = str
    ini.read(tree / f"labs/lab{number:02d}/lab.ini", encoding="utf-8")
    sums = {}
    for task, name in re.findall(r"^@test\([^)]*\btask\s*=\s*(\d+)[^)]*\)\s*\ndef (\w+)", text, re.M):
        if name in ini["points"]:
            sums[f"task{task}"] = sums.get(f"task{task}", 0) + float(ini["points"][name])
    return sums


def release(term, handout, repo, out, users, fresh):
    """Makes OUT/TERM anew. Returns its path."""
    if not NAME.fullmatch(term):
        raise ReleaseError(f"'{term}' is no term's name: letters, digits, dots and dashes")
    if not (handout / "lib/flags.json").is_file():
        raise ReleaseError(f"{handout} is no student's tree: make handout writes one")
    final = out / term
    final.mkdir(parents=True, exist_ok=True)
    student_seed, staff_seed = seeds_of(final / "seeds.ini", term, fresh)
    top = f"hvkit-labs-{term}"
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as scratch:
        new, student, staff = Path(scratch, "new"), Path(scratch, "student"), Path(scratch, "staff")
        new.mkdir()
        copy_tree(handout, student)
        check_student_tree(student)
        write_term(student, term, student_seed, "student")
        write_targz(new / f"{top}.tar.gz", student, top)
        for user in users:
            write_term(student, term, personal(student_seed, user), "student")
            write_targz(new / f"{top}-{user}.tar.gz", student, top)
        make_staff_tree(student, repo, staff)
        write_term(staff, term, staff_seed, "staff")
        staff_name = f"{top}-staff.tar.gz"
        write_targz(new / staff_name, staff, f"{top}-staff")
        staff_data = (new / staff_name).read_bytes()
        for number in labs_of(staff):
            gradescope_zip(new / f"gradescope-lab{number:02d}.zip", number, staff_name, staff_data)
            autolab_folder(new / f"autolab-lab{number:02d}", number, staff_name, staff_data, staff)
        write_sums(new)
        shutil.copyfile(final / "seeds.ini", new / "seeds.ini")
        os.chmod(new / "seeds.ini", 0o600)
        for path in new.iterdir():
            if path.name == staff_name or not path.name.startswith(top):
                path.chmod(0o700 if path.is_dir() else 0o600)  # the staff's seed is inside
        shutil.rmtree(final)
        new.rename(final)
    return final


def write_sums(folder):
    lines = [f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()}  {path}\n" for path in tree_files(folder)]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def read_users(path):
    users = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    for user in users:
        if not NAME.fullmatch(user):
            raise ReleaseError(f"{path}: '{user}' is no name that a file can have")
    return users


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--term", required=True, help="2027S, say")
    parser.add_argument("--handout", type=Path, default=REPO / "build/handout", help="the student's tree (build/handout)")
    parser.add_argument("--out", type=Path, default=REPO / "build/release", help="where OUT/TERM is made (build/release)")
    parser.add_argument("--users", metavar="FILE", help="names, one a line: an archive with seeds of its own for each")
    parser.add_argument("--fresh", action="store_true", help="new seeds, though this term has some")
    given = parser.parse_args(args)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        users = read_users(given.users) if given.users else []
        final = release(given.term, given.handout, REPO, given.out, users, given.fresh)
    except (ReleaseError, configparser.Error) as e:
        print(f"release.py: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print(f"release.py: {e.filename or given.out}: {e.strerror}", file=sys.stderr)
        return 1
    for path in sorted(final.iterdir()):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

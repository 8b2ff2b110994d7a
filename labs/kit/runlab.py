"""`hvlab run N`: hvrun with the student's files inside, on a guest. On a terminal it is used as hvrun itself is.

What runs here is the student's own work on the student's own machine, so only building goes through the sandbox; with
--trace, observe records what the program does.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from kit.build import Builder, BuildError
from kit.lab import Lab
from kit.show import Paint, diagnosis
from kit.tree import colour

FAILED = 1


def image_of(tree, lab, wanted):
    """The guest's image: a file, or one of guests/images by its name."""
    name = wanted or lab.guest
    folder = os.path.join(tree.guests, "images")
    for path in ([name] if wanted else []) + [os.path.join(folder, name), os.path.join(folder, f"{name}.bin")]:
        if os.path.isfile(path):
            return path
    return None


def build(tree, lab, options, scratch):
    """The program's path, or None after telling why there is none."""
    builder = Builder(tree, lab, scratch, options.my_own)
    try:
        builder.compile()
        program = builder.program("hvrun")
    except BuildError as error:
        entry = lab.diagnoses[error.id].filled(error.seen)
        print("\n".join([diagnosis(entry, Paint(colour(sys.stderr)), 0), "", error.output]).rstrip(), file=sys.stderr)
        return None
    if builder.warnings:
        print(builder.output.rstrip(), file=sys.stderr)
    return program


def signal_name(number):
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def start(tree, options, program, image):
    words = [program, *options.rest, image]
    if options.trace is not None:
        record = os.path.abspath(options.trace or "hvrun.trace")
        words = [os.path.join(tree.bin, "observe"), "--no-sandbox", "--trace", record, "--", *words]
    status = subprocess.run(words, check=False).returncode
    if options.trace is not None:
        print(f"{record}: hvlab view shows it", file=sys.stderr)
    if status < 0:
        print(f"hvlab: hvrun died of {signal_name(-status)}", file=sys.stderr)
    return status if status >= 0 else 128 - status


def main(tree, options):
    lab = Lab(tree, options.lab)
    image = image_of(tree, lab, options.guest)
    if not image:
        images = os.path.join(tree.guests, "images")
        have = ", ".join(sorted(os.listdir(images))) if os.path.isdir(images) else "none"
        print(f"hvlab: there is no guest {options.guest or lab.guest}; guests/images has {have}", file=sys.stderr)
        return FAILED
    with tempfile.TemporaryDirectory(prefix="hvlab-") as scratch:
        os.chmod(scratch, 0o711)
        program = build(tree, lab, options, scratch)
        if not program:
            return FAILED
        if options.only_build:
            shutil.copy(program, options.only_build)
            print(options.only_build)
            return 0
        return start(tree, options, program, image)

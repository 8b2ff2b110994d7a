"""Where everything is: in a student's tree (`make handout` wrote it) or in the repository, which builds one to use.

Both have labs/ with the kit and the labs' folders. Starters, headers, reference objects and the recorder stand in the
handout; in the repository that is build/handout, and the work folder is the repository itself, so that grading there
grades the solutions.
"""
import os
import sys

VERSION_FILE = "lib/flags.json"  # made last: a tree that has it is whole


class TreeError(Exception):
    """A sentence for the user."""


class Tree:
    """The paths of one course tree. All are absolute."""

    def __init__(self, labs, handout, in_repo):
        self.labs, self.handout, self.in_repo = labs, handout, in_repo
        self.remembers = not in_repo  # results and records are kept; not beside a submission that is somebody else's
        self.root = os.path.dirname(labs)
        self.kit = os.path.join(labs, "kit")
        self.starters = os.path.join(handout, "starters")
        self.lib = os.path.join(handout, "lib")
        self.bin = os.path.join(handout, "bin")
        self.core = os.path.join(handout, "core")
        self.guests = os.path.join(handout, "guests")
        self.work = os.path.abspath(os.environ.get("HVLAB_WORK") or (self.root if in_repo else
                                                                     os.path.join(self.root, "work")))

    @property
    def state(self):
        """Where the tree keeps what it remembers: starters given out, the last grading."""
        return os.environ.get("HVLAB_STATE") or os.path.join(self.work, ".hvlab")

    def lab_folder(self, number):
        return os.path.join(self.labs, f"lab{number:02d}")

    def numbers(self):
        """The labs that are here, in order."""
        found = []
        for name in os.listdir(self.labs):
            if name.startswith("lab") and name[3:].isdigit() and os.path.exists(os.path.join(self.labs, name, "lab.ini")):
                found.append(int(name[3:]))
        return sorted(found)

    def need_handout(self):
        """Raises TreeError when the built parts are missing."""
        if not os.path.exists(os.path.join(self.handout, VERSION_FILE)):
            cure = "run `make handout` first" if self.in_repo else "unpack the course's archive again"
            raise TreeError(f"{self.handout} has no {VERSION_FILE}: {cure}")


def find():
    """The tree that this kit is part of."""
    labs = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    root = os.path.dirname(labs)
    if os.path.exists(os.path.join(root, VERSION_FILE)):
        return Tree(labs, root, in_repo=False)
    handout = os.environ.get("HVLAB_HANDOUT") or os.path.join(root, os.environ.get("BUILD", "build"), "handout")
    return Tree(labs, os.path.abspath(handout), in_repo=True)


def colour(stream=None):
    """Whether colours may be written there."""
    stream = stream or sys.stdout
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

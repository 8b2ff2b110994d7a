"""The hvlab command: its arguments, and which part of the kit does what. Parts are loaded when they are needed."""
import argparse
import json
import os
import signal
import sys

from kit import tree as trees

DONE, FAILED, USAGE, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 130
FORMATS = ("json", "gradescope", "junit", "autolab")
READ_MAX = 16 << 20  # of a record, when only a look at it is wanted


class Usage(Exception):
    """The command line asks for something that can't be; a sentence."""


def version(tree):
    try:
        with open(os.path.join(tree.handout, trees.VERSION_FILE), encoding="utf-8") as file:
            return json.load(file)["version"]
    except (OSError, ValueError, KeyError):
        return "(not built)"


def lab_number(text):
    if not text.isdigit() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"'{text}' is no lab's number")
    return int(text)


def labs_wanted(text):
    return text if text == "all" else lab_number(text)


def load_lab(tree, number):
    """The lab, or a sentence for one that isn't here."""
    from kit import lab
    if number not in tree.numbers():
        here = ", ".join(map(str, tree.numbers())) or "none"
        raise Usage(f"there is no lab {number} here; the labs are {here}")
    return lab.Lab(tree, number)


def last_result(tree, number):
    """The last grading's result, or None."""
    try:
        with open(os.path.join(tree.state, f"result-lab{number:02d}.json"), encoding="utf-8") as file:
            found = json.load(file)
        return found if found.get("format") == "hvlab-result-1" else None
    except (OSError, ValueError, AttributeError):
        return None


# --- commands -----------------------------------------------------------------------------------------------------------
def do_doctor(tree, options):
    from kit import doctor
    return doctor.main(options.rest)


def do_list(tree, options):
    from kit import lab
    from kit.report import number
    rows = []
    for one in lab.load_all(tree):
        result = last_result(tree, one.number)
        started = any(os.path.exists(os.path.join(tree.work, name)) for name in one.files)
        state = "" if not started else "started"
        if result:
            state = f"{number(result['score'])} of {number(result['max'])}"
        rows.append((one.number, one.title, f"{one.hours} h" if one.hours else "", one.hardness, number(one.max), state))
    if options.json:
        keys = ("lab", "title", "hours", "hardness", "points", "state")
        print(json.dumps([dict(zip(keys, row)) for row in rows], indent=1))
        return DONE
    for num, title, hours, hardness, points, state in rows:
        print(f"{num:3}  {title:24} {hours:>5}  {hardness:10} {points:>4} points  {state}".rstrip())
    return DONE


def do_start(tree, options):
    from kit import work
    return work.start(tree, load_lab(tree, options.lab), options.again)


def do_diff(tree, options):
    from kit import work
    return work.diff(tree, load_lab(tree, options.lab), options.last, trees.colour())


def need_kvm(options):
    """Nobody is graded where no VM can be made; a person is told where it can be done."""
    device = os.environ.get("HV_KVM_DEVICE") or "/dev/kvm"
    if not os.path.exists(device):
        raise trees.TreeError(f"{device} is missing, so no VM can be made here. On an emulated PC that has one: hvlab box -- "
                              f"hvlab {options.command} {options.lab}; hvlab doctor tells what else can be done")
    if not os.access(device, os.R_OK | os.W_OK):
        raise trees.TreeError(f"{device} may not be used by you; hvlab doctor tells the cure")


def do_run(tree, options):
    from kit import runlab
    load_lab(tree, options.lab)
    return runlab.main(tree, options)


def do_grade(tree, options):
    from kit import grading
    if not options.format:  # another program wants its report, whatever is in it
        need_kvm(options)
    numbers = tree.numbers() if options.lab == "all" else [load_lab(tree, options.lab).number]
    return grading.main(tree, numbers, options)


def do_watch(tree, options):
    from kit import watch
    need_kvm(options)
    return watch.main(tree, load_lab(tree, options.lab), options)


def do_hint(tree, options):
    from kit import help as helper
    load_lab(tree, options.lab)
    text, status = helper.hint(tree, options.lab, last_result(tree, options.lab), options.task, options.all)
    print(text, file=sys.stdout if status == DONE else sys.stderr)
    return status


def do_explain(tree, options):
    from kit import help as helper
    results = [result for number in tree.numbers() if (result := last_result(tree, number))]
    text, status = helper.explain(tree, options.id, results)
    print(text, file=sys.stdout if status == DONE else sys.stderr)
    return status


def do_submit(tree, options):
    from kit import grade, lab, submit
    one = load_lab(tree, options.lab)
    paths = {name: os.path.join(tree.work, name) for name in one.files}
    missing = [name for name, path in paths.items() if not os.path.isfile(path)]
    if missing:
        print(f"hvlab: {tree.work} has no {', '.join(missing)}; hvlab start {one.number} gives it", file=sys.stderr)
        return FAILED
    if not options.anyway and (entry := submit.compiles(tree, one)):
        print(f"hvlab: {entry['id']}: {entry['seen']}\nIt is not packed like that; --anyway does it all the same.",
              file=sys.stderr)
        return FAILED
    try:
        path, manifest = submit.submit(one.number, one.title, paths, options.user or grade.user_name(),
                                       lab.Term(tree).name, version(tree), options.output,
                                       last_result(tree, one.number))
    except submit.Damaged as error:
        print(f"hvlab: {error}", file=sys.stderr)
        return DAMAGED
    print(f"{path}: lab {one.number} of {manifest['user']}, {len(manifest['files'])} files")
    return DONE


def fullest(folder, traces):
    """The last of a test's records that has exits: some tests end with a run that never enters the guest."""
    for one in reversed(traces):
        with open(os.path.join(folder, one), "rb") as record:
            if b'{"k":"run"' in record.read(READ_MAX):
                return one
    return traces[-1]


def do_view(tree, options):
    from kit import view
    found = options.trace
    name = found.partition(":")
    if name[0].isdigit() and not os.path.exists(found):
        folder = os.path.join(tree.state, "last", f"lab{int(name[0]):02d}")
        have = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        traces = [one for one in have if one.endswith(".trace") and one.startswith(name[2])]
        if not traces:
            raise Usage(f"the last grading left no record of {found}; hvlab grade {name[0]} makes them")
        found = os.path.join(folder, fullest(folder, traces))
        others = [f"{name[0]}:{one.removesuffix('.trace')}" for one in traces if one != os.path.basename(found)]
        if others and len(others) < 8:
            print(f"{name[0]}:{os.path.basename(found).removesuffix('.trace')}; there are also " + ", ".join(others),
                  file=sys.stderr)
    return view.main([found, *options.rest])


def do_box(tree, options):
    from kit import box
    return box.main(options.words)


# --- the command line ---------------------------------------------------------------------------------------------------
def grade_options(parser):
    parser.add_argument("--my-own", action="store_true", help="link all of your files, not only this lab's")
    parser.add_argument("--seed", help="repeat a grading: the seed that it printed")
    parser.add_argument("--user", help="whose variant (default: the user's name, or HVLAB_USER)")
    parser.add_argument("--work", metavar="DIR", help="the folder with the student's files (default: work/, or HVLAB_WORK)")
    parser.add_argument("--task", type=int, metavar="M", help="only the tests of one task")


def arguments(tree):
    parser = argparse.ArgumentParser(prog="hvlab", description="The labs: start one, grade it, see what went wrong.",
                                     epilog="Exit status: 0 done (grade: full marks), 1 failed, 2 wrong usage, 3 damaged input.")
    parser.add_argument("--version", action="version", version=f"hvlab {version(tree)}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name, function, text, lab=None, **more):
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", **more)
        added.set_defaults(function=function)
        if lab:
            added.add_argument("lab", type=lab, metavar="N")
        return added

    command("doctor", do_doctor, "look whether this machine has what the labs need", add_help=False)
    command("list", do_list, "the labs, with your points").add_argument("--json", action="store_true")
    start = command("start", do_start, "put a lab's starter files into the work folder", lab_number)
    start.add_argument("--again", action="store_true", help="replace your files; they are kept beside as FILE.bak")
    run = command("run", do_run, "build hvrun with your files and run a guest", lab_number)
    run.add_argument("--guest", metavar="G", help="an image, or the name of one of guests/images")
    run.add_argument("--trace", metavar="FILE", nargs="?", const="", help="record the exits (default: hvrun.trace)")
    run.add_argument("--my-own", action="store_true", help="link all of your files, not only this lab's")
    run.add_argument("--only-build", metavar="FILE", help="write the program there and run nothing")
    run.add_argument("--work", metavar="DIR", help=argparse.SUPPRESS)
    grade = command("grade", do_grade, "grade a lab, or all", labs_wanted)
    grade_options(grade)
    for name in FORMATS:
        grade.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=f"report as {name}")
    grade.add_argument("--output", metavar="FILE", help="write the report there, anew after each test")
    grade.add_argument("--whole", action="store_true", help="tell every mistake in full")
    grade.add_argument("--only", action="append", metavar="TEST", help="only this test, by its name")
    hint = command("hint", do_hint, "a hint for the first task that fails; the next one each time", lab_number)
    hint.add_argument("--task", type=int, metavar="M")
    hint.add_argument("--all", action="store_true", help="all hints of the task")
    command("explain", do_explain, "what a diagnosis means").add_argument("id", metavar="ID", nargs="?")
    diff = command("diff", do_diff, "what you changed since the start", lab_number)
    diff.add_argument("--last", action="store_true", help="since the last grading")
    submit = command("submit", do_submit, "pack a lab to be handed in", lab_number)
    submit.add_argument("--output", metavar="DIR", default=".", help="where to write the archive")
    submit.add_argument("--user", help="your name in the course")
    submit.add_argument("--work", metavar="DIR", help="the folder with the student's files")
    submit.add_argument("--anyway", action="store_true", help="pack it though it doesn't compile")
    view = command("view", do_view, "show a record's exits as a page")
    view.add_argument("trace", metavar="TRACE", help="a record; or N:TEST of the last grading of lab N")
    watch = command("watch", do_watch, "grade again whenever a file of the lab is saved", lab_number)
    grade_options(watch)
    watch.add_argument("--times", type=int, default=0, metavar="K", help="end after so many gradings")
    watch.add_argument("--limit", type=float, default=4 * 3600, metavar="SECONDS", help="end after so long (4 hours)")
    command("box", do_box, "a command, or a shell, on an emulated PC with AMD-V or VT-x", add_help=False)
    return parser


def parse(tree, args):
    """What follows -- goes to hvrun; what a part reads itself (doctor, view) goes there."""
    after = []
    if "--" in args:
        at = args.index("--")
        args, after = args[:at], args[at + 1:]
    parser = arguments(tree)
    if args[:1] == ["box"]:  # reads its own, and what follows -- is no word of hvrun's
        options = parser.parse_args(args[:1])
        options.words = args[1:] + (["--"] + after if after else [])
        return options
    options, rest = parser.parse_known_args(args)
    if rest and options.command not in ("doctor", "view", "box"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest + after
    if getattr(options, "work", None):
        tree.work, tree.remembers = os.path.abspath(options.work), False
    return options


def end(signo, frame):
    """SIGTERM ends a grading as Ctrl-C does: programs are stopped, folders go."""
    raise KeyboardInterrupt


def main(args):
    tree = trees.find()
    options = parse(tree, args)
    signal.signal(signal.SIGTERM, end)
    try:
        from kit.lab import LabError
        return options.function(tree, options)
    except Usage as error:
        print(f"hvlab: {error}", file=sys.stderr)
        return USAGE
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("kit."):
            raise
        print(f"hvlab: this tree has no {error.name}, which {options.command} needs", file=sys.stderr)
        return FAILED
    except (LabError, trees.TreeError) as error:
        print(f"hvlab: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        print(f"hvlab: {error.filename or ''}: {error.strerror or error}".replace(": :", ":"), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("hvlab: interrupted", file=sys.stderr)
        return INTERRUPTED

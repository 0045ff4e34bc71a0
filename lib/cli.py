"""The command line: flags that know what they need and exclude, their types, and flags as text again."""

import argparse
import dataclasses
import math
import re
import shlex
import sys

from lib.files import BadInput


class Parser(argparse.ArgumentParser):
    """An argument parser that shows a script's docstring as it stands and completes no abbreviation.

    A mistake raises BadInput. Flags know whether an arm of a comparison may change them (`per_arm`), for which kind of
    encoder they are (`only`), which other flag they need and exclude (`needs`, `excludes`), and when they change
    nothing (`idle_when`, a function of what idle() is given).
    """

    def __init__(self, doc, *, first=""):
        """first: the flags, separated by spaces, that `--help` shows; the others are behind `--help all`."""
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
        self._modes, self._first = {}, first.split()

    def print_help(self, file=None):
        """The help of the first flags, or behind `--help all` of every one."""
        if not self._first or "all" in sys.argv[1:]:
            return super().print_help(file)
        shown = {"help", *self._first}
        texts = {action: action.help for action in self._actions if action.option_strings and action.dest not in shown}
        for action in texts:
            action.help = argparse.SUPPRESS
        self.epilog = f"{len(texts)} more flags: --help all"
        super().print_help(file)
        self.epilog = None
        for action, text in texts.items():
            action.help = text

    def error(self, message):
        """BadInput instead of argparse's usage text: `--batch_size 0: must be above 0`."""
        message = re.sub(r"^argument (--\w+)(/--\w+)*: (?=invalid|expected)", r"\1: ", message)
        raise BadInput(re.sub(r"^argument (--\w+)(/--\w+)*: ", r"\1 ", message))

    def parse_args(self, *args, **kwargs):
        """The arguments; BadInput for a text that is empty and may not be, or that no file can be called by."""
        found = super().parse_args(*args, **kwargs)
        for name, value in vars(found).items():
            texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
            if "" in texts and value != self.get_default(name) and not name.endswith("prefix"):
                raise BadInput(f"--{name}: is empty; leave it out or give it a value")
            if any("\0" in text or any("\ud800" <= c <= "\udfff" for c in text) for text in texts):
                raise BadInput(f"--{name} {texts[0]!r}: holds a NUL or bytes that are not UTF-8")
        return found

    def group(self, title, *, per_arm=False, only=None, needs=None, excludes=None):
        """The add_argument() of a new group, with what its flags have in common unless they say otherwise."""
        group = self.add_argument_group(title)

        def add(*names, per_arm=per_arm, needs=needs, excludes=excludes, idle_when=None, **options):
            action = group.add_argument(*names, **options)
            plainly = isinstance(action.default, (int, float, str)) and not isinstance(action.default, bool)
            if action.help and plainly and "default" not in action.help:
                action.help += f" (default: {action.default})"
            action.per_arm, action.only, action.idle_when = per_arm, only, idle_when
            action.needs, action.excludes = needs, excludes

        return add

    def mode(self, name, others):
        """Beside the flag `name` only these others, separated by spaces, play a part."""
        self._modes[name] = {name, *others.split()}

    def check(self, args, *, only=None):
        """BadInput if flags that were given do not go together, or are for another kind of encoder than `only`."""
        given = non_default(args, self)
        for name in self._modes.keys() & given.keys():
            if unused := given.keys() - self._modes[name]:
                raise BadInput(f"--{min(unused)} plays no part with --{name}")
        for action in (action for action in self._actions if action.dest in given):
            name, kind = action.dest, getattr(action, "only", None)
            if only and kind not in (None, only):
                raise BadInput(f"--{name} is for a {kind} encoder, and this is a {only} one: leave it out")
            if (other := getattr(action, "needs", None)) and not getattr(args, other):
                raise BadInput(f"--{name} needs --{other}")
            if (other := getattr(action, "excludes", None)) and other in given:
                raise BadInput(f"--{name} and --{other} exclude each other")

    def idle(self, *facts):
        """The flags given in facts[0], the arguments, that change nothing: their idle_when(*facts) holds."""
        rules = {action.dest: getattr(action, "idle_when", None) for action in self._actions}
        return sorted(name for name in non_default(facts[0], self) if rules[name] and rules[name](*facts))

    def flags(self, **wanted):
        """{name: action} of the flags with these attributes: flags(per_arm=True), flags(only="static")."""
        return {
            action.dest: action
            for action in self._actions
            if all(getattr(action, name, None) == value for name, value in wanted.items())
        }

    def value_of(self, name, text):
        """The value of a flag that an arm may change, checked by the flag's own type; lists have commas."""
        allowed = self.flags(per_arm=True)
        if name not in allowed or not text:
            raise BadInput(f"{name}={text} is no flag=value of an arm; it may change {', '.join(allowed)}")
        if not allowed[name].nargs:
            return getattr(self.parse_args([f"--{name}={text}"]), name)
        values = text.split(",")
        if odd := [value for value in values if value.startswith("-")]:  # would be read as a flag
            raise BadInput(f"--{name} {odd[0]}: a value of a list does not begin with -")
        return getattr(self.parse_args([f"--{name}", *values]), name)


def number(kind, *, above=-math.inf, least=-math.inf, below=math.inf, most=math.inf):
    """A type for argparse: a finite int or float within limits."""
    noun = {int: "a whole number", float: "a number"}[kind]

    def convert(text):
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            finite = False
        if not finite:
            raise BadInput(f"{text}: must be {noun}")
        for fits, limit in (
            (value > above, f"above {above:g}"),
            (value >= least, f"at least {least:g}"),
            (value < below, f"below {below:g}"),
            (value <= most, f"at most {most:g}"),
        ):
            if not fits:
                raise BadInput(f"{text}: must be {limit}")
        return value

    return convert


def _name(text):
    if not text.strip():
        raise BadInput("a name is empty")
    return text


COUNT = number(int, least=1, below=1 << 53)  # of queries, docs, steps
DIM = number(int, least=1, most=1 << 16)
DEPTH = number(int, least=1, most=1_000_000)
ABOVE_0 = number(float, above=0)
AT_LEAST_0 = number(float, least=0)
BELOW_1 = number(float, least=0, below=1)  # shares and decays that must leave something
GIGABYTES = number(float, above=0, most=1e6)
SHARE = number(float, least=0, most=1)
SEED = number(int, least=0, below=1 << 53)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row of a table with its numbers; `text` is how it was written, as in percpos:0.95."""

    text: str
    name: str
    numbers: tuple


def choice(table):
    """A type for argparse: name:number:number -> a Choice among the rows of a table.

    A row has `numbers` {letter: limits of number(), with int as the `kind` of whole ones, str of what is no number but
    a name, and maybe a `default`: a number, or the letter of another whose number it is}.
    """

    def convert(text):
        name, *given = text.split(":")
        if name not in table:
            raise BadInput(f"{text}: {name!r} is none of {usage(table)}")
        wanted = table[name].numbers
        values = [limits.get("default") for limits in wanted.values()]
        if len(given) > len(wanted) or None in values[len(given) :]:
            raise BadInput(f"{text}: write {':'.join([name, *wanted])}, with a number for each letter")
        for i, (number_text, row) in enumerate(zip(given, wanted.values())):
            limits, kind = {key: row[key] for key in row if key not in ("kind", "default")}, row.get("kind", float)
            try:
                values[i] = _name(number_text) if kind is str else number(kind, **limits)(number_text)
            except BadInput as error:
                raise BadInput(f"{text}: {error}") from None
        by_letter = dict(zip(wanted, values))
        values[len(given) :] = [by_letter.get(value, value) for value in values[len(given) :]]
        return Choice(text, name, tuple(values))

    return convert


def usage(table):
    """The names of a table's rows with letters for their numbers, as in simans:A:B, uniform."""
    return ", ".join(":".join([name, *row.numbers]) for name, row in table.items())


def explained(table):
    """usage() with what each row does, from the docstrings of their functions."""
    if bare := [name for name, row in table.items() if not row.function.__doc__]:
        raise BadInput(f"the function of {bare[0]} has no docstring, which --help shows: write what it does")
    about = {name: " ".join(row.function.__doc__.split()) for name, row in table.items()}
    about = {name: text.partition(" -> ")[0].rstrip(".") for name, text in about.items()}  # without shapes
    return "; ".join(f"{':'.join([name, *row.numbers])}, {about[name]}" for name, row in table.items())


def plain(value):
    """A flag's value as JSON holds it: what was parsed from a text becomes that text again."""
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return getattr(value, "text", value)


def non_default(args, parser):
    """{name: value} of the flags that differ from the parser's defaults: what a reader of a run wants first."""
    return {name: value for name, value in vars(args).items() if value != parser.get_default(name)}


def to_flags(values):
    """A command line that gives these {name: value}: --name=value, --name value value, or --name alone."""
    flags = []
    for name, value in values.items():
        value = plain(value)
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False:
            flags.append(f"--{name}={value}")
    return flags


def print_header(title, args, parser, derived):
    """Print what was asked for that is not the default, and the numbers that follow from it."""
    print(f"== {title}")
    for name, value in non_default(args, parser).items():
        value = plain(value)
        print(f"   --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    for name, value in derived.items():
        shown = ", ".join(f"{key} {of}" for key, of in value.items()) if isinstance(value, dict) else value
        print(f"   {name} = {shown}")


def quoted(path):
    """A path or name for a shell: what is printed as the next command can be pasted."""
    return shlex.quote(str(path))

"""The command line: numbers, rows of tables, flags and what goes with them, flags as text again."""

import importlib
import subprocess
from typing import NamedTuple

import pytest
from conftest import Row

from lib import cli
from lib.files import BadInput

WHOLE, NUMBER = "must be a whole number", "must be a number"


@pytest.mark.parametrize(
    "kind, limits, text, message",
    [
        (int, {}, "1.0", WHOLE),
        (int, {}, "nan", WHOLE),
        (int, {}, "inf", WHOLE),
        (int, {}, "1e3", WHOLE),
        (int, {}, "", WHOLE),
        (int, {}, "1" + "0" * 400, WHOLE),  # no float holds it
        (float, {}, "nan", NUMBER),
        (float, {}, "-nan", NUMBER),
        (float, {}, "inf", NUMBER),
        (float, {}, "-Infinity", NUMBER),
        (float, {}, "1e999", NUMBER),
        (float, {}, "1,5", NUMBER),
        (float, {}, "", NUMBER),
        (float, {"above": 0}, "0", "must be above 0"),
        (float, {"above": 0}, "nan", NUMBER),
        (float, {"least": 0.25}, "0.2", "must be at least 0.25"),
        (float, {"below": 1}, "1", "must be below 1"),
        (float, {"most": 1}, "1.001", "must be at most 1"),
        (float, {"above": 0, "most": 1}, "inf", NUMBER),
        (float, {"above": 0, "most": 1}, "-1", "must be above 0"),
        (float, {"above": 0, "most": 1}, "2", "must be at most 1"),
        (int, {"least": 1, "below": 10}, "0", "must be at least 1"),
        (int, {"least": 1, "below": 10}, "10", "must be below 10"),
    ],
)
def test_a_number_outside_its_limits_is_refused(kind, limits, text, message):
    with pytest.raises(BadInput) as refused:
        cli.number(kind, **limits)(text)
    assert str(refused.value) == f"{text}: {message}"


@pytest.mark.parametrize(
    "kind, limits, text, wanted",
    [
        (int, {}, "-7", -7),
        (int, {}, str(2**53 + 1), 2**53 + 1),
        (int, {"least": 1, "below": 10}, "1", 1),
        (int, {"least": 1, "below": 10}, "9", 9),
        (float, {}, "-1e-3", -0.001),
        (float, {}, "3", 3.0),
        (float, {"above": 0, "most": 1}, "1", 1.0),
        (float, {"above": 0, "most": 1}, "5e-324", 5e-324),
        (float, {"least": 0, "below": 1}, "0", 0.0),
    ],
)
def test_a_number_within_its_limits_is_taken(kind, limits, text, wanted):
    found = cli.number(kind, **limits)(text)
    assert found == wanted and type(found) is kind


@pytest.mark.parametrize(
    "convert, taken, refused",
    [
        (cli.COUNT, ["1", str(2**53 - 1)], ["0", "-1", "2.5", str(2**53)]),
        (cli.SEED, ["0", str(2**53 - 1)], ["-1", str(2**53)]),
        (cli.ABOVE_0, ["1e-9", "1e9"], ["0", "-1", "inf"]),
        (cli.AT_LEAST_0, ["0", "1e9"], ["-1e-9", "nan"]),
        (cli.BELOW_1, ["0", "0.999"], ["1", "-0.1"]),
        (cli.SHARE, ["0", "1"], ["1.1", "-0.1"]),
    ],
)
def test_kinds_of_numbers(convert, taken, refused):
    assert [convert(text) for text in taken] == [float(text) for text in taken]
    for text in refused:
        with pytest.raises(BadInput, match=f"^{text}: must be "):
            convert(text)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--b", "0"], "--batch_size 0: must be at least 1"),
        (["--batch_size=-3"], "--batch_size -3: must be at least 1"),
        (["--batch_size", "1.5"], "--batch_size 1.5: must be a whole number"),
        (["--batch_size", "nan"], "--batch_size nan: must be a whole number"),
        (["--dims", "4", "0"], "--dims 0: must be at least 1"),
        (["--kind", "d"], "--kind d: 'd' is none of a:X, b:N, c"),
        (["--ema", "1"], "--ema 1: must be below 1"),
        (["--ema", "nan"], "--ema nan: must be a number"),
        (["--lr=-inf"], "--lr -inf: must be a number"),
        (["--lr", "0"], "--lr 0: must be above 0"),
        (["--margin", "much"], "--margin much: must be a number"),
        (["--batch_size"], "--batch_size: expected one argument"),
        (["--batch", "4"], "unrecognized arguments: --batch 4"),
        (["--speed", "4"], "unrecognized arguments: --speed 4"),
    ],
)
def test_a_wrong_flag_is_one_line(parser, flags, message):
    with pytest.raises(BadInput) as refused:
        parser.parse_args(flags)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--batch_size", "3", "--fast"],
        ["--names", "a", "b c", "--margin", "-0.25", "--lr", "1e-3"],
        ["--prefix=--query: "],
        ["--prefix="],
        ["--prefix=a=b\nc"],
        ["--dims", "4", "8", "--steps", "9", "--lr", "0.30000000000000004"],
        ["--arms", "b:2", "c", "--kind", "a:-.50"],
    ],
)
def test_arguments_become_the_flags_that_give_them(parser, flags):
    args = parser.parse_args(flags)
    changed = cli.non_default(args, parser)
    for values in (changed, vars(args)):
        assert parser.parse_args(cli.to_flags(values)) == args
    assert set(changed) == {flag.lstrip("-").partition("=")[0] for flag in flags if flag.startswith("--")}


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ([], {}),
        (["--lr", "0.1", "--arms", "a:1"], {}),
        (["--lr", "0.2"], {"lr": 0.2}),
        (["--arms", "c", "b:2", "--prefix", "x", "--fast"], {"arms": ["c", "b:2"], "prefix": "x", "fast": True}),
    ],
)
def test_what_differs_from_the_defaults_is_shown(parser, argv, wanted, capsys):
    args = parser.parse_args(argv)
    assert {name: cli.plain(value) for name, value in cli.non_default(args, parser).items()} == wanted
    cli.print_header("title", args, parser, {"steps": 7})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "== title" and printed[-1].split() == ["steps", "=", "7"] and len(printed) == 2 + len(wanted)


def test_flags_say_what_they_are_for(parser):
    assert list(parser.flags(per_arm=True)) == ["lr", "dims"]
    assert list(parser.flags(only="static")) == ["lr", "dims", "steps"]
    assert list(parser.flags(only="static", per_arm=False)) == ["steps"]
    assert list(parser.flags(only="transformer")) == []
    assert set(parser.flags()) == {"help", *vars(parser.parse_args([]))}
    assert parser.flags(per_arm=True)["lr"].default == 0.1


def test_the_value_of_an_arms_flag_is_checked_by_its_type(parser):
    assert parser.value_of("lr", "1e-3") == 1e-3
    assert parser.value_of("dims", "4") == [4] and parser.value_of("dims", "4,8") == [4, 8]


@pytest.mark.parametrize("text", ["-x", "--help", "--lr", "a=b", "a,b"])
def test_the_text_of_an_arms_flag_is_never_read_as_a_flag(text):
    parser = cli.Parser("test")
    parser.group("text", per_arm=True)("--guide", help="a text")
    assert parser.value_of("guide", text) == text


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("ema", ".5", "ema=.5 is no flag=value of an arm; it may change lr, dims"),
        ("steps", "5", "steps=5 is no flag=value of an arm; it may change lr, dims"),
        ("speed", "5", "speed=5 is no flag=value of an arm; it may change lr, dims"),
        ("lr", "", "lr= is no flag=value of an arm; it may change lr, dims"),
        ("lr", "0", "--lr 0: must be above 0"),
        ("lr", "nan", "--lr nan: must be a number"),
        ("lr", "1,2", "--lr 1,2: must be a number"),
        ("dims", "4,0", "--dims 0: must be at least 1"),
        ("dims", "4,", "--dims : must be a whole number"),
        ("dims", "4,--help", "--dims --help: a value of a list does not begin with -"),
    ],
)
def test_what_is_no_value_of_an_arms_flag_is_refused(parser, name, text, message):
    with pytest.raises(BadInput) as refused:
        parser.value_of(name, text)
    assert str(refused.value) == message


# ------------------------------------------------------------------------------- rows of a table, with numbers


TABLE = {
    "plain": Row({}),
    "share": Row({"SHARE": {"least": 0, "below": 1}}),
    "window": Row({"FIRST": {"kind": int, "least": 0}, "LAST": {"kind": int, "least": 0}}),
    "kl": Row({"X": {}, "T": {"above": 0, "default": 1.0}}),
}


@pytest.mark.parametrize(
    "text, name, numbers",
    [
        ("plain", "plain", ()),
        ("share:.5", "share", (0.5,)),
        ("window:3:10", "window", (3, 10)),
        ("kl:-1", "kl", (-1.0, 1.0)),
        ("kl:-1:.05", "kl", (-1.0, 0.05)),
    ],
)
def test_a_choice_keeps_its_text_its_name_and_its_numbers(text, name, numbers):
    found = cli.choice(TABLE)(text)
    assert found == cli.Choice(text, name, numbers) and cli.plain(found) == text
    assert [type(number) for number in found.numbers] == [type(number) for number in numbers]


NONE_OF, NUMBERS = "is none of plain, share:SHARE, window:FIRST:LAST, kl:X:T", "with a number for each letter"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", f"'' {NONE_OF}"),
        ("other:1", f"'other' {NONE_OF}"),
        ("plain:1", f"write plain, {NUMBERS}"),
        ("plain:", f"write plain, {NUMBERS}"),
        ("share", f"write share:SHARE, {NUMBERS}"),
        ("share:1:2", f"write share:SHARE, {NUMBERS}"),
        ("share:", ": must be a number"),
        ("share:1", "1: must be below 1"),
        ("window:1", f"write window:FIRST:LAST, {NUMBERS}"),
        ("window:1.5:3", "1.5: must be a whole number"),
        ("kl", f"write kl:X:T, {NUMBERS}"),
        ("kl:1:0", "0: must be above 0"),
        ("kl:nan", "nan: must be a number"),
    ],
)
def test_what_is_no_row_of_a_table_is_refused(text, message):
    with pytest.raises(BadInput) as refused:
        cli.choice(TABLE)(text)
    assert str(refused.value) == f"{text}: {message}"


def test_a_table_explains_itself():
    class About(NamedTuple):
        function: object
        numbers: dict

    def first():
        """Does this, on
        two lines."""

    def second():
        """Does that."""

    table = {"first": About(first, {"A": {}, "B": {}}), "second": About(second, {})}
    assert cli.usage(table) == "first:A:B, second"
    assert cli.explained(table) == "first:A:B, Does this, on two lines; second, Does that"


# ------------------------------------------------------------------------- flags that say what goes with them


@pytest.fixture
def related():
    """A command line whose flags need, exclude and idle beside others."""
    made = cli.Parser("test")
    add = made.group("all")
    add("--pull", help="a text")
    add("--rate", type=cli.ABOVE_0, default=0.5, needs="pull", help="needs a text")
    add("--clusters", type=cli.COUNT, excludes="pull", help="excludes it")
    add("--chunk", type=cli.COUNT, help="idle", idle_when=lambda args, facts: args.chunk >= facts["batch"])
    add("--lag", type=cli.COUNT, default=4, help="idle", idle_when=lambda args, facts: True)
    add("--look", help="a mode of its own")
    add("--data", help="of every mode")
    made.mode("look", "data clusters")
    made.group("static", only="static")("--dim", type=cli.COUNT, help="of one kind of encoder")
    return made


@pytest.mark.parametrize(
    "flags, only, message",
    [
        ([], None, None),
        (["--pull", "title", "--rate", "1"], None, None),
        (["--rate", "1"], None, "--rate needs --pull"),
        (["--rate", "0.5"], None, None),  # the default says nothing
        (["--clusters", "3"], None, None),
        (["--clusters", "3", "--pull", "title"], None, "--clusters and --pull exclude each other"),
        (["--look", "x", "--data", "d", "--clusters", "3"], None, None),
        (["--look", "x", "--pull", "title"], None, "--pull plays no part with --look"),
        (["--look", "x", "--pull", "title", "--dim", "3"], None, "--dim plays no part with --look"),
        (["--dim", "3"], None, None),
        (["--dim", "3"], "static", None),
        (["--dim", "3"], "transformer", "--dim is for a static encoder, and this is a transformer one: leave it out"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(related, flags, only, message):
    args = related.parse_args(flags)
    if message is None:
        return related.check(args, only=only)
    with pytest.raises(BadInput) as refused:
        related.check(args, only=only)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "flags, idle",
    [
        ([], []),
        (["--lag", "4"], []),  # the default was not asked for
        (["--lag", "5", "--chunk", "8"], ["chunk", "lag"]),
        (["--chunk", "4", "--data", "d"], []),
    ],
)
def test_flags_that_change_nothing_are_named(related, flags, idle):
    assert related.idle(related.parse_args(flags), {"batch": 8}) == idle


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data", ""], "--data: is empty; leave it out or give it a value"),
        (["--pull", "a\0b"], "--pull 'a\\x00b': holds a NUL or bytes that are not UTF-8"),
        (["--look", "\udcff"], "--look '\\udcff': holds a NUL or bytes that are not UTF-8"),
    ],
)
def test_a_text_that_no_file_can_be_called_by_is_refused(related, flags, message):
    with pytest.raises(BadInput) as refused:
        related.parse_args(flags)
    assert str(refused.value) == message


@pytest.mark.parametrize("name", ["demo;touch x", "a b", "$HOME", "it's"])
def test_what_is_printed_as_the_next_command_can_be_pasted(name):
    done = subprocess.run(f"printf %s {cli.quoted(name)}", shell=True, capture_output=True, text=True)
    assert done.stdout == name


def test_help_shows_the_first_flags_and_help_all_every_one(capsys, monkeypatch):
    parser = cli.Parser("A script.", first="data lr")
    add = parser.group("what")
    for name in ("data", "lr", "warmup"):
        add(f"--{name}", help=f"the {name}")
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    parser.print_help()
    short = capsys.readouterr().out
    assert "the lr" in short and "warmup" not in short and "1 more flags: --help all" in short
    monkeypatch.setattr("sys.argv", ["train.py", "--help", "all"])
    parser.print_help()
    assert "the warmup" in (whole := capsys.readouterr().out) and "--help all" not in whole


@pytest.mark.parametrize("script", ["train", "mine_negatives", "evaluate", "rag_demo"])
def test_the_first_flags_of_a_script_exist(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    monkeypatch.setattr("sys.argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit):
        module.parse_args()
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in module.FIRST.split()) and len(module.FIRST.split()) == 12

"""Run folders, records of runs, exit codes, the command line."""

import argparse
import json

import pytest
import torch

from lib import cli, files, process, run
from lib.files import BadInput, read_json
from lib.run import Run


def test_a_run_folder_that_holds_something_is_refused(tmp_path):
    path = tmp_path / "runs" / "r"
    log = Run.create(path, overwrite=False, config={"lr": 1})
    log.log("step", {"step": 0})
    log.log("step", {"step": 1})
    log.log("step", {"rate": 2.5}, file="timing.jsonl")
    assert log.read_log() == [{"event": "step", "step": step} for step in (0, 1)]
    assert log.read_log("timing.jsonl") == [{"event": "step", "rate": 2.5}]
    with pytest.raises(BadInput, match="runs/r is not empty.*--overwrite"):
        Run.create(path, overwrite=False, config={"lr": 2})
    assert files.read_json(path / "config.json") == {"lr": 1} and len(log.read_log()) == 2
    again = Run.create(path, overwrite=True, config={"lr": 2})
    assert sorted(p.name for p in path.iterdir()) == [run.LOCK, "config.json"] and again.read_log() == []
    assert files.read_json(path / "config.json") == {"lr": 2}


def test_an_empty_run_folder_is_taken(tmp_path):
    (tmp_path / "r").mkdir()
    Run.create(tmp_path / "r", overwrite=False, config={})
    assert (tmp_path / "r" / "config.json").exists()


def config_of(**args):
    """What run.record() would say of these arguments."""
    return {
        "args": {"name": None, "overwrite": False, "resume": False} | args,
        "inputs": {"collection": "x"},
        "derived": {"steps": 4},
    }


def test_resuming_keeps_what_is_there(tmp_path):
    log = Run.create(tmp_path / "r", overwrite=False, config=config_of(lr=1, dims=[4, 2]))
    log.log("step", {"step": 0})
    again = Run.create(
        tmp_path / "r", overwrite=False, resume=True, config=config_of(lr=1, dims=[4, 2], resume=True, name="r")
    )
    assert again.read_log() == [{"event": "step", "step": 0}]
    fresh = Run.create(tmp_path / "new", overwrite=False, resume=True, config=config_of(lr=1))
    assert (fresh.path / "config.json").exists()


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"lr": 2}, "lr 1, now it is 2"),
        ({"dims": [4]}, r"dims \[4, 2\], now it is \[4\]"),
        ({"steps": 3}, "steps None, now it is 3"),
    ],
)
def test_resuming_with_other_settings_is_refused(tmp_path, changes, wanted):
    Run.create(tmp_path / "r", overwrite=False, config=config_of(lr=1, dims=[4, 2]))
    with pytest.raises(BadInput, match=f"r was begun with {wanted}"):
        Run.create(
            tmp_path / "r", overwrite=False, resume=True, config=config_of(**({"lr": 1, "dims": [4, 2]} | changes))
        )


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder with scripts, lib and more, without git, which takes the place of this project."""
    for name in ("train.py", "lib/loss.py", "lib/rag/page.py", "tests/test_loss.py", "README.md"):
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text("a = 1")
    monkeypatch.setattr(run, "ROOT", tmp_path / "house")
    return tmp_path / "house"


def recorded_now():
    """A config.json with the code as it is."""
    return config_of() | {"code": run.code(), "versions": {"torch": "1"}, "source": None}


def test_resuming_with_other_code_is_refused_unless_it_is_wanted(tmp_path, house):
    def resume(**flags):
        return Run.create(tmp_path / "r", overwrite=False, resume=True, config=recorded_now(), **flags)

    resume()
    for name in ("tests/test_loss.py", "README.md"):
        (house / name).write_text("a = 2")
    resume()  # nothing that matters
    before = (tmp_path / "r/config.json").read_bytes()
    (house / "lib/loss.py").write_text("a = 2")
    (house / "lib/new.py").write_text("a = 2")
    with pytest.raises(BadInput, match=r"other code \(lib/loss.py, lib/new.py\): --changed_code"):
        resume()
    assert (tmp_path / "r/config.json").read_bytes() == before
    for _ in range(2):  # said once
        resume(changed_code=True)
    resume()  # the code is now that which was accepted
    begun = read_json(tmp_path / "r/config.json")
    assert [each["code"] for each in begun["resumed_with"]] == [run.code()] and begun["code"] != run.code()
    (house / "lib/loss.py").write_text("a = 1")
    with pytest.raises(BadInput, match=r"other code \(lib/loss.py\)"):
        resume()


def test_resuming_with_other_versions_is_refused(tmp_path, house):
    Run.create(tmp_path / "r", overwrite=False, config=recorded_now())
    now = recorded_now() | {"versions": {"torch": "2", "tqdm": "3"}}
    with pytest.raises(BadInput, match=r"\(torch 1, now 2, tqdm None, now 3\)"):
        Run.create(tmp_path / "r", overwrite=False, resume=True, config=now)


def test_resuming_on_other_inputs_is_refused(tmp_path):
    Run.create(tmp_path / "r", overwrite=False, config=config_of())
    with pytest.raises(BadInput, match="collection x, now it is y"):
        Run.create(tmp_path / "r", overwrite=False, resume=True, config=config_of() | {"inputs": {"collection": "y"}})


def test_a_state_gives_back_parts_values_and_logs(tmp_path):
    log = Run.create(tmp_path / "r", overwrite=False, config=config_of())
    layer, clock = torch.nn.Linear(3, 2), run.Clock()
    weight = layer.weight.detach().clone()
    with clock("train"):
        pass
    log.log("step", {"step": 0})
    log.save_state({"layer": layer, "clock": clock}, {"step": 1, "best": {"score": 0.5}})
    log.log("step", {"step": 1})
    log.log("step", {"late": True}, file="timing.jsonl")
    torch.nn.init.zeros_(layer.weight)
    other = run.Clock()
    assert log.load_state({"layer": layer, "clock": other}) == {"step": 1, "best": {"score": 0.5}}
    assert torch.equal(layer.weight, weight) and other.spent == clock.spent
    assert log.read_log() == [{"event": "step", "step": 0}] and log.read_log("timing.jsonl") == []
    log.finish({"done": 1})
    assert files.read_json(log.path / "summary.json") == {"done": 1} and not (log.path / "state.pt").exists()


def test_without_a_state_logs_begin_anew(tmp_path):
    log = Run.create(tmp_path / "r", overwrite=False, config=config_of())
    log.log("step", {"step": 0})
    assert log.load_state({}) is None and log.read_log() == []


def test_a_process_that_does_not_write_leaves_no_trace(tmp_path):
    log = Run.create(tmp_path / "r", overwrite=False, writes=False, config=config_of())
    log.log("step", {"step": 0})
    log.save_state({}, {})
    assert not (tmp_path / "r").exists()


def make_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--arms", nargs="+", default=["a"])
    parser.add_argument("--name")
    parser.add_argument("--overwrite", action="store_true")
    return parser


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ([], {}),
        (["--lr", "0.1", "--arms", "a"], {}),
        (["--lr", "0.2"], {"lr": 0.2}),
        (["--arms", "a", "b", "--name", "x", "--overwrite"], {"arms": ["a", "b"], "name": "x", "overwrite": True}),
    ],
)
def test_non_default(argv, wanted, capsys):
    parser = make_parser()
    args = parser.parse_args(argv)
    assert cli.non_default(args, parser) == wanted
    cli.print_header("title", args, parser, {"steps": 7})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "== title" and printed[-1].split() == ["steps", "=", "7"] and len(printed) == 2 + len(wanted)


def test_a_record_says_how_a_run_was_made():
    parser = make_parser()
    record = run.record(parser.parse_args(["--lr", "1"]), parser, derived={"steps": 3}, inputs={"collection": "x"})
    assert set(record) == {"args", "non_default", "derived", "inputs", "versions", "source", "code", "argv"}
    assert record["args"] == {"lr": 1.0, "arms": ["a"], "name": None, "overwrite": False}
    assert record["non_default"] == {"lr": 1.0} and record["derived"] == {"steps": 3}
    assert {"python", "torch", "numpy"} <= set(record["versions"])
    json.dumps(record)


@pytest.mark.parametrize(
    "error, code, message",
    [(BadInput("a.tsv:3: wrong"), 2, "error: a.tsv:3: wrong\n"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_exit_codes(error, code, message, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stopped:
        process.cli(fail)
    assert stopped.value.code == code and capsys.readouterr().err.startswith(message)


def test_programmers_errors_keep_their_traceback():
    def fail():
        raise IndexError("programmer")

    with pytest.raises(IndexError):
        process.cli(fail)
    process.cli(lambda: None)


def test_the_clock_adds_up_by_name():
    clock = run.Clock()
    for _ in range(2):
        with clock("a"):
            pass
    with pytest.raises(ZeroDivisionError), clock("b"):
        raise ZeroDivisionError
    assert set(clock.spent) == {"a", "b"} and 0 <= clock.spent["a"] <= clock.total()


# --------------------------------------------------------------------------------------------- command line


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


class Text:
    """A flag's value that is parsed from a text and keeps it."""

    def __init__(self, text):
        self.text = text
        if " " in text:
            raise BadInput(f"{text}: no spaces")

    def __eq__(self, other):
        return self.text == other.text


@pytest.fixture
def parser():
    """A command line with every kind of flag."""
    made = cli.Parser("test")
    add = made.group("one")
    add("--batch_size", "--b", type=cli.COUNT, default=8, help="a count")
    add("--ema", type=cli.BELOW_1, default=0.5, help="a share")
    add("--margin", type=cli.number(float), help="any number")
    add("--names", nargs="+", default=[], help="a list")
    add("--prefix", help="a text")
    add("--fast", action="store_true", help="a switch")
    add("--arms", nargs="+", type=Text, default=[Text("a:1")], help="parsed texts")
    add("--kind", type=Text, default=Text("plain"), help="a parsed text")
    add = made.group("two", per_arm=True, only="static")
    add("--lr", type=cli.ABOVE_0, default=0.1, help="an arm's")
    add("--dims", nargs="+", type=cli.COUNT, default=[], help="an arm's list")
    add("--steps", type=cli.COUNT, per_arm=False, help="of such an encoder, but no arm's")
    return made


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--b", "0"], "--batch_size 0: must be at least 1"),
        (["--batch_size=-3"], "--batch_size -3: must be at least 1"),
        (["--batch_size", "1.5"], "--batch_size 1.5: must be a whole number"),
        (["--batch_size", "nan"], "--batch_size nan: must be a whole number"),
        (["--dims", "4", "0"], "--dims 0: must be at least 1"),
        (["--kind", "a b"], "--kind a b: no spaces"),
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
        ["--arms", "b:2", "c:3+d:4", "--kind", "other"],
    ],
)
def test_arguments_become_the_flags_that_give_them(parser, flags):
    args = parser.parse_args(flags)
    changed = cli.non_default(args, parser)
    for values in (changed, vars(args)):
        assert parser.parse_args(cli.to_flags(values)) == args
    assert set(changed) == {flag.lstrip("-").partition("=")[0] for flag in flags if flag.startswith("--")}


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


def test_a_table_of_options_becomes_flags():
    parser = cli.Parser("test")
    parser.add_options(
        parser.group("loss"),
        {
            "margin": {"default": None, "limits": {"least": 0}, "help": "a number"},
            "dims": {"default": (), "limits": {"least": 1}, "help": "numbers"},
            "kind": {"default": "a", "choices": ("a", "b"), "help": "a word"},
        },
    )
    assert vars(parser.parse_args([])) == {"margin": None, "dims": [], "kind": "a"}
    found = vars(parser.parse_args(["--margin", ".5", "--dims", "4", "8", "--kind", "b"]))
    assert found == {"margin": 0.5, "dims": [4, 8], "kind": "b"}
    with pytest.raises(BadInput, match="--dims 0: must be at least 1"):
        parser.parse_args(["--dims", "0"])


def test_a_recorded_run_is_a_command_line(parser, tmp_path, capsys):
    args = parser.parse_args(["--names", "a", "--lr", "0.01", "--fast"])
    record = run.record(args, parser, derived={}, inputs={})
    files.write_json(tmp_path / "config.json", record | {"versions": record["versions"] | {"torch": "0"}})
    flags = run.recorded_flags(tmp_path / "config.json", without=("fast",))
    assert parser.parse_args(flags) == parser.parse_args(["--names", "a", "--lr", "0.01"])
    assert "--config: torch was 0, here it is " in capsys.readouterr().out


def recorded_config(parser, flags):
    """config.json, as a run that had these flags writes it."""
    return run.record(parser.parse_args(flags), parser, derived={}, inputs={})


@pytest.mark.parametrize(
    "flags", [[], ["--arms", "b:2", "c:3", "--kind", "x", "--dims", "4", "--prefix=--q ", "--b", "2", "--fast"]]
)
def test_recorded_flags_give_the_same_arguments(parser, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "source_state", lambda: {"commit": "c", "patch": ""})
    files.write_json(tmp_path / "config.json", recorded_config(parser, flags))
    assert parser.parse_args(run.recorded_flags(tmp_path / "config.json", without=())) == parser.parse_args(flags)
    assert capsys.readouterr().out == ""  # nothing differs here


def test_recorded_flags_say_what_differs(parser, tmp_path, monkeypatch, capsys):
    config = recorded_config(parser, ["--lr", "1"])
    config["versions"] = config["versions"] | {"numpy": "0.1", "gone": "2"}
    del config["versions"]["torch"]
    files.write_json(tmp_path / "config.json", config)
    monkeypatch.setattr(run, "source_state", lambda: {"commit": "another", "patch": ""})
    assert "--lr=1.0" in run.recorded_flags(tmp_path / "config.json", without=())
    here = run.versions()
    assert capsys.readouterr().out.splitlines() == [
        "--config: gone was 2, here it is None",
        f"--config: numpy was 0.1, here it is {here['numpy']}",
        f"--config: torch was None, here it is {here['torch']}",
        "--config: the source differs from what it was then",
    ]


@pytest.mark.parametrize("part", ["args", "derived", "versions", "source"])
def test_a_file_that_records_no_run_is_refused(parser, part, tmp_path):
    path, config = tmp_path / "config.json", recorded_config(parser, [])
    del config[part]
    files.write_json(path, config)
    with pytest.raises(BadInput, match=rf"config\.json: {part} is missing"):
        run.recorded_flags(path, without=())
    with pytest.raises(BadInput, match=r"other\.json: .*[Nn]o such file"):
        run.recorded_flags(tmp_path / "other.json", without=())

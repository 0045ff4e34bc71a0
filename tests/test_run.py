"""Randomness by key, atomic writes, fingerprints, run folders, exit codes."""

import argparse
import json

import numpy as np
import pytest
import torch

from lib import files, rng, run
from lib.files import BadInput, atomic_path, fingerprint
from lib.rng import permutation, uniform
from lib.run import Run


def test_uniform_is_a_pure_function_of_its_key():
    rows = np.arange(100)
    grid = uniform("stream", 3, 1, rows[:, None], np.arange(7))
    assert grid.shape == (100, 7) and grid.dtype == np.float64
    assert (grid == uniform("stream", 3, 1, rows[:, None], np.arange(7))).all()
    assert grid[42, 5] == uniform("stream", 3, 1, 42, 5)
    assert (grid[::-1] == uniform("stream", 3, 1, rows[::-1, None], np.arange(7))).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.uint64])
def test_uniform_takes_any_integer_type(dtype):
    assert (uniform(1, np.arange(100, dtype=dtype)) == [uniform(1, i) for i in range(100)]).all()


@pytest.mark.parametrize(
    "first, second",
    [(("a", 1, 2), ("b", 1, 2)), (("a", 1, 2), ("a", 2, 1)), ((0, 0), (0,)), ((0, 1), (1, 0)), (("a", 1), ("a", -1))],
)
def test_streams_differ(first, second):
    numbers = [uniform(*key, np.arange(2000)) for key in (first, second)]
    assert (numbers[0] != numbers[1]).all()
    assert abs(np.corrcoef(*numbers)[0, 1]) < 0.08  # 3.5 standard errors of independent numbers


@pytest.mark.parametrize("key", [("a",), ("order", 0, 0), ("order", 1, 0), (7, 7)])
def test_uniform_is_roughly_uniform(key):
    numbers = uniform(*key, np.arange(100_000))
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 96  # chi-square, 49 degrees: p = 0.0001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.015


def test_stream_seeds_other_generators():
    seeds = [rng.stream("dropout", seed, step) for seed in range(5) for step in range(5)]
    assert len(set(seeds)) == 25 and all(isinstance(seed, int) and 0 <= seed < 2**53 for seed in seeds)
    assert rng.stream("dropout", 3, 4) == seeds[3 * 5 + 4]


def test_permutation():
    orders = [permutation(50, "order", 0, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] and orders[1] == permutation(50, "order", 0, 1).tolist()
    assert permutation(1, 0).tolist() == [0]
    first = [permutation(10, epoch)[0] for epoch in range(1000)]
    assert np.bincount(first, minlength=10).min() > 60  # 100 each


# ---------------------------------------------------------------------------------------------------- files


def test_a_file_appears_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_folder_appears_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "folder"

    def write(text, *, fail):
        with atomic_path(path) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / text).write_text(text)
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write("first", fail=True)
    assert list(tmp_path.iterdir()) == []
    write("first", fail=False)
    write("second", fail=False)
    with pytest.raises(ZeroDivisionError):
        write("third", fail=True)
    assert list(tmp_path.iterdir()) == [path]
    assert [p.name for p in (path / "deep").iterdir()] == ["second"]


def test_json_files(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"café": [1, None, 0.5]})
    assert files.read_json(path) == {"café": [1, None, 0.5]} and path.read_bytes().endswith(b"\n")
    path.write_text("{")
    with pytest.raises(BadInput, match=r"a\.json: not valid JSON"):
        files.read_json(path)
    with pytest.raises(BadInput, match=r"b\.json: .*[Nn]o such file"):
        files.read_json(tmp_path / "b.json")


def test_the_cache_is_where_the_environment_says(cache, monkeypatch, tmp_path):
    assert files.cache_dir("a", "b") == cache / "a" / "b"
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path))
    assert files.cache_dir("a") == tmp_path / "a"


# -------------------------------------------------------------------------------------------- fingerprints


def test_fingerprints_tell_values_apart():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    changed = array.copy()
    changed[2, 3] += 1e-6
    values = [
        ("a",),
        ("b",),
        ("a", "b"),
        ("ab",),
        (b"ab",),
        (b"a", b"bc"),
        (b"ab", b"c"),
        (["a", "b"],),
        (1,),
        (1.5,),
        ("1",),
        (None,),
        ({"a": 1},),
        ({"a": 2},),
        (array,),
        (changed,),
        (array.reshape(4, 3),),
        (array.astype(np.float64),),
        (array, array),
        (),
    ]
    prints = [fingerprint(*value) for value in values]
    assert len(set(prints)) == len(prints) and all(len(found) == 16 for found in prints)


def test_fingerprints_of_equal_values_are_equal():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    array = np.arange(12).reshape(3, 4)
    assert fingerprint(array.T) == fingerprint(np.ascontiguousarray(array.T)) != fingerprint(array)
    assert fingerprint(np.arange(0, 10, 2)) == fingerprint(np.array([0, 2, 4, 6, 8]))


def test_the_fingerprint_of_a_file_is_that_of_its_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(bytes(5_000_000))  # more than one block
    second.write_bytes(bytes(5_000_000))
    assert files.fingerprint_file(first) == files.fingerprint_file(second)
    second.write_bytes(bytes(4_999_999) + b"\x01")
    assert files.fingerprint_file(first) != files.fingerprint_file(second)


# ---------------------------------------------------------------------------------------------- run folders


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
    assert [p.name for p in path.iterdir()] == ["config.json"] and again.read_log() == []
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
    assert run.non_default(args, parser) == wanted
    run.print_header("title", args, parser, {"steps": 7})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "== title" and printed[-1].split() == ["steps", "=", "7"] and len(printed) == 2 + len(wanted)


def test_a_record_says_how_a_run_was_made():
    parser = make_parser()
    record = run.record(parser.parse_args(["--lr", "1"]), parser, derived={"steps": 3}, inputs={"collection": "x"})
    assert set(record) == {"args", "non_default", "derived", "inputs", "versions", "source", "argv"}
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
        run.cli(fail)
    assert stopped.value.code == code and capsys.readouterr().err.startswith(message)


def test_programmers_errors_keep_their_traceback():
    def fail():
        raise IndexError("programmer")

    with pytest.raises(IndexError):
        run.cli(fail)
    run.cli(lambda: None)


def test_the_clock_adds_up_by_name():
    clock = run.Clock()
    for _ in range(2):
        with clock("a"):
            pass
    with pytest.raises(ZeroDivisionError), clock("b"):
        raise ZeroDivisionError
    assert set(clock.spent) == {"a", "b"} and 0 <= clock.spent["a"] <= clock.total()


# --------------------------------------------------------------------------------------------- command line


@pytest.fixture
def parser():
    """A command line with every kind of flag."""
    made = run.Parser("test")
    add = made.group("one")
    add("--batch_size", "--b", type=run.COUNT, default=8, help="a count")
    add("--ema", type=run.BELOW_1, default=0.5, help="a share")
    add("--margin", type=run.number(float), help="any number")
    add("--names", nargs="+", default=[], help="a list")
    add("--prefix", help="a text")
    add("--fast", action="store_true", help="a switch")
    made.group("two", per_arm=True, only="static")("--lr", type=run.ABOVE_0, default=0.1, help="an arm's")
    return made


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--batch_size", "1.5"], "--batch_size 1.5: must be a whole number"),
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
        ["--prefix", "--query: "],
        ["--prefix="],
    ],
)
def test_arguments_become_the_flags_that_give_them(parser, flags):
    flags = [f"--prefix={flags[1]}"] if flags[:1] == ["--prefix"] else flags
    args = parser.parse_args(flags)
    changed = run.non_default(args, parser)
    for values in (changed, vars(args)):
        assert parser.parse_args(run.to_flags(values)) == args
    assert set(changed) == {flag.lstrip("-").partition("=")[0] for flag in flags if flag.startswith("--")}


def test_flags_say_what_they_are_for(parser):
    assert list(parser.flags(per_arm=True)) == list(parser.flags(only="static")) == ["lr"]
    assert parser.value_of("lr", "1e-3") == 1e-3
    with pytest.raises(BadInput, match="ema=.5 is no flag=value of an arm; it may change lr"):
        parser.value_of("ema", ".5")


def test_a_table_of_options_becomes_flags():
    parser = run.Parser("test")
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

"""Run folders, records of runs, and their flags again."""

import json

import pytest
import torch

from lib import files, run
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


def test_a_record_says_how_a_run_was_made(parser):
    record = run.record(
        parser.parse_args(["--lr", "1", "--kind", "b:2"]), parser, derived={"steps": 3}, inputs={"collection": "x"}
    )
    assert set(record) == {"args", "non_default", "derived", "inputs", "versions", "source", "code", "argv"}
    assert record["args"].keys() == vars(parser.parse_args([])).keys() and record["args"]["arms"] == ["a:1"]
    assert record["non_default"] == {"lr": 1.0, "kind": "b:2"} and record["derived"] == {"steps": 3}
    assert {"python", "torch", "numpy"} <= set(record["versions"])
    json.dumps(record)


def test_the_clock_adds_up_by_name():
    clock = run.Clock()
    for _ in range(2):
        with clock("a"):
            pass
    with pytest.raises(ZeroDivisionError), clock("b"):
        raise ZeroDivisionError
    assert set(clock.spent) == {"a", "b"} and 0 <= clock.spent["a"] <= clock.total()


# ------------------------------------------------------------------------------------------- recorded flags


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
    "flags", [[], ["--arms", "b:2", "c", "--kind", "a:3", "--dims", "4", "--prefix=--q ", "--b", "2", "--fast"]]
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

"""Every script through the shell on tests/tiny, once for each thing that it can do; bad input; flags."""

import ast
import json
import re
import shutil

import pytest
from conftest import ROOT, TINY, call

from lib import formats, metrics, negatives, run

SCRIPTS = ("train.py", "mine_negatives.py", "build_index.py", "evaluate.py", "rag_demo.py")
SMALL = ("--steps", 4, "--batch_size", 8, "--dim", 32, "--vocab_size", 500, "--log_every", 1)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """A folder to work in: the collection at tiny/, runs at runs/."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(TINY, folder / "tiny")
    return folder


def done(desk, script, *flags, stdin=""):
    """Run a script that must succeed; its stdout."""
    result = call(script, *flags, cwd=desk, stdin=stdin)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def train(desk, name, *arms, **flags):
    """Train on tiny; stdout."""
    more = [
        part
        for key, value in flags.items()
        for part in (f"--{key}", *(value if isinstance(value, tuple) else (value,)))
    ]
    return done(desk, "train.py", "--data", "tiny", "--negatives", *arms, "--name", name, *SMALL, *more)


@pytest.fixture(scope="session")
def trained(desk):
    """Stdout of a run that mines with the encoder itself, in two stages: runs/staged."""
    return train(desk, "staged", "random:2,bm25:1+refresh:2@0.5", refresh_every=1, eval_every=2)


@pytest.fixture(scope="session")
def indexed(desk, trained):
    """Stdout of build_index.py on runs/staged."""
    return done(desk, "build_index.py", "--run", "runs/staged")


@pytest.fixture(scope="session")
def evaluated(desk, indexed):
    """Stdout of evaluate.py on runs/staged and on BM25."""
    dense = done(desk, "evaluate.py", "--run", "runs/staged", "--self_match", "drop")
    return dense, done(desk, "evaluate.py", "--retriever", "bm25", "--data", "tiny")


@pytest.fixture(scope="session")
def mined(desk):
    """Stdout of mine_negatives.py with BM25 and random on tiny."""
    return done(desk, "mine_negatives.py", "--data", "tiny", "--sources", "bm25", "random", "--depth", 10)


def json_lines(path):
    """The objects of a JSONL file; NaN and infinity are no JSON."""

    def no_constant(name):
        raise AssertionError(f"{path.name} holds {name}")

    return [
        json.loads(line, parse_constant=no_constant) for line in path.read_text(encoding="utf-8").splitlines()
    ]


def check_run(folder, arm, *, sources, seed=0):
    """All that one training must leave in its folder."""
    summary, config = (run.read_json(folder / name) for name in ("summary.json", "config.json"))
    assert {
        "name",
        "data",
        "encoder",
        "negatives",
        "seed",
        "steps",
        "wall_s",
        "train_s",
        "mine_s",
        "queries_per_s",
        "peak_rss_mb",
        "dev",
        "test",
        "bm25",
    } <= set(summary)
    assert (summary["name"], summary["negatives"], summary["seed"], summary["steps"]) == (
        folder.name,
        arm,
        seed,
        4,
    )
    for split in ("dev", "test", "bm25"):
        assert set(summary[split]) == set(metrics.MEASURES) and all(
            0 <= value <= 1 for value in summary[split].values()
        )
    assert {"args", "non_default", "derived", "inputs", "versions", "argv"} <= set(config)
    assert config["derived"]["steps_per_epoch"] == 4 and config["args"]["batch_size"] == 8
    assert config["non_default"]["dim"] == 32 and "lr" not in config["non_default"]
    lines = json_lines(folder / "metrics.jsonl")
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [0, 1, 2, 3]
    for line in losses:  # a source is listed from its first draw on
        assert "in_batch" in line["sources"] and set(line["sources"]) <= {"in_batch", *sources}
        assert sum(found["gradient"] for found in line["sources"].values()) == pytest.approx(1, abs=1e-5)
        assert 1 <= line["effective"] <= sum(found["negatives"] for found in line["sources"].values())
        for name, found in line["sources"].items():
            rows = [row for row in line["ledger"] if row["source"] == name]
            assert {key for row in rows for key in row} == {
                "source", "ranks", "negatives", "above", "gradient", "age",
            }  # fmt: skip
            for key in ("negatives", "gradient"):
                assert sum(row[key] for row in rows) == pytest.approx(found[key])
    assert set(losses[-1]["sources"]) == {"in_batch", *sources}
    assert [line for line in lines if "dev" in line][-1]["step"] == 4
    per_query = formats.read_per_query(folder / "eval" / "tiny-test" / "per_query.jsonl")
    assert metrics.mean(per_query) == pytest.approx(summary["test"])
    for plot in ("training.png", "ledger.png"):
        assert (folder / "plots" / plot).read_bytes().startswith(PNG)
    assert {"encoder.json", "model.safetensors", "tokenizer.json", "modules.json"} <= {
        path.name for path in (folder / "encoder").iterdir()
    }
    assert not list(folder.rglob("*.tmp"))
    return config, lines


# ------------------------------------------------------------------------------------------------------ train


def test_train_in_stages(desk, trained):
    _, lines = check_run(
        desk / "runs/staged", "random:2,bm25:1+refresh:2@0.5", sources=["random", "bm25", "refresh"]
    )
    assert [(line["step"], line["mined"]) for line in lines if "mined" in line] == [
        (2, "bm25"),
        (2, "refresh"),
        (3, "refresh"),
    ]
    assert [line["step"] for line in lines if "dev" in line] == [0, 2, 4]
    counts = [
        {name: found["negatives"] for name, found in line["sources"].items()}
        for line in lines
        if "loss" in line
    ]
    assert all(count["random"] > 0 and not {"bm25", "refresh"} & set(count) for count in counts[:2])
    assert all(count["random"] == 0 and count["bm25"] > 0 and count["refresh"] > 0 for count in counts[2:])
    ages = [
        {row["source"]: row["age"] for row in line["ledger"] if row["negatives"]}
        for line in lines
        if "loss" in line
    ]
    assert [age.get("refresh") for age in ages] == [None, None, 0, 0]
    assert [age.get("bm25") for age in ages] == [None, None, 0, 1]
    assert all(age["in_batch"] is None for age in ages)
    assert trained.rstrip().endswith("python build_index.py --run runs/staged")


def test_train_again_gives_the_same_bytes(desk, trained, monkeypatch, tmp_path):
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path))  # nothing that the first run computed is there
    train(desk, "again", "random:2,bm25:1+refresh:2@0.5", refresh_every=1, eval_every=2)
    for file in (
        "metrics.jsonl",
        "encoder/model.safetensors",
        "encoder/tokenizer.json",
        "eval/tiny-test/per_query.jsonl",
    ):
        assert (desk / "runs/again" / file).read_bytes() == (desk / "runs/staged" / file).read_bytes(), file


def test_an_ablation(desk):
    printed = train(desk, "two", "in_batch", "refresh:2", seeds=(0, 1), refresh_every=2)
    folder = desk / "runs/two"
    result = run.read_json(folder / "ablation.json")
    assert [row["arm"] for row in result["arms"]] == ["in_batch", "refresh:2"]
    configs = {}
    for row in result["arms"]:
        assert row["seeds"] == [0, 1]
        for number, seed in enumerate(row["seeds"]):
            one = folder / f"{row['arm'].replace(':', '-')}-s{seed}"
            explicit = [] if row["arm"] == "in_batch" else ["refresh"]
            configs[row["arm"], seed], lines = check_run(one, row["arm"], sources=explicit, seed=seed)
            assert [line["step"] for line in lines if "mined" in line] == ([0, 2] if explicit else [])
            summary = run.read_json(one / "summary.json")
            assert {name: values[number] for name, values in row["test"].items()} == summary["test"]
    assert {"difference", "low", "high", "p"} <= set(result["arms"][1]["against_first"])
    table = (folder / "ablation.md").read_text(encoding="utf-8")
    assert table.strip() in printed and "| in_batch |" in table and "| refresh:2 |" in table
    assert (folder / "ablation.png").read_bytes().startswith(PNG)
    for key in ("initial_weights", "query_order"):  # arms differ in their negatives alone, seeds in all
        found = {run_of: config["derived"][key] for run_of, config in configs.items()}
        assert found["in_batch", 0] == found["refresh:2", 0] != found["in_batch", 1] == found["refresh:2", 1]


# ------------------------------------------------------------------------------------------------------- mine


def test_mine_and_train_on_what_was_mined(desk, mined, tiny):
    path = desk / "runs/tiny-mined/negatives/tiny-train-bm25+random.jsonl"
    header, records = formats.read_negatives(path)
    records = [record for _, record in records]
    assert header["collection_fingerprint"] == tiny.fingerprint and set(header["sources"]) == {
        "bm25",
        "random",
    }
    assert (header["split"], header["depth"], header["seed"]) == ("train", 10, 0)
    assert {record["qid"] for record in records if record["source"] == "random"} == set(
        tiny.qrels_dict("train")
    )
    assert max(record["rank"] for record in records) == 10
    for record in records:
        assert tiny.qrels_dict("train")[record["qid"]].get(record["doc_id"], 0) < 1
    assert path.with_suffix(".png").read_bytes().startswith(PNG)
    assert f"--negatives_file {path.relative_to(desk)}" in mined
    train(desk, "from-file", "file:3", negatives_file=path)
    check_run(desk / "runs/from-file", "file:3", sources=["bm25 (file)", "random (file)"])


def test_mine_with_an_encoder(launch, desk, trained, tiny):
    flags = ("--run", "runs/staged", "--split", "dev", "--depth", 5)
    assert launch("mine_negatives.py", *flags, cwd=desk) == 0
    path = desk / "runs/staged/negatives/tiny-dev-dense.jsonl"
    header, _ = formats.read_negatives(path)
    assert (
        header["encoder_fingerprint"]
        == run.read_json(desk / "runs/staged/encoder/encoder.json")["fingerprint"]
    )
    loaded = negatives.load_candidates(path, tiny, tiny.split("dev"))
    assert loaded.docs.shape == (12, 5) and (loaded.docs >= 0).all()
    assert (loaded.scores[:, :-1] >= loaded.scores[:, 1:]).all()


# ----------------------------------------------------------------------------------------- index and evaluate


def test_build_index(desk, indexed):
    meta = run.read_json(desk / "runs/staged/index/tiny/meta.json")
    assert (meta["docs"], meta["dim"], meta["collection"]) == (40, 32, "tiny")
    assert (
        meta["encoder_fingerprint"] == run.read_json(desk / "runs/staged/encoder/encoder.json")["fingerprint"]
    )
    assert indexed.rstrip().endswith("python evaluate.py --run runs/staged")


@pytest.mark.parametrize("number, folder", [(0, "runs/staged"), (1, "runs/tiny-bm25")])
def test_evaluate(desk, evaluated, tiny, number, folder):
    target = desk / folder / "eval/tiny-test"
    result = run.read_json(target / "metrics.json")
    assert {"mean", "queries", "self_match", "unjudged@10"} <= set(result)
    assert result["queries"] == 12 and result["collection_fingerprint"] == tiny.fingerprint
    values = formats.read_per_query(target / "per_query.jsonl")
    assert metrics.mean(values) == result["mean"] and set(values) == set(tiny.qrels_dict("test"))
    assert metrics.per_query(formats.read_run(target / "run.trec"), tiny.qrels_dict("test")) == values
    assert (target / "ranks.png").read_bytes().startswith(PNG)
    assert f"{result['mean']['mrr@10']:.4f}" in evaluated[number]


def test_evaluate_agrees_with_the_look_at_test_after_training(desk, evaluated):
    summary = run.read_json(desk / "runs/staged/summary.json")
    bm25 = run.read_json(desk / "runs/tiny-bm25/eval/tiny-test/metrics.json")
    dense = run.read_json(desk / "runs/staged/eval/tiny-test/metrics.json")
    assert bm25["mean"] == pytest.approx(summary["bm25"])
    assert dense["mean"] == pytest.approx(
        summary["test"], abs=0.02
    )  # without the doc that has the query's own id


def test_a_doc_with_the_querys_own_id_can_be_dropped(desk, evaluated):
    result = run.read_json(desk / "runs/staged/eval/tiny-test/metrics.json")
    assert result["self_match"] == {"policy": "drop", "found": 1}
    assert "007" not in formats.read_run(desk / "runs/staged/eval/tiny-test/run.trec")["007"]


def test_compare(launch, desk, evaluated, capsys):
    flags = ("--compare", "runs/staged", "runs/tiny-bm25", "--measure", "ndcg@10")
    assert launch("evaluate.py", *flags, cwd=desk) == 0
    printed = capsys.readouterr().out
    table = {
        line.split()[0]: line.split() for line in printed.splitlines() if line.startswith(metrics.MEASURES)
    }
    assert list(table) == list(metrics.MEASURES)
    means = [
        run.read_json(desk / folder / "eval/tiny-test/metrics.json")["mean"]
        for folder in ("runs/staged", "runs/tiny-bm25")
    ]
    for name, (_, a, b, difference, *_) in table.items():
        assert [float(a), float(b)] == pytest.approx([mean[name] for mean in means], abs=5e-5)
        assert float(difference) == pytest.approx(means[0][name] - means[1][name], abs=5e-5)
    assert (desk / "runs/staged/eval/tiny-test/against-tiny-bm25.png").read_bytes().startswith(PNG)


# -------------------------------------------------------------------------------------------------------- ask


def check_answer(desk, tiny, printed, qid, *, count):
    """The docs shown are the best ones of evaluate.py for this query; the answer cites some of them."""
    ranking = formats.read_run(desk / "runs/staged/eval/tiny-test/run.trec")[qid]
    best = sorted(ranking, key=ranking.get, reverse=True)[:count]
    shown = re.findall(r"^\[(\d+)\] (-?[\d.]+)  (\S+)  (.*)$", printed, flags=re.MULTILINE)
    assert [(number, doc_id) for number, _, doc_id, _ in shown] == [
        (str(i), doc_id) for i, doc_id in enumerate(best, 1)
    ]
    for _, score, doc_id, place in shown:
        assert float(score) == pytest.approx(ranking[doc_id], abs=6e-4)
        assert place.strip() == tiny.docs.record(tiny.docs.row_of[doc_id])["title"]
    cited = {int(number) for number in re.findall(r"\[(\d+)\]\.", printed)}
    assert cited and cited <= set(range(1, count + 1))


def test_ask_one_question(launch, desk, evaluated, tiny, capsys):
    question = tiny.queries.text(tiny.queries.row_of["q49"])
    assert launch("rag_demo.py", "--run", "runs/staged", "--docs", 3, question, cwd=desk) == 0
    check_answer(desk, tiny, capsys.readouterr().out, "q49", count=3)


def test_ask_at_the_prompt(desk, evaluated, tiny):
    questions = [tiny.queries.text(tiny.queries.row_of[qid]) for qid in ("q53", "q56")]
    printed = done(
        desk, "rag_demo.py", "--run", "runs/staged", stdin="\n".join(questions) + "\n\nnot asked\n"
    )
    greeting, first, second, rest = printed.split("> ")
    assert "40 docs of tiny" in greeting and not rest.strip()
    check_answer(desk, tiny, first, "q53", count=5)
    check_answer(desk, tiny, second, "q56", count=5)


# -------------------------------------------------------------------------------------------------- bad input

BAD = [
    ("train.py", ["--data", "tiny", "--negatives", "bm24:4"], ["--negatives bm24:4"]),
    ("train.py", ["--data", "tiny", "--negatives", "file:4"], ["file:K", "--negatives_file"]),
    (
        "train.py",
        ["--data", "tiny", "--negatives", "bm25:4", "--negatives_file", "x"],
        ["file:K", "--negatives_file"],
    ),
    (
        "train.py",
        ["--data", "tiny", "--negatives", "file:4", "--negatives_file", "none.jsonl"],
        ["none.jsonl", "o such file"],
    ),
    ("train.py", ["--data", "tiny", "--negatives", "in_batch", "in_batch"], ["twice"]),
    ("train.py", ["--data", "tiny", "--pooling", "cls"], ["--pooling", "static"]),
    ("train.py", ["--data", "tiny", "--encoder", "x", "--dim", "8"], ["--dim", "static"]),
    ("train.py", ["--data", "tiny", "--guide_margin", "0.1"], ["--guide_margin", "--guide"]),
    (
        "train.py",
        ["--data", "tiny", "--terms", "d2q", "--triplet_margin", "0.1"],
        ["--terms", "--triplet_margin"],
    ),
    (
        "train.py",
        ["--data", "tiny", "--debias", "0.1", "--label_smoothing", "0.1"],
        ["--label_smoothing", "--debias"],
    ),
    ("train.py", ["--data", "tiny", "--distill_weight", "0.5"], ["--distill_weight", "file"]),
    ("train.py", ["--data", "tiny", "--distill_weight", "2"], ["--distill_weight 2"]),
    (
        "train.py",
        [
            "--data",
            "tiny",
            "--negatives",
            "in_batch,file:1@0.5",
            "--negatives_file",
            "x",
            "--distill_weight",
            "0.5",
        ],
        ["--distill_weight", "file"],
    ),
    ("train.py", ["--data", "tiny", "--ema", "1"], ["--ema 1"]),
    ("train.py", ["--data", "nowhere"], ["--data nowhere"]),
    ("train.py", ["--data", "tiny", "--encoder", "nowhere"], ["nowhere"]),
    ("train.py", ["--data", "tiny", "--name", "taken"], ["runs/taken is not empty", "--overwrite"]),
    ("train.py", ["--data", "tiny", "--batch_size", "0"], ["--batch_size 0"]),
    ("train.py", ["--data", "tiny", "--temperature", "-1"], ["--temperature -1"]),
    ("train.py", ["--data", "tiny", "--steps", "0"], ["--steps 0"]),
    ("train.py", ["--data", "tiny", "--steps", "-3"], ["--steps -3"]),
    ("train.py", ["--data", "tiny", "--warmup", "1"], ["--warmup 1"]),
    ("train.py", ["--data", "tiny", "--eval_every", "-1"], ["--eval_every -1"]),
    ("train.py", ["--data", "tiny", "--refresh_every", "0"], ["--refresh_every 0"]),
    ("train.py", ["--data", "tiny", "--vocab_size", "0"], ["--vocab_size 0"]),
    ("train.py", ["--data", "tiny", "--name", "../../elsewhere"], ["--name ../../elsewhere"]),
    ("train.py", ["--data", "tiny", "--name", ".", "--overwrite"], ["--name ."]),
    ("train.py", ["--data", "no-dev"], ["no split 'dev'"]),
    ("mine_negatives.py", ["--data", "tiny", "--sources", "dense"], ["--run"]),
    ("mine_negatives.py", ["--data", "tiny", "--depth", "0"], ["--depth 0"]),
    ("mine_negatives.py", ["--data", "tiny", "--split", "all"], ["no split 'all'"]),
    ("mine_negatives.py", ["--run", "runs/none"], ["runs/none"]),
    ("build_index.py", ["--run", "runs/none"], ["runs/none", "config.json"]),
    ("evaluate.py", [], ["--run", "--retriever", "--compare"]),
    ("evaluate.py", ["--run", "runs/none"], ["runs/none", "config.json"]),
    ("evaluate.py", ["--retriever", "bm25", "--data", "tiny", "--split", "all"], ["no split 'all'"]),
    ("evaluate.py", ["--retriever", "bm25", "--data", "tiny", "--depth", "10"], ["--depth 10"]),
    ("evaluate.py", ["--compare", "runs/taken", "runs/none"], ["no evaluation in common"]),
    ("rag_demo.py", ["--run", "runs/none"], ["runs/none", "config.json"]),
    ("rag_demo.py", ["--run", "runs/none", "--docs", "0"], ["--docs 0"]),
]


@pytest.mark.parametrize(
    "script, flags, wanted", BAD, ids=[" ".join([script, *flags]) for script, flags, _ in BAD]
)
def test_bad_input_is_one_line_and_leaves_nothing(refused, tmp_path, folder, script, flags, wanted):
    shutil.copytree(folder, tmp_path / "no-dev")
    (tmp_path / "no-dev/qrels/dev.tsv").unlink()
    (tmp_path / "runs/taken").mkdir(parents=True)
    (tmp_path / "runs/taken/notes.txt").write_text("mine")
    message = refused(script, *flags)
    for part in wanted:
        assert part in message
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["taken", "notes.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "no-dev", "runs"}


@pytest.mark.parametrize(
    "script, flags, wanted",
    [
        ("train.py", ["--data", "tiny", "--name", "staged"], "runs/staged is not empty"),
        ("mine_negatives.py", ["--data", "tiny", "--sources", "bm25", "random"], "bm25+random.jsonl exists"),
        ("build_index.py", ["--run", "runs/staged"], "runs/staged/index/tiny exists"),
        ("evaluate.py", ["--run", "runs/staged"], "runs/staged/eval/tiny-test exists"),
        ("evaluate.py", ["--retriever", "bm25", "--data", "tiny"], "runs/tiny-bm25/eval/tiny-test exists"),
        ("rag_demo.py", ["--run", "runs/staged", "--data", "other"], "no index"),
        ("evaluate.py", ["--run", "runs/staged", "--data", "other"], "no index"),
    ],
)
def test_what_exists_is_kept(refused, desk, evaluated, mined, script, flags, wanted):
    if not (desk / "other").exists():
        shutil.copytree(desk / "tiny", desk / "other")
    before = {path: path.stat().st_mtime_ns for path in (desk / "runs").rglob("*") if path.is_file()}
    assert wanted in refused(script, *flags, cwd=desk)
    assert {path: path.stat().st_mtime_ns for path in (desk / "runs").rglob("*") if path.is_file()} == before


def test_bad_input_through_the_shell(desk):
    result = call("train.py", "--data", "tiny", "--negatives", "nonsense:4", cwd=desk)
    assert (
        result.returncode == 2
        and result.stderr.count("\n") == 1
        and result.stderr.startswith("error: --negatives nonsense:4")
    )


# ------------------------------------------------------------------------------------------------------ flags


def flags_of(script):
    """(source, [(names, has help)]) of a script's arguments, from its syntax tree."""
    source = (ROOT / script).read_text(encoding="utf-8")
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("add", "add_argument")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]
    return source, [
        ([arg.value for arg in node.args], any(k.arg == "help" and k.value.value for k in node.keywords))
        for node in calls
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read_and_has_help(script):
    source, found = flags_of(script)
    assert len(found) >= 3
    read = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and getattr(node.value, "attr", getattr(node.value, "id", "")) == "args"
    }
    for names, has_help in found:
        assert names[0].lstrip("-") in read, f"{script} never reads {names[0]}"
        assert has_help, f"{script}: {names[0]} has no help"
        assert all("-" not in name.lstrip("-") for name in names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_docstring_is_the_runbook(script):
    docstring = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))
    names = {name for names, _ in flags_of(script)[1] for name in names}
    own = [line for line in docstring.splitlines() if f"python {script}" in line]
    assert own
    for line in own:
        assert {word for word in line.split("#")[0].split() if word.startswith("--")} <= names

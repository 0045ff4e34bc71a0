"""Arms: parsed once, whose fields are used from then on."""

import pytest

from lib import cli
from lib.files import BadInput
from lib.negatives.arms import Arm, Stage


@pytest.mark.parametrize(
    "arm, stages",
    [
        ("in_batch", [Stage(0.0, {})]),
        ("bm25:4", [Stage(0.0, {"bm25": 4})]),
        ("bm25:2+refresh:3", [Stage(0.0, {"bm25": 2, "refresh": 3})]),
        ("in_batch+dense:10", [Stage(0.0, {"dense": 10})]),
        ("random:4,refresh:4@0.3", [Stage(0.0, {"random": 4}), Stage(0.3, {"refresh": 4})]),
        (
            "in_batch,file:1@0.25,random:2+file:1@.5",
            [Stage(0.0, {}), Stage(0.25, {"file": 1}), Stage(0.5, {"random": 2, "file": 1})],
        ),
    ],
)
def test_arms(arm, stages):
    assert list(Arm.parse(arm).stages) == stages
    assert list(Arm.parse(f"{arm} temperature=.03 filters=percpos:.95,near_copy:.8").stages) == stages
    assert [list(stage.counts) for stage in Arm.parse(arm).stages] == [list(stage.counts) for stage in stages]


@pytest.mark.parametrize(
    "arm, value",
    [
        ("", "''"),
        ("bm24:4", "bm24:4"),
        ("bm25", "bm25"),
        ("bm25:0", "bm25:0"),
        ("bm25:-1", "bm25:-1"),
        ("bm25:1.5", "bm25:1.5"),
        ("in_batch:4", "in_batch:4"),
        ("bm25:4+", "''"),
        ("bm25:4+bm25:2", "twice"),
        ("bm25 :4", "bm25 :4"),
        ("random:4,refresh:4", "@"),
        ("random:4,refresh:4@0", "@0"),
        ("random:4,refresh:4@1", "@1"),
        ("random:4,refresh:4@soon", "@soon"),
        ("random:4,refresh:4@nan", "@nan"),
        ("random:4@0.5", "@0.5"),
        ("random:4,refresh:4@0.5,bm25:4@0.4", "@0.4"),
        ("random:4,refresh:4@-0.5", "@-0.5"),
    ],
)
def test_bad_arms(arm, value):
    with pytest.raises(BadInput) as refused:
        Arm.parse(arm)
    assert value in str(refused.value) and arm in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "arm, wanted", [("in_batch", "0"), ("bm25:2+refresh:2", "4"), ("random:4,refresh:8@0.5", "4 then 8")]
)
def test_explicit_negatives_of_an_arm(arm, wanted):
    assert Arm.parse(arm).explicit == wanted


def test_sources_of_an_arm_in_order_of_first_use():
    assert Arm.parse("random:4+bm25:1,refresh:2+random:1@0.3").sources == ["random", "bm25", "refresh"]
    assert Arm.parse("in_batch").sources == []


@pytest.fixture
def parser():
    """A command line with flags that an arm may change, and one that it may not."""
    made = cli.Parser("test")
    add = made.group("of an arm", per_arm=True)
    add("--lr", type=cli.ABOVE_0, default=0.1, help="a number")
    add("--dims", nargs="+", type=cli.COUNT, default=[], help="a list")
    made.group("of all")("--steps", type=cli.COUNT, help="not for an arm")
    return made


def test_what_an_arm_changes_is_checked_by_the_flags_own_type(parser):
    arm = Arm.parse("refresh:4 lr=1e-3 dims=8,16", value_of=parser.value_of)
    assert arm.overrides == {"lr": 1e-3, "dims": [8, 16]} and arm.base == "refresh:4"
    given = {"lr": 0.1, "steps": 5, "negatives": ["anything"]}
    assert arm.apply(given) == {"lr": 1e-3, "dims": [8, 16], "steps": 5, "negatives": [arm]}
    assert given["lr"] == 0.1  # what was given stays


@pytest.mark.parametrize(
    "arm, wanted",
    [
        ("bm25:4 lr=-1", "--lr -1: must be above 0"),
        ("bm25:4 lr=", "lr= is no flag=value of an arm; it may change lr, dims"),
        ("bm25:4 steps=3", "steps=3 is no flag=value of an arm"),
        ("bm25:4 hot", "hot= is no flag=value"),
        ("bm25:4 lr=1 lr=2", "lr is set twice"),
        ("bm25:4 dims=8,x", "x: must be a whole number"),
        ("bm25:4 dims=8,--lr,3", "--dims --lr: a value of a list does not begin with -"),
        ("bm25:4 dims=8,-h", "--dims -h: a value of a list"),
    ],
)
def test_a_change_that_cannot_be_is_refused(parser, arm, wanted):
    with pytest.raises(BadInput) as refused:
        Arm.parse(arm, value_of=parser.value_of)
    assert str(refused.value).startswith(f"{arm}: ") and wanted in str(refused.value)


@pytest.mark.parametrize(
    "arm, base",
    [
        ("in_batch", "in_batch"),
        ("random:4,refresh:4@0.3 lr=.1 dims=8", "random:4,refresh:4@0.3"),
        (" bm25:4 ", "bm25:4"),
    ],
)
def test_the_base_of_an_arm_is_its_text_without_what_it_changes(arm, base):
    assert Arm.parse(arm).base == base


def test_an_arm_that_changes_nothing_applies_as_what_was_given():
    arm = Arm.parse("bm25:4")
    assert arm.overrides == {} and arm.apply({"lr": 0.1}) == {"lr": 0.1, "negatives": [arm]}


def test_an_arm_is_its_text():
    arm = Arm.parse("bm25:2+refresh:2 lr=.1")
    assert arm.text == str(arm) == "bm25:2+refresh:2 lr=.1"
    checked = Arm.parse(arm.text, value_of=lambda name, text: float(text))
    assert checked.overrides != arm.overrides and checked == arm and hash(checked) == hash(arm)
    others = ["bm25:2+refresh:2", "bm25:2+refresh:2 lr=0.1", "refresh:2+bm25:2 lr=.1"]
    assert len({arm, checked, *map(Arm.parse, others)}) == 4


def test_further_changes_stand_behind_the_text():
    arm = Arm.parse("bm25:2+refresh:2@0 lr=.1")
    changed = arm.changed(temperature=(0.05, ".05"), dims=([8, 16], "8,16"))
    assert changed.text == "bm25:2+refresh:2@0 lr=.1 temperature=.05 dims=8,16" != arm.text
    assert changed.overrides == {"lr": ".1", "temperature": 0.05, "dims": [8, 16]}
    assert changed.stages == arm.stages and changed.base == arm.base and arm.overrides == {"lr": ".1"}
    assert arm.changed() == arm


def test_a_change_written_anew_is_parsed_as_the_same_arm(parser):
    changed = Arm.parse("bm25:4").changed(lr=(1e-3, "1e-3"), dims=([8, 16], "8,16"))
    again = Arm.parse(changed.text, value_of=parser.value_of)
    assert again == changed and again.overrides == changed.overrides and again.stages == changed.stages


def test_a_flag_that_an_arm_sets_is_not_changed_again():
    arm = Arm.parse("bm25:4 lr=.1")
    with pytest.raises(BadInput, match="^bm25:4 lr=.1: lr is set twice, by the arm and by --grid or --control$"):
        arm.changed(temperature=(0.05, ".05"), lr=(0.2, ".2"))


def test_shares_weigh_stages_by_how_long_they_last():
    assert Arm.parse("bm25:4").shares == {"bm25": (4.0, 1.0)}
    assert Arm.parse("in_batch").shares == {}
    shares = Arm.parse("random:4,refresh:8+random:2@0.75").shares
    assert shares == {"random": (4 * 0.75 + 2 * 0.25, 1.0), "refresh": (2.0, 0.25)}
    rests = Arm.parse("random:4,in_batch@0.25,random:8@0.5 lr=.1").shares
    assert rests == {"random": (4 * 0.25 + 8 * 0.5, 0.75)}


@pytest.mark.parametrize(
    "arm, wanted", [("in_batch", 0), ("queue:7", 7), ("random:9,queue:4+random:2@0.5,queue:8@0.75", 8)]
)
def test_the_queue_is_as_long_as_its_longest_stage_wants(arm, wanted):
    assert Arm.parse(arm).queued == wanted


NOTHING = {"in_batch": "on", "miner": None, "teacher": False}


@pytest.mark.parametrize(
    "arm, given",
    [
        ("in_batch", {}),
        ("bm25:1,refresh:1@0.5", {"in_batch": "off"}),
        ("miner:1+bm25:1", {"miner": "bm25"}),
        ("file:1,file:1+bm25:1@0.5", {"teacher": True}),
    ],
)
def test_an_arm_that_has_what_it_needs_passes(arm, given):
    Arm.parse(arm).check(**NOTHING | given)


@pytest.mark.parametrize(
    "arm, given, message",
    [
        ("in_batch", {"in_batch": "off"}, "--in_batch off: the arm in_batch names no other negatives"),
        ("bm25:1,in_batch@0.5", {"in_batch": "off"}, "--in_batch off: .* for all of the training"),
        ("miner:1", {}, "miner:K and --miner M come together"),
        ("bm25:1", {"miner": "bm25"}, "miner:K and --miner M come together"),
        ("miner:1", {"miner": "bm25+runs/R"}, r"--miner bm25\+runs/R: two retrievers joined by \+"),
        ("bm25:1", {"teacher": True}, "need a source with a teacher's scores in every stage"),
        ("file:1,bm25:1@0.5", {"teacher": True}, "in every stage"),
    ],
)
def test_an_arm_that_lacks_something_is_refused(arm, given, message):
    with pytest.raises(BadInput, match=message):
        Arm.parse(arm).check(**NOTHING | given)

"""Atomic writes, JSON, the cache, fingerprints."""

import errno

import numpy as np
import pytest

from lib import files
from lib.files import BadInput, atomic_path, fingerprint


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


def test_a_markdown_table_fills_short_rows():
    assert files.markdown(["a", "b"], [["1", "2"], ["3"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |\n"


def test_the_cache_is_where_the_environment_says(cache, monkeypatch, tmp_path):
    assert files.cache_dir("a", "b") == cache / "a" / "b"
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path))
    assert files.cache_dir("a") == tmp_path / "a"


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


def test_a_library_that_fails_on_a_full_disk_is_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_refusal", lambda path: errno.ENOSPC)
    with pytest.raises(OSError, match="No space left.*state.pt"), files.atomic_path(tmp_path / "state.pt"):
        raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(BadInput), files.atomic_path(tmp_path / "state.pt"):
        raise BadInput("a mistake stays one")


def test_keys_of_any_name_are_checked(tmp_path):
    files.write_json(tmp_path / "a.json", {"value": 1, "place": 2, "path": 3})
    assert files.read_json(tmp_path / "a.json", value=int, place=int, path=int)["place"] == 2
    with pytest.raises(BadInput, match="value is of type int, not str"):
        files.read_json(tmp_path / "a.json", value=str)


def test_a_table_for_latex_escapes_what_it_reads_otherwise():
    text = files.latex(["arm", "p"], [["in_batch 50% & ~x^2", "<.0001"], ["short"]], caption="A {b} # $")
    assert r"in\_batch 50\% \& $\sim$x\^{}2 & $<$.0001 \\" in text and r"\caption{A \{b\} \# \$}" in text
    assert text.count(r"\begin{tabular}{lr}") == 1 and r"short &  \\" in text and text.endswith("\\end{table}\n")

"""Words of texts in many languages: whole, with their marks, and pairs of characters where no spaces are written."""

import unicodedata

import numpy as np
import pytest
from conftest import write_collection

from lib.data.collection import load_collection
from lib.data.words import normalise, words
from lib.evaluation import diagnostics, measures
from lib.negatives.near_copies import shingles
from lib.search.bm25 import BM25


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("getHTTPResponse, snake_case 42", ["get", "http", "response", "snake", "case", "42"]),
        ("Äpfel und Überraschung", ["äpfel", "und", "überraschung"]),
        ("हिन्दी में लिखना", ["हिन्दी", "में", "लिखना"]),
        ("鸡蛋放入", ["鸡蛋", "蛋放", "放入"]),
        ("茶", ["茶"]),
        ("Python で読む", ["python", "で読", "読む"]),
        ("コーヒー", ["コー", "ーヒ", "ヒー"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("naïve café №5 x²", ["naïve", "café", "5", "x²"]),
    ],
)
def test_words_of_a_text(text, wanted):
    assert words(text) == wanted
    assert words(unicodedata.normalize("NFD", text)) == [unicodedata.normalize("NFC", word) for word in wanted]


def test_thai_and_burmese_are_pairs_too():
    assert len(words("ภาษาไทย")) == 6 and len(words("မြန်မာ")) >= 4


def test_ascii_is_read_by_the_same_rules():
    text = "parseJSON of a URLField: my_var2 = 3.5e-2, A1 HTML5Parser"
    assert words(text) == words(text + " é")[:-1]


def test_normalised_texts():
    assert (
        normalise("The  Café, NAÏVE") == normalise(unicodedata.normalize("NFD", "The  Café, NAÏVE")) == "the café naïve"
    )
    assert normalise("मैंने हिन्दी") == "मैंने हिन्दी"  # whole words, marks and all
    assert f" {normalise('鸡蛋')} " in f" {normalise('放鸡蛋入')} "
    assert len(shingles("鸡蛋放入冷水")) == 4


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """Three docs in Chinese and a query for each."""
    docs = {
        "d0": "鸡蛋放入冷水中慢慢加热可以避免蛋壳破裂。",
        "d1": "训练小狗时要用零食奖励。",
        "d2": "轮胎漏气时先找到破洞。",
    }
    queries = {"q0": "如何煮鸡蛋才不会破", "q1": "怎样训练小狗坐下", "q2": "自行车轮胎漏气怎么办"}
    qrels = {split: [("q0", "d0", 1), ("q1", "d1", 1), ("q2", "d2", 1)] for split in ("train", "dev", "test")}
    folder = write_collection(tmp_path_factory.mktemp("data") / "chinese", docs, queries, qrels)
    return load_collection(folder)


def test_bm25_finds_in_chinese(chinese):
    values = measures.score(chinese, "test", diagnostics.bm25_hits(chinese, "test"))
    assert measures.mean(values)["mrr@10"] == 1.0


def test_what_finds_nothing_is_told(chinese):
    hits = BM25.load(chinese.docs).search(["nothing of this", "训练小狗"], 3)
    assert measures.nothing_found(hits) == 0.5
    assert (hits.rows[0] == -1).all() and np.isfinite(hits.scores).all()

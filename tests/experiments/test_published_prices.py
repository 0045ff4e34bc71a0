"""The prices that are shipped, and the table of docs/false-negatives.md, are what the published results say."""

import pathlib
import sys

from experiments import prices

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_shipped_prices_and_the_table_follow_from_the_results(monkeypatch, tmp_path, capsys):
    shipped = prices.PATH.read_text(encoding="utf-8")
    again = tmp_path / "docs" / "prices.json"
    monkeypatch.setattr(prices, "PATH", again)
    monkeypatch.setattr(prices, "FIGURE", tmp_path / "figure.png")
    monkeypatch.setattr(sys, "argv", ["prices.py"])
    prices.main()
    assert again.read_text(encoding="utf-8") == shipped
    page = (ROOT / "docs/false-negatives.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 20 and all(row in page for row in rows)

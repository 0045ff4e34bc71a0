"""Scripts as processes: how they end, what they print and what they never show."""

import pytest

from lib import process
from lib.files import BadInput


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

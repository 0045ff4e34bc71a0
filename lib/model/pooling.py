"""How a text's token vectors become one vector. A new pooling is a function and a row of POOLINGS.

A function takes hidden (n, L, H), mask (n, L) bool, True for the tokens that count, and returns (n, H). Of the rows
that stand here sentence-transformers computes and saves all; what it does not know it refuses.
"""

from lib.files import BadInput

# name: sentence-transformers' name of it, or a function
POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_length": "mean_sqrt_len_tokens",  # the sum over the square root of the number of tokens
    "weighted_mean": "weightedmean",  # with weights 1, 2, ...: later tokens have seen more (Muennighoff 2022)
    "last": "lasttoken",  # as decoders want it
}


def parse_pooling(text):
    """The names of a pooling or of several whose vectors stand behind one another, as in cls+mean."""
    names = text.split("+")
    if unknown := [name for name in names if name not in POOLINGS]:
        raise BadInput(f"pooling {text}: {unknown[0]!r} is none of {', '.join(POOLINGS)}; + joins several")
    return names


def checked(text):
    """`text`, if it names poolings; BadInput otherwise."""
    parse_pooling(text)
    return text

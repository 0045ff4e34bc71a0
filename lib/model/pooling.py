"""How a text's token vectors become one vector. A new pooling is a function and a row of POOLINGS.

A function takes hidden (n, L, H), mask (n, L) bool, True for the tokens that count, and returns (n, H).
"""

import torch

from lib.files import BadInput


def mean(hidden, mask):
    """The average over a text's tokens."""
    return (hidden.float() * mask[..., None]).sum(1) / _count(mask)


def cls(hidden, mask):
    """The first token's vector."""
    first = mask.int().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def last(hidden, mask):
    """The last token's vector, as decoders want it."""
    final = mask.shape[1] - 1 - mask.int().flip(1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), final]


def largest(hidden, mask):
    """The largest value of each dimension."""
    return hidden.float().masked_fill(~mask[..., None], float("-inf")).amax(1)


def mean_sqrt_length(hidden, mask):
    """The sum over the square root of the number of tokens."""
    return (hidden.float() * mask[..., None]).sum(1) / _count(mask).sqrt()


def weighted_mean(hidden, mask):
    """The average with weights 1, 2, ...: later tokens of a decoder have seen more (Muennighoff 2022)."""
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)  # (n, L)
    return (hidden.float() * weights[..., None]).sum(1) / weights.sum(1).clamp(min=1)[:, None]


def _count(mask):
    return mask.sum(1).clamp(min=1)[:, None]


# name: (function, sentence-transformers' name of it in today's config files, its key in yesterday's; None: it has none)
POOLINGS = {
    "cls": (cls, "cls", "pooling_mode_cls_token"),
    "max": (largest, "max", "pooling_mode_max_tokens"),
    "mean": (mean, "mean", "pooling_mode_mean_tokens"),
    "mean_sqrt_length": (mean_sqrt_length, "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
    "weighted_mean": (weighted_mean, "weightedmean", "pooling_mode_weightedmean_tokens"),
    "last": (last, "lasttoken", "pooling_mode_lasttoken"),
}


def parse_pooling(text):
    """The names of a pooling or of several whose vectors stand behind one another, as in cls+mean."""
    names = text.split("+")
    if unknown := [name for name in names if name not in POOLINGS]:
        raise BadInput(f"{text}: {unknown[0]!r} is none of {', '.join(POOLINGS)}; + joins several")
    return names


def saved_name(name):
    """A pooling's name in config files; of one that sentence-transformers does not know, a name that it refuses."""
    return POOLINGS[name][1] or f"own:{name}"


def checked(text):
    """`text`, if it names poolings; BadInput otherwise."""
    parse_pooling(text)
    return text


def pool(text, hidden, mask):
    """(n, H) or, of several, (n, sum of H) vectors by the pooling that `text` names."""
    return torch.cat([POOLINGS[name][0](hidden, mask) for name in parse_pooling(text)], dim=1)

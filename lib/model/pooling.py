"""How a text's token vectors become one vector. A new pooling is a function and a row of POOLINGS."""

import torch


def mean(hidden, mask, lengths):
    """The average over a text's tokens."""
    return (hidden.float() * mask[..., None]).sum(1) / lengths[:, None]


def cls(hidden, mask, lengths):
    """The first token's vector."""
    return hidden[:, 0]


def last(hidden, mask, lengths):
    """The last token's vector, as decoders want it."""
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]


# name: (function of hidden (n, L, H), mask (n, L) and lengths (n,) -> (n, H); sentence-transformers' name of
# it in today's config files; its key in yesterday's)
POOLINGS = {
    "mean": (mean, "mean", "pooling_mode_mean_tokens"),
    "cls": (cls, "cls", "pooling_mode_cls_token"),
    "last": (last, "lasttoken", "pooling_mode_lasttoken"),
}

"""Dropout for training on the CPU: drawn quickly, kept as a seed, under attention that keeps no probabilities.

torch draws dropout on the CPU from a Mersenne Twister, on one thread (on Intel's processors it may use another
generator), and attention with dropout keeps three matrices of all pairs of tokens for the backward pass. Here each
call takes one seed from torch's generator, so that whoever restores its state, as cached gradients do, repeats the
draw; the backward pass draws again from the seed, and computes attention's probabilities again.
"""

import numpy as np
import torch
from torch import nn
from torch.autograd import Function

NAME = "hardneg_sdpa"  # of the attention, in transformers' table of such functions


def draw(seed, shape, rate):
    """(shape) bool, True with probability 1 - rate, which is rounded to a 65,536th: what is kept."""
    count = int(np.prod(shape))
    numbers = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.uint16)[:count]
    return torch.from_numpy(numbers >= round(rate * 65536)).view(shape)


def new_seed():
    """A seed from torch's generator on the CPU."""
    return int(torch.randint(2**63 - 1, ()))


class _Dropout(Function):
    @staticmethod
    def forward(ctx, x, rate, seed):
        ctx.rate, ctx.seed = rate, seed
        return (x * draw(seed, x.shape, rate)).mul_(1 / (1 - rate))

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * draw(ctx.seed, gradient.shape, ctx.rate)).mul_(1 / (1 - ctx.rate)), None, None


class Dropout(nn.Dropout):
    """nn.Dropout, which it is wherever it is not training on the CPU."""

    def forward(self, x):
        """x of any shape -> the same shape."""
        if not self.training or not 0 < self.p < 1 or x.device.type != "cpu":
            return super().forward(x)
        return _Dropout.apply(x, self.p, new_seed())


def _probabilities(query, key, mask, scale):
    """(n, H, L, L) softmax of the scores of query and key (n, H, L, D); mask: True where a key is seen."""
    scores = (query @ key.transpose(-1, -2)).mul_(scale)
    if mask is not None:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1)


class _Attention(Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, scale, rate, seed):
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale, ctx.rate, ctx.seed = scale, rate, seed
        weights = _probabilities(query, key, mask, scale)
        return (weights.mul_(draw(seed, weights.shape, rate)) @ value).mul_(1 / (1 - rate))

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, mask = ctx.saved_tensors
        weights = _probabilities(query, key, mask, ctx.scale)  # (n, H, L, L)
        kept, gradient = draw(ctx.seed, weights.shape, ctx.rate), gradient / (1 - ctx.rate)
        of_weights = (gradient @ value.transpose(-1, -2)).mul_(kept)
        # softmax: w * (g - sum(g * w)); sum(g * w) over the keys is that of output and gradient over D
        of_scores = of_weights.sub_((of_weights * weights).sum(-1, keepdim=True)).mul_(weights)
        of_value = weights.mul_(kept).transpose(-1, -2) @ gradient
        of_query = (of_scores @ key).mul_(ctx.scale)
        of_key = (of_scores.transpose(-1, -2) @ query).mul_(ctx.scale)
        return of_query, of_key, of_value, None, None, None, None


def attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **others):
    """transformers' attention function: sdpa, and where that would keep all pairs of tokens, _Attention.

    query, key, value (n, H, L, D) -> (n, L, H, D), None.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward  # here: seconds to import

    causal = others.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    special = key.shape != query.shape or any(others.get(name) is not None for name in ("position_bias", "softcap"))
    special |= causal if attention_mask is None else attention_mask.dtype != torch.bool
    if not 0 < dropout < 1 or query.device.type != "cpu" or special:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if torch.is_autocast_enabled("cpu"):  # which covers the forward pass alone
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _Attention.apply(query, key, value, attention_mask, scale, dropout, new_seed())
    return out.transpose(1, 2).contiguous(), None


def use_cpu_dropout(encoder):
    """Draw a TransformerEncoder's dropout in this way from now on; its parameters keep their names."""
    for backbone in encoder.backbones():
        _install(backbone)


def _install(backbone):
    from transformers import AttentionInterface, AttentionMaskInterface  # here: seconds to import
    from transformers.masking_utils import sdpa_mask

    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    if backbone.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        backbone.set_attn_implementation(NAME)

"""Attention as transformers' models call it, faster where PyTorch's own kernel is slow."""

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_or_products"
SHORT = 128  # tokens


def sdpa_or_products(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, **given):
    """PyTorch's kernel or, for short texts in half precision on a CPU, two products with a softmax between.

    There the kernel's backward pass alone takes three to six times as long (docs/transformers.md#speed-and-memory).
    query, key, value: (n, heads, L, D); attention_mask: bool, True where a token is seen, or None for everywhere ->
    ((n, L, heads, D), None).
    """
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    half = value.dtype in (torch.bfloat16, torch.float16)
    short = query.device.type == "cpu" and half and query.shape[2] <= SHORT and query.shape == key.shape
    more = any(given.get(name) is not None for name in ("position_bias", "cache", "softcap"))
    masked = is_causal if attention_mask is None else attention_mask.dtype != torch.bool
    if not short or more or masked:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      is_causal=is_causal, **given)  # fmt: skip
    query = query * (scaling or query.shape[3] ** -0.5)  # before the product, which may not fit into float16
    scores = query.to(value.dtype) @ key.to(value.dtype).transpose(2, 3)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    return (torch.dropout(weights, dropout, module.training) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, sdpa_or_products)
AttentionMaskInterface.register(NAME, sdpa_mask)

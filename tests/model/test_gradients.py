"""The same gradient however it is computed: chunk by chunk, with every option of the loss, in float64."""

import pytest
import torch

from lib import loss
from lib.data.tokens import tokenize
from lib.model import gradients
from lib.model.encoder import load_encoder

OPTIONS = {
    "plain": {},
    "directions": {"terms": [("doc_to_query",), ("query_to_query",), ("doc_to_doc",)]},
    "hardness": {"terms": [("hardness", 5.0)]},
    "focal": {"terms": [("focal", 2.0)]},
    "spread": {"terms": [("spread", 0.5)]},
    "smoothing": {"terms": [("smoothing", 0.2)]},
    "debiased": {"base": ("debiased", 0.1)},
    "margin": {"masks": [("margin", 0.05)]},
    "guide": {"guide": True, "masks": [("guide", 0.1)]},
    "triplet": {"base": ("triplet", 0.3)},
    "matryoshka": {"dims": (4, 8)},
    "margin mse": {"teacher": True, "terms": [("margin_mse", 0.5, 1.0)]},
    "kl": {"teacher": True, "terms": [("kl", 0.5, 1.0)]},
}
B, N = 6, 11


@pytest.fixture(scope="module")
def step(bert, tiny):
    """A function that computes the gradients of a step: a BERT with dropout, float64, chunks of 4 texts."""
    encoder = load_encoder(bert).double().train()
    sides = []
    for kind, texts, count in (("query", tiny.queries, B), ("doc", tiny.docs, N)):
        tokens = tokenize(texts, encoder, kind)
        sides.append([tokens.select(range(i, min(i + 4, count))) for i in range(0, count, 4)])
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(B)
    invalid = torch.rand(B, N, generator=generator) < 0.2
    invalid[labels, labels] = False
    drawn = torch.rand(B, N, generator=generator, dtype=torch.float64)

    def forward(chunk):  # TransformerEncoder returns float32, whose rounding would hide an error of 1e-6
        ids, offsets, _, kind = chunk
        tower = encoder.query_tower if kind == "query" else encoder.doc_tower
        lengths = offsets.diff().long()
        padded = torch.nn.utils.rnn.pad_sequence(ids.long().split(lengths.tolist()), batch_first=True)
        hidden = tower[0].model(
            input_ids=padded, attention_mask=(torch.arange(padded.shape[1]) < lengths[:, None]).long()
        )
        return torch.nn.functional.normalize(hidden.last_hidden_state[:, 0], dim=-1)

    def gradients_of(options, *, cached):
        options = {key: drawn if value is True else value for key, value in options.items()}
        temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

        def loss_of(q_emb, d_emb):
            return loss.contrastive_loss(q_emb, d_emb, labels, invalid, temperature=temperature, **options)

        torch.manual_seed(3)
        encoder.zero_grad()
        value, *_ = gradients.backward(forward, sides, loss_of, cached=cached)
        used = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
        return value, torch.cat([grad.flatten() for grad in used])

    return gradients_of


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_cached_gradients_with_dropout(step, options):
    (direct_value, direct), (cached_value, cached) = (step(options, cached=c) for c in (False, True))
    assert cached_value.item() == pytest.approx(direct_value.item(), abs=1e-12)
    assert direct.abs().max() > 1e-4
    torch.testing.assert_close(cached, direct, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "plain"])
def test_each_option_changes_the_gradient(step, name):
    plain, found = (step(OPTIONS[key], cached=False)[1] for key in ("plain", name))
    assert (found - plain).abs().max() > 1e-6, "an option that does nothing would pass the test above"


def test_without_replayed_random_state_the_gradient_is_another(step, monkeypatch):
    direct = step({}, cached=False)[1]
    monkeypatch.setattr(gradients, "_set_random_state", lambda state: None)
    broken = step({}, cached=True)[1]
    assert (broken - direct).abs().max() > 1e-3 * direct.abs().max()

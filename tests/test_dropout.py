"""Dropout on the CPU: what is drawn, the gradients, and that nothing else about an encoder changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from lib.data.tokens import tokenize
from lib.model import dropout
from lib.model.encoder import load_encoder, save_encoder


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept(rate):
    kept = dropout.draw(7, (400, 500), rate)
    assert abs(kept.float().mean() - (1 - rate)) < 4 * (rate * (1 - rate) / kept.numel()) ** 0.5 + 2**-16
    pairs = (kept[:, 1:] & kept[:, :-1]).float().mean()  # neighbours know nothing of each other
    assert abs(pairs - (1 - rate) ** 2) < 0.005
    assert torch.equal(kept, dropout.draw(7, (400, 500), rate))
    assert not torch.equal(kept, dropout.draw(8, (400, 500), rate))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4)])
def test_any_shape_is_drawn(shape):
    assert dropout.draw(1, shape, 0.5).shape == shape


def test_what_is_kept_is_scaled():
    torch.manual_seed(0)
    module, x = dropout.Dropout(0.25).train(), torch.ones(100, 200)
    found = module(x)
    assert set(np.round(found.unique().tolist(), 5)) == {0.0, 1.33333}
    torch.manual_seed(0)
    assert torch.equal(found, module(x)) and not torch.equal(found, module(x))
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(dropout.Dropout(0.0).train()(x), x) and not dropout.Dropout(1.0).train()(x).any()


def problem(masked, *, n=2, heads=3, length=5, dim=4):
    """(query, key, value (n, heads, length, dim), mask) in float64."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mask = draw(n, 1, length, length) > 0
    mask[..., 0] = True
    found = [draw(n, heads, length, dim).requires_grad_() for _ in range(3)]
    return *found, mask if masked else None


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_attention(masked):
    *inputs, mask = problem(masked)
    assert torch.autograd.gradcheck(lambda *found: dropout._Attention.apply(*found, mask, 0.5, 0.25, 7), inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_that_of_torch_with_the_drawn_probabilities(masked):
    query, key, value, mask = problem(masked)
    found = dropout._Attention.apply(query, key, value, mask, 0.5, 0.25, 7)
    scores = query @ key.transpose(2, 3) * 0.5
    weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
    wanted = (weights * dropout.draw(7, weights.shape, 0.25) / 0.75) @ value
    torch.testing.assert_close(found, wanted)
    nothing = dropout._Attention.apply(query, key, value, mask, 0.5, 0.0, 7)
    torch.testing.assert_close(nothing, F.scaled_dot_product_attention(query, key, value, mask, scale=0.5))


def test_rotary_queries_and_half_precision_values_have_a_gradient():
    query, key, value, mask = (x if x.dtype == torch.bool else x.detach().float() for x in problem(True))
    query, key, value = query.requires_grad_(), key.requires_grad_(), value.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = dropout.attention(None, query, key, value, mask, dropout=0.25, scaling=0.5)
    found.float().sum().backward()
    assert all(torch.isfinite(x.grad).all() and x.grad.dtype == x.dtype for x in (query, key, value))


def test_the_gradient_of_dropout():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropout._Dropout.apply(x, 0.3, 7), [x])


@pytest.fixture
def encoders(bert, tiny):
    """Two encoders of the same weights, the second with use_cpu_dropout(), and a batch of docs."""
    plain, lean = load_encoder(bert), load_encoder(bert)
    dropout.use_cpu_dropout(lean)
    return plain, lean, tokenize(tiny.docs, plain, "doc").select(np.arange(12))


def test_without_dropout_nothing_changes(encoders):
    plain, lean, batch = encoders
    assert torch.equal(plain.eval()(batch), lean.eval()(batch))
    for encoder in (plain, lean):
        encoder.train().set_dropout(0.0)
    assert torch.equal(plain(batch), lean(batch))


def test_the_draw_is_that_of_the_seed(encoders):
    _, lean, batch = encoders
    lean.train()
    torch.manual_seed(0)
    found = lean(batch)
    torch.manual_seed(0)
    assert torch.equal(found, lean(batch)) and not torch.equal(found, lean(batch))


def test_means_over_draws_are_those_of_torch(encoders):
    plain, lean, batch = encoders
    torch.manual_seed(0)
    means = []
    for encoder in (plain, lean):
        encoder.train()
        with torch.no_grad():
            means.append(torch.stack([encoder(batch) for _ in range(200)]).mean(0))
    far = (means[0] - plain.eval()(batch)).norm(dim=1).mean()  # dropout moves the mean of unit vectors
    assert (means[0] - means[1]).norm(dim=1).mean() < 0.5 * far + 0.02


def test_less_is_kept_for_the_backward_pass(encoders):
    plain, lean, batch = encoders
    kept = []
    for encoder in (plain, lean):
        pieces = {}
        encoder.train().block_tokens = 1 << 16

        def pack(tensor, pieces=pieces):
            pieces[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            encoder(batch).sum().backward()
        kept.append(sum(pieces.values()))
    assert kept[1] < 0.8 * kept[0]


def test_a_saved_encoder_knows_nothing_of_it(encoders, tmp_path):
    plain, lean, _ = encoders
    assert plain.vector_key() == lean.vector_key()
    for name, encoder in (("plain", plain), ("lean", lean)):
        save_encoder(encoder, tmp_path / name)
    files = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()]
    assert files and all((tmp_path / "plain" / f).read_bytes() == (tmp_path / "lean" / f).read_bytes() for f in files)

"""Gradients of a step, with all activations kept or those of a chunk (GradCache)."""

import torch


def backward(forward, sides, loss_of, *, cached, both=None, scale=lambda value: value):
    """Gradients of a step, keeping all activations or, `cached`, one chunk's (GradCache, Gao et al. 2021).

    forward(chunk) -> vectors of one chunk; sides: the chunks of the queries and those of the docs, as two
    lists; loss_of(q_emb, d_emb) -> (loss, *more), which is returned. Cached: (1) vectors without a graph; (2) the loss
    and its gradient with respect to the vectors; (3) chunk by chunk, forward again with the random state of (1), and
    backward with the gradient of (2). The gradient is the same; memory stays that of a chunk, for one more
    forward pass. both(query chunk, doc chunk) -> (q_emb, d_emb), where given, takes the place of two calls of
    forward when nothing is cached and each side is one chunk.
    """
    if not cached:
        if both:
            vectors = both(*(side[0] for side in sides))
        else:
            vectors = (torch.cat([forward(chunk) for chunk in side]) for side in sides)
        value, *more = loss_of(*vectors)
        scale(value).backward()
        return value.detach(), *more
    states, leaves = [], []
    for side in sides:
        vectors = []
        for chunk in side:
            states.append(_random_state())
            with torch.no_grad():
                vectors.append(forward(chunk))
        leaves.append(torch.cat(vectors).requires_grad_())
    after = _random_state()
    value, *more = loss_of(*leaves)
    scale(value).backward()
    states = iter(states)
    for side, leaf in zip(sides, leaves):
        begin = 0
        for chunk in side:
            _set_random_state(next(states))
            vectors = forward(chunk)
            vectors.backward(leaf.grad[begin : begin + len(vectors)].to(vectors.dtype))
            begin += len(vectors)
    _set_random_state(after)
    return value.detach(), *more


def _random_state():
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])

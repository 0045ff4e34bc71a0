"""torch.distributed helpers; on one process each of them is the identity, so that scripts have no branches.

Every process knows the whole batch as integers (its draw is a pure function of the seed), encodes the rows
that are its own, and gathers the vectors of the others: process r of W owns rows r, r + W, r + 2W, ...
"""

import contextlib
import datetime
import functools
import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm


def start(device):
    """Join the processes that torchrun started; returns the device of this one (cuda: one GPU each)."""
    if "RANK" not in os.environ:
        return torch.device(device)
    if torch.device(device).type == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # gloo for what lies in memory; hours, because process 0 may be reading a large corpus
    backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=12))
    if rank() > 0:  # one voice
        sys.stdout = open(os.devnull, "w")
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)
    return torch.device(device)


def stop():
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank():
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world():
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    """Whether this process writes files."""
    return rank() == 0


def barrier():
    """Wait until all processes are here."""
    if world() > 1:
        dist.barrier()


def same(value):
    """Process 0's value, on every process."""
    if world() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


@contextlib.contextmanager
def main_first():
    """Run the block on process 0 first, then on the others: what process 0 cached, they find."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def own(n):
    """The rows of n that this process handles."""
    return np.arange(rank(), n, world())


def gather(part, n):
    """All n rows from each process's own: part (n_own, ...) -> (n, ...). The own rows keep their gradient.

    Each process computes the whole loss, so that the gradients of the parameters, summed over processes, are
    those of one process with the whole batch: nothing is lost at the border.
    """
    if world() == 1:
        return part
    size = -(-n // world())
    padded = part.new_zeros((size, *part.shape[1:]))  # collectives want equal shapes; n need not divide
    padded[: len(part)] = part.detach()
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    rows = torch.stack(parts, 1).flatten(0, 1)[:n]  # row i * W + r is the i-th of process r
    return rows.index_copy(0, torch.from_numpy(own(n)).to(part.device), part)


def map_rows(function, rows):
    """function(rows), an array with a row for each of `rows` or a tuple of such; processes share the work."""
    if world() == 1:
        return function(rows)
    result = function(rows[own(len(rows))])
    parts = result if isinstance(result, tuple) else (result,)
    tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in parts]
    gathered = tuple(gather(tensor, len(rows)).numpy() for tensor in tensors)
    return gathered if isinstance(result, tuple) else gathered[0]


class Spread:
    """(n, D) vectors of which each process holds some: what all have made, in the memory of one's own share."""

    def __init__(self, vectors, rows, n):
        self.vectors, self.rows = vectors, rows  # (m, D), and (m,) sorted: which of the n they are
        self.shape = n, vectors.shape[1]

    def __len__(self):
        return self.shape[0]

    def place(self, rows):
        """Where rows stand among one's own, -1 for those of others and for -1."""
        at = np.searchsorted(self.rows, rows).clip(max=max(0, len(self.rows) - 1))
        return np.where(self.rows[at] == rows, at, -1) if len(self.rows) else np.full_like(rows, -1)

    def __getitem__(self, rows):
        """The vectors of rows (k,), or of a slice, on every process."""
        rows = np.arange(len(self))[rows]
        at, out = self.place(rows), np.zeros((len(rows), self.shape[1]), dtype=self.vectors.dtype)
        out[at >= 0] = self.vectors[at[at >= 0]]
        return total(out)

    def select(self, rows):
        """The Spread of some rows (k,), which nobody has to send."""
        at = self.place(rows)
        return Spread(self.vectors[at[at >= 0]], np.flatnonzero(at >= 0), len(rows))


def total(array):
    """The sum of an array over all processes, in its place."""
    dist.all_reduce(torch.from_numpy(array))
    return array


def of_all(array):
    """[the array of each process], of equal shapes."""
    own = torch.from_numpy(np.ascontiguousarray(array))
    parts = [torch.empty_like(own) for _ in range(world())]
    dist.all_gather(parts, own)
    return [part.numpy() for part in parts]


def sum_gradients(parameters):
    """Add up the gradients of all processes, in place, in one message."""
    if world() == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    begin = 0
    for p in parameters:
        p.grad.copy_(flat[begin : begin + p.numel()].view_as(p))
        begin += p.numel()

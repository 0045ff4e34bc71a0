"""Vectors of which each of four processes holds a share: the lists of one process, without a vector that is sent."""

import multiprocessing
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import torch.distributed
from conftest import ROOT

from lib import dist
from lib.search import exact

PROCESSES, DOCS, QUERIES, DIM, K = 4, 1003, 77, 64, 20
AMONG = {"all": None, "some": np.arange(0, DOCS, 3), "few": np.array([5, 7, 10]), "one": np.array([7])}


def world():
    """Vectors of docs, of which two are copies and one is zero, of queries, and docs known to be relevant."""
    random = np.random.default_rng(0)
    docs, queries = (random.standard_normal((n, DIM)).astype(np.float32) for n in (DOCS, QUERIES))
    docs[[10, 900]], docs[5], queries[3] = docs[7], 0, 0
    return docs, queries, random.integers(-1, DOCS, (QUERIES, 3))


def searched(docs, queries, known, some):
    """What is compared; some(docs, rows): the vectors of those rows."""
    found = {name: exact.search(queries, docs, K, known, among=rows) for name, rows in AMONG.items()}
    found["selected"] = exact.search(queries, some(docs, np.arange(1, DOCS, 2)), K)
    found = {f"{name} {what}": values for name, hits in found.items()
             for what, values in zip(hits._fields, hits) if values is not None}  # fmt: skip
    return found | {"of three": docs[np.array([900, 7, 3])]}


def be_one_of_four(rank, port):
    """What each process does: it counts the numbers of each message that it sends."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.start("cpu")
    sent, gather, reduce = [], torch.distributed.all_gather, torch.distributed.all_reduce
    torch.distributed.all_gather = lambda parts, own: (sent.append(own.numel()), gather(parts, own))
    torch.distributed.all_reduce = lambda own: (sent.append(own.numel()), reduce(own))
    docs, *others = world()
    own = dist.own(len(docs))
    found = searched(dist.Spread(docs[own], own, len(docs)), *others, lambda docs, rows: docs.select(rows))
    np.savez(f"{rank}.npz", sent=max(sent), **found)
    dist.stop()


def test_four_processes_find_what_one_finds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    assert subprocess.run([sys.executable, __file__, port], cwd=tmp_path, env=env, timeout=120).returncode == 0
    wanted = searched(*world(), lambda docs, rows: docs[rows])
    for rank in range(PROCESSES):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for name, values in wanted.items():
                np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
            assert found["sent"] <= QUERIES * K  # never the vectors


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=be_one_of_four, args=(rank, sys.argv[1])) for rank in range(PROCESSES)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    sys.exit(any(one.exitcode for one in started) or not pathlib.Path("0.npz").exists())

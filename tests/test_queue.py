"""The queue of recent docs."""

import numpy as np
import torch

from lib.negatives.queue import Queue


def test_a_queue_holds_the_last_docs_each_once():
    queue = Queue(5, 2, device="cpu")
    for number, docs in enumerate(([1, 2, 3], [4, 2], [7, 8])):
        queue.push(np.array(docs, dtype=np.int32), np.array([[number, doc] for doc in docs], dtype=np.float32))
        assert len(queue.docs) == len(queue.vectors) == len(set(queue.docs.tolist())) <= 5
    assert queue.docs.tolist() == [3, 4, 2, 7, 8]
    assert queue.vectors.tolist() == [[0, 3], [1, 4], [1, 2], [2, 7], [2, 8]]
    other = Queue(5, 2, device="cpu")
    other.load_state_dict(queue.state_dict())
    assert other.docs.tolist() == queue.docs.tolist() and torch.equal(other.vectors, queue.vectors)

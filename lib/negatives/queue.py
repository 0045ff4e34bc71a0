"""The queue of recent docs: negatives of many steps for one more encoding of each batch's docs."""

import numpy as np
import torch


class Queue:
    """The last N docs that a momentum encoder embedded: negatives for later steps (MoCo, He et al. 2020)."""

    def __init__(self, size, dim, *, device):
        self.size = size
        self.docs = np.empty(0, dtype=np.int32)  # (n,) oldest first
        self.vectors = torch.empty(0, dim, device=device)  # (n, D)

    def push(self, docs, vectors):
        """Add a step's docs (n,) and vectors (n, D); a doc that is there is replaced, the oldest leave."""
        keep = ~np.isin(self.docs, docs)
        vectors = torch.from_numpy(vectors).to(self.vectors.device)
        self.vectors = torch.cat([self.vectors[torch.from_numpy(keep)], vectors])[-self.size :]
        self.docs = np.concatenate([self.docs[keep], docs])[-self.size :]

    def state_dict(self):
        """The queue as tensors."""
        return {"docs": torch.from_numpy(self.docs), "vectors": self.vectors}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.docs, self.vectors = state["docs"].numpy(), state["vectors"].to(self.vectors.device)

"""A cross-encoder as a judge: scores of (query, doc) pairs, for denoising, relabelling and distillation."""

import dataclasses

import numpy as np
import torch
import transformers
from tqdm import tqdm

from lib.files import BadInput
from lib.model.encoder import local_folder


class CrossEncoder:
    """A Hugging Face sequence classifier: the score is the sigmoid of its one output, or P of its last."""

    def __init__(self, source, *, device, length=256):
        folder = local_folder(source)
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            self.model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BadInput(f"--cross_encoder {source}: {str(error).splitlines()[0]}") from None
        if loading["missing_keys"]:
            raise BadInput(
                f"--cross_encoder {source}: no weights for {sorted(loading['missing_keys'])[0]}; "
                "a model trained to classify pairs is wanted"
            )
        self.model.eval().to(device)
        longest = getattr(self.model.config, "max_position_embeddings", None) or length
        self.device, self.length = device, min(length, longest, self.tokenizer.model_max_length)

    @torch.inference_mode()
    def score(self, queries, docs, *, block=32, desc="cross-encoder"):
        """(n,) float32 in 0 ... 1 for n pairs of texts, visited in order of length."""
        order = np.argsort([-len(q) - len(d) for q, d in zip(queries, docs)], kind="stable")
        scores = np.empty(len(queries), dtype=np.float32)
        with tqdm(total=len(queries), unit="pair", unit_scale=True, desc=desc, delay=2) as bar:
            for begin in range(0, len(order), block):
                part = order[begin : begin + block]
                inputs = self.tokenizer(
                    [queries[i] for i in part],
                    [docs[i] for i in part],
                    truncation=True,
                    max_length=self.length,
                    padding=True,
                    return_tensors="pt",
                )
                logits = self.model(**inputs.to(self.device)).logits.float()  # (n, 1 or 2)
                values = logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(1)[:, -1]
                scores[part] = values.cpu().numpy()
                bar.update(len(part))
        return scores

    def score_candidates(self, candidates, collection):
        """The candidates with `teacher` and `teacher_positive` (the best of the known positives) set."""
        known = collection.known_docs(candidates.queries)  # (n, P)
        docs = np.concatenate([candidates.docs, known], axis=1)
        owner, column = np.nonzero(docs >= 0)
        text_of = {row: collection.docs.text(row) for row in np.unique(docs[docs >= 0]).tolist()}
        queries = collection.queries.texts(candidates.queries)
        values = np.full(docs.shape, np.nan, dtype=np.float32)
        texts = [text_of[row] for row in docs[owner, column].tolist()]
        values[owner, column] = self.score([queries[i] for i in owner], texts)
        depth = candidates.docs.shape[1]
        return dataclasses.replace(
            candidates, teacher=values[:, :depth], teacher_positive=np.nanmax(values[:, depth:], axis=1)
        )

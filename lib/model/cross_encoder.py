"""A cross-encoder as a judge: scores of (query, doc) pairs, for denoising, relabelling and distillation."""

import functools

import numpy as np
import torch
import transformers
from tqdm import tqdm

from lib.files import BadInput
from lib.model.backbone import load_with_head, longest
from lib.model.encoder import fingerprint_folder, local_folder


class CrossEncoder:
    """A Hugging Face sequence classifier: the score is the sigmoid of its one output, or P of its last."""

    def __init__(self, source, *, device, length=256):
        folder = self._folder = local_folder(source)
        kind, wanted = transformers.AutoModelForSequenceClassification, "a model trained to classify pairs"
        self.model, self.tokenizer = load_with_head(folder, kind, named=f"--cross_encoder {source}", wanted=wanted)
        if self.model.config.num_labels > 2:
            raise BadInput(
                f"--cross_encoder {source}: {self.model.config.num_labels} labels "
                f"({', '.join(map(str, self.model.config.id2label.values()))}); one for relevance is expected, or two"
            )
        if self.tokenizer.pad_token is None:  # as in many decoders: any token will do, since it is masked
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        if self.model.config.pad_token_id is None:  # by it a decoder finds the last token of each text
            self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model.eval().to(device)
        self.device, self.length = device, min(length, longest(self.model.base_model, self.tokenizer))

    @functools.cached_property
    def fingerprint(self):
        """Identifies the model's files."""
        return fingerprint_folder(self._folder)

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

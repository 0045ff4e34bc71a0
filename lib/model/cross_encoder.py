"""A cross-encoder as a judge: scores of (query, doc) pairs, for denoising, relabelling and distillation."""

import functools

import numpy as np
import torch
import transformers
from tqdm import tqdm

from lib.data.formats import cells
from lib.files import BadInput, read_json
from lib.model.backbone import load_with_head, longest
from lib.model.encoder import fingerprint_folder, local_folder

# what a causal language model is asked, word for word as Qwen3-Reranker was trained (arXiv:2506.05176)
ASKED = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"
PAIR = f"<Instruct>: {TASK}\n<Query>: {{}}\n<Document>: {{}}"


class CrossEncoder:
    """A Hugging Face sequence classifier: the score is the sigmoid of its one output, or P of its last.

    Or a causal language model that is asked about the pair: the score is P(yes) against P(no) as its next word.
    """

    def __init__(self, source, *, device, length=256):
        folder = self._folder = local_folder(source)
        self.asked = str((read_json(folder / "config.json").get("architectures") or [""])[0]).endswith("ForCausalLM")
        kind, wanted = transformers.AutoModelForSequenceClassification, "a model trained to classify pairs"
        if self.asked:
            kind, wanted = transformers.AutoModelForCausalLM, "a language model that says yes or no"
        self.model, self.tokenizer = load_with_head(folder, kind, named=f"--cross_encoder {source}", wanted=wanted)
        if self.asked:
            self._frame = self._framed(source)
        elif self.model.config.num_labels > 2:
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

    def _framed(self, source):
        """(ids before the pair, ids behind it, ids of the words no and yes) for a model that is asked."""
        words = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("no", "yes")]
        if any(len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id for ids in words):
            raise BadInput(f"--cross_encoder {source}: yes and no are no tokens of this language model")
        before, behind = f"{ASKED}\n\n", "\n\n"
        if self.tokenizer.chat_template:
            how = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
            messages = [{"role": "system", "content": ASKED}, {"role": "user", "content": "\x00"}]
            try:
                text = self.tokenizer.apply_chat_template(messages, **how)
            except Exception:  # a template that knows no system message raises an error of its own
                text = self.tokenizer.apply_chat_template([{"role": "user", "content": f"{before}\x00"}], **how)
            before, _, behind = text.partition("\x00")
        parts = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, behind)]
        return *parts, [ids[0] for ids in words]

    def _ask(self, queries, docs):
        """(n,) P(yes), of pairs whose last tokens are cut where they are longer than `length`."""
        before, behind, words = self._frame
        pairs = self.tokenizer([PAIR.format(*pair) for pair in zip(queries, docs)], add_special_tokens=False,
                               truncation=True, max_length=self.length)["input_ids"]  # fmt: skip
        texts = [[*before, *pair, *behind] for pair in pairs]
        width = max(map(len, texts))
        ids = torch.full((len(texts), width), self.tokenizer.pad_token_id)
        there = torch.zeros_like(ids)
        for row, text in enumerate(texts):  # on the left, so that the last column is each text's last token
            ids[row, width - len(text) :], there[row, width - len(text) :] = torch.tensor(text), 1
        inputs = {"input_ids": ids, "attention_mask": there, "position_ids": (there.cumsum(1) - 1).clamp(min=0)}
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        logits = self.model(**inputs, logits_to_keep=1).logits  # of all places they would take gigabytes
        return logits[:, -1, words].float().softmax(1)[:, 1]

    @functools.cached_property
    def fingerprint(self):
        """Identifies the model's files."""
        return fingerprint_folder(self._folder)

    def _classify(self, queries, docs):
        """(n,) scores by the classifier's outputs."""
        how = {"truncation": True, "max_length": self.length, "padding": True, "return_tensors": "pt"}
        logits = self.model(**self.tokenizer(queries, docs, **how).to(self.device)).logits.float()  # (n, 1 or 2)
        if logits.shape[1] == 1:
            return logits[:, 0].sigmoid()
        names = [cells.number_of(str(name)) for _, name in sorted(self.model.config.id2label.items())]
        return logits.softmax(1)[:, 0 if names == [1, 0] else -1]  # relevant may be the first by its name

    @torch.inference_mode()
    def score(self, queries, docs, *, block=32, desc="cross-encoder"):
        """(n,) float32 in 0 ... 1 for n pairs of texts, visited in order of length."""
        order = np.argsort([-len(q) - len(d) for q, d in zip(queries, docs)], kind="stable")
        scores = np.empty(len(queries), dtype=np.float32)
        with tqdm(total=len(queries), unit="pair", unit_scale=True, desc=desc, delay=2) as bar:
            for begin in range(0, len(order), block):
                part = order[begin : begin + block]
                score = self._ask if self.asked else self._classify
                scores[part] = score([queries[i] for i in part], [docs[i] for i in part]).cpu().numpy()
                bar.update(len(part))
        return scores

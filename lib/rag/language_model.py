"""Language models from a folder or the hub, causal or sequence-to-sequence, through their chat template."""

import time

import numpy as np
import torch
import transformers

from lib.files import BadInput, fingerprint
from lib.model.backbone import load_with_head, longest, why
from lib.model.encoder import fingerprint_folder, local_folder
from lib.rag import prompts

BLOCK = 8  # prompts that are answered together


class _Written(transformers.generation.streamers.BaseStreamer):
    """Tells `said` of the tokens of one reply, as they are written; the first that come are the prompt's."""

    def __init__(self, said):
        self.ids, self.said = None, said

    def put(self, value):
        """Take tokens."""
        if self.ids is None:
            self.ids = []
        else:
            self.ids += value.flatten().tolist()
            self.said(self.ids)

    def end(self):
        """Nothing is left to tell."""


class LanguageModel:
    """A Hugging Face model that continues a prompt, without sampling: the same docs give the same answer."""

    def __init__(self, source, *, device, context_tokens, answer_tokens, template=prompts.DEFAULT):
        folder = local_folder(source)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            self.pairs = bool(config.is_encoder_decoder)
        except Exception as error:  # the library raises all kinds over files that are cut or foreign
            raise BadInput(f"--generator hf:{source}: {why(error)}") from None
        kind = transformers.AutoModelForSeq2SeqLM if self.pairs else transformers.AutoModelForCausalLM
        how = {"named": f"--generator hf:{source}", "wanted": "a language model"}
        dtype = "auto" if device.type != "cpu" else torch.float32
        self.model, self.tokenizer = load_with_head(folder, kind, dtype=dtype, **how)
        self.tokenizer.padding_side = "right" if self.pairs else "left"
        if self.tokenizer.pad_token is None:  # any token will do, since it is masked
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.model.eval().to(device)
        self.device, self.answer_tokens, self.template = device, answer_tokens, template
        frame = self._count(self._text(prompts.make_prompt("", [], budget=0, count=self._count, template=template)))
        room = longest(self.model, self.tokenizer) - frame - answer_tokens - 64  # for the question
        if room < prompts.SHORTEST:
            raise BadInput(
                f"--generator hf:{source}: reads {room + frame + answer_tokens + 64} tokens, of which instruction and "
                f"answer take {frame + answer_tokens}: lower --answer_tokens"
            )
        self.context_tokens = min(context_tokens, room)
        self.fingerprint = fingerprint(
            "hf", 2, fingerprint_folder(folder), self.context_tokens, answer_tokens, *prompts.key(template)
        )

    def _count(self, text):
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, prompt):
        """The prompt as the model's own chat template writes it, or plainly where it has none."""
        if not getattr(self.tokenizer, "chat_template", None):
            return prompt.text
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            return self.tokenizer.apply_chat_template(prompt.messages, **options)
        except Exception:  # a template that knows no system message raises an error of its own
            return self.tokenizer.apply_chat_template(prompt.merged, **options)

    def prompt(self, question, docs):
        """(text that is sent, how many docs stand in it)."""
        made = prompts.make_prompt(
            question, docs, budget=self.context_tokens, count=self._count, template=self.template
        )
        return self._text(made), made.docs

    def _inputs(self, texts):
        special = not getattr(self.tokenizer, "chat_template", None)  # a template writes its special tokens itself
        limit = longest(self.model, self.tokenizer) - self.answer_tokens
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt", add_special_tokens=special,
            return_token_type_ids=False,
        ).to(self.device)  # fmt: skip

    def _said(self, ids):
        """The text of tokens without the special ones, but with the marks of a thought, which may be special."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special and not prompts.marks_thought(token.content):
                text = text.replace(token.content, "")
        return text.strip()

    def stream(self, question, docs, said):
        """The Answer to one question; said(text) is told what has been written so far."""
        begins = prompts.begun(self.prompt(question, docs)[0])
        streamer = _Written(lambda ids: said(prompts.so_far(begins + self._said(ids))))
        return self.generate([(question, docs)], streamer=streamer)[0]

    @torch.inference_mode()
    def generate(self, pairs, streamer=None):
        """An Answer for each (question, docs); a streamer is told of the tokens of one alone."""
        prompts_of = [self.prompt(*pair) for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda i: len(prompts_of[i][0]))  # little of a block is padding
        found = [None] * len(pairs)
        for begin in range(0, len(pairs), BLOCK):
            block = order[begin : begin + BLOCK]
            made = [prompts_of[i] for i in block]
            started = time.perf_counter()
            inputs = self._inputs([text for text, _ in made])
            output = self.model.generate(
                **inputs, max_new_tokens=self.answer_tokens, do_sample=False, num_beams=1,
                pad_token_id=self.tokenizer.pad_token_id, streamer=streamer,
            )  # fmt: skip
            written = output if self.pairs else output[:, inputs["input_ids"].shape[1] :]
            ms = 1000 * (time.perf_counter() - started) / len(made)
            for i, (text, docs), read, ids in zip(block, made, inputs["attention_mask"].sum(1).tolist(), written):
                reply = self._said(ids)
                used = int((ids != self.tokenizer.pad_token_id).sum())
                reply = prompts.begun(text) + reply
                known = {"tokens": (read, used), "ms": ms, "prompt": text, "cut": used >= self.answer_tokens}
                found[i] = prompts.answer_of(reply, docs, **known)
        return found

    @torch.inference_mode()
    def abstain_probability(self, pairs):
        """(n,) the probability of the reply ABSTAIN to (question, doc) pairs: the product over its tokens."""
        wanted = self.tokenizer(prompts.ABSTAIN, add_special_tokens=False, return_tensors="pt")["input_ids"].to(
            self.device
        )
        found = np.empty(len(pairs))
        for i, (question, doc) in enumerate(pairs):
            inputs = self._inputs([self.prompt(question, [doc])[0]])
            if self.pairs:
                logits = self.model(**inputs, labels=wanted).logits[0]  # (A, V)
            else:
                ids = torch.cat([inputs["input_ids"], wanted], dim=1)
                logits = self.model(input_ids=ids).logits[0, -wanted.shape[1] - 1 : -1]
            chances = logits.float().log_softmax(-1).gather(1, wanted[0][:, None])
            found[i] = chances.sum().exp().item()
        return found

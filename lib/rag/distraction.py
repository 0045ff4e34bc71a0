"""How far a doc misleads a reader: 1 - P(no answer | question, doc) (Amiraz et al. 2025, arXiv:2505.06914)."""

import filelock

from lib.files import BadInput, cache_dir, fingerprint
from lib.rag.generators import open_generator
from lib.rag.store import Answers, made_by


def by(spec, *, device):
    """A function (questions, docs) -> (n,) distracting effects by the generator `spec`; kept by content.

    The generator is one with probabilities (qa:, hf:), read as rag_demo.py reads it; BadInput otherwise.
    """
    options = {"model": None, "context_tokens": 2000, "answer_tokens": 64, "timeout": 60.0}
    generator = open_generator(spec, device=device, **options)
    if generator.abstain_probability is None:
        raise BadInput(f"--reader {spec}: says no probability that a doc does not answer; qa: and hf: do")
    path = cache_dir("distraction", fingerprint(generator.fingerprint, made_by()) + ".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)

    def misleads(questions, docs):
        with filelock.FileLock(path.with_suffix(".lock")):  # what another process reads meanwhile is found here then
            return 1 - Answers(path, generator).absent(list(zip(questions, docs)), desc="reading candidates")

    return misleads

"""Average the weights of an encoder with those that its training started from (LM-Cocktail, Xiao et al. 2023).

    python -m lib.model.merge START runs/R --out merged               # half and half, as in the paper
    python -m lib.model.merge START runs/R --alpha .3 --out merged    # nearer to the start

w = alpha * trained + (1 - alpha) * start: what training on one collection has lost elsewhere comes back in part. Both
have weights of the same shapes and one vocabulary; prefixes, lengths and pooling are those of the trained encoder.
"""

import pathlib

import torch

from lib import cli, process
from lib.files import BadInput
from lib.model.encoder import load_encoder, save_encoder


def merge(start, trained, alpha):
    """`trained`, an encoder, moved to the average of both; BadInput if their weights do not fit together."""
    ours, theirs = (dict(encoder.named_parameters()) for encoder in (trained, start))
    shapes = [{name: tuple(p.shape) for name, p in weights.items()} for weights in (ours, theirs)]
    if odd := sorted(name for name in ours.keys() | theirs.keys() if shapes[0].get(name) != shapes[1].get(name)):
        found = " and ".join(str(of.get(odd[0], "none")) for of in reversed(shapes))
        raise BadInput(f"{len(odd)} weights of START and TRAINED differ in shape, {odd[0]} first: {found}")
    if any(a != b for a, b in zip(*map(_vocabularies, (start, trained)))):
        raise BadInput("START and TRAINED have other vocabularies: a row of one is another token's in the other")
    with torch.no_grad():
        for name, weight in ours.items():
            weight.copy_(torch.lerp(theirs[name].float(), weight.float(), alpha))
    return trained


def _vocabularies(encoder):
    """{token: id} of the queries' and of the docs' tokenizer."""
    if encoder.kind == "static":
        return [encoder.tokenizer.get_vocab()]
    return [tower[0].tokenizer.get_vocab() for tower in (encoder.query_tower, encoder.doc_tower)]


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("start", metavar="START", help="encoder before training: a run, a model's folder or hub name")
    parser.add_argument("trained", metavar="TRAINED", help="encoder after it")
    parser.add_argument("--alpha", type=cli.SHARE, default=0.5, help="share of the trained weights; default: .5")
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder of the new encoder")
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    if out.exists():
        raise BadInput(f"--out {out}: exists; choose another folder")
    start, trained = (load_encoder(_encoder_of(source)) for source in (args.start, args.trained))
    save_encoder(merge(start, trained, args.alpha), out)
    print(f"wrote   {out}/\nnext    python evaluate.py --retriever {cli.quoted(out)}")


def _encoder_of(source):
    """The encoder's folder of a run, or what else is named."""
    folder = pathlib.Path(source) / "encoder"
    return folder if folder.is_dir() else source


if __name__ == "__main__":
    process.cli(main)

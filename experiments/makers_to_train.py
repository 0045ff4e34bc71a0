"""Collections with a train split, from clones of public repositories: a function for each, for public_collections.py.

A maker takes the folder of the clone, and of a second one where it needs that, and returns docs, queries and
judgements. What is kin (chunks of an article, copies of a command) stands in one split.
"""

import collections
import csv
import io
import re

from tqdm import tqdm

from experiments.clones import (
    Kin,
    asked,
    content,
    decoded,
    lines,
    made,
    near_copies,
    numbered,
    plain,
    read_json,
    read_yaml,
    text,
)
from lib.data.beir import split_by_hash
from lib.files import BadInput, reading

NEAR = 0.8  # share of their pieces that descriptions or commands have in common which are near-copies
CHUNK, LONGEST = 120, 240  # words of a chunk, about; words of a sentence that is left in one piece


def jaquad(clone, more):
    """Questions on Japanese Wikipedia, and the paragraph that holds the answer.

    The official dev side is the test split, for the test side was never published; a tenth of the train articles, by
    a hash of their titles, is dev.
    """
    docs, queries, judged = [], [], []
    for side in ("train", "dev"):
        for path in numbered(clone / "data" / side, f"jaquad_{side}_{{:04}}.json"):
            articles = read_json(path)
            with reading(path):
                for article in articles["data"]:
                    title = article["title"]
                    split = "test" if side == "dev" else "dev" if split_by_hash(title) == "dev" else "train"
                    for paragraph in article["paragraphs"]:
                        doc = {"_id": f"d{len(docs) + 1}", "text": paragraph["context"], "metadata": {"title": title}}
                        docs.append(doc)
                        for question in paragraph["qas"]:
                            answers = list(dict.fromkeys(answer["text"] for answer in question["answers"]))
                            meta = {"title": title, "type": question["question_type"], "answers": answers}
                            queries.append({"_id": question["id"], "text": question["question"], "metadata": meta})
                            judged.append((question["id"], split, {doc["_id"]: 1}))
    return docs, queries, judged


# ------------------------------------------------------------------------------------------------- commands

WORD_OF_COMMAND = re.compile(r"[|;&><(){}!\\]+|-+[A-Za-z][\w-]*|[a-z][\w-]*")  # operators, flags, names in lower case
QUOTED = re.compile(r"""(["'`]).*?\1""")


def nl2bash(clone, more):
    """What a shell command does, in English, and the command: short texts, several positives, near-copies.

    Most commands begin with find, so that the first word cannot be what splits are made by. Pairs are kin that have
    the same description or the same command, or nearly so, and also those that have it but for names, numbers and
    quoted texts: `find . -name "*.txt"` and `find /tmp -name core` stand in one split.
    """
    texts = [lines(clone / "data" / "bash" / f"all.{kind}") for kind in ("nl", "cm")]
    if len(texts[0]) != len(texts[1]):
        raise BadInput(
            f"{clone}/data/bash: all.nl has {len(texts[0]):,} lines and all.cm {len(texts[1]):,}: one was cut"
        )
    docs, queries, judged, kin = {}, {}, {}, Kin()
    pairs = [tuple(" ".join(text.split()) for text in pair) for pair in zip(*texts)]
    for number, (said, command) in enumerate(pairs, 1):
        if not said or not command:
            raise BadInput(f"{clone}/data/bash:{number}: a line of all.nl or all.cm is blank")
        kin.tie(*_names(said, command))
    for kind, own in (("said", {plain(said) for said, _ in pairs}), ("command", {command for _, command in pairs})):
        for one, other in near_copies(sorted(own), NEAR):
            kin.tie(f"{kind} {one}", f"{kind} {other}")
    for said, command in pairs:
        first = re.sub(r"^sudo ", "", command).split()[0]
        meta = {"utility": first}
        doc = docs.setdefault(command, {"_id": f"d{len(docs) + 1}", "text": command, "metadata": meta})
        asked(queries, judged, said, [doc["_id"]], kin.split(_names(said, command)[0]), **meta)
    return made(docs, queries, judged)


def _names(said, command):
    """What a pair is tied by: its texts, and its texts without names, numbers and what stands in quotes."""
    parts = QUOTED.sub(" TEXT ", command).split()
    shape = " ".join(part if WORD_OF_COMMAND.fullmatch(part) else "ARGUMENT" for part in parts)
    outline = re.sub(r"\S*[/.$*~\d]\S*\w\S*|\S*\d\S*", " argument ", QUOTED.sub(" text ", said))
    return f"command {command}", f"said {plain(said)}", f"shape {shape}", f"outline {plain(outline)}"


EXAMPLE = re.compile(r"- (?P<said>.+):\n+(?P<ticks>`+)(?P<code>.+)(?P=ticks)")  # of a page of tldr
LETTER_IN_BRACKETS = re.compile(r"\[(\w)\]")  # [c]reate shows where an option's letter comes from
ASKED_OF = 3  # pages that the same sentence may be asked of: "Display help" is asked of hundreds


def tldr(clone, more):
    """What an example does, in English, and the page of the command: its name, what it is, and the code of examples.

    The sentences of the examples are the queries and stand in no doc. All examples of a page stand in one split, with
    those of pages that share a sentence; a sentence of more than ASKED_OF pages asks for none of them and is left out,
    and so is a page that only names another command.
    """
    docs, said_of, kin = {}, collections.defaultdict(dict), Kin()
    for path in sorted((clone / "pages").glob("*/*.md")):
        page, name = text(path), f"{path.parent.name}/{path.stem}"
        title, *about = [line[2:].strip() for line in page.splitlines() if line.startswith(("# ", "> "))] or [""]
        examples = [
            (LETTER_IN_BRACKETS.sub(r"\1", found["said"]), found["code"].strip().replace("{{", "").replace("}}", ""))
            for found in EXAMPLE.finditer(page)
        ]
        if not title or not examples:
            raise BadInput(f"{path}: a page has a title after # and examples after -, and this one lacks them")
        about = [line for line in about if not line.startswith(("More information", "See also"))]
        if any("alias of" in line for line in about):
            continue
        body = "\n".join([*about, *(code for _, code in examples)])
        docs[name] = {"_id": name, "title": title, "text": body, "metadata": {"platform": path.parent.name}}
        for said, _ in examples:
            said_of[said][name] = path.parent.name
    queries, judged = {}, {}
    asked_of = {said: pages for said, pages in said_of.items() if len(pages) <= ASKED_OF}
    for pages in asked_of.values():
        kin.tie(*pages)
    for said, pages in asked_of.items():
        asked(queries, judged, said, pages, kin.split(min(pages)), platform=min(pages.values()))
    return made(docs, queries, judged)


# ------------------------------------------------------------------------------------------------- long docs


def covidqa(clone, more):
    """Questions on scientific articles about the coronavirus, and the chunks that hold a part of the answer.

    An article has some 23,500 characters. It is cut at ends of sentences into chunks of about 120 words, which are
    the docs: the hard negatives are an answer's neighbours. Articles of which the same question is asked are kin.
    """
    path = clone / "data" / "question-answering" / "200423_covidQA.json"
    articles, kin, docs, queries, judged = read_json(path), Kin(), [], [], []
    with reading(path):
        paragraphs = [paragraph for article in articles["data"] for paragraph in article["paragraphs"]]
        for paragraph in paragraphs:
            article = f"article {paragraph['document_id']}"
            kin.tie(article, *(f"question {plain(question['question'])}" for question in paragraph["qas"]))
        for paragraph in paragraphs:
            whole, number = paragraph["context"], paragraph["document_id"]
            title = " ".join(whole.strip().split("\n", 1)[0].split())
            spans = chunks(whole)
            for place, (begin, end) in enumerate(spans):
                meta = {"article": str(number), "title": title, "place": place}
                docs.append({"_id": f"{number}-{place}", "text": " ".join(whole[begin:end].split()), "metadata": meta})
            for question in paragraph["qas"]:
                answers = [answer["text"].strip() for answer in question["answers"]]
                grades = {}
                for answer in question["answers"]:
                    begin, end = _span(path, whole, answer)
                    grades |= {f"{number}-{i}": 1 for i, (a, b) in enumerate(spans) if a < end and begin < b}
                qid = str(question["id"])
                meta = {"article": str(number), "answers": answers}
                queries.append({"_id": qid, "text": " ".join(question["question"].split()), "metadata": meta})
                judged.append((qid, kin.split(f"article {number}"), grades))
    return docs, queries, judged


def chunks(text):
    """[(begin, end)] of passages of about CHUNK words: whole sentences, as many as come closest to that number."""
    sentences = []
    for found in re.finditer(r"\S.*?(?:[.!?][)\]\"”]*(?=\s+[A-Z0-9(\[\"“])|(?=\n\s*\n)|\Z)", text, re.S):
        parts = list(re.finditer(r"\S+", found[0]))
        for i in range(0, len(parts), LONGEST):  # tables and lists have no ends of sentences
            part = parts[i : i + LONGEST]
            sentences.append((found.start() + part[0].start(), found.start() + part[-1].end(), len(part)))
    spans, held = [], 0
    for begin, end, count in sentences:
        if spans and (held + count <= CHUNK or held + count - CHUNK < CHUNK - held):
            spans[-1], held = (spans[-1][0], end), held + count
        else:
            spans.append((begin, end))
            held = count
    return spans


def _span(path, whole, answer):
    """(begin, end) of an answer: some offsets of the source are wrong by up to three characters, its texts are not."""
    text, said = answer["text"].strip(), answer["answer_start"]
    places = [found.start() for found in re.finditer(re.escape(text), whole)] if text else []
    if not places:
        raise BadInput(f"{path}: the answer {text[:40]!r} does not stand in its article")
    begin = min(places, key=lambda place: abs(place - said))
    return begin, begin + len(text)


# ------------------------------------------------------------------------------------------------- WordNet


def wordnet(clone, more):
    """A definition, and the word or words that it defines: a dictionary from back to front.

    Words with several meanings are one doc with several definitions, and all of these stand in one split. A query's
    metadata holds the path of its synset from the root of the tree of hypernyms, a doc's the paths of all its synsets:
    how far two paths go together says how near a negative is.
    """
    synsets, docs, queries, judged = _synsets(clone), {}, [], []
    for ident, synset in synsets.items():
        words, path = ", ".join(synset["members"]), synset["path"]
        doc = docs.setdefault(words, {"_id": f"w{len(docs) + 1}", "text": words, "metadata": {"paths": []}})
        doc["metadata"]["paths"].append(path)
        meta = {"file": synset["file"], "depth": len(path), "path": path}
        queries.append({"_id": ident, "text": "; ".join(synset["definition"]), "metadata": meta})
        split = split_by_hash(plain(", ".join(sorted(synset["members"]))))
        judged.append((ident, split, {doc["_id"]: 1}))
    return list(docs.values()), queries, judged


def wordnet_examples(clone, more):
    """A phrase in which a word is used, and the definition of the meaning that the word has there.

    Hard negatives are the other meanings of the word, and the meanings next to it in the tree. Synsets below the same
    one, and those with an example in common, are kin.
    """
    synsets, docs, queries, judged, kin = _synsets(clone), {}, {}, {}, Kin()
    found = collections.defaultdict(dict)  # synset -> its examples
    for ident, synset in synsets.items():
        kin.tie(ident, f"below {synset['path'][-2]}" if len(synset["path"]) > 1 else ident)
        meta = {"words": synset["members"], "path": synset["path"]}
        docs[ident] = {"_id": ident, "text": "; ".join(synset["definition"]), "metadata": meta}
        for example in synset["example"]:
            phrase = " ".join(example.split())
            found[ident][phrase] = True
            kin.tie(ident, f"example {plain(phrase)}")
    for ident, phrases in found.items():
        for phrase in phrases:
            synset = synsets[ident]
            asked(queries, judged, phrase, [ident], kin.split(ident), file=synset["file"], path=synset["path"])
    return made(docs, queries, judged)


def _synsets(clone):
    """{id: synset} of Open English WordNet, with the file it is from and its path of ids from the root."""
    folder, found = clone / "src" / "yaml", {}
    paths = [path for kind in ("noun", "verb", "adj", "adv") for path in sorted(folder.glob(f"{kind}.*.yaml"))]
    if missing := {"noun", "verb", "adj", "adv"} - {path.name.split(".")[0] for path in paths}:
        raise BadInput(f"{folder}: no file {min(missing)}.*.yaml is in it; a clone of english-wordnet is wanted")
    for path in tqdm(paths, unit="file", desc="reading WordNet", delay=2):
        raw = read_yaml(path)
        with reading(path):
            for ident, synset in raw.items():
                if lost := [key for key in ("members", "definition", "partOfSpeech") if not synset.get(key)]:
                    raise BadInput(f"{path}: the synset {ident} has no {lost[0]}; is the file whole?")
                # an example that is quoted from somebody stands beside its source
                said = [each["text"] if isinstance(each, dict) else each for each in synset.get("example", ())]
                if odd := [x for x in (*synset["members"], *synset["definition"], *said) if not isinstance(x, str)]:
                    raise BadInput(f"{path}: {ident} holds {odd[0]!r}, which YAML does not read as a text")
                found[ident] = synset | {"example": said, "file": path.name.removesuffix(".yaml")}
    for ident, synset in found.items():
        synset["path"] = _path(found, ident, folder)
    return found


def _path(synsets, ident, folder):
    """Ids from the root to a synset: over the first hypernym, and of adjectives over the one they are like."""
    path = [ident]
    while above := (synsets[path[0]].get("hypernym") or _head(synsets[path[0]]))[:1]:
        if above[0] not in synsets:
            raise BadInput(f"{folder}: {path[0]} stands below {above[0]}, which no file holds: one is missing or cut")
        if above[0] in path:
            raise BadInput(f"{folder}: {above[0]} stands below itself")
        path.insert(0, above[0])
    return path


def _head(synset):
    return synset.get("similar", []) if synset["partOfSpeech"] == "s" else []


# ------------------------------------------------------------------------------------------------- intents


def banking77(clone, more):
    """Customers' questions to a bank, and the train questions with the same intent: some hundred positives each.

    All questions of an intent are positives of one another, so that any label that is taken away makes a false
    negative, and it is known which. Test is the official one; a tenth of the official train side, by a hash of the
    questions, is dev and stands in no doc. All intents are in all splits, as in the source: measured is the next
    question of a known intent, not a new intent. A train question that is also a test question is left out.
    """
    folder = clone / "banking_data"
    with reading(folder / "categories.json"):
        intents, sides = set(read_json(folder / "categories.json")), {}
    for side in ("train", "test"):
        sides[side] = collections.defaultdict(set)  # text -> intents; a text but for case and punctuation is one
        first, path = {}, folder / f"{side}.csv"
        rows = csv.reader(io.StringIO(decoded(content(path), path), newline=""), strict=True)
        with reading(path):
            for row in rows:
                if len(row) != 2 or (row[1] not in intents and row != ["text", "category"]):
                    raise BadInput(f"{path}:{rows.line_num}: a question and one of the intents are wanted, found {row}")
                text = " ".join(row[0].split())
                if rows.line_num > 1:
                    sides[side][first.setdefault(plain(text), text)].add(row[1])
    tested = {plain(text) for text in sides["test"]}
    known = {text: found for text, found in sides["train"].items() if plain(text) not in tested}
    split = {text: "dev" if split_by_hash(plain(text)) == "dev" else "train" for text in known}
    docs, of_intent = [], collections.defaultdict(dict)
    for text in (text for text in known if split[text] == "train"):
        docs.append({"_id": f"t{len(docs) + 1}", "text": text, "metadata": {"intents": sorted(known[text])}})
        for intent in known[text]:
            of_intent[intent][docs[-1]["_id"]] = 1
    own, queries, judged = {doc["text"]: doc["_id"] for doc in docs}, [], []
    for text, found in (known | sides["test"]).items():
        qid = own.get(text, f"q{len(queries) + 1}")  # a train question is a doc of the same id, which is no answer
        queries.append({"_id": qid, "text": text, "metadata": {"intent": sorted(found)[0]}})
        grades = {doc_id: 1 for intent in sorted(found) for doc_id in of_intent[intent] if doc_id != qid}
        if grades:
            judged.append((qid, split.get(text, "test"), grades))
    return docs, queries, judged

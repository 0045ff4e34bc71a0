"""Collections by name, from ir_datasets and from Hugging Face's hub, each where its package is installed.

--data irds:beir/nfcorpus                     docs, and the judgements of its subsets train, dev and test
--data hf:mteb/nfcorpus                       a repository with corpus, queries and judgements
--data hf:ID:question=COLUMN,answer=COLUMN    one of pairs: its columns as those of a table (lib/data/formats/tables.py)
--data hf:ID:config=NAME                      one of pairs that has several configurations
"""

import itertools
import pathlib

from tqdm import tqdm

from lib.data import beir
from lib.data.formats import tables
from lib.files import BadInput, cache_dir, cached, fingerprint, reading, write_json

RECIPE = 1  # raise it when the rules below change, so that cached folders are made again
SPLITS = {"train": ("train",), "dev": ("dev", "validation", "dev/small"), "test": ("test", "test/small")}


def _package(name, spec):
    try:
        return __import__(name)
    except ImportError:
        raise BadInput(f"--data {spec}: needs the package {name}: pip install {name}") from None


# ---------------------------------------------------------------------------------------------- ir_datasets


def build_irds(ident):
    """(name, folder in BEIR layout) of a dataset of ir_datasets, by its id."""
    spec = f"irds:{ident}"
    package = _package("ir_datasets", spec)
    with reading(f"--data {spec}"):
        try:
            whole = package.load(ident)
        except KeyError:
            raise BadInput(f"--data {spec}: ir_datasets knows no dataset of this id") from None
    parts = {split: _subset(package, ident, names) for split, names in SPLITS.items()}
    parts = {split: part for split, part in parts.items() if part is not None}
    if not parts:
        parts = {next((s for s, names in SPLITS.items() if set(ident.split("/")) & set(names)), "test"): whole}
    if not whole.has_docs() or not any(part.has_qrels() and part.has_queries() for part in parts.values()):
        raise BadInput(f"--data {spec}: has no docs, no queries or no judgements")

    def make(target):
        queries, judged, dropped = {}, [], {}
        with reading(f"--data {spec}"):
            for split, part in parts.items():
                asked = {query.query_id: query for query in part.queries_iter()}
                grades = {}
                for qrel in part.qrels_iter():
                    if qrel.query_id in asked:
                        grades.setdefault(qrel.query_id, {})[qrel.doc_id] = int(qrel.relevance)
                for qid, query in asked.items():
                    if queries.setdefault(qid, _query(query)) != _query(query):
                        raise BadInput(f"--data {spec}: the query {qid} has two texts, in {split} and before")
                judged += beir.usable([(qid, split, own) for qid, own in grades.items()], dropped)
            docs = tqdm(map(_doc, whole.docs_iter()), unit="doc", unit_scale=True, desc=f"reading {ident}", delay=2)
            beir.write_collection(target, docs, queries.values(), judged)
        write_json(target / "dropped.json", dropped)

    name = ident.replace("/", "-")
    return name, cached(cache_dir("irds", fingerprint(ident, sorted(parts), RECIPE)) / name, make, beir.there)


def _subset(package, ident, names):
    """The first subset of one of these names that has queries and judgements, or None."""
    for name in names:
        try:
            part = package.load(f"{ident}/{name}")
        except KeyError:
            continue
        if part.has_queries() and part.has_qrels():
            return part
    return None


def _doc(doc):
    title = getattr(doc, "title", "") or ""
    texts = (getattr(doc, name, None) for name in ("text", "body", "abstract", "contents"))
    text = next((text for text in texts if text), None)
    return {"_id": doc.doc_id, "title": title, "text": doc.default_text() if text is None and not title else text or ""}


def _query(query):
    text = getattr(query, "text", None) or getattr(query, "title", None) or query.default_text()
    return {"_id": query.query_id, "text": text}


# ------------------------------------------------------------------------------------------------------ hub


def build_hf(ident):
    """(name, folder in BEIR layout) of a repository of the hub, or of a local folder that is laid out as one."""
    spec = f"hf:{ident}"
    package = _package("datasets", spec)
    source, said = tables.split_roles(ident)
    config = said.pop("config", None)
    tables.check_roles(spec, said)
    package.disable_progress_bars()
    with reading(f"--data {spec}"):
        configs = package.get_dataset_config_names(source)
        if {"corpus", "queries"} <= set(configs):
            docs, queries = (_all(package, source, name) for name in ("corpus", "queries"))
            judged = _hub_qrels(package, source, configs, spec)
            parts = [docs, queries, *judged.values()]
        else:
            config = config or (configs[0] if len(configs) == 1 else "default")
            if config not in configs:
                raise BadInput(f"--data {spec}: which of {', '.join(configs)}? Say hf:{source}:config=NAME")
            parts, judged = dict(package.load_dataset(source, config)), None

    def make(target):
        with reading(f"--data {spec}"):
            if judged is None:
                tables.write(target, f"hf:{source}", said, _rows(parts))
            else:
                _write_beir(target, docs, queries, judged, spec)

    found = [part._fingerprint for part in (parts.values() if isinstance(parts, dict) else parts)]
    name = pathlib.PurePath(source).name
    return name, cached(cache_dir("hf", fingerprint(found, said, RECIPE)) / name, make, beir.there)


def _all(package, source, config):
    """All rows of a config, whatever its splits are called."""
    return package.concatenate_datasets(list(package.load_dataset(source, config).values()))


def _hub_qrels(package, source, configs, spec):
    """{split: rows of judgements}: in a config of their own, or in a repository beside this one (BEIR's way)."""
    config = next((name for name in ("qrels", "default") if name in configs), None)
    place = source if config else f"{source}-qrels"
    found = dict(package.load_dataset(place, config) if config else package.load_dataset(place))
    by_split = {split: next((found[n] for n in names if n in found), None) for split, names in SPLITS.items()}
    by_split = {split: rows for split, rows in by_split.items() if rows is not None}
    if not by_split:
        raise BadInput(f"--data {spec}: {place} has judgements of {', '.join(found)}, none of train, dev, test")
    return by_split


def _write_beir(target, docs, queries, judged, spec):
    def ident(row):
        return str(next((row[key] for key in ("_id", "id") if key in row), ""))

    def records(rows):
        for row in rows:
            record = {"_id": ident(row), "title": row.get("title") or "", "text": row.get("text") or ""}
            yield record if "title" in row else {key: record[key] for key in ("_id", "text")}

    grades = []
    for split, rows in judged.items():
        own = {}
        for row in rows:
            if not {"query-id", "corpus-id"} <= row.keys():
                raise BadInput(f"--data {spec}: judgements have the columns {', '.join(row)}, not query-id, corpus-id")
            own.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row.get("score", 1))
        grades += [(qid, split, found) for qid, found in own.items()]
    docs = tqdm(records(docs), unit="doc", unit_scale=True, total=len(docs), desc="writing", delay=2)
    beir.write_collection(target, docs, records(queries), grades)
    write_json(target / "dropped.json", {})


def _rows(parts):
    """(number, row) of a dataset of pairs; with several splits, each row says which."""
    several = len(parts) > 1
    rows = itertools.chain.from_iterable(
        ((row | {"split": split}) if several else row for row in rows) for split, rows in parts.items()
    )
    return enumerate(rows, 1)

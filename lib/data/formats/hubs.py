"""Collections by name, from ir_datasets and from Hugging Face's hub, each where its package is installed.

--data irds:beir/nfcorpus                     docs, and the judgements of its subsets train, dev and test
--data hf:mteb/nfcorpus                       a repository with corpus, queries and judgements
--data hf:ID:question=COLUMN,answer=COLUMN    one of pairs: its columns as those of a table (lib/data/formats/tables.py)
--data hf:ID:config=NAME                      one of pairs that has several configurations, or one of several languages
"""

import contextlib
import itertools
import pathlib

from lib.data import beir
from lib.data.formats import cells, table_files, tables
from lib.data.formats.columns import check_roles
from lib.files import BadInput, reading

RECIPE = 3  # raise it when the rules below change, so that cached folders are made again
SPLITS = {"train": ("train",), "dev": ("dev", *beir.DEV, "dev/small"), "test": ("test", "test/small")}


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

    def read():
        queries, judged = {}, []
        for split, part in parts.items():
            asked = {query.query_id: _query(query) for query in part.queries_iter()}
            for qid, query in asked.items():
                if queries.setdefault(qid, query) != query:
                    raise BadInput(f"--data {spec}: the query {qid} has two texts, in {split} and before")
            judged += _judged(split, ((q.query_id, q.doc_id, q.relevance) for q in part.qrels_iter()), asked)
        return map(_doc, whole.docs_iter()), queries.values(), judged, {}

    with reading(f"--data {spec}"):
        return beir.build("irds", ident.replace("/", "-"), [ident, sorted(parts), RECIPE], read)


def _judged(split, rows, asked=None):
    """[(qid, split, {doc_id: grade})] of (qid, doc_id, grade), of the queries asked where these are given."""
    grades = {}
    for qid, doc_id, grade in rows:
        if asked is None or qid in asked:
            grades.setdefault(str(qid), {})[str(doc_id)] = int(grade)
    return [(qid, split, own) for qid, own in grades.items()]


def _subset(package, ident, names):
    """The first subset of one of these names that has queries and judgements, or None."""
    for name in names:
        with contextlib.suppress(KeyError):
            part = package.load(f"{ident}/{name}")
            if part.has_queries() and part.has_qrels():
                return part


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
    check_roles(spec, said)
    package.disable_progress_bars()
    with reading(f"--data {spec}"):
        configs = package.get_dataset_config_names(source)
        languages = [name.removesuffix("-corpus") for name in configs if name.endswith("-corpus")]
        if languages and config not in languages:
            raise BadInput(f"--data {spec}: which of {', '.join(languages)}? Say hf:{source}:config={languages[0]}")
        prefix = f"{config}-" if languages else ""
        if {f"{prefix}corpus", f"{prefix}queries"} <= set(configs):
            docs, queries = (_all(package, source, prefix + name) for name in ("corpus", "queries"))
            judged = _hub_qrels(package, source, configs, spec, prefix)
            parts = [docs, queries, *judged.values()]
        else:
            config = config or (configs[0] if len(configs) == 1 else "default")
            if config not in configs:
                raise BadInput(f"--data {spec}: which of {', '.join(configs)}? Say hf:{source}:config=NAME")
            parts, judged = dict(package.load_dataset(source, config)), None

    def read():
        if judged is None:
            return tables.read(f"hf:{source}", said, _rows(parts))
        return _records(docs), _records(queries), _hub_grades(judged, f"hf:{source}", said), {}

    found = [part._fingerprint for part in (parts.values() if isinstance(parts, dict) else parts)]
    with reading(f"--data {spec}"):
        return beir.build("hf", pathlib.PurePath(source).name, [found, said, RECIPE], read)


def _all(package, source, config):
    """All rows of a config, whatever its splits are called."""
    return package.concatenate_datasets(list(package.load_dataset(source, config).values()))


def _hub_qrels(package, source, configs, spec, prefix):
    """{split: rows of judgements}: in a config of their own, or in a repository beside this one (BEIR's way)."""
    config = next((name for name in (f"{prefix}qrels", "default") if name in configs), None)
    place = source if config else f"{source}-qrels"
    found = dict(package.load_dataset(place, config) if config else package.load_dataset(place))
    by_split = {split: next((found[n] for n in names if n in found), None) for split, names in SPLITS.items()}
    by_split = {split: rows for split, rows in by_split.items() if rows is not None}
    if not by_split:
        raise BadInput(f"--data {spec}: {place} has judgements of {', '.join(found)}, none of train, dev, test")
    return by_split


def _records(rows):
    for row in rows:
        record = {"_id": str(row.get("_id", row.get("id", "")))}
        yield record | {key: row.get(key) or "" for key in ("title", "text") if key in row or key == "text"}


def _hub_grades(judged, spec, said):
    found = []
    for split, rows in judged.items():
        if not {"query-id", "corpus-id"} <= set(rows.column_names):
            names = ", ".join(rows.column_names)
            raise BadInput(f"--data {spec}: judgements have the columns {names}, not query-id, corpus-id")
        rows = list(enumerate(rows, 1))
        grade = cells.grading(f"--data {spec}", rows, {"label": ["score"]}, said)
        found += _judged(split, ((row["query-id"], row["corpus-id"], grade(row.get("score", 1))) for _, row in rows))
    return found


def _rows(parts):
    """(number, row) of a dataset of pairs; with several splits, or only dev or test, each row says which."""
    several = len(parts) > 1 or table_files.SPLITS.get(next(iter(parts)).lower(), "train") != "train"
    rows = itertools.chain.from_iterable(
        ((row | {"split": split}) if several else row for row in rows) for split, rows in parts.items()
    )
    return enumerate(rows, 1)

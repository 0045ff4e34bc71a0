"""The embedded collections: documented functions of the standard library and of the installed packages.

`python` is CodeSearchNet's task (Husain et al. 2019): the first sentence of a docstring is the query, the
function without its docstring is the doc. In `python:docs` the doc is the rest of the docstring, and the
near-copies that generated code abounds in stay: a collection full of false negatives. Each becomes a folder
in BEIR layout, so that nothing else in the project knows about it.
"""

import ast
import importlib.metadata
import importlib.util
import multiprocessing
import os
import pathlib
import platform
import re
import sysconfig
import textwrap
import warnings
from concurrent.futures import ProcessPoolExecutor

from tqdm import tqdm

from lib.data import beir
from lib.process import end_with_parent

RECIPE = 1  # raise it when the rules below change, so that cached folders are built again
# import name -> distribution; what is not installed is left out, and the fingerprint says so
SAME = "torch transformers tokenizers numpy scipy matplotlib bm25s ir_measures tqdm safetensors joblib networkx".split()
MODULES = {name: name for name in SAME}
MODULES |= {"sklearn": "scikit-learn", "faiss": "faiss-cpu", "huggingface_hub": "huggingface-hub"}
LEFT_OUT = {"test", "tests", "testing", "_testing", "idle_test", "lib2to3", "site-packages", "_vendor", "vendored"}
GENERATED = ("transformers/models/", "faiss/swigfaiss")  # made by scripts: near-copies of one another
TASKS = {"python": "code", "python:docs": "docs"}


def _files(task):
    """(path, dotted module, task) for every source file that takes part, in a fixed order."""
    roots = [("", pathlib.Path(sysconfig.get_path("stdlib")))]
    for name in sorted(MODULES):
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            roots.append((name, pathlib.Path(next(iter(spec.submodule_search_locations)))))
    for name, root in roots:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            inside = "/".join((name, *parts) if name else parts)
            left_out = LEFT_OUT & set(parts[:-1]) or parts[-1].startswith("test_")
            if not left_out and (task == "docs" or not inside.startswith(GENERATED)):
                yield path, inside, task


def _split_docstring(docstring):
    """(first sentence of the first paragraph, the rest), without markup that only a renderer reads."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", docstring.strip()).replace("`", "")
    paragraph, *others = re.split(r"\n\s*\n", text, maxsplit=1)
    first, *more = re.split(r"(?<=[.!?])\s+(?=[A-Z])", re.sub(r"\s+", " ", paragraph).strip(), maxsplit=1)
    return first.rstrip(". "), "\n\n".join(more + others).strip()


def _functions(tree, prefix):
    """(qualified name, node) of every function and method, not of functions inside functions."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{prefix}.{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}.{node.name}")
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _functions(node, prefix)


def _parse(job):
    """Records (name, query, text of the doc, docstring, file, line) of one source file."""
    path, inside, task = job
    try:
        source = path.read_bytes().decode("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError):  # templates, another Python's: build() counts them
        return None
    lines = source.splitlines()
    module = inside[:-3].removesuffix("/__init__").replace("/", ".")
    records = []
    for name, node in _functions(tree, module):
        docstring = ast.get_docstring(node)
        if not docstring or len(node.body) < 2 or node.name.startswith("__"):
            continue
        query, rest = _split_docstring(docstring)
        if not 3 <= len(query.split()) <= 60 or len(query) > 400 or not query.isascii():
            continue
        doc_node = node.body[0]
        kept = lines[node.lineno - 1 : doc_node.lineno - 1] + lines[doc_node.end_lineno : node.end_lineno]
        text = textwrap.dedent("\n".join(kept)).strip() if task == "code" else rest[:4000]
        if task == "code" or len(text.split()) >= 8:
            records.append((name, query, text, docstring[:2000], inside, node.lineno))
    return records


def package_versions():
    """What decides the collection's content: versions of Python and of the packages it reads."""
    found = {"recipe": RECIPE, "python": platform.python_version()}
    for distribution in sorted(MODULES.values()):
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[distribution] = None
    return found


def build(spec="python"):
    """(name, folder in BEIR layout) of an embedded collection; built once for each set of package versions."""
    versions, task = package_versions(), TASKS[spec]
    return beir.build("python", spec.replace(":", "-"), [versions, task], lambda: _read(task), ascii=True)


def _read(task):
    jobs = list(_files(task))
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # spawn, not fork: a caller may have started threads (torch, tokenizers) that a fork would leave locked
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        parsed = list(
            tqdm(pool.map(_parse, jobs, chunksize=32), total=len(jobs), unit="file", desc="reading Python source")
        )
    seen_queries, seen_docs, docs, queries, judged = set(), set(), [], [], []
    for name, query, doc, docstring, file, line in sorted(r for records in parsed if records for r in records):
        text = re.sub(r"\s+", " ", doc)
        if query.lower() in seen_queries or text in seen_docs:
            continue
        seen_queries.add(query.lower())
        seen_docs.add(text)
        row, meta = len(docs), {"name": name, "file": file, "line": line, "docstring": docstring}
        docs.append({"_id": f"d{row}", "title": "", "text": doc, "metadata": meta})
        queries.append({"_id": f"q{row}", "text": query})
        judged.append((f"q{row}", beir.split_by_hash(name, dev=8), {f"d{row}": 1}))
    unreadable = [inside for (_, inside, _), records in zip(jobs, parsed) if records is None]
    return docs, queries, judged, {"files that cannot be read": unreadable} if unreadable else {}

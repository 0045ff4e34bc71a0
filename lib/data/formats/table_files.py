"""The rows of tables as files hold them: CSV, TSV, JSON, JSONL and Parquet, as spreadsheets and programs write them."""

import csv
import io
import itertools
import json
import pathlib
import re

from lib.data import beir
from lib.files import LFS, BadInput, parse_json, reading, refuse_bloated, refuse_pointer, unpacked

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SPLITS = {"train": "train", "training": "train", "dev": "dev", "test": "test"} | dict.fromkeys(beir.DEV, "dev")
# the name of a table that says its split: train.jsonl, faq_test.csv, train-00000-of-00002.parquet
OF_A_SPLIT = re.compile(rf"(?:.*[-_.])?({'|'.join(SPLITS)})(?:[-_.]\d+(?:-of-\d+)?)?", re.IGNORECASE)


def suffix(path):
    """The ending of a file's name in lower case, without that of a compressed one; .ndjson is .jsonl."""
    found = pathlib.Path(str(path).lower().removesuffix(".gz")).suffix
    return {".ndjson": ".jsonl"}.get(found, found)


def by_split(folder):
    """{path: split} of the tables of a folder, and of data/ in it, whose names say which split they are.

    Of .json, which may be anything's settings, only what is called train.json, dev.json and the like.
    """
    found = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            stem = pathlib.Path(path.name.removesuffix(".gz")).stem
            name = OF_A_SPLIT.fullmatch(stem)
            if name and suffix(path) in SUFFIXES and path.is_file() and (suffix(path) != ".json" or stem == name[1]):
                found[path] = SPLITS[name[1].lower()]
    return dict(sorted(found.items(), key=lambda each: beir.SPLITS.index(each[1])))


def rows(path, wrong):
    """(line, {column: value}) of every row of a table; what is wrong with others goes to `wrong`."""
    kind = suffix(path)
    if kind == ".parquet":
        yield from parquet_rows(path)
    elif kind in (".json", ".jsonl"):
        yield from json_rows(path, wrong)
    else:
        yield from _csv_rows(path, kind, wrong)


def json_rows(path, wrong=None):
    """(number, JSON object) of each line, or of each item if the file is one JSON array, or SQuAD's articles.

    Lines may be arrays of texts, as sentence-transformers' own files: a question, a positive, and negatives.
    """
    if suffix(path) == ".json" and (articles := _articles(path)):
        yield from enumerate(articles, 1)
        return
    if found := _of_columns(path):
        yield from enumerate(found, 1)
        return
    lines = beir.read_lines(path)
    begin = list(itertools.islice(lines, 1))
    if begin and begin[0][1].strip() == "{":
        raise BadInput(f"{path}:1: a JSON object over several lines; one line for each object is wanted, or one array")
    lines = itertools.chain(begin, lines)
    texts = bool(begin) and _texts(begin[0][1]) is not None
    if array := not texts and begin and begin[0][1].lstrip().startswith("["):
        try:
            lines = enumerate(parse_json("\n".join(line for _, line in lines)), 1)
        except ValueError as error:
            raise BadInput(f"{path}: not valid JSON ({error})") from None
    for number, item in lines:
        try:
            if texts:
                if (found := _texts(item)) is None:
                    raise BadInput(f"{path}:{number}: an array of texts is wanted, as in line 1")
                item = dict(zip(("question", "positive", *(f"negative_{i}" for i in range(1, len(found)))), found))
            elif not array:
                item = beir.parse_object(item, path=path, number=number)
            elif not isinstance(item, dict):
                raise BadInput(f"{path}:{number}: a JSON object is wanted, found {beir.shorten(json.dumps(item))}")
        except BadInput as error:
            if wrong is None:
                raise
            wrong.append(str(error))
        else:
            yield number, item


def _texts(line):
    """The texts of a line that is a JSON array of two or more; None if it is none."""
    try:
        found = parse_json(line) if line.lstrip().startswith("[") else None
    except ValueError:
        return None
    return found if isinstance(found, list) and len(found) > 1 and all(isinstance(x, str) for x in found) else None


def _of_columns(path):
    """The rows of a file that is one object of columns, each a list as long as the others; None if it is none."""
    lines = list(itertools.islice(beir.read_lines(path), 2))
    if not lines or not lines[0][1].lstrip().startswith("{") or not (suffix(path) == ".json" or len(lines) == 1):
        return None
    try:
        found = parse_json("\n".join(line for _, line in beir.read_lines(path)))
    except ValueError:
        return None
    columns = list(found.values()) if isinstance(found, dict) else []
    if len(columns) < 2 or not all(isinstance(each, list) and len(each) == len(columns[0]) > 1 for each in columns):
        return None
    return [dict(zip(found, row)) for row in zip(*columns)]


def _articles(path):
    """The questions of a file in SQuAD's layout, {data: [{title, paragraphs: [{context, qas}]}]}; None if it is none.

    A question that its paragraph does not answer is left out, as a row without an answer.
    """
    text = "\n".join(line for _, line in beir.read_lines(path))
    try:
        articles = parse_json(text)["data"] if text.lstrip().startswith("{") else None
        return articles and [
            {"question": asked["question"], "title": article.get("title") or ""}
            | {"context": "" if asked.get("is_impossible") or asked.get("answers") == [] else paragraph["context"]}
            | {"answers": [answer["text"] for answer in asked.get("answers") or ()]}
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError):  # lines of JSON, or another object
        return None


def _text_of(path):
    """The text of a file: UTF-8, or UTF-16 where its first two bytes say so."""
    with unpacked(path) if str(path).lower().endswith(".gz") else open(path, "rb") as file:
        content = file.read()
    if content.startswith(LFS):
        refuse_pointer(path)
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error}); convert it, as with iconv -t utf-8") from None


def _quoted(text, first):
    """Whether quotes between tabs stand around cells, as around all names or a text of several lines, or are letters.

    A quote that is a letter would swallow what follows up to the next one: a "cell" of lines with tabs in them.
    """
    if all(re.fullmatch('".*"', cell.strip()) for cell in first.split("\t")):
        return True
    begin = [cell for line in text.splitlines() for cell in line.split("\t") if cell.startswith('"')]
    if any('""' in cell[1:-1] for cell in begin) and all(re.fullmatch('"(?:[^"]|"")*"', cell) for cell in begin):
        return True  # each quote within is doubled
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
        lines = [cell for row in rows for cell in row if "\n" in cell]
    except csv.Error:
        return False
    return bool(lines) and not any("\t" in cell for cell in lines)


def _fits(text, **style):
    """Whether a table is read in this style without an error, each row as wide as the first or less."""
    try:
        widths = [len(row) for row in csv.reader(io.StringIO(text, newline=""), **style)]
    except csv.Error:
        return False
    return bool(widths) and max(widths) == widths[0]


def _csv_rows(path, kind, wrong):
    csv.field_size_limit(1 << 30)
    text, skipped = _text_of(path), 0
    first, _, below = text.partition("\n")
    delimiter = "\t" if kind == ".tsv" else None
    if said := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):  # of a spreadsheet, which reads it itself
        delimiter, text, skipped, first = said[1], below, 1, below.partition("\n")[0]
    if delimiter is None:  # of a European spreadsheet: a semicolon
        names = re.sub(r'"[^"]*"', "", first)
        delimiter = max(",;\t|", key=(names if any(each in names for each in ",;\t|") else first).count)
    style = {"strict": True} if delimiter != "\t" or _quoted(text, first) else {"quoting": csv.QUOTE_NONE}
    style |= {"skipinitialspace": True} if f'{delimiter} "' in first else {}
    escaped = style | {"escapechar": "\\", "doublequote": False}  # quotes within quotes, as databases write them
    if '\\"' in text and not _fits(text, delimiter=delimiter, **style) and _fits(text, delimiter=delimiter, **escaped):
        style = escaped
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **style)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadInput(f"{path}:1: the names of the columns cannot be read ({error})") from None
    width = len(header)
    while header and not header[-1]:  # a separator behind every row
        header.pop()
    for i, name in enumerate(header):  # the second one of a name is called as pandas does: Comment.1
        others = (f"{name}.{number}" for number in itertools.count(1))
        header[i] = next(other for other in others if other not in header) if name and name in header[:i] else name
    if len(set(header)) < len(header) or not any(header):
        raise BadInput(f"{path}:1: a line with a name for each column is wanted, found {beir.shorten(first.strip())}")
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            wrong.append(f"{path}:{reader.line_num + skipped}: {error}")
            continue
        if row is None:
            return
        if any(cell.strip() for cell in row[width:]):
            wrong.append(
                f"{path}:{reader.line_num + skipped}: {len(row)} columns, and the first line names {width}; "
                "put quotes around texts that hold the separator"
            )
        elif row:  # spreadsheets leave out the last cells of a row where they are empty
            yield reader.line_num + skipped, dict(zip(header, row + [""] * (len(header) - len(row))))


def parquet_package(path):
    """pyarrow, with what reads and writes Parquet; BadInput where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow


def parquet_rows(path):
    """(number, {column: value}) of every row of a Parquet file."""
    pyarrow = parquet_package(path)
    with reading(path, " as Parquet"):
        file, number = pyarrow.parquet.ParquetFile(path), 0
        refuse_bloated(path, sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)))
        for block in file.iter_batches(1 << 14):
            for record in block.to_pylist():
                number += 1
                yield number, record

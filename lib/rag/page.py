"""A page in the browser: a question, the answers of one or two retrievers with their docs, and the prompt; what readers
mark as right is kept as a question of their own.
"""

import concurrent.futures
import functools
import html
import json
import queue
import re
import sys
import threading
import time
import traceback

from markdown_it import MarkdownIt

from lib import process
from lib.data.words import words
from lib.files import BadInput
from lib.rag import asking, prompts

LONGEST = 2000  # characters of a question
LARGEST = 1 << 16  # bytes of a request: more than the longest question takes
WAITING = 20  # questions in the queue
SHOWN = 800  # characters of a doc
PAUSE = 0.1  # seconds between two states of an answer that is being written
COMMON = frozenset("what when where which with that this from have does there their about into".split())
STYLE = """
.answer { font-size: 1.1em; line-height: 1.5; padding: .6em 0; overflow-x: auto; }
.answer pre { padding: .5em .8em; border: 1px solid #8884; border-radius: 6px; }
.answer a { margin: 0; padding: 0; }
.answer a, .doc .number { font-weight: 600; }
.doc { border: 1px solid #8884; border-radius: 6px; padding: .5em .8em; margin: .5em 0; overflow-wrap: anywhere; }
.doc:target { outline: 3px solid #ca6702; }
.doc .text { white-space: pre-wrap; }
.doc .head { font-size: .85em; opacity: .8; }
.doc mark { background: #ffe8a3; color: inherit; padding: 0; }
.dark .doc mark { background: #7a5c00; }
.doc .only { border: 1px solid currentColor; border-radius: 4px; padding: 0 .4em; margin-left: .5em; }
.note { opacity: .8; }
.error { color: #b00020; font-weight: 600; }
footer { display: none !important; }
"""


def safe(text):
    """A text as HTML shows it, whatever it holds: no markup of its own, nothing that a terminal or page would obey."""
    return html.escape(process.printable(text), quote=True)


def marked(text, question):
    """The HTML of a text in which the words of the question are marked."""
    wanted = {word for word in words(question) if (len(word) > 3 or not word.isascii()) and word not in COMMON}
    parts = re.split(r"(\w+)", text)
    return "".join(f"<mark>{safe(p)}</mark>" if set(words(p)) & wanted else safe(p) for p in parts)


def answer_html(found, column, *, markdown=False):
    """The answer, each citation a link to its doc; markdown: whether it is written in that, as by a language model."""
    answer = found.answer
    if not found.docs:
        return '<p class="note">Nothing was found: no word of the question is known to the encoder.</p>'
    if not answer.text:
        return f'<p class="answer">{safe(answer.shown)}</p>'
    more = " ..." if answer.cut else ""
    text = _parser(markdown).render(process.printable(answer.text) + more, {"column": column, "docs": len(found.docs)})
    unknown = ", ".join(f"[{n}]" for n in answer.unknown)
    note = f'<p class="note">It cites {unknown}, which is no doc.</p>' if unknown else ""
    return f'<div class="answer">{text}</div>{note}'


@functools.cache
def _parser(markdown):
    """What turns Markdown, or a text as it stands, into HTML without markup of the text's own, or what is fetched.

    Left out besides: entities, which bring back what printable() has taken out, and definitions, which show nothing.
    """
    parser = MarkdownIt("commonmark" if markdown else "zero", {"html": False, "breaks": True})
    parser.enable("table" if markdown else "text")
    parser.disable(["image", "entity", "reference", "html_block", "html_inline"])
    parser.core.ruler.push("cite", _cite)
    parser.add_render_rule("link_open", _link)
    return parser


def _link(renderer, tokens, index, options, env):
    """A link says where it leads, and tells that place nothing of this one."""
    href = html.escape(tokens[index].attrGet("href") or "", quote=True)
    return f'<a href="{href}" title="{href}" target="_blank" rel="noopener noreferrer nofollow">'


def _cite(state):
    """Citations outside of code and links become links to their docs."""
    for token in (token for token in state.tokens if token.type == "inline"):
        children, within = [], 0
        for child in token.children:
            within += child.nesting if child.type in ("link_open", "link_close") else 0
            if child.type != "text" or within:
                children.append(child)
                continue
            for place, part in enumerate(re.split(r"\[(\d{1,9})\]", child.content)):
                new = child.copy(content=part)
                if place % 2:
                    known = 1 <= int(part) <= state.env["docs"]
                    link = f'<a href="#doc-{state.env["column"]}-{part}">[{part}]</a>'
                    new = child.copy(type="html_inline", content=link if known else f"[{part}?]")
                children.append(new)
        token.children = children


def docs_html(found, column, question, only=()):
    """The docs with their scores, the words of the question marked; `only`: numbers that no other retriever found."""
    rows = []
    for doc in found.docs:
        tag = '<span class="only">only here</span>' if doc.number in only else ""
        place = f" {safe(doc.place)}" if doc.place else ""
        text = marked(doc.text[:SHOWN], question) + (" ..." if len(doc.text) > SHOWN else "")
        rows.append(
            f'<div class="doc" id="doc-{column}-{doc.number}"><div class="head">'
            f'<span class="number">[{doc.number}]</span> {doc.score:.3f} {safe(doc.ident)}{place}{tag}</div>'
            f'<div class="text">{text}</div></div>'
        )
    return "".join(rows)


def results(find, generator, names, question):
    """(answer, docs, prompt, what can be marked) for each retriever, in order: HTML, HTML, text, [(label, doc id)].

    They come again and again, the docs first and then the answers as far as they are written. find(question) gives
    {name: Found}. What goes wrong is for the terminal, where it may name addresses and files; the next question may do
    better.
    """
    if len(question := str(question or "")) > LONGEST:
        note = f"At most {LONGEST:,} characters of a question are read: shorten it."
        yield [(f'<p class="error">{note}</p>', "", "", [])] * len(names)
    elif not (question := process.one_line(question, LONGEST)):
        yield [('<p class="note">Ask a question.</p>', "", "", [])] * len(names)
    else:
        markdown = hasattr(generator, "stream")  # others than language models quote the docs
        try:
            found = find(question)
            for name in names:
                for one in _as_it_goes(functools.partial(asking.answered, found[name], question, generator)):
                    partial = isinstance(one, str)
                    found[name] = found[name]._replace(answer=prompts.Answer(one, cut=True)) if partial else one
                    yield [_shown(found, each, column, question, markdown) for column, each in enumerate(names)]
        except Exception as error:
            print(process.one_line(error) if isinstance(error, BadInput) else traceback.format_exc(), file=sys.stderr)
            note = "This question could not be answered; the terminal in which the page was started says why."
            yield [(f'<p class="error">{note}</p>', "", "", [])] * len(names)


def _as_it_goes(work):
    """Yield an empty text, what work(said=...) says, the latest each PAUSE, and at last what it returns."""
    said = queue.SimpleQueue()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(work, said=said.put).add_done_callback(said.put)
        text = ""
        while isinstance(text, str):
            yield text
            time.sleep(PAUSE if text else 0)
            text = said.get()
            while isinstance(text, str) and not said.empty():
                text = said.get()
    yield text.result()


def _shown(found, name, column, question, markdown):
    """A row of results() for one of {name: Found}."""
    one = found[name]
    others = [own for other, own in found.items() if other != name]
    only = asking.only_here(one, others[0]) if others else ()
    docs = docs_html(one, column, question, only)
    answer, text = one.answer, answer_html(one, column, markdown=markdown)
    if not one.whole:
        return text if answer.text else '<p class="note">The docs are being read ...</p>', docs, "", []
    times = [f"docs in {one.search_ms:.0f} ms", f"answer in {answer.ms:.0f} ms"]
    times[1:1] = [f"first words after {one.first_ms:.0f} ms"] if one.first_ms else []
    times += [f"{answer.tokens[0]:,} tokens read, {answer.tokens[1]:,} written"] if any(answer.tokens) else []
    prompt = process.printable(answer.prompt) or "This generator is sent no prompt: it reads the docs as they are."
    right = [
        (process.one_line(f"[{doc.number}] {doc.place.rpartition(' > ')[2][:40]} ({doc.ident})", 90), doc.ident)
        for doc in one.docs
    ]
    return f'{text}<p class="note">{", ".join(times)}</p>', docs, prompt, right


def keep(path, question, found, marked):
    """Add a question with the docs that a reader marked to a table of questions (lib.data.questions); what to say.

    found: the ids that were shown for it; others are nobody's choice.
    """
    docs = [doc for doc in dict.fromkeys(doc for own in marked for doc in own or ()) if doc in found]
    if not question or not docs:
        return "Ask, and mark the docs that answer."
    with open(path, "ab+") as file:
        file.seek(-1, 2) if file.tell() else None
        begin = b"" if file.read(1) in (b"", b"\n") else b"\n"  # somebody's last line may lack its end
        line = json.dumps({"question": question, "answer": docs}, ensure_ascii=False)
        file.write(begin + line.encode() + b"\n")
    return f"Kept with {len(docs)} doc{'s' * (len(docs) > 1)}."


class Small:
    """An ASGI layer before the page: no uploads, which gradio always takes, and no request beyond LARGEST."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))
        size = headers.get(b"content-length", b"0")
        too_large = b"transfer-encoding" in headers or not size.isdigit() or int(size) > LARGEST
        if scope["type"] == "http" and (too_large or "/upload" in scope["path"]):
            await send({"type": "http.response.start", "status": 413 if too_large else 403, "headers": []})
            await send({"type": "http.response.body", "body": b"The page takes questions, and no files.\n"})
        else:
            await self.app(scope, receive, send)


def build(find, generator, names, *, title, examples, save=None):
    """The gradio.Blocks of the page: of results(); save: of keep()."""
    import gradio as gr

    with gr.Blocks(title=title, analytics_enabled=False, fill_width=len(names) > 1) as page:
        gr.HTML(f"<h2>{safe(title)}</h2>")
        with gr.Row():
            question = gr.Textbox(
                label="Question", lines=1, max_lines=3, max_length=LONGEST, scale=8, autofocus=True, elem_id="question"
            )
            button = gr.Button("Ask", variant="primary", scale=1, elem_id="ask")
        if examples:
            gr.Examples([process.one_line(each, 200) for each in examples], question, label="Examples")
        outputs, marks, asked = [], [], gr.State(("", []))
        with gr.Row():
            for column, name in enumerate(names):
                with gr.Column(min_width=320):
                    if len(names) > 1:
                        gr.HTML(f"<h3>{safe(name)}</h3>")
                    answer = gr.HTML(elem_id=f"answer-{column}")
                    right = gr.CheckboxGroup([], label="Which of these answer it?", visible=bool(save))
                    docs = gr.HTML(elem_id=f"docs-{column}")
                    with gr.Accordion("Prompt", open=False):
                        prompt = gr.Textbox(lines=6, max_lines=30, interactive=False, show_label=False)
                    outputs += [answer, docs, prompt, right]
                    marks.append(right)
        if save:
            with gr.Row():
                keeping, said = gr.Button("The marked ones are right", elem_id="keep"), gr.HTML(elem_id="kept")

        def answer_all(text):
            before = [None] * len(names)
            for rows in results(find, generator, names, text):
                parts = []
                for row, old in zip(rows, before):  # what stays as it was is left alone: somebody may be marking it
                    *shown, right = row
                    parts += [gr.skip()] * len(row) if row == old else [*shown, gr.CheckboxGroup(right, value=[])]
                before = rows
                found = [ident for row in rows for _, ident in row[-1]]
                yield [*parts, (process.one_line(str(text or ""), LONGEST), found)]

        def keep_marked(asked, *marked):
            try:
                return f'<p class="note">{keep(save, *asked, marked)}</p>'
            except OSError as error:
                print(f"{save}: {error}", file=sys.stderr)
                return '<p class="error">It could not be kept; the terminal says why.</p>'

        # one question at a time: the models are shared, and others wait for their turn
        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        gr.on([button.click, question.submit], lambda: gr.update(interactive=False), None, button, **quiet).then(
            answer_all, question, [*outputs, asked], concurrency_limit=1, api_visibility="private"
        ).then(lambda: gr.update(interactive=True), None, button, **quiet)
        if save:
            keeping.click(keep_marked, [asked, *marks], said, concurrency_limit=1, api_visibility="private")
    return page.queue(max_size=WAITING)


def launch(page, **how):
    """Serve a page of build(); the address. how: of gradio's launch()."""
    from starlette.middleware import Middleware

    return page.launch(
        share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False, show_error=False, css=STYLE,
        footer_links=[], enable_monitoring=False, app_kwargs={"middleware": [Middleware(Small)]}, **how,
    )[1]  # fmt: skip


def serve(find, generator, names, *, title, examples, host, port, save=None):
    """Serve the page until the user interrupts; BadInput if gradio is missing or the address cannot be had."""
    try:
        import gradio as gr
    except ImportError:
        raise BadInput("--web needs gradio: pip install gradio") from None
    page = build(find, generator, names, title=title, examples=examples, save=save)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing is fetched for it
    try:
        url = launch(page, server_name=host, server_port=port or None, theme=theme)
    except OSError as error:
        raise BadInput(f"--host {host} --port {port}: cannot be listened at ({process.one_line(error, 200)})") from None
    print(f"{title}: open {url} ; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("closed")
    finally:
        page.close()

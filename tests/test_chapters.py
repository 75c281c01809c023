"""The rules of a chapter, and whether the committed chapters keep them.

For those who write one. A chapter is `chapters/NN-name.ipynb`, stands in `_toc.yml`, and has its
paper-scale parameters in `chapters/parameters/NN-name.paper.yaml`. Its cells, in this order:

1.  Markdown: `# Title`, and the opening box, with these three words in bold:

        :::{admonition} In this chapter
        :class: objectives
        **You will learn** … **Time:** 20 minutes … **You need** …
        :::

2.  Code, tagged `parameters` and `hide-input`, with a caption for the folded cell in its metadata:
    `"mystnb": {"code_prompt_show": "Parameters of this chapter"}`. Only lines of the form
    `seed = 0  # type: int one seed for the run`; the kinds are those of
    dfdlib/book/parameters.py (int, float, str, bool, list[int], str|None, Literal['a','b'] without
    a space); one of them is `seed`. Where methods are trained on a cohort, `dataset` and `root`
    name the reader's own: `on_your_own(…)` of
    dfdlib.book.own trains them there, writes to `runs/` only and hides what was computed on few.
    Multimodal VAEs go to pairs of pictures by the same parameters: `pairs_on_your_own(…)`.
3.  The headings of HEADINGS, level 2, in this order; others may stand between.
    *The claim* holds an admonition of class `claim`, *What you may not conclude* one of class
    `limits`, *The idea in one picture* a figure. Between *Run* and *What you may not conclude*
    stand a table and a figure. *Exercises* holds `{exercise}` directives with a `:label:`, each
    with one `{solution} that-label` of `:class: dropdown`.
4.  Last, code: `provenance(seed=seed, data="…")`, tagged `provenance`, `remove-input` and
    `nbval-ignore-output`.

Code cells: half of them at most 8 lines, none over 25, 79 columns; blank lines do not count.
Figures: the cell's metadata hold `"mystnb": {"image": {"alt": "What one sees, in a sentence or
two"}}`, which is how myst-nb writes alt text; add `"figure": {"caption": …, "name": "fig-…"}` for a
numbered one. Tag figure cells `nbval-ignore-output`, and every table `nbval-check-output`: what it
compares must be the same on every processor, as what is read from results/ is. Where one may round
otherwise (an estimate from simulated patients), add `by-value`: numbers may then differ by one of
their last digit. Where networks were trained, add `within-0.05` (0.05, or 5 % of numbers above 1),
with at least three times what was measured under the settings of `.ci/processors`; rows that a run
shares with its stored twin only as two seeds share them (DFD's streams) get their own:
`rows-causal-0.5` for those in whose label the word `causal` stands.
Numbers: `glue("name", value, digits=2)` in code, {glue:text}`name` in prose, and an entry in
tests/expected.yaml. What is no result (a published number, a dose) may be typed in a Markdown cell
tagged `typed-numbers`. Years, counts below 100 and "95 %" need no tag.
Outputs: committed, from one run top to bottom (`make refresh`); no paths, times, host names,
progress bars, object addresses, nothing on stderr.
"""

import ast
import copy
import re
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import NotebookNode, v4

from dfdlib import book, cli
from dfdlib.book.own import OF_PAIRS

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))

HEADINGS = (
    "The claim",
    "The idea in one picture",
    "Method",
    "Run",
    "Results",
    "What you may not conclude",
    "Exercises",
    "Differences from the paper",
)
WITHIN = re.compile(r"(?:within|rows-\w+)-\d(?:\.\d+)?")
TAGS = {
    "parameters", "provenance", "typed-numbers", "nbval-check-output", "nbval-ignore-output",
    "by-value", "hide-input", "hide-output", "hide-cell", "remove-input", "remove-output",
}  # fmt: skip


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def text_of(output: NotebookNode) -> str:
    """All that a reader sees of an output, but for images."""
    data = output.get("data", {}).items()
    shown = [str(value) for kind, value in data if not kind.startswith("image/")]
    return "\n".join([output.get("text", ""), *shown])


def has_image(cell: NotebookNode) -> bool:
    kinds = [kind for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    return any("image/" in kind for kind in kinds)


def has_table(cell: NotebookNode) -> bool:
    return any("<table" in text_of(output) for output in cell.get("outputs", ()))


def sections(notebook: NotebookNode) -> dict[str, list[NotebookNode]]:
    """Cells by heading of level 2; a Markdown cell is cut where a heading stands in it."""
    found: dict[str, list[NotebookNode]] = {"": []}
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            found[heading].append(cell)
            continue
        first, *others = re.split(r"(?m)^## +", cell.source)
        found[heading].append(v4.new_markdown_cell(first))
        for part in others:
            heading, _, rest = part.partition("\n")
            found[heading.strip()] = [v4.new_markdown_cell(rest)]
            heading = heading.strip()
    return found


# ------------------------------------------------------------------ rules: what is wrong, if any


def opening(notebook: NotebookNode, path: Path) -> Iterator[str]:
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is not Markdown that begins with '# Title'"
    if ":class: objectives" not in first.source:
        yield "the first cell has no admonition of class objectives"
    for words in ("You will learn", "Time", "You need"):
        if f"**{words}" not in first.source:
            yield f"the opening box does not say **{words}**"
    if sum(len(re.findall(r"(?m)^# ", cell.source)) for cell in prose(notebook)) != 1:
        yield "there is more than one heading of level 1"


def parameters(notebook: NotebookNode, path: Path) -> Iterator[str]:
    cell = code(notebook)[0]
    if not {"parameters", "hide-input"} <= tags(cell):
        yield "the first code cell is not tagged parameters and hide-input"
        return
    if not cell.metadata.get("mystnb", {}).get("code_prompt_show"):
        yield "the parameters cell has no caption (mystnb: code_prompt_show)"
    for line in ast.parse(cell.source).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            yield f"'{ast.unparse(line)}' in the parameters cell assigns no literal"
            continue
        try:
            ast.literal_eval(line.value)
        except ValueError:
            yield f"'{ast.unparse(line)}' in the parameters cell assigns no literal"
    known = cli.parameters_of(path)
    for parameter in known.values():
        try:
            if parameter.kind == "None":
                yield f"parameter {parameter.name} has no '# type:' comment"
            parameter.check(ast.literal_eval(parameter.default))
        except (SyntaxError, ValueError) as error:
            yield f"parameter {parameter.name}: {error}"
    if "seed" not in known:
        yield "there is no parameter seed"


def shape(notebook: NotebookNode, path: Path) -> Iterator[str]:
    found = sections(notebook)
    order = [heading for heading in found if heading in HEADINGS]
    for heading in HEADINGS:
        if heading not in found:
            yield f"the heading '## {heading}' is missing"
    if len(order) < len(HEADINGS):
        return
    if order != list(HEADINGS):
        yield f"the headings stand in the order {order}"
        return
    for heading, box in (("The claim", "claim"), ("What you may not conclude", "limits")):
        if not any(f":class: {box}" in cell.source for cell in found[heading]):
            yield f"'{heading}' holds no admonition of class {box}"
    if not any(has_image(c) or "{figure}" in c.source for c in found["The idea in one picture"]):
        yield "'The idea in one picture' holds no picture"
    names = list(found)
    run = names[names.index("Run") : names.index("What you may not conclude")]
    for what, shows in (("table", has_table), ("figure", has_image)):
        if not any(shows(cell) for name in run for cell in found[name]):
            yield f"there is no {what} between 'Run' and 'What you may not conclude'"
    if not "".join(cell.source for cell in found["Differences from the paper"][:1]).strip():
        yield "'Differences from the paper' is empty"


def exercises(notebook: NotebookNode, path: Path) -> Iterator[str]:
    text = "\n".join(cell.source for cell in prose(notebook))
    options = r"[^\n]*\n((?::[\w-]+:[^\n]*\n)*)"
    asked = [
        re.search(r":label: *(\S+)", found) for found in re.findall(r"\{exercise\}" + options, text)
    ]
    labels = [found[1] if found else "" for found in asked]
    solved = re.findall(r"\{solution\} *(\S*)" + options, text)
    if not labels:
        yield "there is no {exercise}"
    if "" in labels:
        yield "an {exercise} has no :label:"
    if sorted(labels) != sorted(label for label, _ in solved):
        yield f"exercises {labels} and solutions {[label for label, _ in solved]} do not match"
    for label, found in solved:
        if ":class: dropdown" not in found:
            yield f"the solution of {label} is not folded away (:class: dropdown)"


def ending(notebook: NotebookNode, path: Path) -> Iterator[str]:
    last = notebook.cells[-1]
    if not re.search(r"provenance\(\s*seed=seed,\s*data=", last.source):
        yield 'the last cell is not provenance(seed=seed, data="…")'
    if not {"provenance", "remove-input", "nbval-ignore-output"} <= tags(last):
        yield "the last cell is not tagged provenance, remove-input and nbval-ignore-output"


def size(notebook: NotebookNode, path: Path) -> Iterator[str]:
    lines = [[line for line in c.source.splitlines() if line.strip()] for c in code(notebook)]
    if statistics.median(map(len, lines)) > 8:
        yield f"half of the code cells have more than {statistics.median(map(len, lines))} lines"
    for cell in lines:
        if len(cell) > 25:
            yield f"a code cell has {len(cell)} lines: {cell[0]} …"
        yield from (f"over 79 columns: {line}" for line in cell if len(line) > 79)


def executed(notebook: NotebookNode, path: Path) -> Iterator[str]:
    counts = [cell.execution_count for cell in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"cells were not executed in order from top to bottom: {counts}"
    for cell in code(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"a cell failed: {output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                yield f"an output on stderr: {output.text[:60]}"
    if not any("nbval-check-output" in tags(cell) and cell.outputs for cell in code(notebook)):
        yield "no cell with outputs is tagged nbval-check-output"


# A machine that is called by a plain word is no leak that could be told from the word.
HOST = socket.gethostname() if re.search(r"[\d.-]", socket.gethostname()) else "localhost"
LEAKS = {
    "a path": r"(?<![\w/.])/(?:home|Users|root|tmp|var|opt|usr|mnt|work|__w)/|[A-Z]:\\|-packages/",
    "a time": r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d|\b\d\d:\d\d:\d\d\b",
    "a progress bar": r"\d+%\|| it/s\b|\bs/it\b|\r(?!\n)|█",
    "an address": r"\bat 0x[0-9a-f]{6,}|<[\w.]+ object at",
    "a host name": rf"\b{re.escape(HOST)}\b|\blocalhost\b",
}


def reproducible(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code(notebook):
        if "provenance" in tags(cell):
            continue
        for text in map(text_of, cell.outputs):
            for what, pattern in LEAKS.items():
                if found := re.search(pattern, text):
                    yield f"an output holds {what}: …{text[max(0, found.start() - 20) :][:60]}…"


def figures(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code(notebook):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if has_image(cell) and len(alt) < 20:
            yield f"a figure has no alt text (mystnb: image: alt): {cell.source[:60]} …"
        if "plt.show" in cell.source:
            yield "plt.show() is not needed"
    for cell in prose(notebook):
        if re.search(r"!\[\s*\]\(", cell.source):
            yield "an image in Markdown has no alt text: ![what one sees](…)"
        for options in re.findall(r"\{(?:figure|image)\}[^\n]*\n((?::\w+:[^\n]*\n)*)", cell.source):
            if ":alt:" not in options:
                yield "a {figure} or {image} has no :alt:"


def known_tags(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in notebook.cells:
        near = {tag for tag in tags(cell) if WITHIN.fullmatch(tag)}
        yield from (f"unknown tag '{tag}'" for tag in tags(cell) - TAGS - near)
        how = near | ({"by-value"} & tags(cell))
        if how and "nbval-check-output" not in tags(cell):
            yield "by-value says how nbval-check-output compares, which the cell is not tagged"
        if how and not how & {"by-value"} and len([t for t in how if t[:4] != "rows"]) != 1:
            yield f"{sorted(how)}: rows differ from one within-, which says it of all others"
        if cell.cell_type == "code" and re.search("NBVAL_|from myst_nb", cell.source):
            yield "mark cells by tags, and glue through dfdlib.book"


def checked_tables(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in code(notebook):
        if has_table(cell) and "nbval-check-output" not in tags(cell):
            yield f"nobody compares the table of '{cell.source.splitlines()[-1]}' with a run's"


NOT_PROSE = (
    r"(?s)```.*?```|<!--.*?-->",
    r"(?m)^:{3,}.*$|^:[\w-]+:.*$|^\([\w-]+\)=$",  # directives, their options, labels
    r"(?:\{[\w:.-]+\})?(`+)[^`]+?\1",  # code and roles, so glue and citations
    r"(?s)\$\$.*?\$\$|\$[^$\n]+\$",
    r"\]\([^)]*\)|https?://\S+|(?i:arxiv)[: ]*\d{4}\.\d{4,5}|\b\d+\.\d+\.\d+\b",
    r"\b(?:19|20)\d\d\b|\b95 %",
)


def glued(notebook: NotebookNode, path: Path) -> Iterator[str]:
    for cell in prose(notebook):
        if "typed-numbers" in tags(cell):
            continue
        text = cell.source
        for pattern in NOT_PROSE:
            text = re.sub(pattern, " ", text)
        for found in re.finditer(r"\d[\d,]*\.\d+|(?<!\w)\.\d+|\b\d+ ?%|\b\d[\d,]{2,}\b", text):
            start = max(0, found.start() - 30)
            yield f"a typed number: …{' '.join(text[start : found.end() + 20].split())}…"


def paper_parameters(notebook: NotebookNode, path: Path) -> Iterator[str]:
    paper = path.parent / "parameters" / f"{path.stem}.paper.yaml"
    if not paper.is_file():
        yield f"there is no {paper.parent.name}/{paper.name}"
        return
    try:
        cli.check_parameters(path, {}, yaml.safe_load(paper.read_text(encoding="utf8")))
    except ValueError as error:
        yield f"{paper.name}: {error}"


RULES = (
    opening, parameters, shape, exercises, ending, size, executed, reproducible, figures,
    known_tags, checked_tables, glued, paper_parameters,
)  # fmt: skip


def broken(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [message for rule in RULES for message in rule(notebook, path)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_keeps_the_rules(path, rule):
    problems = list(rule(nbformat.read(path, as_version=4), path))
    assert not problems, "\n".join(problems)


def test_chapters_are_numbered_and_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    listed = re.findall(r"chapters/(\d\d-[a-z-]+)\b", toc)
    assert {path.stem for path in CHAPTERS} <= set(listed)
    assert listed == sorted(listed)


# ------------------------------------------------------------------ reported numbers


def wider(entry: dict) -> bool:
    """Whether a number may move further on another processor than on the page, if at all."""
    elsewhere = entry.get("elsewhere", "shown")
    return elsewhere == "shown" or elsewhere > entry["atol"]


def differences(expected: dict, records: dict[str, str], root: Path = ROOT) -> list[str]:
    """Where glued numbers and the entries of expected.yaml part."""
    found = [f"{name} is glued, but not expected" for name in sorted(set(records) - set(expected))]
    for name, entry in expected.items():
        if set(entry) - {"elsewhere"} != {"value", "atol", "source"}:
            found.append(f"{name} needs exactly value, atol and source")
        elif not wider(entry):
            found.append(f"{name}: elsewhere is no wider than atol, and not 'shown'")
        elif name not in records:
            found.append(f"{name} is expected, but not glued")
        elif not book.is_as_reported(records[name], entry):
            near = f" ± {entry['atol']}" * (not isinstance(entry["value"], str))
            found.append(f"{name} is {records[name]!r}, expected {entry['value']!r}{near}")
        if entry.get("source") != "chapter" and not (root / str(entry.get("source"))).exists():
            found.append(
                f"{name}: the source is neither 'chapter' nor a file: {entry.get('source')}"
            )
    return found


EXPECTED = yaml.safe_load((ROOT / "tests" / "expected.yaml").read_text(encoding="utf8")) or {}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_reported_numbers_are_as_expected(path):
    records = book.glued(nbformat.read(path, as_version=4))
    assert not differences(EXPECTED.get(path.stem, {}), records)


def test_only_chapters_report_numbers():
    assert set(EXPECTED) <= {path.stem for path in CHAPTERS}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_glued_numbers_are_used(path):
    pages = [*(ROOT / "chapters").rglob("*.md"), *CHAPTERS]
    text = "\n".join(page.read_text(encoding="utf8") for page in pages)
    used = {
        name.split("::")[-1].split(":")[0] for name in re.findall(r"\{glue:\w*\}`([^`]+)`", text)
    }
    assert set(book.glued(nbformat.read(path, as_version=4))) <= used


# ------------------------------------------------------------------ the rules themselves


def cell(source, *names, outputs=(), **metadata):
    made = v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(names)})
    if metadata:
        made.metadata["mystnb"] = metadata
    return made


def shown(**data):
    return v4.new_output(
        "display_data", {key.replace("_", "/"): text for key, text in data.items()}
    )


@pytest.fixture
def good(tmp_path):
    """A chapter without a fault."""
    figure = {
        "outputs": [shown(image_png="iVBORw0KGgo=")],
        "image": {"alt": "Two dots that are joined by a line."},
    }
    cells = [
        v4.new_markdown_cell(
            "# Title\n\n:::{admonition} In this chapter\n:class: objectives\n"
            "**You will learn** it. **Time:** 20 minutes. **You need** arithmetic.\n:::"
        ),
        cell(
            "seed = 0  # type: int one seed\nsites = [1]  # type: list[int] which",
            *("parameters", "hide-input"),
            code_prompt_show="Parameters",
        ),
        v4.new_markdown_cell(
            "## The claim\n\n:::{admonition} It holds\n:class: claim\n"
            "In 2026 (arXiv 2601.21941), 95 % of $0.5 n$ of `0.25` {cite}`a2020b`"
            " [there](x-1.5.html).\n:::\n\n## The idea in one picture"
        ),
        cell("draw()", "nbval-ignore-output", **figure),
        v4.new_markdown_cell("## Method\n\nText.\n\n## Run"),
        cell("table", "nbval-check-output", outputs=[shown(text_html="<table></table>")]),
        v4.new_markdown_cell("## Results\n\nIt was {glue:text}`score`."),
        cell("plot()", "nbval-ignore-output", **figure),
        v4.new_markdown_cell(
            "## What you may not conclude\n\n"
            ":::{admonition} Not this\n:class: limits\nText.\n:::\n\n"
            "## Exercises\n\n:::{exercise} A\n:label: ex-a\nAsk.\n:::\n\n"
            ":::{solution} ex-a\n:label: sol-a\n:class: dropdown\nAnswer.\n:::\n\n"
            "## Differences from the paper\n\nSome."
        ),
        cell(
            'provenance(seed=seed, data="heart")',
            *("provenance", "remove-input", "nbval-ignore-output"),
        ),
    ]
    notebook = v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    for count, made in enumerate(code(notebook), start=1):
        made.execution_count = count
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / "01-good.paper.yaml").write_text("seed: 3\n")
    path = tmp_path / "01-good.ipynb"
    nbformat.write(notebook, path)
    return path


def test_a_good_chapter_breaks_no_rule(good):
    assert broken(good) == []


def edit(old, new):
    def change(notebook):
        before = copy.deepcopy(notebook)
        for made in notebook.cells:
            made.source = made.source.replace(old, new)
        assert notebook != before

    return change


def tagged(index, *names):
    return lambda notebook: notebook.cells[index].metadata.update(tags=list(names))


def printed(text, name="stdout"):
    return lambda notebook: notebook.cells[5].outputs.append(
        v4.new_output("stream", text=text, name=name)
    )


FAULTS = {
    "begins with '# Title'": edit("# Title", "Title"),
    "class objectives": edit("objectives", "note"),
    r"does not say \*\*You need": edit("**You need**", "You need"),
    "more than one heading": edit("Text.", "# Again"),
    "not tagged parameters": tagged(1, "hide-input"),
    "no caption": lambda notebook: notebook.cells[1].metadata.pop("mystnb"),
    "assigns no literal": edit("seed = 0", "seed = 1 + n"),
    "has no '# type:' comment": edit("# type: int one seed", "# one seed"),
    "is no int for 'seed'": edit("seed = 0 ", "seed = 0.5 "),
    "'integer', the type of 'seed', is none of": edit("type: int", "type: integer"),
    "no parameter seed": edit("seed = 0", "speed = 0"),
    "'## Run' is missing": edit("## Run", "### Run"),
    "stand in the order": edit("## Method\n\nText.\n\n## Run", "## Run\n\nText.\n\n## Method"),
    "no admonition of class limits": edit("limits", "note"),
    "holds no picture": lambda notebook: notebook.cells[3].outputs.clear(),
    "no table between": lambda notebook: notebook.cells[5].outputs.clear(),
    "no figure between": lambda notebook: notebook.cells[7].outputs.clear(),
    "'Differences from the paper' is empty": edit("Some.", ""),
    "no {exercise}": edit("{exercise}", "{note}"),
    "has no :label:": edit(":label: ex-a\n", ""),
    "do not match": edit("{solution} ex-a", "{solution} ex-b"),
    "not folded away": edit(":class: dropdown\n", ""),
    r"the last cell is not provenance\(": edit("provenance(seed=seed", "provenance(seed=0"),
    "last cell is not tagged": tagged(9, "provenance"),
    "half of the code cells": lambda notebook: [
        made.update(source="a\n" * 9) for made in code(notebook)[1:4]
    ],
    "has 26 lines": edit("draw()", "a\n" * 26),
    "over 79 columns": edit("draw()", "a" * 80),
    "not executed in order": lambda notebook: notebook.cells[5].update(execution_count=9),
    "a cell failed: KeyError": lambda notebook: notebook.cells[5].outputs.append(
        v4.new_output("error", ename="KeyError", evalue="'a'", traceback=[])
    ),
    "output on stderr": printed("careful", name="stderr"),
    "tagged nbval-check-output": tagged(5),
    "holds a path": printed("read /home/me/data.csv"),
    "holds a time": printed("done at 2026-11-22 04:01"),
    "holds a progress bar": printed("\r 40%|████"),
    "holds an address": printed("<A object at 0x7f0000000000>"),
    "holds a host name": printed(f"ran on {HOST}"),
    "no alt text": lambda notebook: notebook.cells[7].metadata.pop("mystnb"),
    "plt.show": edit("plot()", "plt.show()"),
    "image in Markdown has no alt": edit("Some.", "![](a.png)"),
    "has no :alt:": edit("Some.", ":::{figure} a.png\n:name: b\n:::"),
    "unknown tag 'nbval-skip'": tagged(5, "nbval-check-output", "nbval-skip"),
    "by-value says how": tagged(7, "by-value"),
    "nobody compares the table of 'table'": tagged(5, "nbval-ignore-output"),
    r"\['rows-a-0.5'\]: rows differ from one within": tagged(
        5, "nbval-check-output", "rows-a-0.5"
    ),
    "unknown tag 'within-2 %'": tagged(5, "nbval-check-output", "within-2 %"),
    "glue through dfdlib.book": edit("plot()", "from myst_nb import glue"),
    "typed number: .*It was 0.87": edit("{glue:text}`score`", "0.87"),
    "typed number: .*It was 87 %": edit("{glue:text}`score`", "87 %"),
    "typed number: .*It was 1,025": edit("{glue:text}`score`", "1,025"),
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_each_rule_finds_its_fault(good, message):
    notebook = nbformat.read(good, as_version=4)
    FAULTS[message](notebook)
    nbformat.write(notebook, good)
    problems = broken(good)
    assert any(re.search(message, problem) for problem in problems), problems


def test_a_number_that_is_no_result_may_be_typed(good):
    notebook = nbformat.read(good, as_version=4)
    notebook.cells[6].update(source="## Results\n\nThe paper reports 73.3 %.")
    notebook.cells[6].metadata["tags"] = ["typed-numbers"]
    nbformat.write(notebook, good)
    assert broken(good) == []


def test_paper_parameters_are_checked(good):
    (good.parent / "parameters" / "01-good.paper.yaml").write_text("sed: 3\n")
    assert any("no parameter 'sed'. Did you mean 'seed'" in problem for problem in broken(good))
    (good.parent / "parameters" / "01-good.paper.yaml").unlink()
    assert "there is no parameters/01-good.paper.yaml" in broken(good)


@pytest.mark.parametrize(
    ("entry", "glued_as", "said"),
    [
        ({"value": 0.87, "atol": 0.01, "source": "chapter"}, "0.88", None),
        ({"value": 0.87, "atol": 0.01, "source": "chapter"}, "0.89", "expected 0.87 ± 0.01"),
        ({"value": 920, "atol": 0, "source": "chapter"}, "920", None),
        ({"value": "va", "atol": 0, "source": "chapter"}, "hungary", "expected 'va'"),
        ({"value": 0.87, "atol": 0.01, "source": "results/none.json"}, "0.87", "nor a file"),
        ({"value": 0.87, "atol": 0.01}, "0.87", "exactly value, atol and source"),
        ({"value": 0.87, "atol": 0.01, "source": "chapter"}, "nan", "expected 0.87"),
        (
            {"value": 0.87, "atol": 0.01, "elsewhere": "shown", "source": "chapter"},
            "0.89",
            "expected 0.87 ± 0.01",
        ),
        (
            {"value": 0.87, "atol": 0.01, "elsewhere": 0.01, "source": "chapter"},
            "0.87",
            "no wider than atol",
        ),
    ],
)
def test_expected_numbers_are_compared_within_their_tolerance(entry, glued_as, said):
    found = differences({"score": entry}, {"score": glued_as})
    assert (not found) if said is None else any(said in message for message in found)
    assert "other is glued, but not expected" in differences({}, {"other": "1"})
    assert "score is expected, but not glued" in differences({"score": entry}, {})[:1] or said


# ------------------------------------------------------------------ the reader's own patients

WITHOUT_OWN = {"11-seeing-the-separation": "draws the streams of one method, compares none"}


def trains(notebook: NotebookNode) -> bool:
    """Whether a chapter trains methods on a cohort; VAEs and models of images are not these."""
    text = "\n".join(cell.source for cell in code(notebook))
    return all(re.search(rf"\b({names})\(", text) for names in ("fit|trainer", "Classifier|DFD"))


def own_patients(notebook: NotebookNode, path: Path) -> Iterator[str]:
    """What keeps a chapter that compares methods from being run on the reader's patients."""
    text = "\n".join(cell.source for cell in code(notebook))
    offers = "on_your_own(" in text
    if offers and f'chapter="{path.stem}"' not in text:
        yield "on_your_own is told another chapter, and would write to its folder"
    known = cli.parameters_of(path)
    if not offers and (not trains(notebook) or path.stem in WITHOUT_OWN or "config" in known):
        return  # by `config` it reads the reader's files throughout
    if not {"dataset", "root"} <= set(known):
        yield "it trains methods on a cohort, and has no parameters dataset and root"
    elif ast.literal_eval(known["dataset"].default) not in ("", "made-up"):
        yield "dataset is not empty by default"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_methods_can_be_compared_on_the_readers_patients(path):
    assert not list(own_patients(nbformat.read(path, as_version=4), path))


def test_a_chapter_without_these_parameters_is_found(good):
    notebook = nbformat.read(good, as_version=4)
    notebook.cells[3].source = "fit(Classifier(backbone=b, schema=s), train)"
    assert any("no parameters dataset and root" in told for told in own_patients(notebook, good))


def test_pairs_need_the_parameters_and_the_folder_of_their_chapter(good):
    notebook = nbformat.read(good, as_version=4)
    notebook.cells[3].source = 'pairs_on_your_own({}, chapter="02-other")'
    said = list(own_patients(notebook, good))
    assert any("told another chapter" in told for told in said)
    assert any("no parameters dataset and root" in told for told in said)


@pytest.mark.parametrize("chapter", OF_PAIRS)
def test_chapters_that_take_pairs_are_those_that_others_point_to(chapter):
    notebook = nbformat.read(ROOT / "chapters" / f"{chapter}.ipynb", as_version=4)
    assert any("pairs_on_your_own(" in cell.source for cell in code(notebook))

"""User text (classes, methods, folders, errors, file names) is never read as markup in the files of a report."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from rgjax.report.__main__ import render
from tests.support.sweeps import Sweep

HARMLESS = "harmless words"
EVIL = (
    """<script>alert(1)</script>"onload='alert(2)' </title><!-- {{7*7}}{% raw %}\\input{x} ../../a [b](c:d) `|~ $$ **"""
)
NAME = EVIL.replace("/", "")  # of a file


def report_of(folder, text, name):
    """The report on finished and failed runs in which every user text is `text` and every file name is `name`."""
    sweep = Sweep(folder / name, study=name, classes=(f"{text} 0", f"{text} 1"))
    for seed, state in enumerate(("done", "done", "failed")):
        run = sweep.run(f"{name}{seed}", "rg", seed=seed, state=state, variant=text, overrides={"loss.gamma": 1.5})
        change(run / "run.json", study=text, variant=text, selected_by=text, command=text, run_id=text,
               overrides={text: text, "seed": seed})  # fmt: skip
    tuned = sweep.run(f"{name}3", "rg", stage=1, seed=1000, variant=text, overrides={"loss.tau": 2.0})
    change(tuned / "run.json", study=text, variant=text, overrides={"loss.tau": text})
    change(run / "failure.json", error=text)
    for path in sweep.folder.rglob("result.json"):
        change(path, dataset=text, method=text)
    for path in sweep.folder.rglob("provenance.json"):
        change(path, git={"commit": text}, packages={text: text}, devices=[text], fingerprints={text: text},
               notes=[{"text": text}])  # fmt: skip
    for path in sweep.folder.rglob("groups"):
        (path / f"{name}.md").write_text(f"# {text}\n\n| | |\n|---|---|\n| central | {text} |\n")
        Image.new("RGB", (8, 8)).save(path / f"{name}.png")
    methods = {f"rg {text}": {"variant": text, "tuning": 1, "reported": 4}}
    (sweep.folder / "sweep.json").write_text(
        json.dumps({"studies": {text: {"config": text, "methods": methods}}, "command": text, "select": text})
    )
    return render(sweep.folder)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return [report_of(folder, text, name) for text, name in ((HARMLESS, HARMLESS), (EVIL, NAME))]


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.tags.append("comment")


def test_the_page_has_the_same_elements_whatever_the_texts_are(reports):
    harmless, evil = (Structure(files[0].read_text()) for files in reports)
    assert harmless.tags == evil.tags
    assert evil.text.count(EVIL) >= 20 and evil.text.count(NAME) >= 3


def test_figures_hold_no_more_than_pictures(reports):
    figures = [path for path in reports[1] if path.suffix == ".svg"]
    assert len(figures) >= 3
    for path in figures:
        assert path.resolve().parent == reports[1][0].resolve().parent / "figures"
        for element in ElementTree.parse(path).iter():
            assert str(element.tag).rpartition("}")[2] not in ("script", "foreignObject", "a")
            assert not [name for name in element.attrib if name.startswith("on")]
            link = element.get("{http://www.w3.org/1999/xlink}href", "#")
            assert link.startswith(("#", "data:image/png;"))


def test_markdown_has_the_same_elements_whatever_the_texts_are(reports):
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    harmless, evil = (Structure(reader.render(table(files, "table.md"))) for files in reports)
    assert harmless.tags == evil.tags
    assert evil.text.count(EVIL) >= 8


def test_latex_has_the_same_commands_whatever_the_texts_are(reports):
    escaped = r"\\text(?:less|greater|bar|asciitilde|asciicircum|backslash)\{\}|\\[&%$#_{}]"
    harmless, evil = (re.sub(escaped, "", table(files, "table.tex")) for files in reports)
    active = r"\\[a-zA-Z]+|[\\{}&%$#_^~]"
    assert re.findall(active, harmless) == re.findall(active, evil)


def table(files, name):
    return next(path for path in files if path.name == name).read_text()

"""The documents are true in what can be checked: every test and every file that they name exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TEST = re.compile(r"`((?:[\w-]+/)+test_\w+\.py)(?:::(test_\w+))?`")
_ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')
_ANCHORED = re.compile(r"\]\(((?!https?:)[^)#]*)#([^)]+)\)")
_CITATION = re.compile(
    r"(?<![\w/\[-])(current-protocol|legacy-protocol|code-interpreter|service-protocol) (\d+(?:\.\d+)?)(?![\d.]*\d)"
)
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def named_tests() -> list[tuple[str, str]]:
    pages = ("docs/specification.md", "docs/security.md")
    return [found for page in pages for found in _TEST.findall((ROOT / page).read_text())]


@functools.cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_every_test_of_the_specification_exists() -> None:
    named = named_tests()
    assert len(named) > 50
    for file, test in named:
        assert not test or test in functions(file), f"{file}::{test}"


def test_every_test_of_the_clients_of_2024_is_in_the_table_and_exists() -> None:
    named = set(re.findall(r"`((?:python|node)/[\w.]+)::([^`]+)`", (ROOT / "docs/legacy.md").read_text()))
    found = set()
    for file in (ROOT / "tests/legacy").glob("*/*"):
        pattern = r"^    def (test_\w+)" if file.suffix == ".py" else r"^test\('([^']+)'"
        name = f"{file.parent.name}/{file.name}"
        found |= {(name, test) for test in re.findall(pattern, file.read_text(), re.MULTILINE)}
    assert len(named) > 50
    assert named <= found, named - found
    assert {file for file, _ in found} == {file for file, _ in named}


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        for target in _LINK.findall(page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_cited_sections_of_the_protocols_exist() -> None:
    pages = {page.stem: set(_ANCHOR.findall(page.read_text())) for page in (ROOT / "docs/protocol").glob("*.md")}
    cited = {(page, number) for _, text in written() for page, number in _CITATION.findall(text)}
    assert len(cited) > 80
    assert [(page, number) for page, number in sorted(cited) if f"s{number.replace('.', '-')}" not in pages[page]] == []


def test_anchors_of_links_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        for target, anchor in _ANCHORED.findall(page.read_text()):
            text = ((page.parent / target) if target else page).read_text()
            headings = {_slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
            assert anchor in headings | set(_ANCHOR.findall(text)), f"{page.name} links to {target}#{anchor}"


def _slug(heading: str) -> str:
    """The anchor of a heading, as forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def written() -> list[tuple[str, str]]:
    """Code, tests and pages."""
    folders = ("src/sandpit", "tests", "benchmarks", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".mjs")]
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in files]


def test_lines_of_pages_can_be_read_in_a_terminal() -> None:
    """Prose has 120 characters a line, a few more where it cannot be broken; tables and code may have more."""
    long = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        fenced = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            prose = not fenced and not line.lstrip().startswith(("|", "#", "<")) and not line.startswith("    ")
            if prose and len(line) > 125 and not re.fullmatch(r" *`[^`]*`[.,]?", line):
                long.append(f"{page.name}:{number}")
    assert long == []

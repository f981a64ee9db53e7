"""The documentation site builds without a warning, and holds what it promises."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("zensical", reason="needs the extra `docs`")
pytest.importorskip("clang", reason="needs the extra `docs`")

from docs.site.__main__ import HERE, build, generated, run_zensical
from docs.site.commands import PROGRAMS, verbs
from docs.site.headers import C_HEADER, INCLUDE
from docs.site.pages import SiteError, minutes, page_files, relinked, timed
from docs.site.python_names import PAGES

_TIME = re.compile(r'<p class="himar-time">\d+ minutes? to (read|do)[^<]*</p>')


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, built as `make docs` does it: any broken link or anchor would fail here."""
    return build(tmp_path_factory.mktemp("site"))


def html(site: Path, place: str) -> str:
    path = site / place.removesuffix(".md") / "index.html"
    return (path if path.exists() else site / place.replace(".md", ".html")).read_text(encoding="utf-8")


def places() -> set[str]:
    return {*page_files().values(), *generated()}


def test_every_page_says_at_its_top_how_long_it_takes(site):
    for place in places():
        text = html(site, place)
        time = _TIME.search(text)
        assert time, f"{place} does not say how long it takes"
        assert not re.search(r"<h[23]", text[text.index("<h1") : time.start()]), f"{place}: not at its top"


def test_tutorials_say_how_long_they_take_to_do(site):
    for place in (place for place in places() if place.startswith("tutorials/")):
        assert "minutes to do" in html(site, place)


def test_every_page_is_in_the_navigation():
    text = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    nav = re.findall(r"[\w./-]+\.md", str(yaml.safe_load(text[text.index("\nnav:") :])))
    assert sorted(nav) == sorted(places())


def test_pages_ask_no_other_host_for_anything(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="?(https?:[^"\s>]+)', text)
        fetched += re.findall(r'<link[^>]* rel="?(?:stylesheet|preconnect|icon)"?[^>]* href="?(https?:[^"\s>]+)', text)
        assert not fetched, f"{path.relative_to(site)} fetches {fetched}"


def test_lists_and_tables_are_rendered(site):
    """A list or a table right below a paragraph is one on GitHub but not everywhere."""
    for place in places():
        for paragraph in re.findall(r"<p>(.*?)</p>", html(site, place), re.DOTALL):
            assert not re.search(r"^(\* |- |\| )|\| ?---", paragraph, re.MULTILINE), f"{place}: {paragraph[:200]}"


def test_the_reference_has_every_verb_with_every_option(site):
    for name in PROGRAMS:
        text = html(site, f"reference/{name}.md")
        for verb, command in verbs(name):
            assert f'id="{f"{name} {verb}".strip().replace(" ", "-")}"' in text or not verb
            for parameter in command.params:
                for option in parameter.opts if not getattr(parameter, "hidden", False) else ():
                    assert option.lower() in text.lower(), f"{name} {verb}: {option}"


def test_the_reference_has_every_public_python_name(site):
    for page, (_, _, packages, further) in PAGES.items():
        text = html(site, f"reference/python/{page}.md")
        names = [f"{package}.{name}" for package in packages for name in importlib.import_module(package).__all__]
        for name in [*names, *further]:
            assert f'id="{name}"' in text, f"{page} lacks {name}"


def test_the_reference_has_every_declaration_of_the_c_interface(site):
    header, text = C_HEADER.read_text(encoding="utf-8"), html(site, "reference/c.md")
    names = re.findall(r"^HIMAR_API [\w \*]*?(himar_\w+)\(", header, re.MULTILINE)
    names += re.findall(r"^\} (himar_\w+);", header, re.MULTILINE) + re.findall(r"\(\*(himar_\w+)\)\(", header)
    macros = set(re.findall(r"^#define (HIMAR_\w+)", header, re.MULTILINE)) - {"HIMAR_HIMAR_H", "HIMAR_API"}
    assert len(names) > 50 and len(macros) > 2
    for name in names:
        assert f'id="{name}"' in text, f"the page lacks {name}"
    for name in macros:
        assert re.search(rf"<h3[^>]*>{name}\b", text), f"the page lacks {name}"


def test_the_reference_has_every_class_of_the_cpp_interface(site):
    text = html(site, "reference/cpp.md")
    for path in INCLUDE.glob("*.hpp"):
        for name in re.findall(r"^(?:class|struct) (\w+)[^;]*?\{", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"himar::{name}" in text, f"the page lacks {name} of {path.name}"


def test_a_link_to_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(SiteError, match=r"docs/a\.md links to missing\.md, which is no file"):
        relinked("[x](missing.md)", "docs/a.md", "a.md", {}, tmp_path)


def test_links_are_rewritten_outside_code_alone(tmp_path):
    text = "[x](../../runtime/cpp/README.md#a) `[x](model.md)`\n```\n[x](model.md)\n```\n"
    made = relinked(text, "docs/tutorials/a.md", "tutorials/a.md", {"runtime/cpp/README.md": "cpp.md"}, tmp_path)
    assert made == text.replace("../../runtime/cpp/README.md", "../cpp.md")


def test_a_page_without_a_title_is_an_error():
    with pytest.raises(SiteError, match="no title"):
        timed("text", "docs/a.md")


def test_the_reading_time_counts_words_outside_code():
    page = "# A\n\n" + "word " * 440 + "\n```\n" + "code " * 2000 + "\n```\n"
    assert minutes(page) == 2
    assert "2 minutes to read" in timed(page, "a.md")
    assert ">20 minutes to do<" in timed("# A\n\n*20 minutes to do*\n\ntext\n", "a.md")


@pytest.mark.parametrize("link", ["b.md#no-such-heading", "missing.md"])
def test_zensical_refuses_broken_links_and_anchors(tmp_path, link):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(f"# A\n\n[x]({link})\n")
    (tmp_path / "pages" / "b.md").write_text("# B\n")
    with pytest.raises(SiteError, match="does not exist"):
        run_zensical(tmp_path)

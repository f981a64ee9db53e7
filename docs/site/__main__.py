"""Builds the site: `python -m docs.site`, which is what `make docs` runs. A broken link or anchor is an error."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .commands import PROGRAMS, command_page
from .headers import c_page, cpp_page
from .pages import ROOT, SiteError, stage
from .python_names import PAGES, names_page
from .records import RECORDS, record_page

HERE = Path(__file__).parent


def generated() -> dict[str, str]:
    """Return the pages that are written from code and from records: their text by their place in the site."""
    pages = {f"reference/{name}.md": command_page(name) for name in PROGRAMS}
    pages |= {f"reference/python/{name}.md": names_page(name) for name in PAGES}
    pages |= {"reference/c.md": c_page(), "reference/cpp.md": cpp_page()}
    docs = ROOT / "docs"
    return pages | {place: record_page(place, (docs / place).read_text("utf-8"), docs) for place in RECORDS}


def build(out: Path) -> Path:
    """Build the site in `out` and return the folder of its pages.

    Raises SiteError when a page cannot be gathered, or Zensical finds something wrong.
    """
    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    pages.mkdir(parents=True)
    stage(pages, generated())
    shutil.copyfile(HERE / "style.css", pages / "style.css")
    return run_zensical(out)


def run_zensical(out: Path) -> Path:
    """Turn `out`/pages into `out`/html, which is returned. Raises SiteError for a warning: a broken link, an anchor."""
    text = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    (out / "mkdocs.yml").write_text(text.replace("ROOT", str(ROOT)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=out, capture_output=True, text=True, check=False
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).partition("Traceback")[0]
    if done.returncode != 0 or "warning" in said.lower():
        raise SiteError(f"the site has faults:\n{said}")
    return out / "html"


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="folder; default: build/site")
    try:
        print(f"built {build(parser.parse_args().out)}/index.html")
    except SiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

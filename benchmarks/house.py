"""Counts what makes a code base easy or hard to navigate: file sizes, prefixes, importers, spread of one idea.

Run from the repository: `python -m benchmarks.house`, or with `--against REVISION` to see another commit's counts
beside today's. Tests are left out of the Python counts and in those of C++.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath

ROOMS = ("kernels", "himar", "runtime", "export")
PACKAGES = {"kernels": "himar_kernels", "himar": "himar", "runtime": "himar_runtime", "export": "himar_export"}
CPP_ENDINGS = (".c", ".cpp", ".h", ".hpp")
SHARED_BY = 3  # siblings with one prefix that a folder would hold better

Sources = dict[PurePosixPath, str]


def git(*arguments: str) -> str:
    """Return what a git command prints."""
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def sources(revision: str) -> Sources:
    """Return every Python and C++ file of a revision with its text."""
    endings = (".py", ".cuh", ".cu", *CPP_ENDINGS)
    names = [name for name in git("ls-tree", "-r", "--name-only", revision).splitlines() if name.endswith(endings)]
    return {PurePosixPath(name): git("show", f"{revision}:{name}") for name in names}


def is_room(path: PurePosixPath) -> bool:
    """Whether a file is Python of one of the four rooms."""
    return path.suffix == ".py" and path.parts[0] in ROOMS and path.parts[1] != "cpp"


def module_name(path: PurePosixPath) -> str:
    """Return the import name of a room's file, whether or not its package's folder has that name."""
    package, parts = PACKAGES[path.parts[0]], list(path.with_suffix("").parts[1:])
    if parts and parts[0] == package:
        parts.pop(0)
    return ".".join([package, *(part for part in parts if part != "__init__")])


def importers(files: Sources) -> dict[str, set[str]]:
    """Return for each module of the rooms the modules that import it or a name of it."""
    names = {module_name(path): path for path in files}
    found: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(files[path])):
            if not isinstance(node, ast.ImportFrom):
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                module = f"{target}.{alias.name}"
                module = module if module in found else target
                if module in found and module != name:
                    found[module].add(name)
    return found


def prefix_groups(files: Sources) -> list[str]:
    """Return the prefixes that three or more files of one folder share, as folder/prefix_ (count)."""
    groups = Counter(f"{path.parent}/{path.stem.partition('_')[0]}_" for path in files if "_" in path.stem.strip("_"))
    return [f"{name} ({count})" for name, count in sorted(groups.items()) if count >= SHARED_BY]


def lengths(texts: list[str]) -> tuple[int, int]:
    """Return the median and the 90th percentile of lengths in lines."""
    lines = sorted(text.count("\n") for text in texts)
    return round(statistics.median(lines)), lines[int(0.9 * (len(lines) - 1))]


def counts(revision: str) -> dict[str, str]:
    """Return every count of a revision, as text by name."""
    every = sources(revision)
    python = {path: text for path, text in every.items() if is_room(path)}
    scripts = {path: text for path, text in every.items() if path.parts[0] == "benchmarks"}
    cpp = {path: text for path, text in every.items() if path.parts[:2] == ("runtime", "cpp")}
    cpp = {path: text for path, text in cpp.items() if path.suffix in CPP_ENDINGS}
    # This file names a head and a knob to count them, and needs no edit for another.
    product = {path: text for path, text in every.items() if "tests" not in path.parts and path.name != "house.py"}
    single = [name for name, by in importers(python).items() if len(by) == 1]
    groups = prefix_groups(python) + prefix_groups(scripts)

    def naming(word: str) -> str:
        return str(sum(word in text for text in product.values()))

    median, high = lengths(list(python.values()))
    cpp_median, cpp_high = lengths(list(cpp.values()))
    return {
        "Python files in the four rooms": str(len(python)),
        "lines of one: median, 90th percentile": f"{median}, {high}",
        "Python files with one importer": str(len(single)),
        f"prefixes shared by {SHARED_BY} or more siblings": f"{len(groups)}"
        + "".join(f"\n  {each}" for each in groups),
        "files that name dit_head": naming("dit_head"),
        "files that name the sampling knob low_solver": naming("low_solver"),
        "C++ files, tests included": str(len(cpp)),
        "C++ files under 60 lines": str(sum(text.count("\n") < 60 for text in cpp.values())),
        "C++ lines": str(sum(text.count("\n") for text in cpp.values())),
        "lines of a C++ file: median, 90th percentile": f"{cpp_median}, {cpp_high}",
    }


def main() -> None:
    """Print the counts of HEAD, and of another revision beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", metavar="REVISION", help="also count this commit")
    against = parser.parse_args().against
    write: Callable[[str], None] = print
    now, then = counts("HEAD"), counts(against) if against else {}
    for name, value in now.items():
        write(f"{name}: {value}" if not then else f"{name}:\n  {against}: {then[name]}\n  HEAD: {value}")


if __name__ == "__main__":
    main()

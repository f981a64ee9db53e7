"""Writes the reference of the C and C++ interface: every declaration of the public headers, with its comment."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .pages import ROOT, SiteError

INCLUDE = ROOT / "runtime" / "cpp" / "include" / "himar"
C_HEADER = INCLUDE / "himar.h"
CPP_HEADERS = ("himar.hpp", "settings.hpp", "callbacks.hpp", "view.hpp", "tokenizer.hpp")


def c_page() -> str:
    """Return the page of himar.h."""
    text = C_HEADER.read_text(encoding="utf-8")
    parts = ["# The C interface: himar.h\n", _cleaned(text[: text.index("*/") + 2]), ""]
    sections: dict[str, list[str]] = {
        "Functions": [],
        "Structs and callbacks": [],
        "Enums": [],
        "Macros": _macros(text),
    }
    comment = ""
    for cursor in _declarations(C_HEADER, "-xc"):
        kind, name = cursor.kind.name, cursor.spelling
        if kind not in ("FUNCTION_DECL", "TYPEDEF_DECL"):
            continue  # structs and enums have a typedef each, which says as much
        code = _source(cursor, text).removeprefix("HIMAR_API ")
        comment = cursor.raw_comment or comment  # a function right below another shares its comment
        section = "Functions"
        if kind == "TYPEDEF_DECL":
            section = "Enums" if code.startswith("typedef enum") else "Structs and callbacks"
        sections[section].append(f"### {name}\n\n```c\n{code};\n```\n\n{_cleaned(comment)}\n")
    for title, entries in sections.items():
        parts += [f"## {title}\n", *entries]
    return "\n".join(parts)


def _macros(text: str) -> list[str]:
    """Return an entry for each macro that programs use; a comment right above one is its own."""
    found = re.finditer(r"(/\*(?:(?!\*/)[\s\S])*\*/\n)?#define (HIMAR_(?!API|HIMAR_H)\w+)\b((?:.*\\\n)*.*)", text)
    entries = []
    for comment, name, rest in (each.groups() for each in found):
        code = re.sub(r" +\\\n", " \\\\\n", f"#define {name}{rest}")
        entries.append(f"### {name}\n\n```c\n{code}\n```\n\n{_cleaned(comment or 'See Versions above.')}\n")
    return entries


def cpp_page() -> str:
    """Return the page of himar.hpp and the headers that it includes."""
    parts = ["# The C++ interface: himar.hpp\n"]
    for name in CPP_HEADERS:
        path = INCLUDE / name
        text = path.read_text(encoding="utf-8")
        intro = re.match(r"(?://.*\n)+", text)
        parts.append(f"## {name}\n\n{_cleaned(intro[0]) if intro else ''}\n")
        for namespace in _declarations(path, "-xc++", "-std=c++17"):
            if namespace.kind.name != "NAMESPACE" or namespace.spelling != "himar":
                continue
            for cursor in namespace.get_children():
                entry = _cpp_entry(cursor, text)
                if entry:
                    parts.append(entry)
    return "\n".join(parts)


def _cpp_entry(cursor: Any, text: str) -> str:
    """Return the entry of a class or a function; "" for what is forward-declared or nobody calls."""
    kind, name = cursor.kind.name, cursor.spelling
    if kind in ("CLASS_DECL", "STRUCT_DECL", "CLASS_TEMPLATE") and cursor.is_definition():
        members = [_member(child, text) for child in cursor.get_children() if _is_public(child, name)]
        opening = _source(cursor, text).partition("{")[0].strip()
        body = "\n\n".join(member for member in members if member)
        public = "public:\n" if kind == "CLASS_DECL" else ""
        code = f"{opening} {{\n{public}{body}\n}};"
    elif kind in ("FUNCTION_DECL", "TYPE_ALIAS_DECL"):
        code = _signature(_source(cursor, text)) + ";"
    else:
        return ""
    return f"### himar::{name}\n\n{_cleaned(cursor.raw_comment or '')}\n\n```cpp\n{code}\n```\n"


def _is_public(cursor: Any, owner: str) -> bool:
    return bool(cursor.access_specifier.name == "PUBLIC" and cursor.spelling != f"~{owner}")


def _member(cursor: Any, text: str) -> str:
    """Return a public member as it is declared, its comment above it."""
    if cursor.kind.name in ("CXX_ACCESS_SPEC_DECL", "CXX_BASE_SPECIFIER", "TEMPLATE_TYPE_PARAMETER", "FRIEND_DECL"):
        return ""
    source = _source(cursor, text)
    code = source if cursor.kind.name == "FIELD_DECL" else _signature(source)
    comment = "".join(f"    // {line}\n" for line in _cleaned(cursor.raw_comment or "").splitlines())
    return f"{comment}    {code};"


def _signature(source: str) -> str:
    """Return a function's declaration without what it does."""
    head = source.partition("{")[0]
    depth = 0
    for place, letter in enumerate(head):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == ":" and depth == 0 and head[place - 1] == " " and head[place + 1] == " ":
            head = head[:place]  # a constructor's list of members
            break
    return head.strip()


def _declarations(header: Path, *arguments: str) -> Iterator[Any]:
    """Give the cursors of a header's own declarations, in its order. Raises SiteError where Clang cannot read it."""
    from clang import cindex

    gcc = subprocess.run(["cc", "-print-file-name=include"], capture_output=True, text=True, check=True).stdout.strip()
    unit = cindex.Index.create().parse(
        str(header),
        args=[*arguments, "-isystem", gcc, "-fparse-all-comments"],
        options=cindex.TranslationUnit.PARSE_SKIP_FUNCTION_BODIES,
    )
    for found in unit.diagnostics:
        if found.severity >= cindex.Diagnostic.Error:
            raise SiteError(f"{header.name} cannot be read: {found}")
    for cursor in unit.cursor.get_children():
        if cursor.location.file is not None and Path(cursor.location.file.name) == header:
            yield cursor


def _source(cursor: Any, text: str) -> str:
    """Return the text of a declaration. Clang counts bytes."""
    return text.encode()[cursor.extent.start.offset : cursor.extent.end.offset].decode()


def _cleaned(comment: str) -> str:
    """Return a comment's text, in Markdown: an indented example becomes a code block by its four spaces."""
    lines = []
    for line in comment.strip().removesuffix("*/").splitlines():
        lines.append(re.sub(r"^\s*(/\*+|\*|//+) ?", "", line).rstrip())
    cleaned = "\n".join(lines).strip()
    return re.sub(r"(?<![`\w])(\w+\*\*|\w+_\*)", r"`\1`", cleaned)

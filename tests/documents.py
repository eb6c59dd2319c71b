"""Reads what the documents promise: blocks of code, commands, links, messages."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
GAP = "..."
_CONVERSION = re.compile(r"%[-#0 +]*[\d.*]*[diouxXeEfFgGcrsa]")


def blocks(text: str, language: str) -> list[str]:
    """Return the code of all blocks of a language; an empty one for those that name none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [code for named, code in found if named == language]


def commands(text: str, *programs: str) -> list[list[str]]:
    """Return the words of each command of some programs in blocks of shell, continued lines joined."""
    lines = "\n".join([*blocks(text, "bash"), *blocks(text, "ini")]).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        starts = [place for place, word in enumerate(words) if Path(word.removeprefix("ExecStart=")).name in programs]
        found += [words[starts[0] :]] if starts else []
    return found


def links(text: str) -> list[str]:
    """Return the files that are linked to."""
    return [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]


def first_column(text: str, heading: str) -> list[str]:
    """Return what stands between backticks in the first column of the table below a heading."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)


def messages() -> list[str]:
    """Return every text in the source, with `GAP` for what is put in when it is said."""
    return [text for path in (ROOT / "templar_pl").rglob("*.py") for text in _texts(ast.parse(path.read_text()))]


def is_said(message: str, said: list[str]) -> bool:
    """Tell whether some text of the source says a message, in one piece, where `GAP` stands for anything."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split(GAP)), re.DOTALL)
    return any(pattern.search(text) for text in said)


def _texts(tree: ast.AST) -> Iterator[str]:
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # nobody ever sees those
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield _CONVERSION.sub(GAP, node.value)

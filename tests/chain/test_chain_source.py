"""What the source of the chain's asynchronous code may not do, whatever its tests happen to meet."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import templar_pl.chain

FOLDER = Path(templar_pl.chain.__file__).parent
FILES = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.py"))}

ASKED_WHOLE = {"_snapshot", "_submit", "_learn"}
"""Coroutines that put several questions, and are asked as a whole."""

BLOCKING = {"wait", "result", "join", "acquire"}
"""Methods that stop a thread; awaited ones are those of asyncio."""


def async_functions(tree: ast.AST) -> Iterator[ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def blocking_calls(source: str) -> list[str]:
    found = list[str]()
    for function in async_functions(ast.parse(source)):
        awaited = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Await)}
        tasks = {
            argument.arg for argument in function.args.args if "Task" in ast.unparse(argument.annotation or function)
        }
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            text = ast.unparse(node.func)
            if text in {"time.sleep", "sleep"}:
                found.append(text)
            is_of_text = text.startswith(("''", '"', "' '"))
            is_of_task = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in tasks
            if name_of(node.func) in BLOCKING and id(node) not in awaited and not is_of_text and not is_of_task:
                found.append(text)
    return found


def unbounded_questions(source: str) -> list[str]:
    """Name the awaited calls of `client`, `view` or a substrate that nothing bounds."""
    found = list[str]()
    for function in async_functions(ast.parse(source)):
        if function.name in ASKED_WHOLE:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
                text = ast.unparse(node.value.func)
                if any(part in {"client", "view", "_substrate"} for part in text.split(".")):
                    found.append(text)
    return found


def unbounded_waits(source: str) -> list[str]:
    """Name waits of threads without a time-out: `x.wait()`, `x.join()` and `x.result()`, not awaited, no argument."""
    tree, found = ast.parse(source), list[str]()
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    tasks = {"following"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            is_wait = node.func.attr in BLOCKING and id(node) not in awaited
            if is_wait and ast.unparse(node.func.value) not in tasks:
                found.append(ast.unparse(node.func))
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_blocks_the_loop(name: str) -> None:
    assert blocking_calls(FILES[name]) == []


@pytest.mark.parametrize("name", FILES)
def test_every_question_to_the_package_is_bounded(name: str) -> None:
    assert unbounded_questions(FILES[name]) == []


@pytest.mark.parametrize("name", FILES)
def test_no_thread_waits_without_a_limit(name: str) -> None:
    assert unbounded_waits(FILES[name]) == []


def test_what_asks_as_a_whole_is_bounded_as_a_whole() -> None:
    calls = [
        (name_of(node.func), [ast.unparse(argument) for argument in node.args])
        for source in FILES.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
    ]

    for coroutine in ASKED_WHOLE:
        used = [(by, arguments) for by, arguments in calls if any(f"self.{coroutine}(" in each for each in arguments)]
        assert used
        assert all(by == "ask" for by, _ in used)


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("async def f():\n    time.sleep(1)", blocking_calls),
        ("async def f(event):\n    event.wait(1)", blocking_calls),
        ("async def f(future):\n    future.result(3)", blocking_calls),
        ("async def f(self):\n    return await self.client.block()", unbounded_questions),
        ("async def f(self):\n    await self._substrate.close()", unbounded_questions),
        ("def f(thread):\n    thread.join()", unbounded_waits),
        ("def f(future):\n    return future.result()", unbounded_waits),
    ],
)
def test_the_check_finds_what_it_looks_for(source: str, check: object) -> None:
    assert callable(check)
    assert check(source) != []

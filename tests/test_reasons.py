"""Nothing is decided by the words of an error, or of anybody's sentence.

The kind: a text for people that code reads. Whoever edits the sentence, or can put words into it (a server
that names its tensors), then decides. What has to be told apart carries a `Reason`, a key, or a type of its
own.
"""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from commonground import errors
from commonground.client import wire
from commonground.errors import CommonGroundError, ConfigError, InputError, PrivacyError, Reason

ROOT = Path(__file__).parent.parent
ROOMS = ("src/commonground", "client", "server", "strategies", "simulations")
READERS = {
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "partition", "rpartition"),
    *(
        "split",
        "rsplit",
        "removeprefix",
        "removesuffix",
        "match",
        "fullmatch",
        "search",
        "findall",
        "finditer",
    ),
    "get",
}
SAID = {"message", "detail", "args", "faults", "msg", "strerror", "details"}
# (file, function) -> why it may read words. Each was looked at; a new one needs a reason as good.
ALLOWED = {
    ("client/contact.py", "_reason"): "shortens what OpenSSL says, to show it; nothing depends on it",
    ("client/node.py", "read"): "Flower's SuperNode tells how its connection is in its log alone",
    ("simulations/bench/machine.py", "_processor"): "a line of /proc/cpuinfo",
    ("simulations/cluster.py", "_start"): "Ray raises a bare Exception when it was too slow; it has no code",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "vault_pb2" not in path.name:
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_error(annotation: ast.expr | None) -> bool:
    words = "" if annotation is None else ast.unparse(annotation)
    return "Error" in words or "Exception" in words


def compares_words(node: ast.Compare) -> bool:
    """`error.hint is None` and `len(str(error)) > 80` read no words."""
    return any(isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq) for op in node.ops)


def reads_an_error(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """Lines of a function that compare, search or take apart what an exception says."""
    nodes: list[Any] = list(ast.walk(function))
    caught = {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    caught |= {
        one.arg for one in (*function.args.args, *function.args.kwonlyargs) if is_error(one.annotation)
    }
    texts: set[str] = set()

    def is_caught(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id in caught

    def says(expression: ast.AST) -> bool:
        for node in ast.walk(expression):
            if isinstance(node, ast.Name) and node.id in texts:
                return True
            if isinstance(node, ast.Attribute) and node.attr in SAID and is_caught(node.value):
                return True
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                tells = node.func.id in ("str", "repr") or node.func.id.endswith("first_line")
                if tells and is_caught(node.args[0]):
                    return True
        return False

    for _ in range(3):  # a text goes from name to name
        for node in nodes:
            if isinstance(node, ast.Assign) and says(node.value):
                texts |= {
                    n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)
                }
            if isinstance(node, ast.comprehension) and says(node.iter):
                texts |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
    found = []
    for node in nodes:
        compares = isinstance(node, ast.Compare) and compares_words(node)
        if compares and any(says(side) for side in (node.left, *node.comparators)):
            found.append(node.lineno)
        if isinstance(node, ast.Match) and says(node.subject):
            found.append(node.lineno)
        if isinstance(node, ast.Subscript) and says(node.slice):  # a table of texts
            found.append(node.lineno)
        reads = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if reads and node.func.attr in READERS and any(says(one) for one in (node.func.value, *node.args)):
            found.append(node.lineno)
    return found


def is_sentence(text: object) -> bool:
    """Two words, or a word and a space: what people read, and what no format or key is."""
    return isinstance(text, str) and any(part.isalpha() for part in text.split()) and " " in text


def reads_a_sentence(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[int]:
    """Lines that look for a literal of several words in a text."""
    found = []
    nodes: list[Any] = list(ast.walk(function))
    for node in nodes:
        literals: list[ast.AST] = []
        if isinstance(node, ast.Compare) and compares_words(node):
            literals = [node.left, *node.comparators]
        calls = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if calls and node.func.attr in READERS - {"index", "get"}:
            literals = [one for value in node.args for one in ast.walk(value)]
        if any(isinstance(one, ast.Constant) and is_sentence(one.value) for one in literals):
            found.append(node.lineno)
    return found


def readers(tree: ast.Module) -> dict[str, list[int]]:
    found = {one.name: reads_an_error(one) + reads_a_sentence(one) for one in functions(tree)}
    return {name: lines for name, lines in found.items() if lines}


def test_nothing_is_decided_by_the_words_of_an_error() -> None:
    found = {(path, name): lines for path, tree in sources() for name, lines in readers(tree).items()}
    assert {one: lines for one, lines in found.items() if one not in ALLOWED} == {}
    assert not set(ALLOWED) - set(found), "these do not read words any more: take them off the list"


@pytest.mark.parametrize(
    "body",
    [
        "if 'signed by' in error.message: pass",
        "return TABLE[str(error)]",
        "return TABLE.get(error.message)",
        "key, _, rest = error.message.partition(' ')",
        "said = str(error)\n        why = said\n        return why.startswith('x')",
        "return next(v for k, v in TABLE.items() if k in error.message)",
        "return re.match('a', error.args[0])",
        "match error.message:\n            case 'x': pass",
        "return any('x' in line for line in str(error).splitlines())",
    ],
)
def test_the_search_finds_a_reader(body: str) -> None:
    tree = ast.parse(f"def f():\n    try:\n        pass\n    except ValueError as error:\n        {body}\n")
    assert readers(tree)


@pytest.mark.parametrize(
    "body",
    ["raise InputError(f'no: {error}') from error", "log(error.message[:300])", "return error.reason is X"],
)
def test_the_search_lets_errors_be_shown(body: str) -> None:
    tree = ast.parse(f"def f():\n    try:\n        pass\n    except ValueError as error:\n        {body}\n")
    assert not readers(tree)


def test_the_search_finds_a_sentence() -> None:
    assert readers(ast.parse("def f(line):\n    return 'Sent successfully' in line"))
    assert readers(ast.parse("def f(line):\n    return line.startswith('not claimed')"))
    assert not readers(ast.parse("def f(line):\n    return ', '.join(line) == 'a' or line.split(', ')"))


def test_reasons_differ_and_reach_the_owner_through_the_socket() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    for error in (
        PrivacyError("no", hint="wait", reason=Reason.BUDGET),
        InputError("'x'; known: y", key="strategy.name"),
        ConfigError(["people: found 1\nand more", "rounds: found 0"], hint="see"),
    ):
        text = wire.fault_text(error)
        back = wire.raised(Told(text), "device")
        assert type(back) is type(error)
        assert (back.message, back.hint, back.reason) == (error.message, error.hint, error.reason)
        if isinstance(error, ConfigError):
            assert isinstance(back, ConfigError)
            assert back.faults == error.faults  # a fault may hold a line break of somebody's
        again = pickle.loads(pickle.dumps(error))
        assert (again.message, again.reason, again.key) == (error.message, error.reason, error.key)


def test_a_key_stands_before_what_is_said_of_it() -> None:
    assert InputError("'x'; known: y", key="strategy.name").message == "strategy.name is 'x'; known: y"
    assert InputError("krum compares", key="strategy.name", verb="=").message == "strategy.name=krum compares"
    assert CommonGroundError("plain").message == "plain"
    assert errors.CommonGroundError("plain").detail == "plain"


class Told(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """A call that failed with these details."""

    def __init__(self, details: str) -> None:
        self._details = details

    def details(self) -> str:
        return self._details

    def code(self) -> object:
        return grpc.StatusCode.FAILED_PRECONDITION

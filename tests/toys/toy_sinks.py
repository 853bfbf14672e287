"""Where the tree's code joins text that is not its own to something that texts can command.

Read from the syntax, so that a new place is found on the day it is written. What is a path is told from
annotations: every function here is annotated, and mypy holds it to that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import commonground

PATHS = {"Path", "PurePath", "PosixPath", "Traversable"}
JOINERS = {"joinpath", "with_name", "with_stem", "with_suffix"}
MAKERS = {"Path", "files", "home", "resolve", "absolute", "expanduser", "cwd", "with_suffix", "with_name"}


_INSIDE: dict[ast.AST, list[ast.AST]] = {}


def sources() -> Mapping[str, ast.Module]:
    """Every file of the package by its name below it, e.g. client/child.py."""
    found: dict[str, ast.Module] = {}
    root = Path(commonground.__file__).parent
    for folder in (root, *(entry for entry in root.iterdir() if entry.is_dir())):
        for file in folder.glob("*.py") if folder == root else folder.rglob("*.py"):
            found[file.relative_to(root).as_posix()] = ast.parse(file.read_text())
    return found


def own(node: ast.expr) -> bool:
    """Whether an expression is a constant of the code: a literal, or a name in capitals."""
    match node:
        case ast.Constant():
            return True
        case ast.JoinedStr(values=parts):
            return all(own(part) for part in parts)
        case ast.FormattedValue(value=value):
            return own(value)
        case ast.BinOp(left=left, right=right):
            return own(left) and own(right)
        case ast.IfExp(body=body, orelse=other):
            return own(body) and own(other)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper()
    return False


def joins(trees: Mapping[str, ast.Module]) -> list[tuple[str, str]]:
    """(file, expression) of every path to which something is joined that is no constant."""
    known = _Known(trees)
    return sorted(
        (file, ast.unparse(node))
        for file, tree in trees.items()
        for node, other in _joined(tree, known)
        if not all(own(one) for one in other)
    )


def calls(trees: Mapping[str, ast.Module], *names: str) -> Iterator[tuple[str, ast.Call]]:
    """(file, call) of every call of a function or method of one of these names."""
    for file, tree in trees.items():
        for node in _inside(tree):
            if isinstance(node, ast.Call) and _name(node.func) in names:
                yield file, node


def said(found: Sequence[tuple[str, ast.Call]]) -> list[tuple[str, str]]:
    """The calls as text, in order."""
    return sorted((file, ast.unparse(node)) for file, node in found)


class _Known:
    """Names that hold paths: functions and attributes anywhere, variables in their own function."""

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self.functions, self.attributes = set(MAKERS), {"parent"}
        for tree in trees.values():
            for node in _inside(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_path(node.returns):
                    (self.attributes if _property(node) else self.functions).add(node.name)
                elif isinstance(node, ast.ClassDef):
                    self.attributes |= {
                        one.target.id
                        for one in node.body
                        if isinstance(one, ast.AnnAssign)
                        and isinstance(one.target, ast.Name)
                        and _is_path(one.annotation)
                    }
        for tree in trees.values():
            for scope in _scopes(tree):
                kept = [node for node in _inside(scope) if isinstance(node, ast.Assign | ast.AnnAssign)]
                pairs = [
                    pair for node in kept for pair in _assigned(node) if isinstance(pair[0], ast.Attribute)
                ]
                names = self.variables(scope) if pairs else set()
                self.attributes |= {
                    ast.unparse(t).rpartition(".")[2] for t, v in pairs if self.holds(v, names)
                }

    def variables(self, scope: ast.AST) -> set[str]:
        """Names of a function that hold paths."""
        inside = _inside(scope)
        found = {
            one.arg
            for node in inside
            if isinstance(node, ast.arguments)
            for one in (*node.posonlyargs, *node.args, *node.kwonlyargs)
            if _is_path(one.annotation)
        }
        pairs = [pair for node in inside for pair in _assigned(node) if isinstance(pair[0], ast.Name)]
        for _ in range(2):  # twice: what is made of a path is one
            found |= {ast.unparse(target) for target, value in pairs if self.holds(value, found)}
        return found

    def holds(self, node: ast.expr, names: set[str]) -> bool:
        """Whether an expression is a path."""
        match node:
            case ast.Name(id=name):
                return name in names
            case ast.Attribute(attr=name):
                return name in self.attributes
            case ast.Call(func=func):
                return _name(func) in self.functions
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return self.holds(left, names) or _text(right)
            case ast.IfExp(body=body, orelse=other):
                return self.holds(body, names) or self.holds(other, names)
            case ast.BoolOp(values=values):
                return any(self.holds(value, names) for value in values)
        return False


def _joined(tree: ast.Module, known: _Known) -> Iterator[tuple[ast.AST, list[ast.expr]]]:
    seen: set[ast.AST] = set()
    for scope in _scopes(tree):
        found = [(node, parts) for node in _inside(scope) if node not in seen and (parts := _parts(node))]
        names = known.variables(scope) if found else set()
        for node, (left, *right) in found:
            if not isinstance(node, ast.BinOp) or known.holds(left, names) or _text(right[0]):
                seen.add(node)
                yield node, right


def _parts(node: ast.AST) -> list[ast.expr]:
    """What a join is made of, first the path it begins with; empty for anything else."""
    match node:
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return [left, right]
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="path"), attr="join"), args=[left, *right]):
            return [left, *right]
        case ast.Call(func=ast.Attribute(value=left, attr=name), args=args) if name in JOINERS and args:
            return [left, *args]
    return []


def _assigned(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            return [pair for target in targets for pair in _pairs(target, value)]
        case ast.AnnAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
            return [(target, value)] if value is not None else []
        case ast.For(target=target, iter=made) | ast.comprehension(target=target, iter=made):
            walks = isinstance(made, ast.Call) and _name(made.func) in {"iterdir", "glob", "rglob"}
            return [(target, ast.Call(ast.Name("Path"), [], []))] if walks else []
    return []


def _inside(scope: ast.AST) -> list[ast.AST]:
    if (found := _INSIDE.get(scope)) is None:
        found = _INSIDE[scope] = list(ast.walk(scope))
    return found


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """The outermost functions and methods, then the file: what a name means is told where it stands."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    yield tree


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _is_path(annotation: ast.expr | None) -> bool:
    return annotation is not None and bool(PATHS & set(ast.unparse(annotation).replace("|", " ").split()))


def _property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(one) for one in node.decorator_list)


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _name(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""

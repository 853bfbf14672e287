"""No test waits a fixed time for another process or thread, times itself, or takes a port of others.

The class of fault: a limit that a quiet machine keeps to and a busy one does not, such as 60 s for a vault
that was killed. All waiting goes through `toy_patience`.
"""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_port
from toy_patience import a_while, all_gone, ended, joined, until

TESTS = Path(__file__).parent
OWN = {TESTS / "toys" / "toy_patience.py", TESTS / "kernels.py"}
ENOUGH = 600  # a number of seconds from here on is patience
# Calls that wait, by the name they are called under; what they are given must be no small number.
WAITS = {
    "run", "check_output", "check_call", "communicate", "wait", "join", "get", "post", "request", "stream",
    "result", "wait_procs", "settimeout", "Client", "AsyncClient", "create_connection", "HTTPSConnection",
    "HTTPConnection", "wait_for", "wait_for_function", "wait_for_selector", "wait_for_url", "urlopen",
    "wait_for_timeout", "set_default_timeout", "set_default_navigation_timeout", "expect_download", "click",
    "send_and_receive",
}  # fmt: skip
FIRST = {"wait", "join", "result", "settimeout", "wait_for_timeout", "set_default_timeout"}
CLOCKS = {"monotonic", "perf_counter", "process_time"}


def name_of(call: ast.Call) -> str:
    """`b` of `a.b(...)` and of `b(...)`."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def number(node: ast.expr | None) -> float | None:
    """The value of a plain number."""
    found = node.value if isinstance(node, ast.Constant) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and reason of every fixed wait, and of every test that looks at the clock."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            if any(isinstance(n, ast.Call) and name_of(n) in CLOCKS for n in ast.walk(node)):
                yield node.lineno, "an assertion about the clock"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            call, seconds = node.left, number(node.right)
            if isinstance(call, ast.Call) and name_of(call) in CLOCKS and seconds is not None:
                yield node.lineno, "a time limit of its own"
        elif isinstance(node, ast.Call):
            name = name_of(node)
            if name == "free_port":
                yield node.lineno, "free_port is anybody's until it is bound; `own_port` is this test's"
            if ast.unparse(node.func) in ("sleep", "time.sleep"):
                yield node.lineno, "sleep; `until` waits for something, `a_while` for nothing"
            given = [k.value for k in node.keywords if k.arg == "timeout"] if name in WAITS else []
            given += node.args[:1] if name in FIRST else []
            for seconds in map(number, given):
                if seconds is not None and 0 < seconds < ENOUGH:
                    yield node.lineno, f"{name} with {seconds:g} seconds; `LIMIT` is patience"


def test_no_test_file_waits_a_fixed_time() -> None:
    files = [file for file in sorted(TESTS.rglob("*.py")) if file not in OWN]
    assert len(files) > 250
    found = [
        f"{file.relative_to(TESTS)}:{line}: {why}"
        for file in files
        for line, why in faults(ast.parse(file.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "time.sleep(1)",
        "sleep(0.1)",
        "child.wait(60)",
        "child.wait(timeout=5)",
        "thread.join(20)",
        "future.result(20)",
        "end = time.monotonic() + 60",
        "assert time.monotonic() - began < 5",
        "subprocess.run(words, timeout=120)",
        "page.wait_for_timeout(200)",
        "httpx.get(url, timeout=5.0)",
        "grid.send_and_receive(flood, timeout=150)",
        "port = free_port()",
    ],
)
def test_the_look_finds_what_it_is_for(code: str) -> None:
    assert list(faults(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["until(lambda: x)", "child.wait(LIMIT)", "''.join(words)", "child.wait()", "Guard(timeout=0.1)"]
)
def test_patience_is_no_fault(code: str) -> None:
    assert list(faults(ast.parse(code))) == []


def test_waiting_ends_with_what_happened_and_with_who_should_have_done_it() -> None:
    seen: list[int] = []
    assert until(lambda: seen.append(1) or (len(seen) >= 3 and "there")) == "there"  # type: ignore[func-returns-value]
    with pytest.raises(AssertionError, match="has ended: the moon"):
        until(lambda: False, "the moon", alive=lambda: False)
    with pytest.raises(AssertionError, match="within 0 s: the moon: not yet"):

        def never() -> bool:
            raise OSError("not yet")

        until(never, lambda: "the moon", unless=(OSError,), limit=0.0)
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(AssertionError, match="has ended"):
        until(lambda: False, alive=child)
    assert ended(child) == 3
    assert all_gone([child.pid])
    thread = threading.Thread(target=a_while, args=[0.01])
    thread.start()
    joined(thread)


def test_a_port_is_not_given_twice_though_nobody_listens_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    first = toy_port.own_port()
    other = "import sys; sys.path.insert(0, sys.argv[1]); import toy_port; toy_port.LOW = int(sys.argv[2])\n"
    other += "toy_port.HIGH = toy_port.LOW + 50; print(*[toy_port.own_port() for _ in range(10)])"
    words = [sys.executable, "-c", other, str(TESTS / "toys"), str(first)]
    taken = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert len(set(taken)) == 10
    assert str(first) not in taken
    asked = iter([first, first, first + 1, first + 2, first + 3, first + 4, first + 5])
    monkeypatch.setattr(toy_port, "_RANDOM", type("Same", (), {"randrange": lambda *_: next(asked)})())
    assert toy_port.own_port() != first


IGNORED = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does, and a shell that starts something aside
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)
"""
HEARS = """
import signal, subprocess, sys
sys.path.insert(0, sys.argv[1])
from toy_patience import hears_interrupts
hears_interrupts()
child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
subprocess.run([sys.executable, "-c", child], check=True)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""


def test_ctrl_c_is_heard_below_a_parent_that_ignores_it() -> None:
    """The suite in the background: what its tests start, and interrupt, ends all the same."""
    words = [sys.executable, "-c", IGNORED, HEARS, str(TESTS / "toys")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "heard"]
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # and so it is here

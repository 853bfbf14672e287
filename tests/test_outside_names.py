"""A name from outside is never a path, a statement of SQL, a format, a header, a log line or a formula.

Every place where text that is not this code's own is joined to one of these is found in the syntax and listed
here with why it may be: a new one has to be put on the list, and so is looked at.
"""

from __future__ import annotations

import ast

from toy_sinks import calls, joins, own, said, sources

SOURCES = sources()

# Why a name may stand in a path.
OURS = "a constant of this code, by way of a loop or an argument"
DIGITS = "digits, a hash, or random digits of ours"
HELD = "held to an alphabet without separators where it is read"
HERS = "beside a file or folder that the user named herself"
LISTED = "looked up in a list of ours first"
BELOW = "refused where it is absolute or leads out of its folder"

RICH = {"rich.table", "rich.table.Table", "rich.text.Text", "rich.markup.render"}  # what draws a text
PATHS = {
    "adapters.py": {"Path(work) / part": OURS},
    "bounds/charter_files.py": {
        "folder / place": BELOW,
        "folder / rule.place": "a model's folder",
    },
    "bounds/tiers.py": {"folder / name": OURS},
    "client/commands.py": {"profile.folder / name": OURS},
    "client/confined.py": {"profile / name": OURS},
    "client/join.py": {
        "profiles_home() / invitation.study": HELD,
        "target.with_name(f'.{target.name}.join')": HERS,
    },
    "client/noise_secret.py": {"secrets_folder() / f'{identity}.key'": DIGITS},
    "client/owner.py": {"run_folder(self.profile) / f'carried-{secrets.token_hex(8)}.zip'": DIGITS},
    "client/page/controls.py": {"stage.desk.folder / EXPORT.format(key)": DIGITS},
    "client/renew.py": {
        "folder / name": OURS,
        "ready / name": OURS,
        "folder.with_name(f'.{folder.name}.join')": HERS,
    },
    "client/service.py": {"(folder or home / 'systemd' / 'user') / unit_name(profile)": HELD},
    "client/store.py": {"self.path.with_name(self.path.name + end)": OURS},
    "client/supervisor.py": {"profile.log / f'{part.name}.log'": OURS},
    "client/takeout.py": {"folder / name": OURS},
    "client/vault.py": {"folder / name": OURS},
    "data/starter.py": {"files('commonground.data') / name": OURS},
    "data/tables.py": {"path / name": OURS},
    "embeddings.py": {"folder / name": OURS},
    "files.py": {"path.with_name(path.name + '.part')": HERS},
    "hub.py": {"folder / file": OURS},
    "language_model.py": {
        "cache_folder() / f'{files[0].stem.lower()}-{digest[:12]}'": "a file of an installed package, a hash",
        "folder / name": OURS,
    },
    "server/console/books.py": {"self.study.folder / name": LISTED},
    "server/releases.py": {
        "self._study.folder / 'releases' / f'{digest}.npz'": DIGITS,
        "self._study.folder / 'releases' / f'{row.tensors}.npz'": DIGITS,
    },
    "server/setup.py": {
        "draft / name": OURS,
        "folder.parent / f'{prefix}{secrets.token_hex(4)}'": HERS,
    },
    "server/supervisor.py": {"study.run / name": OURS},
    "simulations/bench/bounds.py": {"folder / f'draws-{plan}.jsonl'": DIGITS},
    "simulations/bench/bounds_people.py": {"kept / f'taste-{key[:24]}.npz'": DIGITS},
    "simulations/bench/commands.py": {
        "out / f'bench-{found.bench}.html'": OURS,
        "out / f'bench-{found.bench}.json'": OURS,
    },
    "simulations/bench/deployed.py": {
        "folder / f'person-{k}'": DIGITS,
        "folder / f'{profile.name}.invite'": DIGITS,
    },
    "simulations/bench/study.py": {"folder / 'run' / f'{number}.invite'": DIGITS},
    "simulations/certify/content.py": {"kept / f'{plan}.jsonl'": DIGITS},
    "simulations/certify/state_judge.py": {"files('commonground.data') / name": OURS},
    "simulations/cli.py": {"Path('runs') / (name if k == 1 else f'{name}-{k}')": DIGITS},
    "simulations/compare/command.py": {"Path('runs') / (name if k == 1 else f'{name}-{k}')": DIGITS},
    "simulations/compare/folder.py": {"self.path / CELLS / cell.name": HELD},
    "simulations/device_attacks/full.py": {"folder / f'attacks-{plan}.jsonl'": DIGITS},
    "simulations/device_attacks/made.py": {"folder / f'{name}-{key[:16]}.npz'": OURS},
    "simulations/device_attacks/stage.py": {"folder / f'shared-{key}.npz'": DIGITS},
    "simulations/device_attacks/study.py": {"folder / f'draws-{plan}.jsonl'": DIGITS},
    "simulations/fleet_store.py": {
        "self.folder / f'{stream}.json'": OURS,
        "self.folder / f'{stream}.slots'": OURS,
    },
    "simulations/folder.py": {"self.path / f'{name}.part'": OURS, "self.path / name": OURS},
    "simulations/mishaps.py": {"folder / marker": OURS},
    "simulations/parts.py": {
        "files('commonground.simulations') / 'configs' / f'demo-{name}.yaml'": OURS,
        "out / name": OURS,
    },
    "simulations/runner.py": {
        "folder.state / arm": OURS,
        "folder.state / f'initial-{arm}.npz'": OURS,
        "folder.state / f'job-{arm}.json'": OURS,
        "out / name": OURS,
    },
    "simulations/writing.py": {"folder / 'private' / numbered(place)": DIGITS},
    "study/carried.py": {"Path(made) / name": HELD, "folder / name": HELD},
    "training/styles.py": {
        "cache_folder() / f'styles-{key[:16]}'": DIGITS,
        "folder / f'{name}.safetensors'": OURS,
    },
    "web/serving.py": {"place.folder / place.link": OURS},
}

STATEMENTS = {
    (
        "client/database.py",
        "self.connection.execute(statement, values)",
    ): "constants, of every caller",
    ("embeddings.py", "SELECT key, vector FROM embedding WHERE key IN ({marks})"): "marks are question marks",
    ("privacy/ledger.py", "UPDATE entries SET status = 'committed' WHERE {where}"): "columns of its own",
    ("privacy/ledger.py", "self._db.execute(query, values)"): "one of two constants",
    ("server/tables.py", "PRAGMA {pragma}"): "a loop over constants",
    ("simulations/receipts.py", "BEGIN {kind}"): "IMMEDIATE or DEFERRED",
}


def test_every_join_of_a_path_is_known() -> None:
    found = joins(SOURCES)
    assert len(found) > 60
    assert {(file, text) for file, text in found} == {(file, text) for file in PATHS for text in PATHS[file]}


PLANTED = """
from pathlib import Path
class Kept:
    folder: Path
    def one(self, person: str) -> Path:
        return self.folder / person
def two(root: Path, names: list[str]) -> None:
    for name in names:
        (root / "people" / f"{name}.json").unlink()
def three(root: Path, name: str) -> Path:
    here, there = root / "a", name
    return here.joinpath(there)
def four(text: str, name: str) -> Path:
    return Path(text).resolve().with_name(name)
def five(a: str) -> str:
    import os
    return os.path.join("people", a)
def half(share: float, parts: float) -> float:
    return share / parts
def own(root: Path) -> Path:
    return root / "config.yaml" / NAME
"""


def test_the_list_would_find_a_new_one() -> None:
    found = joins({"planted.py": ast.parse(PLANTED)})
    assert [text for _, text in found] == [
        "Path(text).resolve().with_name(name)",
        "here.joinpath(there)",
        "os.path.join('people', a)",
        "root / 'people' / f'{name}.json'",
        "self.folder / person",
    ]


def test_no_statement_of_sql_holds_a_value() -> None:
    names = ("execute", "executemany", "executescript", "exec_driver_sql", "run", "rows", "row")
    asked = [
        (file, call)
        for file, call in calls(SOURCES, *names)
        if call.args and not _written(file, call.args[0]) and _speaks_sql(file, call)
    ]
    left = [
        (file, text)
        for file, text in said(asked)
        if not any(file == known and part in text.replace('"', "'") for known, part in STATEMENTS)
    ]
    assert left == []
    assert len(asked) >= len(STATEMENTS)


def _written(file: str, node: ast.expr) -> bool:
    """Whether a text is a constant of the code, or a name that is only ever given such."""
    if own(node) or not isinstance(node, ast.Name):
        return own(node)
    given = [
        one.value
        for one in ast.walk(SOURCES[file])
        if isinstance(one, ast.Assign) and any(ast.unparse(target) == node.id for target in one.targets)
    ]
    return bool(given) and all(map(own, given))


def _speaks_sql(file: str, call: ast.Call) -> bool:
    """Whether a call is one of a database: on the device `run`, `rows` and `row` are, elsewhere not."""
    assert isinstance(call.func, ast.Attribute | ast.Name)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
    if name.startswith("exec"):
        return True
    values = file.startswith("client/") and len(call.args) > 1
    return values and isinstance(call.args[1], ast.List | ast.Tuple)


def test_no_text_from_outside_is_a_format() -> None:
    found = [(f, c) for f, c in calls(SOURCES, "format", "format_map") if isinstance(c.func, ast.Attribute)]
    assert found
    assert (
        said([(f, c) for f, c in found if isinstance(c.func, ast.Attribute) and not own(c.func.value)]) == []
    )
    percent = [
        (file, ast.unparse(node))
        for file, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mod)
        and isinstance(node.right, ast.Tuple | ast.Dict)
        and not own(node.left)
    ]
    assert percent == []


def test_what_is_taken_for_html_is_ours() -> None:
    pages = [f"report/{name}.py" for name in ("certificate_page", "compare_page", "page")]
    assert said(list(calls(SOURCES, "Markup", "HTML", "html", "add_head_html", "add_body_html"))) == sorted(
        [
            *[(page, "Markup(data)") for page in pages],
            *[(page, "Markup(get_plotlyjs())") for page in pages],
            ("simulations/bench/plot.py", "Markup(get_plotlyjs())"),
            ("web/frame.py", "ui.add_head_html(f'<style>{style()}</style>')"),
        ]
    )
    assert said(list(calls(SOURCES, "markdown", "run_javascript", "from_string"))) == []
    inner = [
        (file, ast.unparse(node))
        for file, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "innerHTML" in ast.unparse(node.targets[0])
    ]
    assert inner == [("web/parts.py", "block.props['innerHTML'] = safe_html(text)")]


def test_no_header_holds_a_name_from_outside() -> None:
    names = ("Response", "FileResponse", "StreamingResponse", "HTTPException", "RedirectResponse")
    heads = [
        (file, ast.unparse(word.value))
        for file, call in calls(SOURCES, *names)
        for word in call.keywords
        if word.arg == "headers"
    ]
    assert sorted(heads) == [
        ("client/contact.py", "date"),  # the date alone, of an answer that goes nowhere
        ("client/page/controls.py", "{'cache-control': 'no-store'}"),
        (
            "client/page/messages.py",
            "{'content-disposition': f'attachment; filename=\"{name}\"', 'cache-control': 'no-store'}",
        ),  # two numbers
        ("server/console/audit.py", "head"),  # a name that was looked up in a list of two
    ]


def test_tables_logs_and_cells_have_one_home() -> None:
    """What a table, a log and a spreadsheet do with a stranger's text is decided in `terminal`."""
    taken = {
        file
        for file, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if f"{node.module}.{name.name}" in RICH
    }
    assert taken == {"terminal.py"}
    assert {file for file, _ in calls(SOURCES, "basicConfig", "StreamHandler", "Formatter")} == {
        "terminal.py"
    }
    assert said(list(calls(SOURCES, "writerow", "writerows"))) == [
        ("simulations/compare/rows.py", f"writer.writerow(map(spreadsheet_cell, {row}))")
        for row in ("cells", "head")
    ]
    assert said(list(calls(SOURCES, "to_csv", "to_html", "to_markdown", "DictWriter"))) == []
    printed = {file for file, call in calls(SOURCES, "print") if isinstance(call.func, ast.Attribute)}
    assert printed == {"console.py"}


def test_folders_are_removed_in_three_places_of_ours() -> None:
    assert said(list(calls(SOURCES, "rmtree", "removedirs"))) == [
        ("own_folders.py", "shutil.rmtree(folder)"),  # it carries our mark, and no other process makes it
        ("simulations/cluster.py", "shutil.rmtree(folder, ignore_errors=True)"),  # it was made there
        # of a run that has kept nothing, in a folder that was empty or its own
        ("simulations/folder.py", "shutil.rmtree(self.state, ignore_errors=True)"),
    ]


def test_no_shell_reads_anything() -> None:
    found = list(calls(SOURCES, "system", "popen", "Popen", "run", "check_output", "check_call", "getoutput"))
    shells = [
        (file, ast.unparse(call))
        for file, call in found
        if ast.unparse(call.func) in ("os.system", "os.popen", "subprocess.getoutput")
        or any(word.arg == "shell" for word in call.keywords)
    ]
    assert shells == []
    started = [(f, c) for f, c in found if ast.unparse(c.func).startswith("subprocess.")]
    assert len(started) >= 7
    assert all(not isinstance(call.args[0], ast.Constant | ast.JoinedStr) for _, call in started)

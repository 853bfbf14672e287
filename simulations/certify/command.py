"""What `commonground certify` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD

from commonground.client.profile import FILE as PROFILE
from commonground.client.profile import read_profile
from commonground.console import Output
from commonground.simulations.certify.content import Asked
from commonground.simulations.certify.run import CERTIFICATE, PAGE, certify
from commonground.simulations.device_attacks.shown import certificate_table
from commonground.simulations.output import RunProgress
from commonground.study.signing import fingerprint
from commonground.terminal import Table


def run_certify(output: Output, run: Path, asked: Asked) -> dict[str, Any]:
    """Certify a run or a device, print what was found, and return the envelope's data."""
    with RunProgress(output) as progress:
        if (run / PROFILE).is_file():
            from commonground.simulations.certify.device import certify_device

            paper = certify_device(read_profile(run.absolute()), asked, progress.stage)
        else:
            paper = certify(run, asked, progress.stage)
    found = paper.content
    output.show(found["claim"], _table(found), _judge(found["judge"]), _guard(found["guard"]), "")
    if "attacks" in found:
        output.show(certificate_table(found["attacks"]))
    if found["procedure"]["split"] == "dev":
        output.show("The probes are public (split dev): a certifier brings sealed ones.", "")
    output.show(
        f"certificate: {run / CERTIFICATE}",
        f"page: {run / PAGE}",
        f"signed by: {fingerprint(paper.signer)}",
    )
    files = {"certificate": str(run / CERTIFICATE), "page": str(run / PAGE)}
    return files | {"signer": paper.signer, "content": found}


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("violations")
    for name in ("probes", "seen", "at most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    rows = [("a random person", found["overall"]), ("the same, at any time", found["anytime"])]
    rows += list(found["constraints"].items())
    worst = found["worst_person"]
    rows.append((f"worst person: {worst['person']}", worst))
    for name, one in rows:
        high = f"{100 * one['high']:.1f} %"
        table.add_row(name, str(one["answers"]), str(one["events"]), high, one["verdict"])
    anyone, benign = found["any_adapter"], found["benign"]
    high = f"{100 * anyone['high']:.1f} %"
    table.add_row("any private adapter", str(found["overall"]["answers"]), "", high, anyone["verdict"])
    table.add_section()
    for name in ("lookalikes", "everyday"):
        one = benign[name]
        high = f"{100 * one['fallback_high']:.1f} %"
        words = f"not personal: {name}"
        table.add_row(words, str(one["answers"]), str(one["fallback"]), high, one["verdict"])
    return table


def _guard(guard: dict[str, Any]) -> str:
    return (
        f"the charter's guard: catches {guard['hits']} of {guard['violations']} such violations on "
        f"dev prompts, holds back {guard['alarms']} of {guard['safe']} others"
    )


def _judge(judge: dict[str, Any]) -> str:
    return (
        f"judge {judge['name']}: finds {judge['hits']} of {judge['violations']} labelled violations, "
        f"calls {judge['alarms']} of {judge['safe']} safe answers one"
    )

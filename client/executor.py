"""The participant's own executor: the node's tasks are run by the installed app, and by nothing else.

A stock SuperNode starts whatever code the server ships. Ours is started with `--isolation process`, so it
starts nothing; this process, which lives as long as the device is up, claims the node's tasks over its
Runtime API (loopback, HMAC under a secret of this machine) and answers them with
`commonground.client.app:app` of the installed wheel, whatever component the server names. The bundle that
the server ships is never unpacked and never imported. Only ClientApp tasks are run; any other is claimed to
be refused, since the node would wait for its end for good. Flower's Context is never stored.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from commonground.client import handlers
from commonground.client.devices import open_device
from commonground.client.guard import KINDS, Allowance, OversizedError, guarded, refusal
from commonground.client.node import bound_data
from commonground.client.parts import EXECUTOR
from commonground.client.profile import read_profile
from commonground.client.runtime import FLOWER, Claim, Runtime, check_flower
from commonground.client.schedule import leaves_after
from commonground.client.tally import Tally
from commonground.client.vault_device import TOKEN
from commonground.errors import CommonGroundError, InputError
from commonground.files import write_atomically
from commonground.manifest import Manifest
from commonground.strategies.records import CONFIG
from commonground.terminal import log_to_stderr

log = logging.getLogger("commonground.client.executor")

POLL = 0.5  # seconds between looks for a task
BUNDLES = 1000  # bundles that are known again
PLAIN = ("pyproject.toml", "README.md", "LICENSE", ".gitignore")  # what a bundle without code has
# Reasons of refusals, beside those of `handlers`: constants, for the owner.
FOREIGN_CODE, FOREIGN_TASK, FOREIGN_KIND = "foreign code", "no task of a ClientApp", "unknown message"
TOO_LARGE, KEPT_BACK, UNREADABLE = "an oversized message", "a reply kept back", "a damaged message"


@dataclass(frozen=True)
class Doing:
    """What `device status` is told of this process.

    Attributes:
        doing: idle | shared | private.
        round: of the message that is being answered; 0 while idle.
    """

    doing: str = "idle"
    round: int = 0


class Executor:
    """Answers a node's tasks, one at a time.

    Args:
        runtime: the node's Runtime API.
        tally: where refusals are counted.
        app: what answers.
        manifest: gives the manifest that holds for this device.
        tell: is told what is being done.
        clock: seconds; what answers are held back by, see `client.schedule`.
        wait: waits for so many seconds.
    """

    def __init__(
        self,
        runtime: Runtime,
        tally: Tally,
        app: ClientApp,
        manifest: Callable[[], Manifest],
        tell: Callable[[Doing], None] = lambda doing: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._wait = clock, wait
        self._runtime, self._tally, self._app, self._manifest = runtime, tally, app, manifest
        self._tell = tell
        self._bundles: set[str] = set()  # hashes of bundles that were looked at

    def run(self, stop: threading.Event) -> None:
        """Answer tasks until `stop` is set; raises `TrustError` where the node does not take the secret."""
        self._tell(Doing())
        lost = False
        while not stop.is_set():
            try:
                worked, lost = self.step(), False
            except httpx.HTTPError as error:  # the supervisor starts it again; its server will ask again
                if not lost:
                    log.info("the node does not answer: %s", type(error).__name__)
                worked, lost = False, True
            if not worked:
                stop.wait(POLL)

    def step(self) -> bool:
        """Claim and answer one task; False where none waits."""
        with self._runtime.claim() as claim:
            if claim is None:
                return False
            try:
                if claim.mine:
                    self._answer(claim)
                else:
                    self._turn_down(claim)
            except httpx.HTTPError:
                raise
            except Exception as error:  # what no reply can be made to: the supervisor frees the node
                log.warning("a task without a readable head (%s): refused", type(error).__name__)
                self._tally.add({UNREADABLE: 1})
                claim.end()
            finally:
                self._tell(Doing())
        return True

    def _answer(self, claim: Claim) -> None:
        began = self._clock()
        head = claim.head()  # first of all: a message that was not taken has no answer if this process dies
        if head is None:
            return claim.end()
        context, digest, bundle = claim.start()
        self._look_at(digest, bundle)
        try:
            reply = self._reply(claim, head, context)
        except httpx.HTTPError:
            raise
        except (Exception, SystemExit):  # an error's text is a channel: a constant leaves, whatever it is
            log.warning("a task failed", exc_info=True)
            self._tally.add({handlers.SHARED_FAILED: 1})
            reply = refusal(head, handlers.FAILED)
        took = self._clock() - began
        self._wait(leaves_after(took) - took)
        return claim.answer(reply)

    def _reply(self, claim: Claim, head: Message, context: Context) -> Message:
        kind = head.metadata.message_type
        if kind not in KINDS:
            return self._refuse(head, FOREIGN_KIND, f"a message of type {kind[:64]!a}")
        manifest = self._manifest()
        try:
            message = claim.message(head, Allowance(manifest))
        except OversizedError as error:
            return self._refuse(head, TOO_LARGE, error.message)
        except httpx.HTTPError:
            raise
        except Exception as error:
            return self._refuse(head, UNREADABLE, f"a message that cannot be read ({type(error).__name__})")
        self._tell(Doing("shared" if kind == KINDS[0] else "private", _round(message)))
        before = Counter(handlers.refusals)
        reply = self._app(message, context)
        self._tally.add(handlers.refusals - before)
        try:
            return guarded(reply, message, manifest)
        except CommonGroundError as error:
            return self._refuse(head, KEPT_BACK, f"the app's own reply ({error.message})")

    def _refuse(self, head: Message, reason: str, words: str) -> Message:
        log.warning("%s: refused", words)
        self._tally.add({reason: 1})
        return refusal(head)

    def _look_at(self, digest: str, bundle: bytes) -> None:
        """Say, once for each bundle, that it has code, which is not run; names alone are looked at."""
        if digest in self._bundles:
            return
        if len(self._bundles) >= BUNDLES:  # a server may send a new one with every task
            self._bundles.clear()
        self._bundles.add(digest)
        names = foreign_files(bundle)
        if names:
            shown = ", ".join(ascii(name[:80]) for name in names[:3]) + (", ..." if len(names) > 3 else "")
            log.warning(
                "bundle %.12s ships %d file(s) (%s): refused; this device runs its own code",
                digest,
                len(names),
                shown,
            )
            self._tally.add({FOREIGN_CODE: 1})

    def _turn_down(self, claim: Claim) -> None:
        log.warning("a task of type %s: refused", ascii(claim.kind[:64]))
        self._tally.add({FOREIGN_TASK: 1})
        if claim.head() is not None:  # the node answers for its task only once the message was taken
            claim.wait()
        claim.end()


def foreign_files(bundle: bytes) -> list[str]:
    """Names in a bundle beyond those that a bundle without code has; nothing of it is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError):
        return ["?"]
    return [name for name in names if name not in PLAIN and not name.startswith(".info/")]


def main(words: list[str] | None = None) -> int:
    """Run until SIGTERM: `python -m commonground.client.executor`; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--runtime", required=True, help="host:port of the node's Runtime API")
    parser.add_argument("--secret", type=Path, required=True, help="the file that the node was given")
    parser.add_argument("--token-stdin", action="store_true", help="read the vault's token, one line")
    asked = parser.parse_args(words)
    if asked.token_stdin:
        os.environ[TOKEN] = sys.stdin.readline().strip()
    log_to_stderr("%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for every look
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    # Nothing has to be saved at the end: the vault keeps what a round needs, and the tally is on disk.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        check_flower()
        profile = read_profile(asked.profile)
        profile.check_software()
        try:
            secret = asked.secret.read_bytes()
        except OSError as error:
            raise InputError(f"secret {asked.secret} cannot be read: {error.strerror}") from error
        from commonground.client.app import app  # the heavy libraries, once the cheap checks have passed

        bound_data(profile.terms().contract)
        tell = _teller(profile.run / EXECUTOR)
        tally = Tally(profile.log / "refusals.json")
        log.info("ready: flwr %s, commonground %s", FLOWER, profile.software)
        Executor(Runtime(asked.runtime, secret), tally, app, _manifest, tell).run(threading.Event())
    except CommonGroundError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


def _manifest() -> Manifest:
    return open_device(0).manifest


def _round(message: Message) -> int:
    try:
        return int(message.content[CONFIG]["round"])
    except (KeyError, ValueError, TypeError):
        return 0


def _teller(path: Path) -> Callable[[Doing], None]:
    def tell(doing: Doing) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        values = {"doing": doing.doing, "round": doing.round, "since": since}
        try:
            write_atomically(path, json.dumps(values).encode(), private=True)
        except CommonGroundError as error:
            log.warning("%s", error.message)

    return tell


if __name__ == "__main__":
    sys.exit(main())

"""The two gRPC services of the vault, as thin as they can be: one for the node, one for the owner.

Whatever happens behind `Node`, the caller gets what was sealed, what is public, or one of two constants: no
text of an error, no metric, no metadata. `Owner` tells its own person everything, and asks for the token.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import grpc

from commonground.client import vault_pb2 as pb
from commonground.client.belongings import Belongings
from commonground.client.rounds import RefusedError, Rounds
from commonground.client.sockets import TOKEN_KEY
from commonground.client.vault_pb2_grpc import NodeServicer, OwnerServicer
from commonground.client.wire import fault_text, from_tensors, to_tensors
from commonground.errors import CommonGroundError, EgressError, Reason
from commonground.manifest import Sealed

log = logging.getLogger("commonground.vault")

REFUSED, FAILED = "refused", "failed"


class NodeService(NodeServicer):  # type: ignore[misc]  # generated code is not typed
    """What the Flower node may ask.

    Args:
        rounds: does the work.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def Describe(self, asked: pb.Nothing, context: Any) -> pb.Contract:
        """The manifest and its digest."""

        def work() -> pb.Contract:
            found = self._rounds.describe()
            return pb.Contract(manifest=json.dumps(found.to_dict(), allow_nan=False), digest=found.digest)

        answer: pb.Contract = self._constant(context, work)
        return answer

    def SharedUpdate(self, asked: pb.Question, context: Any) -> pb.Sealed:
        """The sealed message of a round."""
        clip = asked.clip if asked.HasField("clip") else None

        def work() -> pb.Sealed:
            arrays = from_tensors(asked.shared)
            return sealed_message(self._rounds.shared_update(asked.round, arrays, clip, asked.release))

        answer: pb.Sealed = self._constant(context, work)
        return answer

    def PrivateUpdate(self, asked: pb.Question, context: Any) -> pb.Nothing:
        """A constant, whatever happens."""
        try:
            arrays = from_tensors(asked.shared)
            self._rounds.private_update(asked.round, arrays, asked.release)
        except (Exception, SystemExit) as error:
            self._note(error)
        return pb.Nothing()

    def _constant(self, context: Any, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except RefusedError:
            code, text = grpc.StatusCode.PERMISSION_DENIED, REFUSED
        except (Exception, SystemExit) as error:
            self._note(error)
            code, text = grpc.StatusCode.INTERNAL, FAILED
        context.abort(code, text)

    def _note(self, error: BaseException) -> None:
        """Say it in this device's log and count it; a store that refuses even that changes no answer."""
        if isinstance(error, RefusedError):
            return  # counted where it was refused
        log.warning("failed: %s", excuse(error))
        try:
            self._rounds.store.refusals.count(Reason.FAILED.value)
        except CommonGroundError as second:
            log.warning("not counted: %s", excuse(second))


def sealed_message(sealed: Sealed) -> pb.Sealed:
    """The only conversion of an update into something that leaves the vault; raises `EgressError`."""
    # The exact type: a subclass could carry other tensors than those that were checked.
    if type(sealed) is not Sealed:
        raise EgressError(f"a {type(sealed).__name__} may not leave; only a Sealed of manifest.seal() may")
    return pb.Sealed(tensors=to_tensors(sealed.tensors), digest=sealed.receipt.digest)


class OwnerService(OwnerServicer):  # type: ignore[misc]
    """What the person's own page and command line may ask.

    Args:
        mine: does the work.
        token: what every call must bring.
        wake: called after something that may need the private adapter to be fitted anew.
    """

    def __init__(self, mine: Belongings, token: str, wake: Callable[[], None]) -> None:
        self._mine, self._token, self._wake = mine, token, wake

    def Status(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.status)

    def Add(self, asked: pb.Feedback, context: Any) -> pb.Document:
        own = (asked.prompt, asked.chosen, asked.rejected, asked.tag, asked.why)
        return self._document(context, lambda: {"id": self._mine.add(*own)})

    def Tie(self, asked: pb.Verdict, context: Any) -> pb.Document:
        own = (asked.prompt, asked.a, asked.b, asked.verdict)
        return self._document(context, lambda: {"id": self._mine.tie(*own)})

    def Undo(self, asked: pb.Nothing, context: Any) -> pb.Document:
        found = self._document(context, self._mine.undo)
        self._wake()
        return found

    def Comparisons(self, asked: pb.Page, context: Any) -> pb.Document:
        return self._document(context, lambda: self._mine.comparisons(asked.offset, asked.limit))

    def Suggest(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.suggest)

    def Generate(self, asked: pb.Prompt, context: Any) -> Iterator[pb.Piece]:
        self._check(context)
        pieces = self._mine.generate(asked.text, asked.which, asked.tokens)
        try:
            for piece in pieces:
                if not context.is_active():
                    return
                yield pb.Piece(
                    text=piece.text,
                    source=piece.source,
                    tier=piece.tier,
                    constraint=piece.constraint,
                    reasons=piece.reasons,
                )
        except (Exception, SystemExit) as error:
            self._fail(context, error)
        finally:
            pieces.close()  # type: ignore[attr-defined]  # a generator: lets go of the model at once

    def ProposeTag(self, asked: pb.Candidates, context: Any) -> pb.Document:
        own = (asked.prompt, asked.a, asked.b)
        return self._document(context, lambda: {"tag": self._mine.propose_tag(*own)})

    def Learned(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.learned)

    def Refit(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.refit)

    def Ledger(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.ledger)

    def Receipts(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.receipts)

    def Receipt(self, asked: pb.Id, context: Any) -> pb.Message:
        def work() -> pb.Message:
            listed, sent = self._mine.receipt(asked.id)
            return pb.Message(json=json.dumps(listed), tensors=to_tensors(sent.message or {}))

        answer: pb.Message = self._told(context, work)
        return answer

    def Consent(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.consent)

    def Accept(self, asked: pb.Acceptance, context: Any) -> pb.Document:
        found = self._document(context, lambda: self._mine.accept(asked.offer, asked.epsilon_cap))
        self._wake()
        return found

    def Pause(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, lambda: self._mine.pause(True))

    def Resume(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, lambda: self._mine.pause(False))

    def Adapters(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.adapters)

    def Rollback(self, asked: pb.Id, context: Any) -> pb.Document:
        found = self._document(context, lambda: self._mine.rollback(asked.id))
        self._wake()
        return found

    def Reset(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.reset)

    def Withdraw(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.withdraw)

    def PrivateCap(self, asked: pb.Number, context: Any) -> pb.Document:
        found = self._document(context, lambda: self._mine.private_cap(asked.value))
        self._wake()
        return found

    def Passphrase(self, asked: pb.Secrets, context: Any) -> pb.Document:
        return self._document(context, lambda: self._mine.passphrase(asked.old, asked.new))

    def Export(self, asked: pb.Place, context: Any) -> pb.Document:
        return self._document(context, lambda: self._mine.export(Path(asked.path)))

    def Erase(self, asked: pb.Nothing, context: Any) -> pb.Document:
        return self._document(context, self._mine.erase)

    def _document(self, context: Any, work: Callable[[], Any]) -> pb.Document:
        found = self._told(context, work)
        return pb.Document(json=json.dumps(found, ensure_ascii=False, allow_nan=False))

    def _told(self, context: Any, work: Callable[[], Any]) -> Any:
        self._check(context)
        try:
            return work()
        except (Exception, SystemExit) as error:
            failed = error
        self._fail(context, failed)

    def _fail(self, context: Any, error: BaseException) -> NoReturn:
        log.warning("the owner's call failed: %s", excuse(error))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, fault_text(error))
        raise AssertionError("abort raises")

    def _check(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get(TOKEN_KEY, "")
        text = given.encode() if isinstance(given, str) else given
        if not hmac.compare_digest(text, self._token.encode()):  # in constant time
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token, or another")


def excuse(error: BaseException) -> str:
    """An error as the log has it: without what a program's fault may quote of a person's texts."""
    if isinstance(error, CommonGroundError):
        return f"{error.error_code}: {error.message[:300]}"
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}"

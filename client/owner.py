"""The vault as its owner sees it: what the page and the command line call.

Answers are plain dictionaries, lists and texts. Times are UTC, ISO 8601. Numbers that may be infinite are the
text "inf". Every method raises a `CommonGroundError` whose one line can be shown as it is; all of them raise
`InputError` where no vault runs on the profile.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np

from commonground.client import vault_pb2 as pb
from commonground.client.keys import door_key, open_key, unlock_token
from commonground.client.pieces import Piece
from commonground.client.sockets import OWNER, TOKEN, TOKEN_KEY, run_folder, socket_folder
from commonground.client.vault_pb2_grpc import OwnerStub
from commonground.client.wire import from_tensors, raised
from commonground.errors import InputError
from commonground.files import new_private_file

Document = dict[str, Any]
SHORT, LONG = 60.0, 3600.0  # seconds: what is looked up, and what trains or writes


def locked_token(profile: Path) -> bytes:
    """The owner's token as the vault of a profile wrote it; raises `InputError` where none was started."""
    try:
        return (run_folder(profile) / TOKEN).read_bytes()
    except OSError as error:
        raise InputError(
            f"no vault runs on the profile {profile}", hint="start it: commonground device up"
        ) from error


class OwnerClient:
    """Calls the vault of one profile.

    Args:
        profile: the profile's folder.
        passphrase: of its store, where no keyring has the key.
        token: what the vault was started with, for its own page; None unlocks it with the store's key.
        key: of the store, where the caller has it; None opens it.

    Attributes:
        token: what opens the vault's door, and the page's link.

    Raises:
        InputError: no vault has been started on it, or the store's key cannot be had.
    """

    def __init__(
        self,
        profile: Path,
        passphrase: str | None = None,
        *,
        token: str | None = None,
        key: bytes | None = None,
    ) -> None:
        self.profile = profile
        locked = locked_token(profile)
        if token is None:
            token = unlock_token(door_key(open_key(profile, passphrase) if key is None else key), locked)
        self.token = token
        self._metadata = ((TOKEN_KEY, token),)
        self._channel = grpc.insecure_channel(
            f"unix:{socket_folder(profile) / OWNER}", options=[("grpc.max_receive_message_length", -1)]
        )
        self._stub = OwnerStub(self._channel)

    def close(self) -> None:
        """Close the connection; the object is not used again."""
        self._channel.close()

    def __enter__(self) -> OwnerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> Document:
        """How the device stands.

        Returns:
            study: str. name: str, what the operator calls this person. address: str, of the server.
            state: "consent" (nothing is accepted yet), "paused", "closed" (outside of the study's time),
                "spent" (no further message is within the budget), "learning" (a local update runs now) or
                "ready".
            words: str, the state as one sentence.
            paused: bool. consented: bool. open: bool.
            offer: {"version": int, "digest": str}; accepted: str | None, the digest that was accepted.
            kind: "reward" | "policy". base: dict[str, str], SHA-256 of what the model is made of.
            charter: None, or what bounds every answer: {"title": str, "version": int, "digest": str,
                "appeal": str, "constraints": dict[str, str], id and text}; None also until it was looked at.
            comparisons: {"safety": int, "taste": int, "ties": int, "cap": int}; cap: most that count.
            shared: {"version": int, "round": int}; 0 before the first release.
            private: {"version": int, "steps": int, "of": int, "taste": int, "new": int}: lifetime steps done,
                and of how many; taste comparisons it learned from; those that it has not seen.
            refit: None, or str: why the private adapter is being, or was last, fitted anew.
            refusals: dict[str, int], what was asked of this device and refused, by reason.
            sent: int, messages that left.
        """
        return self._document(self._stub.Status, pb.Nothing())

    def add(self, prompt: str, chosen: str, rejected: str, tag: str, why: str = "") -> int:
        """Keep a comparison; `tag` is "taste" or "safety".

        Returns:
            Its id.

        Raises:
            DataError: a text is empty or too long, the two answers are equal, or the tag is unknown.
        """
        asked = pb.Feedback(prompt=prompt, chosen=chosen, rejected=rejected, tag=tag, why=why)
        return int(self._document(self._stub.Add, asked)["id"])

    def tie(self, prompt: str, a: str, b: str, verdict: str) -> int:
        """Keep that neither answer was better; `verdict` is "tie" or "both bad". Nothing is learned from it.

        Returns:
            Its id.
        """
        return int(self._document(self._stub.Tie, pb.Verdict(prompt=prompt, a=a, b=b, verdict=verdict))["id"])

    def undo(self) -> Document | None:
        """Take the newest comparison or tie back; what a private adapter learned from it goes too.

        Returns:
            What was taken back, as in `comparisons`; None where there was nothing.
        """
        return cast("Document | None", self._value(self._stub.Undo, pb.Nothing()))

    def comparisons(self, offset: int = 0, limit: int = 50) -> Document:
        """What the person said, the newest first.

        Returns:
            total: int. items: list of {"id": int, "time": str, "prompt": str, "chosen": str, "rejected": str,
            "tag": "taste" | "safety", "verdict": "better" | "tie" | "both bad", "why": str}.
        """
        return self._document(self._stub.Comparisons, pb.Page(offset=offset, limit=limit))

    def suggest(self) -> Document | None:
        """Something to compare.

        Returns:
            {"prompt": str, "answers": [str, str]}, in an order that means nothing, for a study of kind
            `reward`; None for `policy`, where the person's own model writes the answers (`generate`).
        """
        return cast("Document | None", self._value(self._stub.Suggest, pb.Nothing()))

    def generate(self, prompt: str, which: str = "personal", tokens: int = 128) -> Iterator[Piece]:
        """Write an answer under the charter, piece by piece; none is given before it has passed.

        Args:
            prompt: what is asked.
            which: "base", "shared" or "personal".
            tokens: at most so many tokens.

        Yields:
            Pieces; their joined texts are the answer. It is what a model wrote: show it as text.
                `pieces.why` says why it is this one and no other.

        Raises:
            InputError: the study's model writes nothing (kind `reward`).
            TrustError: the charter's files are not what it names: then nothing is written.
        """
        asked = pb.Prompt(text=prompt, which=which, tokens=tokens)
        try:
            for piece in self._stub.Generate(asked, metadata=self._metadata, timeout=LONG):
                yield Piece(piece.text, piece.source, piece.tier, piece.constraint, tuple(piece.reasons))
        except grpc.RpcError as error:
            raise raised(error, "generate") from error

    def propose_tag(self, prompt: str, a: str, b: str) -> str:
        """Say "safety" where this may be about harm, or it is not sure; else "taste". The person confirms."""
        return str(self._document(self._stub.ProposeTag, pb.Candidates(prompt=prompt, a=a, b=b))["tag"])

    def learned(self) -> Document:
        """What the private adapter learned about the person.

        Returns:
            words: str, one sentence. taste: int, comparisons it learned from. steps: int. of: int.
            fits: int, how many times it was fitted from the start.
            agrees: {"before": float, "after": float} | None: share of the person's taste comparisons that the
                shared and the personal policy order as she did (they were learned from: this is no test).
            styles: list of {"name": str, "before": float, "after": float}: public styles of answers, and how
                much each is liked compared with the average style, the largest change first.
            examples: list of {"prompt": str, "before": str, "after": str}: public prompts, and the answer
                that each policy prefers (kind `reward`) or writes (kind `policy`: empty; `generate` writes).
        """
        return self._document(self._stub.Learned, pb.Nothing(), LONG)

    def refit(self) -> Document:
        """Fit the private adapter anew from the stored comparisons, now; returns what `learned` counts.

        Returns:
            {"version": int, "taste": int, "steps": int}.
        """
        return self._document(self._stub.Refit, pb.Nothing(), LONG)

    def ledger(self) -> Document:
        """What was spent.

        Returns:
            trust: "central" | "local", who adds the noise. unit: "person".
            epsilon: float | "inf", spent so far, as this device computes it. delta: float.
            cap: float | "inf", accepted by the person. left: float | "inf", cap minus spent, at least 0.
            one: float | "inf", what the next message would bring it to.
            messages: int, charged. most: int, k. separation: int, b.
            meaningful: bool, whether delta says anything for so few people.
            words: list[str], the statement in sentences.
            entries: list of {"time": str, "key": str, "status": "reserved" | "committed", "q": float,
            "z": float, "steps": int}, the newest first.
        """
        return self._document(self._stub.Ledger, pb.Nothing())

    def receipts(self) -> list[Document]:
        """The messages that left, the newest first.

        Returns:
            {"id": int, "time": str, "round": int, "release": int, "bytes": int, "names": list[str],
            "digest": str, "epsilon": float | "inf"}; epsilon: spent once it had left.
        """
        return cast("list[Document]", self._value(self._stub.Receipts, pb.Nothing()))

    def receipt(self, id: int) -> Document:
        """One message that left, to its bytes.

        Returns:
            What `receipts` says of it, and tensors: list of {"name": str, "dtype": str, "shape": list[int],
            "bytes": bytes (little-endian), "values": numpy array}. Old messages may have been dropped: then
            the list is empty.
        """
        try:
            answer = self._stub.Receipt(pb.Id(id=id), metadata=self._metadata, timeout=SHORT)
        except grpc.RpcError as error:
            raise raised(error, "receipt") from error
        found = cast(Document, json.loads(answer.json))
        arrays = from_tensors(answer.tensors)
        return found | {"tensors": [_shown(name, value) for name, value in arrays.items()]}

    def consent(self) -> Document:
        """What is offered, and what was accepted.

        Returns:
            offer: {"study", "version": int, "digest", "purpose", "contact", "shares", "opens", "closes",
            "software", "signer" (the key's fingerprint)}.
            accepted: None, or {"digest": str, "version": int, "time": str, "epsilon_cap": float | "inf"}.
            changed: bool, whether the offer is another one than was accepted.
            trust: "central" | "local". epsilon: float | "inf" of all k messages, derived by this device.
            clip, noise_multiplier: float. most: int. separation: int. size: int, numbers in a message.
            leaves: list of {"name": str, "shape": list[int], "dtype": str}.
            words: list[str], what it means in sentences, the risks included; the first says who adds the
                noise. claim: list[str], the claim in full, with every number.
            charter: None, or as in `status`, and signer: str, the fingerprint of who signed it; rules: list
                of {"id", "text", "severity", "jurisdiction"}; words: list[str], what it does to answers, its
                bounds, who may change it and how to appeal.
            fits: None, or str: why this device cannot take part in it (software, base model, manifest).
        """
        return self._document(self._stub.Consent, pb.Nothing(), LONG)

    def accept(self, offer_digest: str, epsilon_cap: float) -> Document:
        """Accept the offer with this digest, up to this epsilon; returns `consent()`.

        Raises:
            TrustError: the digest is not that of the offer in the profile, or this device cannot derive the
                same manifest from it.
            InputError: the cap is not above 0.
        """
        asked = pb.Acceptance(offer=offer_digest, epsilon_cap=epsilon_cap)
        return self._document(self._stub.Accept, asked, LONG)

    def withdraw(self) -> Document:
        """Take every consent back; returns `consent()`.

        Nothing more is sent and nothing more is learned from the study. What was sent stays sent, and what it
        cost stays in the account. Accepting again is a new consent.
        """
        return self._document(self._stub.Withdraw, pb.Nothing())

    def private_cap(self, epsilon: float) -> Document:
        """The most that fits of the private adapter may cost one comparison together, from now on.

        Returns:
            The account of private adapters, as `ledger()["private"]`.

        Raises:
            InputError: it is not above 0 (infinity is no cap).
        """
        return self._document(self._stub.PrivateCap, pb.Number(value=epsilon), LONG)

    def passphrase(self, old: str, new: str) -> Document:
        """Change the passphrase of the store, or set one beside the keyring; the store itself stays.

        Args:
            old: the one that holds now; empty where there is none.
            new: the one from the next start on.

        Returns:
            {"ways": how the key is kept}.

        Raises:
            InputError: the old one is wrong or missing, or the new one is too short; nothing is changed.
        """
        return self._document(self._stub.Passphrase, pb.Secrets(old=old, new=new), LONG)

    def pause(self) -> Document:
        """Send nothing until `resume`; returns `status()`."""
        return self._document(self._stub.Pause, pb.Nothing())

    def resume(self) -> Document:
        """Take part again; returns `status()`."""
        return self._document(self._stub.Resume, pb.Nothing())

    def adapters(self) -> list[Document]:
        """Kept versions of the private adapter, the newest first.

        Returns:
            {"version": int, "time": str, "reason": str, "steps": int, "taste": int, "release": int,
            "current": bool}; taste: comparisons it learned from; release: of the shared adapter under it.
        """
        return cast("list[Document]", self._value(self._stub.Adapters, pb.Nothing()))

    def rollback(self, version: int) -> Document:
        """Use an older version of the private adapter again; returns `status()`."""
        return self._document(self._stub.Rollback, pb.Id(id=version))

    def reset(self) -> Document:
        """Forget what was learned: answers are bit for bit the shared policy's; returns `status()`.

        Comparisons stay in the store and are not learned from again; new ones are.
        """
        return self._document(self._stub.Reset, pb.Nothing())

    def export(self, path: Path) -> Document:
        """Write everything to a plain zip file with a README; returns {"path": str, "bytes": int}.

        The vault writes into the profile, which is all that it may write to as a service of systemd; this
        process, the person's own, carries the file to where she wants it.

        Raises:
            InputError: the file exists.
            StorageError: it cannot be written.
        """
        target, made = path.absolute(), run_folder(self.profile) / f"carried-{secrets.token_hex(8)}.zip"
        try:
            with new_private_file(target) as file:
                asked = pb.Place(path=str(made.absolute()))
                found = self._document(self._stub.Export, asked, LONG)
                with made.open("rb") as source:
                    shutil.copyfileobj(source, file)
        finally:
            made.unlink(missing_ok=True)
        return found | {"path": str(target)}

    def erase(self) -> Document:
        """Destroy the key and the store; the vault stops. What was sent before cannot be called back.

        Returns:
            {"erased": True}.
        """
        return self._document(self._stub.Erase, pb.Nothing())

    def _document(self, call: Any, asked: Any, timeout: float = SHORT) -> Document:
        return cast(Document, self._value(call, asked, timeout))

    def _value(self, call: Any, asked: Any, timeout: float = SHORT) -> Any:
        try:
            return json.loads(call(asked, metadata=self._metadata, timeout=timeout).json)
        except grpc.RpcError as error:
            raise raised(error, type(asked).__name__.lower()) from error


def _shown(name: str, value: np.ndarray) -> Document:
    raw = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    shape = list(value.shape)
    return {"name": name, "dtype": value.dtype.name, "shape": shape, "bytes": raw, "values": value}

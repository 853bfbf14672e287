"""Log-probabilities of answers, with adapters that act from the last prompt token on.

The prompt before its last token is always read by the base model. Everything below the lowest adapted layer
is frozen, so its output is computed once for each text and kept ("trunk"), as are the keys and values of the
prompt in the adapted layers: a training step runs only the top layers over the answer, and the LM head only
where an answer token is predicted. Each text is read alone, so its trunk has the same bits whatever was asked
before. `GatedDecoder` uses this short path when it reproduces the model's own forward on a probe, and the
model's own forward with its cache otherwise (other layouts, e.g. GPT-2).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from commonground.adapter_targets import decoder_layers
from commonground.adapters import Adapters
from commonground.errors import ModelError
from commonground.training.texts import Ids

Row = tuple[Ids, Ids]  # prompt, answer
KeysValues = dict[int, tuple[Tensor, Tensor]]  # layer -> keys and values, each (R, heads, T, size)
TOLERANCE = 1e-3  # nats a sequence, between the short path and the model's own forward
MASKED = torch.finfo(torch.float32).min


def cache_keyword(module: Any) -> str:
    """What this version of transformers calls the key-value cache in `module.forward`."""
    return "cache" if "cache" in inspect.signature(module.forward).parameters else "past_key_values"


@dataclass
class _Prefix:
    """A key-value cache that only prepends: `kept[layer] = (keys, values)`, each (R, heads, T, size).

    Attention layers ask nothing else of a cache than `update`. With `record` it keeps what it saw.
    """

    kept: KeysValues
    record: bool = False

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            before = self.kept[layer]
            rows = keys.shape[0]
            keys = torch.cat([before[0].expand(rows, -1, -1, -1), keys], dim=2)
            values = torch.cat([before[1].expand(rows, -1, -1, -1), values], dim=2)
        if self.record:
            self.kept[layer] = (keys, values)
        return keys, values


@dataclass
class _Trunk:
    """What is frozen for one prompt: keys and values of the adapted layers, trunk output of its answers."""

    keys: KeysValues
    answers: dict[Ids, Tensor]  # answer -> (tokens, width)

    def bytes(self) -> int:
        kept = [t for pair in self.keys.values() for t in pair] + list(self.answers.values())
        return sum(t.numel() * t.element_size() for t in kept)


class GatedDecoder:
    """Scores answers under whatever adapters are enabled.

    Args:
        model: the transformers model that `adapters` sit on.
        adapters: both adapters.
        lowest: index of the lowest adapted layer.
        common: token ids that most prompts begin with (the chat template's head); read once.
        cache_bytes: bound on the trunks kept in memory; the least recently used go first.
        probe: a (prompt, answer) of at least a few tokens, to check the short path on.
    """

    def __init__(
        self,
        model: Any,
        adapters: Adapters,
        *,
        lowest: int,
        common: Ids,
        cache_bytes: int,
        probe: Row,
    ) -> None:
        self.model, self.adapters = model, adapters
        self._lowest, self._common, self._limit = lowest, common, cache_bytes
        path, layers = decoder_layers(model)
        self._layers = list(layers)
        self._decoder = model.get_submodule(path.rpartition(".")[0])
        self._head = model.get_output_embeddings()
        self._common_keys: KeysValues | None = None
        self._trunks: OrderedDict[Ids, _Trunk] = OrderedDict()
        self._held = 0
        self._refuse_another_forward(probe)
        self.short_path = self._short_path_is_right(probe)

    def logps(self, rows: Sequence[Row]) -> Tensor:
        """Log-probability of each answer given its prompt, summed over its tokens.

        Args:
            rows: R pairs of prompt and answer ids, answers not empty.

        Returns:
            (R,) float32, nats; differentiable when adapters are trainable.
        """
        return self._short(rows) if self.short_path else self._plain(rows)

    def _short(self, rows: Sequence[Row]) -> Tensor:
        trunks = self._prepare(rows)
        states = [trunk.answers[answer] for trunk, (_, answer) in zip(trunks, rows, strict=True)]
        lengths = [len(s) for s in states]
        hidden = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        before = [len(prompt) - 1 for prompt, _ in rows]
        one = all(prompt == rows[0][0] for prompt, _ in rows)
        longest = max(before)
        prefix = trunks[0].keys if one else _stack([t.keys for t in trunks], longest)
        mask = _mask(before, longest, hidden.shape[1])
        positions = torch.tensor(before)[:, None] + torch.arange(hidden.shape[1])
        hidden = self._run(hidden, range(self._lowest, len(self._layers)), _Prefix(prefix), mask, positions)
        return self._head_logps(self._decoder.norm(hidden), lengths, rows)

    def _head_logps(self, hidden: Tensor, lengths: Sequence[int], rows: Sequence[Row]) -> Tensor:
        kept = torch.cat([hidden[i, :n] for i, n in enumerate(lengths)])  # only where answers are predicted
        return _sum_logps(self._head(kept), lengths, rows)

    def _run(self, hidden: Tensor, layers: range, cache: _Prefix, mask: Tensor, positions: Tensor) -> Tensor:
        rotation = self._decoder.rotary_emb(hidden, positions)
        keyword = cache_keyword(self._layers[0])
        for index in layers:
            out = self._layers[index](
                hidden,
                attention_mask=mask,
                position_ids=positions,
                position_embeddings=rotation,
                use_cache=True,
                **{keyword: cache},
            )
            hidden = out[0] if isinstance(out, tuple) else out
        return hidden

    def _prepare(self, rows: Sequence[Row]) -> list[_Trunk]:
        """Trunks of all rows; what is missing is read now, without gradients and adapters."""
        wanted: dict[Ids, dict[Ids, None]] = {}
        for prompt, answer in rows:
            wanted.setdefault(prompt, {})[answer] = None
        used: dict[Ids, _Trunk] = {}
        for prompt, answers in wanted.items():
            trunk = self._trunks.get(prompt)
            missing = [a for a in answers if trunk is None or a not in trunk.answers]
            if trunk is None or missing:
                with self.adapters.disabled():
                    trunk = self._read(prompt, missing, trunk)
                self._keep(prompt, trunk)
            used[prompt] = trunk
            if prompt in self._trunks:
                self._trunks.move_to_end(prompt)
        return [used[prompt] for prompt, _ in rows]

    def _read(self, prompt: Ids, missing: list[Ids], trunk: _Trunk | None) -> _Trunk:
        start = len(prompt) - 1
        cache = _Prefix(self._read_prompt(prompt[:-1]))
        answers = dict(trunk.answers) if trunk else {}
        for answer in missing:  # alone: a batch would round by what else is in it, and a resumed run differ
            ids = torch.tensor([(prompt[-1], *answer[:-1])])
            hidden = self._decoder.embed_tokens(ids)
            positions = start + torch.arange(len(answer))[None]
            mask = _mask([start], start, len(answer))
            answers[answer] = self._run(hidden, range(self._lowest), cache, mask, positions)[0].clone()
        kept = {layer: pair for layer, pair in cache.kept.items() if layer >= self._lowest}
        return _Trunk(kept, answers)

    def _read_prompt(self, ids: Ids) -> KeysValues:
        """Keys and values of all layers, starting from those of the common beginning where it fits."""
        head = self._common
        if not head or ids[: len(head)] != head:
            return self._extend({}, ids, 0)
        if self._common_keys is None:
            self._common_keys = self._extend({}, head, 0)
        return self._extend(self._common_keys, ids[len(head) :], len(head))

    def _extend(self, kept: KeysValues, ids: Ids, start: int) -> KeysValues:
        if not ids:
            return kept
        cache = _Prefix(dict(kept), record=True)
        hidden = self._decoder.embed_tokens(torch.tensor([ids]))
        positions = start + torch.arange(len(ids))[None]
        self._run(hidden, range(len(self._layers)), cache, _mask([start], start, len(ids)), positions)
        return cache.kept

    def _keep(self, prompt: Ids, trunk: _Trunk) -> None:
        old = self._trunks.pop(prompt, None)
        self._held += trunk.bytes() - (old.bytes() if old else 0)
        self._trunks[prompt] = trunk
        while self._held > self._limit and self._trunks:
            self._held -= self._trunks.popitem(last=False)[1].bytes()

    def _plain(self, rows: Sequence[Row]) -> Tensor:
        """The same by the model's own forward: prompt without adapters into a cache, answer with them."""
        from transformers import DynamicCache

        found: list[Tensor] = []
        for prompt, answer in rows:
            cache = DynamicCache(config=self.model.config)
            keyword = {cache_keyword(self.model): cache, "use_cache": True}
            if len(prompt) > 1:
                with self.adapters.disabled():
                    self.model(input_ids=torch.tensor([prompt[:-1]]), **keyword)
            ids = torch.tensor([(prompt[-1], *answer[:-1])])
            logits = self.model(input_ids=ids, **keyword).logits[0]
            found.append(_sum_logps(logits, [len(answer)], [(prompt, answer)]))
        return torch.cat(found)

    def _refuse_another_forward(self, probe: Row) -> None:
        """Compare `_plain` with one forward over prompt and answer, without adapters.

        A model that keeps more than keys and values (recurrent layers) forgets it between prompt and answer,
        and would be scored a little wrong.

        Raises:
            ModelError: they differ, or the model has another forward than a decoder's.
        """
        prompt, answer = probe
        self.adapters.enable(())
        kind = type(self.model).__name__
        try:
            with torch.no_grad():
                whole = self.model(input_ids=torch.tensor([(*prompt, *answer[:-1])])).logits[0]
                right = _sum_logps(whole[len(prompt) - 1 :], [len(answer)], [probe])
                apart = float((self._plain([probe]) - right).abs().max())
        except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise ModelError(f"a {kind} cannot be read in two parts, prompt and answer: {said}") from error
        if not apart < TOLERANCE:
            raise ModelError(
                f"a {kind} gives an answer another probability where its prompt is read first "
                f"(by {apart:.2g} nats; accepted: {TOLERANCE:g}): it keeps more than keys and values"
            )

    def _short_path_is_right(self, probe: Row) -> bool:
        """Compare both paths on a probe, with both adapters away from zero."""
        parts = ("shared", "private")
        before = {part: self.adapters.read(part) for part in parts}
        for part in parts:
            self.adapters.load(part, {n: torch.full_like(v, 1e-2) for n, v in before[part].items()})
        try:
            self.adapters.enable(parts)
            with torch.no_grad():
                rows = [probe, (probe[0], probe[1][:-1] or probe[1]), (probe[0][-2:], probe[1])]
                return bool((self._short(rows) - self._plain(rows)).abs().max() < TOLERANCE)
        except (AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError):
            return False  # another layout: it lacks a part, or wants other arguments
        finally:
            for part in parts:
                self.adapters.load(part, before[part])
            self.adapters.enable(())
            self._trunks.clear()
            self._held = 0


def _sum_logps(logits: Tensor, lengths: Sequence[int], rows: Sequence[Row]) -> Tensor:
    """(sum of lengths, vocabulary) logits -> (R,) summed log-probabilities, softmax in float32."""
    target = torch.tensor([token for _, answer in rows for token in answer])
    logp = -cross_entropy(logits.float(), target, reduction="none")
    return torch.stack([part.sum() for part in torch.split(logp, list(lengths))])


def _mask(before: Sequence[int], longest: int, new: int) -> Tensor:
    """(R, 1, new, longest + new) additive: row r sees its last before[r] prompt keys, then causally."""
    rows = torch.zeros(len(before), 1, new, longest + new)
    rows[..., longest:] = torch.full((new, new), MASKED).triu(1)
    for r, count in enumerate(before):
        rows[r, :, :, : longest - count] = MASKED
    return rows


def _stack(kept: Sequence[KeysValues], longest: int) -> KeysValues:
    """Prompt keys and values of several prompts as one batch, padded on the left."""
    if longest == 0:
        return {}
    full = next(k for k in kept if k)

    def pad(keys: KeysValues, layer: int, side: int) -> Tensor:
        out = torch.zeros(1, full[layer][side].shape[1], longest, full[layer][side].shape[3])
        if layer in keys:
            out[:, :, longest - keys[layer][side].shape[2] :] = keys[layer][side]
        return out

    return {
        layer: (torch.cat([pad(k, layer, 0) for k in kept]), torch.cat([pad(k, layer, 1) for k in kept]))
        for layer in full
    }

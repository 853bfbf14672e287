"""The preference model of one device, over a person's own comparisons, which come and go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from commonground.comparisons import Comparison
from commonground.config import Config
from commonground.data.starter import safety_pairs
from commonground.embeddings import Encoder
from commonground.given import Parts
from commonground.training.build import build_model
from commonground.training.features import encoder_of
from commonground.training.model import PreferenceModel
from commonground.training.public_models import needed, public_models, shipped_pairs
from commonground.training.reward import RewardFeatures, RewardModel

Progress = Callable[[str, int, int], None]


class OwnTable:
    """Builds the model once, from public texts, and lays it over whatever table the person has now.

    Embeddings of her own texts are kept in memory alone: the cache folder is not encrypted.

    Args:
        config: resolved.
        progress: called with (what, done, total) during long steps.
        parts: the study's public parts; None computes them here.

    Attributes:
        public: the model over one shipped comparison, for everything that is public in it.

    Raises:
        ModelError: the base model cannot be loaded, or the parts do not fit.
    """

    def __init__(self, config: Config, progress: Progress | None = None, parts: Parts | None = None) -> None:
        self._config = config
        pair = safety_pairs()[0]
        shipped = Comparison(pair.prompt, pair.safe, pair.unsafe, "safety", "shipped")
        with threadpool_limits(1):  # bases are bit for bit the same whatever number of threads there are
            self.public: PreferenceModel = build_model(config, [shipped], progress, parts)
            if needed(config):
                self.public.public = public_models(config, self.public, shipped_pairs())
        self._encoder: Encoder | None = None
        self._vectors: dict[str, np.ndarray] = {}

    def over(self, table: Sequence[Comparison]) -> PreferenceModel:
        """The model over a table; an empty one gives the model over the shipped comparison.

        Args:
            table: comparisons; `Rows.index` of what is asked of the model points into it.
        """
        if not table:
            return self.public
        if not isinstance(self.public, RewardModel):
            from commonground.training.policy import PolicyModel  # takes PEFT and transformers with it

            if not isinstance(self.public, PolicyModel):
                raise TypeError(f"a {type(self.public).__name__} cannot be laid over another table")
            return self.public.over(table)
        texts = {text for c in table for text in (c.chosen, c.rejected)}
        self._embed(texts)
        with threadpool_limits(1):
            own = RewardFeatures(table, self._vectors, self.public.features.bases, self._config.model.dims)
        return self.public.over(own)

    def apart(self) -> OwnTable:
        """The same model for another thread: nothing that one of the two changes is the other's."""
        other = copy.copy(self)
        other._encoder, other._vectors = None, dict(self._vectors)
        if isinstance(self.public, RewardModel):
            return other  # a pure function of its features
        from commonground.training.policy import PolicyModel  # takes PEFT and transformers with it

        if not isinstance(self.public, PolicyModel):
            raise TypeError(f"a {type(self.public).__name__} cannot be used by two threads")
        with threadpool_limits(1):
            other.public = self.public.apart()
            if needed(self._config):
                other.public.public = public_models(self._config, other.public, shipped_pairs())
        return other

    def beside(self, table: Sequence[Comparison]) -> PreferenceModel:
        """The model over other comparisons of shipped texts; what is kept of the person's own stays."""
        own = self._vectors
        try:
            return self.over(table)
        finally:
            self._vectors = own

    def _embed(self, texts: set[str]) -> None:
        """Vectors of exactly these texts: those of a comparison that was taken back are forgotten."""
        self._vectors = {text: vector for text, vector in self._vectors.items() if text in texts}
        missing = sorted(texts - self._vectors.keys())
        if not missing:
            return
        if self._encoder is None:
            self._encoder = encoder_of(self._config)
        found = self._encoder.embed(missing, keep=False)
        self._vectors |= dict(zip(missing, found, strict=True))

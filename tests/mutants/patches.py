"""The planted bugs: each a few words of a file, what they are replaced by, and the tests that should see it.

They are the review's (50 that were found, 12 that were not) and others of their kinds, in the code as it is now.
`tests/test_mutants.py` holds that each can still be planted; a change of such a line changes its patch with it.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIVACY, TRAINING = "src/commonground/privacy", "src/commonground/training"


@dataclass(frozen=True)
class Patch:
    """One planted bug.

    Attributes:
        name: what it does wrong.
        file: below the root.
        old: found exactly once in it.
        new: in its place.
        tests: the nearest tests, below `tests`.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(file: str, *tests: str) -> _Maker:
    return _Maker(file, tests)


@dataclass(frozen=True)
class _Maker:
    file: str
    tests: tuple[str, ...]

    def __call__(self, name: str, old: str, new: str, *tests: str) -> Patch:
        return Patch(name, self.file, old, new, tests or self.tests)


_mechanisms = _of(f"{PRIVACY}/mechanisms.py", "privacy/test_mechanisms.py")
_clipping = _of("src/commonground/clipping.py", "simulations/test_fleet.py", "simulations/test_devices.py")
_banded = _of(f"{PRIVACY}/banded.py", "privacy/test_banded.py")
_adaptive = _of(f"{PRIVACY}/adaptive_clip.py", "privacy/test_adaptive_clip.py")
_accounting = _of(f"{PRIVACY}/accounting.py", "privacy/test_accounting.py")
_rdp = _of(f"{PRIVACY}/rdp.py", "privacy/test_accounting.py")
_shared = _of(f"{TRAINING}/shared_phase.py", "training/test_update.py")
_private = _of(f"{TRAINING}/private_phase.py", "training/test_update.py")
_server = _of("strategies/person_dp.py", "strategies/test_person_dp.py")
_ledger = _of("client/device_ledger.py", "client/test_device_ledger.py")
_lives = _of("client/lives.py", "client/test_lives.py", "client/test_owner.py", "client/test_renew.py")
_runner = _of("simulations/runner.py", "privacy/test_claims.py", "simulations/test_runner.py")
_deployed = _of("server/deployed.py", "server/test_setup.py", "server/test_deployed.py")
_recipe = _of("src/commonground/recipe.py", "test_recipe.py", "simulations/test_runner.py")

PATCHES: tuple[Patch, ...] = (
    _mechanisms("private noise is halved", "scale = noise_multiplier * clip * COVER", "scale = noise_multiplier * clip * COVER / 2"),
    _mechanisms("private noise is 3 % short", "scale = noise_multiplier * clip * COVER", "scale = noise_multiplier * clip * 0.97"),
    _mechanisms("the noise loses its grid", "return rounded(normals * deviation, step)", "return normals * deviation"),
    _mechanisms("float32 noise is taken", "if normals.dtype != np.float64:", "if False:"),
    _mechanisms("a sum off the grid is noised", "if not on_grid(total, step, EXACT).all():", "if False:"),
    _mechanisms("no clip of a pair", "factors = torch.ones_like(norms) if clip == math.inf else clip / norms.clamp(min=clip)", "factors = torch.ones_like(norms)"),
    _mechanisms("the clip of a pair is off by sqrt 2", "else clip / norms.clamp(min=clip)", "else 2**0.5 * clip / norms.clamp(min=2**0.5 * clip)"),
    _mechanisms("the coins are twice as likely", "return np.asarray(generator.random(count) < rate)", "return np.asarray(generator.random(count) < 2 * rate)"),
    _mechanisms("draws of a fixed size", "return np.asarray(generator.random(count) < rate)", "return np.asarray(generator.permutation(count) < rate * count)"),
    _mechanisms("labels are flipped half as often", "return np.asarray(generator.random(shape) < probability)", "return np.asarray(generator.random(shape) < probability / 2)"),
    _accounting("the flip probability forgets the 1", "return math.exp(-epsilon) / (1 + math.exp(-epsilon))", "return math.exp(-epsilon) / 2", "privacy/test_mechanisms.py"),
    _clipping("no clip of one update", "factor = 1.0 if norm <= clip else clip / norm", "factor = 1.0", "simulations/test_devices.py"),
    _clipping("the clip of one update is off by sqrt 2", "factor = 1.0 if norm <= clip else clip / norm", "factor = 1.0 if norm <= clip else 2**0.5 * clip / norm", "simulations/test_devices.py"),
    _clipping("no clip of many updates", "factors = np.where(finite & (norms > clip), clip / norms, 1.0)", "factors = np.where(finite & (norms > clip), 1.0, 1.0)", "simulations/test_fleet.py"),
    _banded("the sensitivity forgets sqrt k", "return math.sqrt(self.participations) * self.column_norm", "return self.column_norm"),
    _banded("the coefficients are off", "np.cumprod((2 * j - 1) / (2 * j))", "np.cumprod((2 * j - 1) / (2 * j + 1))"),
    _banded("one participation more", "return count < participations and", "return count <= participations and"),
    _banded("one round too early", "round - last >= band)", "round - last >= band - 1)"),
    _adaptive("bits without noise", "return self.cohort / SHARE if self.noise_multiplier > 0 else 0.0", "return 1e-9 if self.noise_multiplier > 0 else 0.0"),
    _adaptive("bits for nothing", "(noise_multiplier**-2 - (2 * bit_noise) ** -2) ** -0.5", "(noise_multiplier**-2) ** -0.5"),
    _accounting("ten times the delta is taken", "return delta <= largest_delta(units) * (1 + 1e-9)", "return delta <= 10 * largest_delta(units)"),
    _rdp("RDP of half the steps", "rdp = sum(steps * rdp_step", "rdp = sum(steps / 2 * rdp_step"),
    _rdp("RDP forgets a part of its conversion", "rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)", "rdp + math.log1p(-1 / order) - math.log(10 * delta) / (order - 1) - math.log(order) / (order - 1)"),
    _shared("unit=comparison: the same comparisons every round", 'fleeting(seed, "shared-poisson", round, person)', 'fleeting(seed, "shared-poisson", 0, person)'),
    _shared("unit=comparison: three times the rate", "plan.pair_sampling, fleeting", "min(1.0, 3 * plan.pair_sampling), fleeting"),
    _shared("unit=comparison: divided by what was drawn", "-plan.rate * value / plan.expected_batch", "-plan.rate * value / max(1, batch.rows.mask.sum())"),
    _private("private noise repeats in every step", 'streams = Streams(self._noise_seed, [self._stream, "noise"], [name])\n            found |= mechanisms.gaussian_noise({name: tuple(value.shape[1:])}, self._each(streams, steps))', 'streams = Streams(self._noise_seed, [self._stream, "noise"], [name])\n            found |= mechanisms.gaussian_noise({name: tuple(value.shape[1:])}, self._each(streams, [0] * len(steps)))'),
    _private("everybody's noise is the first person's", "return (streams.at(person, step) for person, step in", "return (streams.at(0, step) for person, step in"),
    _private("the denominator is what was drawn", "max(plan.sampling * plan.cap, 1e-9)", "max(float(drawn.sum(1).mean()), 1e-9)"),
    _private("a lifetime of one step more", "active = state.steps < plan.steps", "active = state.steps <= plan.steps"),
    _private("labels as they are", "if plan.flip_probability > 0:", "if False:", "training/test_label_coins.py", "training/test_update.py"),
    _server("the mean is over who answered", "proposals = [self._moved(self._noised_mean(server_round, total))]", "self.m = max(1, len(self.answered))\n            proposals = [self._moved(self._noised_mean(server_round, total))]"),
    _server("the cap on participations is not kept", "return under_cap(drawn, self.taken_part, self.participations)", "return drawn"),
    _server("everybody is drawn", "drawn = draw_cohort(self.seed, server_round, self.eligible, self.q, self.mechanism.band)", "drawn = self.eligible"),
    _server("the noise of every round is the first's", "self._noised_mean(server_round, total)", "self._noised_mean(1, total)"),
    _server("central noise and a rule that sees everybody", "if noise_multiplier > 0 and (individual or manifest.noise_on_device):", "if False:"),
    _ledger("the cap of the participant is not kept", "limit = (cap, terms.claim.delta)", "limit = (float('inf'), terms.claim.delta)"),
    _ledger("k and b are not kept", "if not may_join(count, last, release.round, terms.most, terms.separation):", "if False:"),
    _ledger("a message is made anew", "if sent is not None:\n                return False, sent", "if sent is not None:\n                return True, None"),
    _ledger("amplified offers are taken", 'if terms.charge.sampling != 1 or terms.claim.unit != "person":', "if False:"),
    _ledger("another release under the same number", "if found != (release.offer, release.round, release.tensors) and (found or sent):", "if False:"),
    _ledger("a kept message has no charge", "self._ledger(upload.scope).commit(upload.key, mechanism=MECHANISM, person=OWNER)", "pass"),
    _lives("a reset keeps the old seed", "fresh = Life(self._seed(), fit=life.fit + 1", "fresh = Life(life.seed, fit=life.fit + 1"),
    _lives("a fresh fit keeps the old seed", "fresh = Life(self._seed(), fit=old.fit + (numbers is not None)", "fresh = Life(old.seed, fit=old.fit + (numbers is not None)"),
    _lives("a rollback repeats its noise", "replace(life, seed=self._seed(), paid=\"\")", "replace(life, paid=\"\")"),
    _lives("a fresh fit flips labels anew", "learner = Learner(meant, found, life.seed, person, self._label_seed(), noise)", "learner = Learner(meant, found, life.seed, person, life.seed, noise)"),
    _lives("a reset remembers", "since=self._store.feedback.newest())", "since=0)"),
    _runner("central noise is 30 % short on the way to the job", "noise_multiplier=world.noise_std / manifest.clip if central else 0.0", "noise_multiplier=0.7 * world.noise_std / manifest.clip if central else 0.0"),
    _deployed("deployed central noise is 30 % short", "noise_multiplier=claim.noise_multiplier * manifest.clip / manifest.clip if central else 0.0", "noise_multiplier=0.7 * claim.noise_multiplier if central else 0.0"),
    _deployed("deployed noise is bounded as if it were 30 % less", "device_noise=claim.noise_multiplier * manifest.clip if", "device_noise=0.7 * claim.noise_multiplier * manifest.clip if"),
    _recipe("the claim is solved at half the rate", 'pair_sampling=privacy.private.sampling if privacy.unit == "comparison" else None', 'pair_sampling=(privacy.private.sampling or 1) / 2 if privacy.unit == "comparison" else None'),
    _recipe("the label mechanism flips nothing", "flip_probability=private.flip_probability if label else 0.0", "flip_probability=0.0"),
    _recipe("private draws at twice the claimed rate", 'sampling=sampling if noisy or config.model.kind == "policy" else 1.0', 'sampling=min(1.0, 2 * sampling) if noisy or config.model.kind == "policy" else 1.0'),
)  # fmt: skip

"""The planner's rules, whatever happens: RAM never overflows, nothing exempt goes, nothing is moved twice, and no thrashing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router import promotions
from router.candidates import Candidate, Promotion, Snapshot
from router.policies import CHOICES, policy
from router.policy_order import HORIZON_S
from router.promotions import COOLDOWN_S, Kept, Promotions

CAPACITY = 1_000
SIZES = {f"{number:02}": 3 + number * 7 % 17 for number in range(120)}
"""Together a third more than fits; a few at a time may be in flight."""
KEYS = st.sampled_from(sorted(SIZES))
OUT = st.sampled_from(sorted(SIZES)[-16:])
"""These are not in RAM at the beginning."""
CANDIDATES = st.lists(st.tuples(KEYS | OUT, st.floats(0, 1), st.sampled_from([False] * 4 + [True])), max_size=8)


class PromotionsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1e6
        self.promotions = Promotions[str]()
        self.held: dict[str, int] = {}
        self.flying: dict[str, Promotion[str]] = {}
        self.unasked: set[str] = set()
        self.in_vain: dict[str, float] = {}
        self.pushed: list[tuple[float, int]] = []
        """When how many bytes were brought in the place of others, for guesses."""

    @initialize(name=st.sampled_from(sorted(CHOICES)))
    def begin(self, name: str) -> None:
        """RAM is full of what was asked a day ago."""
        self.policy = policy(name, CAPACITY)
        for key in SIZES:
            if self.used_bytes + SIZES[key] <= CAPACITY:
                self.policy.used(key, SIZES[key], 1.0, self.now - 86_400)
                self.policy.added(key, SIZES[key], 1.0, self.now - 86_400)
                self.held[key] = SIZES[key]

    @rule(passed=st.sampled_from([1.0, 600.0, HORIZON_S / 2, COOLDOWN_S / 2]))
    def time_passes(self, passed: float) -> None:
        self.now += passed

    @rule(key=KEYS | OUT)
    def question(self, key: str) -> None:
        self.policy.used(key, SIZES[key], 1.0, self.now)
        assert self.promotions.used(key) is (key in self.unasked)
        self.unasked.discard(key)
        if key not in self.held and key not in self.flying:
            need = self.used_bytes + SIZES[key] - CAPACITY
            victims = self.policy.victims(need, self.now, Kept(self.promotions, self.now))
            if need <= 0 or victims:
                for victim in victims:
                    self.evict(victim)
                self.arrive(key)

    @rule(candidates=CANDIDATES, exempt=st.frozensets(KEYS, max_size=40), waiting=st.sampled_from([False] * 5 + [True]))
    def planning(self, candidates: list[tuple[str, float, bool]], exempt: frozenset[str], waiting: bool) -> None:
        self.plan(candidates, exempt, waiting=waiting)

    @rule(step=st.integers(1, 7), pins=st.sets(st.integers(0, 40), max_size=8))
    def much_is_guessed(self, step: int, pins: set[int]) -> None:
        """What is not in RAM, a few at a time and more before any is there, and all of it once again."""
        absent = sorted(set(SIZES) - set(self.held), key=SIZES.__getitem__) * 2
        wanted = [(key, (1 + number * step % 9) / 10, number in pins) for number, key in enumerate(absent)]
        for start in range(0, len(wanted), 4):
            self.plan(wanted[start : start + 4], frozenset(), waiting=False)
            self.plan(wanted[start + 2 : start + 6], frozenset(), waiting=False)
            self.promotions_end(ends_well=True, most=9)

    @rule(ends_well=st.booleans(), most=st.integers(1, 3))
    def ending(self, ends_well: bool, most: int) -> None:
        self.promotions_end(ends_well=ends_well, most=most)

    @rule(key=OUT)
    def version_is_deleted(self, key: str) -> None:
        self.held.pop(key, None)
        self.unasked.discard(key)
        self.in_vain.pop(key, None)
        self.policy.forget(key)
        self.promotions.forget(key)

    @invariant()
    def ram_never_overflows(self) -> None:
        assert self.used_bytes <= CAPACITY
        assert self.promotions.in_flight_bytes == sum(SIZES[key] for key in self.flying)

    @invariant()
    def it_checks(self) -> None:
        self.promotions.check()

    @property
    def used_bytes(self) -> int:
        return sum(self.held.values()) + sum(SIZES[key] for key in self.flying)

    def plan(self, candidates: list[tuple[str, float, bool]], exempt: frozenset[str], *, waiting: bool) -> None:
        pinned = {key for key, _, is_pinned in candidates if is_pinned}
        offered = tuple(Candidate(key, SIZES[key], 1.0, probability, "?", key in pinned) for key, probability, _ in candidates)
        snapshot = Snapshot(offered, self.held, sum(self.held.values()), CAPACITY, exempt, waiting)
        plans = self.promotions.plan(snapshot, self.policy, self.now)
        assert plans == self.promotions.plan(snapshot, self.policy, self.now)
        keys, victims = [plan.key for plan in plans], [victim for plan in plans for victim in plan.evict]
        assert not (waiting and plans)
        assert len({*keys, *victims}) == len(keys) + len(victims)
        assert set(keys) <= {key for key, _, _ in candidates} - set(self.held) - set(self.flying)
        assert set(victims) <= set(self.held) - exempt
        horizon_s = self.promotions.horizon_s(snapshot, self.now)
        lately = sum(size for at, size in self.pushed if self.now - at < horizon_s)
        guessed = [plan.size_bytes for plan in plans if plan.pushes and plan.key not in pinned]
        alone = not lately and len(guessed) == 1
        assert not guessed or alone or lately + sum(guessed) <= promotions.PUSHED_SHARE * CAPACITY
        first_guess = next((number for number, key in enumerate(keys) if key not in pinned), len(keys))
        assert not pinned & set(keys[first_guess:])
        for plan in plans:
            assert plan.key in pinned or self.now - self.in_vain.get(plan.key, -1e9) >= COOLDOWN_S
            self.start(plan, guessed=plan.key not in pinned)
        flying = sum(SIZES[key] for key in self.flying)
        assert not plans or len(self.flying) == 1 or flying <= promotions.IN_FLIGHT_SHARE * CAPACITY

    def promotions_end(self, *, ends_well: bool, most: int) -> None:
        for key in sorted(self.flying)[:most]:
            del self.flying[key]
            if ends_well:
                self.promotions.finished(key, self.now)
                self.unasked.add(key)
                self.arrive(key)
            else:
                self.promotions.failed(key, self.now)
                self.in_vain[key] = self.now

    def start(self, plan: Promotion[str], *, guessed: bool) -> None:
        self.promotions.started(plan, self.now)
        self.unasked.discard(plan.key)
        self.in_vain.pop(plan.key, None)
        for victim in plan.evict:
            self.evict(victim)
        self.flying[plan.key] = plan
        if plan.pushes and guessed:
            self.pushed.append((self.now, plan.size_bytes))

    def arrive(self, key: str) -> None:
        self.held[key] = SIZES[key]
        self.policy.added(key, SIZES[key], 1.0, self.now)

    def evict(self, key: str) -> None:
        del self.held[key]
        self.policy.removed(key)
        assert self.promotions.evicted(key, self.now) is (key in self.unasked)
        if key in self.unasked:
            self.unasked.discard(key)
            self.in_vain[key] = self.now


PromotionsMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestPromotions = PromotionsMachine.TestCase

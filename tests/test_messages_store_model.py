"""The whole store against a small model in memory: counts and the status of every message, all through random runs of thousands of steps.

MQADMIN_TEST_SEED repeats a run. Two faults that are put into the store on purpose must be found: they show that the model looks.
"""

import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from django.utils import translation
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from clusters.drivers import builtin
from core import tags as tag_expressions
from core.errors import Problem
from messages import services
from messages.transactions import Acks, Send
from messages.types import STATUS_WORDS, DeadFilter, NewMessage, Outcome
from tests.store_world import counts, expire_now, new_group, new_id, pull, redrive, sql

pytestmark = pytest.mark.usefixtures("store")
MAX_ATTEMPTS = 2
SEED = int(os.environ.get("MQADMIN_TEST_SEED", time.time_ns() % 1_000_000))
EXAMPLES, LOOK = 500 if "MQADMIN_SOAK" in os.environ else 40, 20  # runs of 40 to 60 steps; looked at after so many and at the end


@dataclass
class Group:
    """What a person would write down: per message its status, attempts and whether it goes alone."""

    id: int
    filters: dict
    active: dict
    status: dict = field(default_factory=dict)  # id -> word
    attempts: dict = field(default_factory=dict)
    alone: set = field(default_factory=set)
    leases: dict = field(default_factory=dict)  # token -> set of ids not yet settled, handed out together
    sizes: dict = field(default_factory=dict)
    redriven: set = field(default_factory=set)  # tried however old
    moved: dict = field(default_factory=dict)  # topic -> the newest move of its position and what it took away

    def arrive(self, topic, message_id, tag):
        self.status[message_id] = "waiting" if self.active[topic] and matches(self.filters[topic], tag) else "not_subscribed"

    def fail(self, message_id, topic, *, counted, dead=False):
        self.attempts[message_id] = self.attempts.get(message_id, 0) + counted
        if dead or (counted and self.attempts[message_id] >= MAX_ATTEMPTS):
            self.status[message_id] = "dead"
        else:
            self.status[message_id] = "later" if self.active[topic] else "failed"


def matches(wanted, tag):
    """What a filter means, said once more: any tag of the message, the whole of it."""
    if wanted is None:
        return True
    if wanted[0].startswith("~"):
        return any(re.fullmatch(wanted[0][1:], one) for one in tag.split(" || "))
    return any(one in wanted for one in tag.split(" || "))


tag = st.sampled_from(["a", "b", "a", "b", "a || b", "b || cc", ""])
expression = st.sampled_from(["*", "a", "b", "a || b", "c", "~a|c+", "~[^a]*", "~.+"])
which_topic = st.integers(0, 1)
which_group = st.integers(0, 1)
words = st.lists(st.sampled_from(["succeeded", "failed", "failed", "later", "dead", None]), min_size=6, max_size=6)
STEP = st.one_of(
    st.tuples(st.just("send"), which_topic, st.lists(tag, min_size=1, max_size=5)),
    st.tuples(st.just("pull"), which_group, st.integers(1, 6)),
    st.tuples(st.just("work"), which_group, st.integers(1, 6), words),  # pull and settle
    st.tuples(st.just("work"), which_group, st.integers(1, 6), words),
    st.tuples(st.just("work"), which_group, st.integers(1, 6), words),
    st.tuples(st.just("crash"), which_group, st.integers(1, 3)),  # pull and expire
    st.tuples(st.just("settle"), which_group, words),
    st.tuples(st.just("next"), which_group, words),
    st.tuples(st.just("expire"), which_group),
    st.tuples(st.just("redrive"), which_group),
    st.tuples(st.just("extend"), which_group),
    st.tuples(st.just("filter"), which_group, which_topic, expression),
    st.tuples(st.just("unsubscribe"), which_group, which_topic),
    st.tuples(st.just("resubscribe"), which_group, which_topic, expression, st.booleans()),
    st.tuples(st.just("cut"), which_group),
    st.tuples(st.just("age"), which_topic),
    st.tuples(st.just("retain"), which_topic, st.sampled_from(["done", "limit"])),
    st.tuples(st.just("retain"), which_topic, st.sampled_from(["done", "done", "limit"])),
    st.tuples(st.just("prepare"), which_topic, tag),
    st.tuples(st.just("decide"), st.sampled_from(["commit", "rollback"])),
    st.tuples(st.just("transact"), which_group, words, st.lists(tag, min_size=1, max_size=2), st.booleans()),
    st.tuples(st.just("move"), which_group, which_topic, st.integers(0, 40)),
    st.tuples(st.just("move"), which_group, which_topic, st.integers(0, 40)),
    st.tuples(st.just("undo"), which_group, which_topic),
)


class World:
    def __init__(self):
        self.topics = [new_id(), new_id()]
        self.messages = {}  # id -> (topic, tag)
        self.expired = dict.fromkeys(self.topics, 0)  # up to which id
        self.floors = dict.fromkeys(self.topics, 0)
        self.half = []  # (id, topic, tag) of those that are open
        self.operation = None  # the first redrive's
        self.producer = {"application_id": new_id(), "producer": "p"}
        self.epoch, self.transactions = services.open_epoch(**self.producer), 0
        filters = [None, ["a"]]
        self.groups = []
        for f in filters:
            made = new_group(*self.topics, max_attempts=MAX_ATTEMPTS, tag_expression="*" if f is None else " || ".join(f))
            self.groups.append(Group(made, dict.fromkeys(self.topics, f), dict.fromkeys(self.topics, True)))

    def send(self, topic, tags):
        topic = self.topics[topic]
        for accepted, t in zip(services.send(topic_id=topic, messages=[NewMessage(b"", tag=t) for t in tags]), tags, strict=True):
            self.arrived(topic, accepted.id, t)
        services.tick()

    def arrived(self, topic, message_id, tag):
        self.messages[message_id] = (topic, tag)
        for group in self.groups:
            group.arrive(topic, message_id, tag)

    def prepare(self, topic, tag):
        made = services.prepare_half(topic_id=self.topics[topic], message=NewMessage(b"", tag=tag))
        self.half.append((made.id, self.topics[topic], tag))

    def decide(self, decision):
        if self.half:
            message_id, topic, tag = self.half.pop(0)
            done, _changed = services.decide_half(message_id=message_id, decision=decision, by="test")
            if decision == "commit":
                assert services.message(message_id=message_id).id == done.message_id
                self.arrived(topic, done.message_id, tag)
            services.tick()

    def transact(self, group, words, tags, doomed):
        """Settle the newest lease and send to both topics; a doomed one names a message that is not in the lease."""
        lease, outcomes = self.outcomes(group, words)
        doomed = doomed and lease is not None
        acks = [Acks(group.id, lease, [*outcomes, *([Outcome(1, "succeeded")] if doomed else [])])] if lease else []
        sends = [Send(topic, [NewMessage(b"", tag=t) for t in tags]) for topic in self.topics]
        self.transactions += 1
        ask = {**self.producer, "epoch": self.epoch, "transaction_id": str(self.transactions), "sends": sends, "acks": acks}
        if doomed:
            with pytest.raises(Problem, match="cannot be taken"):
                services.commit_transaction(**ask)
            return
        done = services.commit_transaction(**ask)
        if lease:
            self.settled(group, lease, outcomes, done.acks[0])
        for send, accepted in zip(sends, done.sends, strict=True):
            for t, one in zip(tags, accepted, strict=True):
                self.arrived(send.topic_id, one.id, t)
        assert services.commit_transaction(**ask).sends == done.sends
        services.tick()

    def age(self, topic):
        """Everything that was sent to the topic is older than its time to live now."""
        topic = self.topics[topic]
        builtin.set_limits(topic_id=topic, ttl_seconds=60, max_length=0)
        sql("UPDATE mq_message SET sent_at = sent_at - interval '1 hour' WHERE topic_id = %s", topic)
        services.tick()
        services.enforce()
        self.expired[topic] = max([0, *(i for i, (t, _tag) in self.messages.items() if t == topic)])
        for group in self.groups:
            self.take_out(group)

    def retain(self, topic, mode):
        """What goes is what nobody waits for, or everything: the topic is larger than it may be."""
        topic = self.topics[topic]
        services.tick()
        builtin.set_retention(topic_id=topic, mode=mode, age_seconds=0, size_bytes=int(mode == "limit"))
        services.retain(every="0 s")
        builtin.set_retention(topic_id=topic, mode=None)  # the next call is for another topic
        floor = sql("SELECT mq_floor(%s)", topic)
        mine = [i for i, (t, _tag) in self.messages.items() if t == topic]
        for g in self.groups:
            for i in mine:
                if mode == "limit" and g.active[topic] and g.status[i] == "waiting":
                    g.status[i] = "skipped"
                assert g.status[i] != "waiting" or i > floor
        assert floor >= max([0, *mine] if mode == "limit" else [self.floors[topic]])
        self.floors[topic] = floor

    def gone(self, message_id):
        """Below its topic's floor, and in nobody's hands."""
        in_hands = {group.status[message_id] for group in self.groups} & {"processing", "later", "dead"}
        return message_id <= self.floors[self.messages[message_id][0]] and not in_hands

    def take_out(self, group):
        for i, word in group.status.items():
            topic = self.messages[i][0]
            if group.active[topic] and i <= self.expired[topic] and (word == "waiting" or (word == "later" and i not in group.redriven)):
                group.status[i] = "dead"

    def handed_out(self, group, batch, limit):
        self.take_out(group)
        ids = {m.id for m in batch.messages}
        due = {i for i, s in group.status.items() if s == "later"}
        waiting = {i for i, s in group.status.items() if s == "waiting"}
        assert len(ids) == len(batch.messages)
        assert ids <= due | waiting
        if due & group.alone:
            assert len(ids) == 1 or not ids & group.alone
        if not due & group.alone:
            assert len(ids) == min(limit, len(due) + len(waiting))
            assert len(ids & due) == min(limit, len(due))
        elif due or waiting:
            assert ids
        for m in batch.messages:
            assert m.attempt == group.attempts.get(m.id, 0) + 1
            group.status[m.id] = "processing"
        if ids:
            group.leases[batch.lease] = ids
            group.sizes[batch.lease] = len(ids)

    def settled(self, group, lease, outcomes, results):
        for outcome, result in zip(outcomes, results, strict=True):
            held = group.leases.get(lease, set())
            if outcome.id not in held:
                assert result.problem_code
                continue
            assert result.problem_code is None
            held.discard(outcome.id)
            group.alone.discard(outcome.id)
            if outcome.status == "succeeded":
                group.status[outcome.id] = "succeeded"
            else:
                group.fail(outcome.id, self.messages[outcome.id][0], counted=outcome.status != "later", dead=outcome.status == "dead")
            assert result.status == group.status[outcome.id]
        if not group.leases.get(lease, {1}):
            del group.leases[lease]

    def outcomes(self, group, words):
        lease = next(reversed(group.leases), None)
        if lease is None:
            return None, []
        return lease, [Outcome(i, w) for i, w in zip(sorted(group.leases[lease]), words, strict=False) if w]

    def step(self, name, group=None, *args):
        if name in {"send", "prepare", "decide", "age", "retain"}:
            getattr(self, name)(group, *args)
            return
        g = self.groups[group]
        if name == "pull":
            self.handed_out(g, pull(g.id, limit=args[0]), args[0])
        elif name == "work":
            self.step("pull", group, args[0])
            self.step("settle", group, args[1])
        elif name == "crash":
            self.step("pull", group, args[0])
            self.step("expire", group)
        elif name == "settle":
            lease, outcomes = self.outcomes(g, args[0])
            if outcomes:
                self.settled(g, lease, outcomes, services.settle(group_id=g.id, lease=lease, outcomes=outcomes))
        elif name == "next":
            lease, outcomes = self.outcomes(g, args[0])
            results, batch = services.next(group_id=g.id, lease=lease, outcomes=outcomes, limit=4, visibility_ms=60_000, consumer="w")
            self.settled(g, lease, outcomes, results)
            self.handed_out(g, batch, 4)
        elif name == "expire":
            expire_now(g.id)
            for lease, held in g.leases.items():
                for i in held:
                    counted = g.sizes[lease] == 1
                    g.fail(i, self.messages[i][0], counted=counted)
                    g.alone.add(i)
            g.leases = {}
        elif name == "extend":
            for lease in g.leases:
                assert services.extend(group_id=g.id, lease=lease, visibility_ms=120_000)
        elif name == "redrive":
            self.redrive(g)
            for i, s in g.status.items():
                if s == "dead" and g.active[self.messages[i][0]]:
                    g.status[i], g.attempts[i] = "later", 0
                    g.alone.discard(i)
                    g.redriven.add(i)
        elif name == "transact":
            self.transact(g, *args)
        elif name == "cut":
            sql("SELECT mq_cut(1000000, 3)")
        elif name == "move":
            self.move(g, self.topics[args[0]], args[1])
        elif name == "undo":
            self.undo(g, self.topics[args[0]])
        else:
            self.subscription(name, g, *args)

    def redrive(self, g):
        """All dead letters of a group: the first ones as an operation, later ones by what that does for each chunk, which costs a tenth."""
        if self.operation is None:
            self.operation = redrive(g.id, only=DeadFilter())
            return
        dead = [i for i, word in g.status.items() if word == "dead"]
        sql("SELECT count(*) FROM mq_redrive(%s, %s::bigint[], %s, NULL)", g.id, dead, self.operation.pk)

    def stands(self, g, topic):
        return sql("SELECT pos FROM mq_cursor WHERE group_id = %s AND topic_id = %s", g.id, topic)

    def move(self, g, topic, number):
        """A rewind or a skip to the message with this number, or to an end."""
        mine = [i for i, (t, _tag) in self.messages.items() if t == topic]
        to = ["earliest", *mine, "latest"][number % (len(mine) + 2)]
        if not g.active[topic]:
            with pytest.raises(Problem, match=r"not subscribed|have expired"):
                services.preview_reset(group_id=g.id, topic_id=topic, to=to)
            return
        stood = self.stands(g, topic)
        if type(to) is int and (to - 1 < min(max(self.expired[topic], self.floors[topic]), stood) or self.gone(to)):
            with pytest.raises(Problem, match="have expired"):
                services.preview_reset(group_id=g.id, topic_id=topic, to=to)
            return
        plan = services.preview_reset(group_id=g.id, topic_id=topic, to=to)
        between = [i for i in mine if min(stood, plan.position) < i <= max(stood, plan.position)]
        wanted = [i for i in between if matches(g.filters[topic], self.messages[i][1])]
        first = [i for i in wanted if g.status[i] in {"skipped", "not_subscribed"}]
        back = plan.position < stood
        assert (plan.repeated, plan.first_time, plan.skipped) == (
            (len(wanted) - len(first), len(first), 0) if back else (0, 0, sum(g.status[i] == "waiting" for i in between))
        )
        try:
            made = services.reset(group_id=g.id, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
        except Problem as problem:
            assert problem.code == "nothing_changes"  # noqa: PT017
            assert not wanted or not back
            return
        holders = {i: lease for lease, held in g.leases.items() for i in held}
        taken = {i: (g.status[i], g.attempts.get(i, 0), i in g.alone, i in g.redriven, holders.get(i)) for i in between}
        g.moved[topic] = (made, back, stood, taken)
        for i in between:
            if back:
                g.attempts.pop(i, None)
                g.alone.discard(i)
                g.redriven.discard(i)
                g.leases.get(holders.get(i), set()).discard(i)
                g.arrive(topic, i, self.messages[i][1])
            elif g.status[i] == "waiting":
                g.status[i] = "skipped"
        g.leases = {lease: held for lease, held in g.leases.items() if held}

    def undo(self, g, topic):
        if topic not in g.moved:
            return
        made, back, stood, taken = g.moved[topic]
        now = self.stands(g, topic)
        if (back and now >= stood) or (not back and self.floors[topic] >= made.position):
            with pytest.raises(Problem, match="nothing left"):
                services.undo_reset(reset_id=made.pk)
            return
        services.undo_reset(reset_id=made.pk)
        del g.moved[topic]
        for i, (status, attempts, alone, redriven, lease) in taken.items():
            if back and i > now:
                g.status[i], g.attempts[i] = status, attempts
                (g.alone.add if alone else g.alone.discard)(i)
                (g.redriven.add if redriven else g.redriven.discard)(i)
                if lease is not None:
                    g.leases.setdefault(lease, set()).add(i)
            elif not back and status == "waiting" and i > self.floors[topic]:
                g.status[i] = "waiting" if now == made.position else "later"

    def subscription(self, name, g, topic, expression=None, latest=False):
        topic = self.topics[topic]
        mine = [i for i, (t, _tag) in self.messages.items() if t == topic]
        if name == "unsubscribe":
            builtin.unsubscribe(group_id=g.id, topic_id=topic)
            g.moved.pop(topic, None)
            if g.active[topic]:
                for i in mine:
                    g.status[i] = {"waiting": "skipped", "later": "failed"}.get(g.status[i], g.status[i])
            g.active[topic] = False
            return
        if name == "filter" and not g.active[topic]:
            return
        if name == "resubscribe" and g.active[topic]:
            return
        # what has not been handed out yet is seen by the new filter
        position = max([0, *(i for i in mine if g.status[i] not in {"waiting", "skipped", "not_subscribed"})])
        stood = sql("SELECT pos FROM mq_cursor WHERE group_id = %s AND topic_id = %s", g.id, topic)
        assert stood >= position
        builtin.subscribe(group_id=g.id, topic_id=topic, tag_expression=expression, consume_from="latest" if latest else "earliest")
        if not g.active[topic] or tag_expressions.parse(expression) != g.filters[topic]:
            g.moved.pop(topic, None)
        g.filters[topic], was_active = tag_expressions.parse(expression), g.active[topic]
        g.active[topic] = True
        if was_active or not latest:
            for i in mine:
                if i > max(stood, self.floors[topic]):
                    g.arrive(topic, i, self.messages[i][1])

    def check(self):
        real = sql(
            "SELECT coalesce(json_agg(json_build_array(s.group_id, m.id, s.status)), '[]')"
            " FROM unnest(%s::bigint[], %s::bigint[]) m(topic_id, id), mq_status(m.topic_id, m.id) s",
            [topic for topic, _tag in self.messages.values()],
            list(self.messages),
        )
        found = {(group, message): STATUS_WORDS[letter] for group, message, letter in real}
        for g in self.groups:
            assert {i: found.get((g.id, i)) for i in self.messages} == g.status, g.id
            words_ = Counter(word for word in g.status.values() if word != "not_subscribed")
            assert counts(g.id) == words_

    def end(self):
        self.check()
        for message_id, _topic, _tag in self.half:
            assert services.message(message_id=message_id).state == "half"
        for g in self.groups:  # a few by the service, too
            for i in list(self.messages)[::15]:
                if self.gone(i):
                    with pytest.raises(Problem, match="There is no message"):
                        services.message(message_id=i)
                    continue
                real = next(s for s in services.message_status(message_id=i) if s.group_id == g.id)
                assert real.status == g.status[i], (g.id, i, real, g.status[i])
        for topic in self.topics:  # other tests are not to meet them
            builtin.set_limits(topic_id=topic, ttl_seconds=0, max_length=0)


def walk(steps):
    """A run of all steps in a world of its own."""
    world = World()
    world.send(0, "abab")
    for number, step in enumerate(steps):
        note(step)
        world.step(*step)
        if number % LOOK == LOOK - 1:
            world.check()
    world.end()


def runs(examples, **more):
    return settings(
        max_examples=examples,
        deadline=None,
        print_blob=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        **more,
    )


@pytest.mark.timeout(3600)
def test_counts_and_statuses_equal_the_model():
    done = Counter()

    @seeded(SEED)
    @runs(EXAMPLES)
    @given(st.lists(STEP, min_size=40, max_size=60))
    def whole(steps):
        done.update(step[0] for step in steps)
        with translation.override("en"):  # whatever language an earlier test has left
            walk(steps)

    print(f"seed {SEED}")
    whole()
    print(f"{done.total()} steps: {dict(done.most_common())}")
    assert done.total() >= 40 * EXAMPLES


def miscounts(monkeypatch):
    """A counter that is moved without its message, once in a while."""

    def cut(world, name, group=None, *args, step=World.step):
        step(world, name, group, *args)
        if name == "expire":
            sql("UPDATE mq_cursor SET succeeded = succeeded + 1 WHERE group_id = %s", world.groups[group].id)

    monkeypatch.setattr(World, "step", cut)


def charges_a_crowd(monkeypatch):
    """An expiry that charges each message of the lease, not only one that was alone: a fault of the laboratory version."""

    def expire(group, charge=expire_now):
        sql("UPDATE mq_exception SET attempts = attempts + 1 WHERE group_id = %s AND status = 'P' AND NOT single", group)
        charge(group)

    monkeypatch.setattr(sys.modules[__name__], "expire_now", expire)


@pytest.mark.parametrize("fault", [miscounts, charges_a_crowd])
def test_negative_control_a_store_with_a_fault_differs_from_the_model(fault, monkeypatch):
    fault(monkeypatch)

    @seeded(SEED)
    @runs(20, phases=[Phase.generate])
    @given(st.lists(STEP, min_size=40, max_size=60))
    def whole(steps):
        walk(steps)

    print(f"seed {SEED}")
    with pytest.raises(AssertionError):
        whole()

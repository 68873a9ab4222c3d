"""Tag filters: several tags per message, regular expressions that cannot explode, both changed while messages flow."""

import random
import re
import threading
import time
from urllib.parse import urlencode

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages_world import world  # noqa: F401 - a fixture

from clusters.drivers import builtin
from core import tag_patterns, tags
from core.errors import Problem
from messages import services
from messages.types import DeadFilter, NewMessage, Outcome
from tests.store_world import Threads, bodies, counts, new_group, new_id, pull, session, settle, sql, status, until

pytestmark = pytest.mark.usefixtures("store")
#: What costs most of what is let through: see core/tag_patterns.py.
DEAREST = [
    "(?:[a-z]?){64}",
    "(?:.*){64}",
    "(?:a*){64}",
    r"(?:\w?\d?){32}",
    ".*a" * 51,
    "(?:(?:a?){10}){6}",
    "(?:[a-p]?[h-z]?){32}",
    "(((a+)+)+)+",
]
LONG = ["a" * 120, "a" * 119 + "!", "ab" * 60, "z" * 120]


def tagged(topic, *names):
    """Messages whose body is their tags."""
    return [a.id for a in services.send(topic_id=topic, messages=[NewMessage(n.encode(), tag=n) for n in names])]


def words(ids, group):
    return [status(i, group).status for i in ids]


def refused(expression):
    """Hint of the refusal of a filter for a running subscription, of which nothing may change."""
    topic = new_id()
    group = new_group(topic, tag_expression="a")
    with pytest.raises(Problem) as problem:
        builtin.change_filter(group_id=group, topic_id=topic, tag_expression=expression)
    assert problem.value.code == "invalid_tag_expression"
    assert sql("SELECT tags FROM mq_cursor WHERE group_id = %s", group) == ["a"]
    assert sql("SELECT count(*) FROM mq_span WHERE group_id = %s", group) == 1
    return problem.value.hint


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("~a", "a"),
        (" ~  ^order-(created|paid)$ ", "order-(created|paid)"),
        (r"~v\d{1,3}\.x\$", r"v\d{1,3}\.x\$"),
        (r"~[a-z.+_-]+|[^\d]?", r"[a-z.+_-]+|[^\d]?"),
        ("~(?:a{2,})*", "(?:a{2,})*"),
    ],
)
def test_it_takes_a_regular_expression_without_the_anchors_at_its_ends(expression, kept):
    assert tags.parse(expression) == [f"~^(?:{kept})$"]


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "~",
            "~(a",
            "~a)",
            "~a**",
            "~*a",
            "~a||b",
            "~a|",
            "~[]",
            "~[a",
            "~[z-a]",
            r"~[a-\d]",
            "~[[:alpha:]]",
            "~a{3,2}",
            "~a{,2}",
            "~a{0}",
        ),
        *(
            "~a{2}{3}",
            "~a*?",
            "~a{2,3}?",
            r"~(a)\1",
            r"~\k",
            "~\\",
            "~(?=a)b",
            "~(?!a)b",
            "~(?<=a)b",
            "~(?i)a",
            "~a^b",
            "~a b",
            "~é",
            "~***:a",
        ),
        *(r"~\ma", "~a\x00", "~a || b", "~a$b"),
    ],
)
def test_it_refuses_what_is_no_regular_expression_or_can_go_back(expression):
    assert "at its character" in refused(expression)


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "~(a{1,100}){1,100}",
            "~a{256}",
            "~a{9999}",
            "~(((a{9}){9}){9}){9}",
            "~[a-z]?" * 40,
            "~(a?){65}",
            "~" + "(" * 12 + "a" + ")" * 12,
        ),
        *("~" + "a" * 257, "~((((a*)*)*)*)*", "~(.*a){60}"),
    ],
)
def test_it_refuses_what_would_explode(expression):
    assert "too large" in refused(expression)


def test_the_dearest_expressions_are_evaluated_in_time_where_a_back_reference_is_not():
    with session() as connection:
        connection.execute("SET statement_timeout = '30s'")
        for pattern in DEAREST:
            (kept,) = tags.parse(f"~{pattern}")
            connection.execute("SELECT count(*) FROM generate_series(1, 100), unnest(%s::text[]) t WHERE mq_has_tag(t, %s)", (LONG, [kept]))
        connection.execute("SET statement_timeout = '1s'")
        evil = r"~^(?:(\w*)(\w*)(\w*)(\w*)\1\2\3\4\4)$"
        with pytest.raises(psycopg.errors.QueryCanceled):  # the control: what Postgres does with one that were let through
            connection.execute("SELECT mq_has_tag(%s, %s)", ("ab" * 59 + "c", [evil]))


PIECE = st.sampled_from(
    [*"ab0-", ".", r"\.", r"\d", r"\w", "[ab]", "[^a]", "[0-9-]", "(", "(?:", ")", "|", "*", "+", "?", "{2}", "{1,2}", "{2,}", "^", "$"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECE, min_size=1, max_size=7).map("".join), st.lists(st.text("ab0-._", max_size=5), min_size=8, max_size=8))
def test_what_is_let_through_means_in_postgres_what_it_says(pattern, names):
    try:
        kept = tag_patterns.check(pattern)
    except tag_patterns.PatternError:
        return
    found = sql("SELECT array_agg(mq_has_tag(t, %s)) FROM unnest(%s::text[]) t", [f"~^(?:{kept})$"], names)
    assert found == [re.fullmatch(kept, name, re.ASCII) is not None for name in names]


def test_any_tag_of_a_message_matches():
    topic = new_id()
    groups = {e: new_group(topic, tag_expression=e) for e in ("paid", "urgent || x", "~p.*", "~pa", "*", "~(paid|sent) ", "~.+")}
    sent = tagged(topic, "paid", "paid || urgent", "sent || urgent", "", "pai")
    got = {e: bodies(pull(g)) for e, g in groups.items()}
    assert got == {
        "paid": ["paid", "paid || urgent"],
        "urgent || x": ["paid || urgent", "sent || urgent"],
        "~p.*": ["paid", "paid || urgent", "pai"],
        "~pa": [],
        "*": ["paid", "paid || urgent", "sent || urgent", "", "pai"],
        "~(paid|sent) ": ["paid", "paid || urgent", "sent || urgent"],
        "~.+": ["paid", "paid || urgent", "sent || urgent", "pai"],
    }
    assert words(sent, groups["~p.*"]) == ["processing", "processing", "not_subscribed", "not_subscribed", "processing"]


def test_counts_stay_exact_over_cuts_also_of_tags_that_came_later():
    topic = new_id()
    rng = random.Random(5)
    groups = {e: new_group(topic, tag_expression=e) for e in ("a", "b || c", "~a|new.*", "~[^a]*", "*")}
    sent = []
    for labels in (["a", "b", "a || b", "", "c || d"], ["new1", "a || new2", "b", "a"]):
        names = rng.choices(labels, k=60)
        tagged(topic, *names)
        sent += names
        services.tick()
        while sql("SELECT mq_cut(1000000, 7)"):
            pass
    assert sql("SELECT count(*) FROM mq_label WHERE topic_id = %s AND several", topic) == 3
    for expression, group in groups.items():
        wanted = tags.parse(expression)
        expected = sum(wanted is None or _matches(wanted, name) for name in sent)
        assert counts(group) == {"waiting": expected}, expression
        batch = pull(group, limit=31)
        settle(group, batch)
        assert counts(group) == {"waiting": expected - 31, "succeeded": 31}, expression


def _matches(wanted, name):
    parts = name.split(" || ")
    return any(re.fullmatch(wanted[0][1:], p) if wanted[0][0] == "~" else p in wanted for p in parts)


def test_a_rewind_tells_apart_what_both_filters_let_through():
    topic = new_id()
    group = new_group(topic, tag_expression="a")
    tagged(topic, "a", "a || b", "b", "c || d", "")
    settle(group, pull(group))
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="~b|c")
    settle(group, pull(group))
    plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
    assert (plan.repeated, plan.first_time) == (3, 0)
    services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    assert bodies(pull(group)) == ["a || b", "b", "c || d"]


def test_a_filter_that_changes_while_messages_flow_loses_and_repeats_nothing():
    topic = new_id()
    group = new_group(topic, tag_expression="a", backoff_ms=(0, 5))
    labels, filters = ["a", "b", "a || b", "c", "b || c", ""], ["*", "a", "b || c", "~a|c", "~[^b]*", "~.+"]
    seen, sent, lock, done = {}, {}, threading.Lock(), threading.Event()
    threads = Threads()

    def sender(rng):
        for _ in range(15):
            names = rng.choices(labels, k=rng.randint(1, 8))
            ids = tagged(topic, *names)
            with lock:
                sent.update(zip(ids, names, strict=True))

    def changer(rng):
        while not done.is_set():
            builtin.change_filter(group_id=group, topic_id=topic, tag_expression=rng.choice(filters))
            time.sleep(rng.random() * 0.02)

    def worker(rng):
        while not done.is_set():
            batch = pull(group, limit=rng.choice([1, 5, 20]))
            outcomes = [
                Outcome(m.id, rng.choice(["succeeded", "succeeded", "failed"]) if m.attempt == 1 else "succeeded") for m in batch.messages
            ]
            for one in services.settle(group_id=group, lease=batch.lease, outcomes=outcomes) if outcomes else ():
                assert one.problem_code is None
                if one.status == "succeeded":
                    with lock:
                        seen[one.id] = seen.get(one.id, 0) + 1

    def drained():
        services.tick()
        c = counts(group)
        return not (c.keys() & {"waiting", "processing", "later"})

    senders = [threads.start(sender, random.Random(i)) for i in range(3)]
    threads.start(changer, random.Random(10))
    for i in range(3):
        threads.start(worker, random.Random(20 + i))
    for thread in senders:
        thread.join(60)
    until(drained, 60)
    done.set()
    threads.join(60)
    until(drained, 60)
    for _ in range(3):  # what the last filter let in after the workers had ended
        if (batch := pull(group, limit=1000)).messages:
            settle(group, batch)
        services.tick()
    known = {i: status(i, group).status for i in sent}
    assert set(seen.values()) == {1}
    assert {i for i, word in known.items() if word == "succeeded"} >= seen.keys()
    assert set(known.values()) <= {"succeeded", "not_subscribed"}
    assert counts(group) == {"succeeded": sum(word == "succeeded" for word in known.values())}
    spans = _spans(group, topic)
    for i, name in sent.items():  # each was judged by the filter of its stretch, and by no other
        wanted = next(s for s in spans if s[0] < i and (s[1] is None or i <= s[1]))[2]
        assert (known[i] == "succeeded") == (wanted is None or _matches(wanted, name)), (i, name, wanted)


def _spans(group, topic):
    with session() as connection:
        return connection.execute("SELECT lo, hi, tags FROM mq_span WHERE group_id = %s AND topic_id = %s", (group, topic)).fetchall()


def test_every_function_asks_the_one_condition():
    assert (
        sql("SELECT array_agg(proname) FROM pg_proc WHERE proname LIKE 'mq\\_%%' AND proname <> 'mq_has_tag' AND prosrc ~ 'tag = ANY'")
        is None
    )


def test_over_rest_tags_are_spelt_in_one_way_and_found_by_each(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        topic = world.topic()
        group = world.group(topic, tags=r"~ur.*|x\d")
        sent = world.api("POST", f"topics/{topic.name}/messages", {"body": "1", "tag": "urgent||paid"})
        world.api("POST", f"topics/{topic.name}/messages", {"body": "2", "tag": "paid"})
        assert sent.status_code == 201
        got = world.api("POST", f"consumer-groups/{group.name}/pull", {"max": 10}).body
        assert [(m["body"], m["tag"]) for m in got["messages"]] == [("1", "paid || urgent")]
        for asked, expected in (("urgent", 1), ("paid", 2), ("paid || urgent", 1), ("pai", 0), ("~p.*", 0)):
            found = world.api("GET", f"messages?{urlencode({'topic': topic.name, 'tag': asked})}").body
            assert len(found["results"]) == expected, found
        services.settle(group_id=group.pk, lease=got["lease"], outcomes=[Outcome(int(got["messages"][0]["id"]), "dead", error="x")])
        assert len(services.dead_letters(group_id=group.pk, only=DeadFilter(tag="urgent")).items) == 1
        assert services.dead_letters(group_id=group.pk, only=DeadFilter(tag="ur")).items == []

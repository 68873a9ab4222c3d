"""Two people, or a person and a policy, at once: one after the other, and the second decides on what the first left."""

import contextlib
import threading

import pytest
from django.db import connection

from clusters import services as clusters
from clusters.models import Cluster
from core.approvals import policies, workflow
from core.approvals.models import Comment, Policy, Request
from core.errors import Problem
from tests.approvals_world import active, apply, change, make_people, meanwhile, waits
from tests.store_world import Threads, until
from topics import moving
from topics import services as topics
from topics.models import Topic

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(db):
    from accounts.models import User

    world = make_people()
    world.carol = User.objects.create_superuser("carol", password="correct horse battery")
    return world


def test_of_two_deciders_one_wins(world):
    active(world)
    request = change(world, {"expected_rate": 900})
    refused = meanwhile(
        lambda: workflow.decline(actor=world.carol, request=request, reason="no", version=1),
        lambda: workflow.approve(actor=world.bob, request=Request.objects.get(pk=request.pk), version=1),
    )
    assert (refused, Request.objects.get(pk=request.pk).state, Topic.objects.get().expected_rate) == ("state_changed", "declined", 100)


def test_an_edit_while_somebody_approves_is_refused(world):
    active(world)
    request = change(world, {"expected_rate": 900})
    refused = meanwhile(
        lambda: workflow.approve(actor=world.bob, request=request, version=1),
        lambda: workflow.edit(actor=world.alice, request=request, payload={"expected_rate": 90_000}, version=1),
    )
    assert (refused, Topic.objects.get().expected_rate) == ("state_changed", 900)


def test_an_approval_of_what_is_just_being_edited_is_refused(world):
    apply(world)
    request = Request.objects.get()
    refused = meanwhile(
        lambda: workflow.edit(actor=world.alice, request=request, payload={"partitions": 4000}),
        lambda: workflow.approve(actor=world.bob, request=Request.objects.get(), version=1, values={"cluster": "builtin"}),
    )
    assert (refused, Topic.objects.get().state, Topic.objects.get().version) == ("state_changed", "pending", 2)


def test_a_change_of_the_target_while_a_change_is_approved_is_seen(world):
    topic = active(world)
    clusters.create(actor=world.bob, name="kafka-b", kind="kafka", address="10.0.0.7:9092")
    request = change(world, {"expected_rate": 900})
    refused = meanwhile(
        lambda: moving.move(actor=world.bob, topic=topic, cluster=Cluster.objects.get(name="kafka-b"), reason="room"),
        lambda: workflow.approve(actor=world.bob, request=request, version=1),
    )
    assert (refused in {"target_changed", "state_changed"}, Topic.objects.get().expected_rate) == (True, 100)
    assert Request.objects.get(pk=request.pk).state == "pending"


def test_a_policy_that_is_taken_back_while_somebody_asks_does_not_approve(world):
    active(world)
    rule = policies.create(actor=world.bob, name="small", kinds=["topic.change"])
    meanwhile(
        lambda: policies.change(actor=world.bob, policy=rule, enabled=False),
        lambda: change(world, {"expected_rate": 900}),
    )
    assert (Request.objects.get(kind="topic.change").state, Topic.objects.get().expected_rate) == ("pending", 100)


def test_a_policy_that_has_just_decided_is_changed_afterwards(world):
    active(world)
    rule = policies.create(actor=world.bob, name="small", kinds=["topic.change"])
    meanwhile(
        lambda: change(world, {"expected_rate": 900}),
        lambda: policies.change(actor=world.bob, policy=rule, enabled=False),
    )
    assert (Request.objects.get(kind="topic.change").state, Policy.objects.get().enabled) == ("approved", False)


def test_two_ask_for_a_change_of_one_thing_and_one_of_them_is_told(world):
    active(world)
    refused = meanwhile(
        lambda: change(world, {"expected_rate": 900}),
        lambda: change(world, {"expected_rate": 800}, actor=world.carol),
    )
    assert (refused, Request.objects.filter(kind="topic.change").count()) == ("duplicate_request", 1)


def test_two_approvals_do_not_share_the_last_room_of_a_cluster(world):
    clusters.change(actor=world.bob, cluster=clusters.ensure_builtin(), address="", description="", max_topics=1)
    first, second = apply(world, "t1"), apply(world, "t2")
    builtin = Cluster.objects.get(name="builtin")
    refused = meanwhile(
        lambda: topics.approve(actor=world.bob, topic=first, cluster=builtin),
        lambda: topics.approve(actor=world.bob, topic=second, cluster=builtin),
    )
    assert (refused, Topic.objects.filter(state="active").count()) == ("confirmation_needed", 1)


def test_a_reminder_is_given_once_by_two_workers(world):
    apply(world)
    Request.objects.update(requested_at="2020-01-01T00:00:00Z")
    meanwhile(workflow.remind, workflow.remind)
    assert Comment.objects.filter(event="overdue").count() == 1
    assert workflow.remind() == 0


def test_approving_many_waits_for_who_edits_one_of_them_and_neither_is_lost(world):
    """Both lock the request first, then the topic."""
    from core import bulk

    apply(world)
    request = Request.objects.get()

    def many():
        wanted = [bulk.Wanted(str(request.pk))]
        results = bulk.run(actor=world.bob, bulk=bulk.verb_of("requests", "approve"), items=wanted, values={}, atomic=False)
        assert results[0].problem is not None  # what was seen is not what is there any more
        raise results[0].problem

    refused = meanwhile(lambda: workflow.edit(actor=world.alice, request=request, payload={"partitions": 9}), many)
    assert (refused, Topic.objects.get().state, Topic.objects.get().partitions) == ("state_changed", "pending", 9)


def test_the_victim_of_a_deadlock_is_begun_again(world, monkeypatch):
    """A bulk call holds the cluster and wants the second request; an approval of that one holds it and wants the cluster."""
    from core import bulk

    apply(world, "t1")
    apply(world, "t2")
    builtin = Cluster.objects.get(name="builtin")
    first_done, go_on, threads, pids = threading.Event(), threading.Event(), Threads(), []
    real = topics.approve

    def approve(**kwargs):
        done = real(**kwargs)
        if not first_done.is_set():
            first_done.set()
            assert go_on.wait(60)
        return done

    def many():
        items = [bulk.Wanted("t1"), bulk.Wanted("t2")]
        values = {"cluster": "builtin"}
        bulk.run(actor=world.bob, bulk=bulk.verb_of("topics", "approve"), items=items, values=values, atomic=False)

    def one():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])
        with contextlib.suppress(Problem):  # who comes second finds it done
            real(actor=world.carol, topic=Topic.objects.get(name="t2"), cluster=builtin)

    monkeypatch.setattr(topics, "approve", approve)
    threads.start(many)
    assert first_done.wait(60)
    threads.start(one)
    until(lambda: pids, seconds=60)
    with connection.cursor() as cursor:
        until(lambda: waits(cursor, pids[0]), seconds=60)  # it holds the second request, and wants the cluster
    go_on.set()
    threads.join(60)
    assert set(Topic.objects.values_list("name", "state")) == {("t1", "active"), ("t2", "active")}
    assert Request.objects.filter(state="approved").count() == 2

"""Many people at once, at random: nobody sees another error than a refusal, and what is left agrees with itself."""

import random
import threading
from itertools import count

import pytest
from django.db import connection
from django.db.models.functions import Now

from accounts.models import User
from clusters import services as clusters
from clusters.models import Cluster
from consumers import services as groups
from consumers.models import ConsumerGroup
from core import bulk
from core.approvals import policies, workflow
from core.approvals.models import Policy, Request
from core.audit.models import AuditEntry
from core.errors import Problem
from core.retrying import again
from registry.models import Publication, RegistrarHeartbeat
from tests.approvals_world import active, active_group, apply, change, make_people
from topics import moving
from topics import services as topics
from topics.models import Topic

PEOPLE = 6
VERBS = 30  # of each


class Somebody:
    """Does one thing after the other; each verb is what a request or a click would call."""

    def __init__(self, world, numbers, seed):
        self.world, self.numbers, self.errors, self.done = world, numbers, [], 0
        self.any = random.Random(seed)

    def run(self):
        verbs = [getattr(self, name) for name in sorted(vars(type(self))) if name.startswith("verb_")]
        try:
            for _ in range(VERBS):
                verb = self.any.choice(verbs)
                try:
                    verb()
                    self.done += 1
                except Problem as problem:
                    if problem.status >= 500:
                        self.errors.append((verb.__name__, problem.code))
                except Exception as error:
                    self.errors.append((verb.__name__, repr(error)))
        finally:
            connection.close()

    def person(self):
        return self.any.choice([self.world.alice, self.world.bob, self.world.carol])

    def request(self):
        return self.any.choice(list(Request.objects.order_by("-pk")[:12]))

    def topic(self):
        return self.any.choice(list(Topic.objects.order_by("-pk")[:12]))

    def group(self):
        return self.any.choice(list(ConsumerGroup.objects.order_by("-pk")[:6]))

    def two(self):
        return self.any.sample(sorted(Topic.objects.filter(state="active").values_list("name", flat=True)), 2)

    def many(self, resource, action, things, values):
        wanted = [bulk.Wanted(thing) for thing in self.any.sample(things, min(len(things), 4))]
        verb = bulk.verb_of(resource, action)
        for result in bulk.run(actor=self.person(), bulk=verb, items=wanted, values=values, atomic=False):
            if result.problem is not None and result.problem.status >= 500:
                raise result.problem

    def verb_apply(self):
        apply(self.world, f"t{next(self.numbers)}", actor=self.person())

    def verb_apply_for_a_group(self):
        fields = {"consume_from": "earliest", "max_attempts": 3, "backoff_ms": 0, "backoff_max_ms": 0, "reason": "r"}
        world, subscriptions = self.world, [(name, "*") for name in self.two()]
        name = f"g{next(self.numbers)}"
        groups.apply(
            actor=self.person(), name=name, application=world.application, owner=world.alice, subscriptions=subscriptions, **fields
        )

    def verb_ask_for_a_change(self):
        change(self.world, {"expected_rate": self.any.randint(1, 1000)}, target=self.topic().name, actor=self.person())

    def verb_ask_for_a_change_of_a_group(self):
        rows = [{"topic": name, "tags": "*"} for name in self.two()]
        change(self.world, {"subscriptions": rows}, target=self.group().name, kind="group.change", actor=self.person())

    def verb_edit(self):
        request = self.request()
        payload = self.any.choice([{}, {"owner": "bob"}, {"owner": "alice"}])
        workflow.edit(actor=request.requested_by, request=request, payload=payload)

    def verb_send_again(self):
        request = self.request()
        workflow.resubmit(actor=request.requested_by, request=request)

    def verb_withdraw(self):
        request = self.request()
        workflow.withdraw(actor=request.requested_by, request=request)

    def verb_decline(self):
        workflow.decline(actor=self.person(), request=self.request(), reason="no")

    def verb_approve(self):
        workflow.approve(actor=self.person(), request=self.request(), suggest=True, accept_warnings=True)

    def verb_decide_many(self):
        numbers = [str(pk) for pk in Request.objects.order_by("-pk").values_list("pk", flat=True)[:12]]
        self.many("requests", self.any.choice(["approve", "decline"]), numbers, {"reason": "r"})

    def verb_approve_many(self):
        names = list(Topic.objects.order_by("-pk").values_list("name", flat=True)[:12])
        self.many("topics", "approve", names, {"cluster": self.any.choice(["builtin", "kafka-a"])})

    def verb_hand_over_many(self):
        names = list(Topic.objects.filter(state="active").values_list("name", flat=True))
        self.many("topics", "change-owner", names, {"owner": self.any.choice(["alice", "bob"]), "reason": "r"})

    def verb_move(self):
        topic, cluster = self.topic(), self.any.choice(list(Cluster.objects.all()))
        again(lambda: moving.move(actor=self.person(), topic=topic, cluster=cluster, reason="r"))

    def verb_retire(self):
        topic = self.topic()
        again(lambda: topics.retire(actor=self.person(), topic=topic, reason="r"))

    def verb_suspend_or_resume(self):
        group = self.group()
        again(lambda: (groups.resume if group.suspended else groups.suspend)(actor=self.person(), group=group, reason="r"))

    def verb_change_a_cluster(self):
        cluster, address = Cluster.objects.get(name="kafka-a"), f"10.0.0.{self.any.randint(1, 250)}:9092"
        again(lambda: clusters.change(actor=self.person(), cluster=cluster, address=address, description=""))

    def verb_switch_a_policy(self):
        policies.change(actor=self.world.carol, policy=Policy.objects.get(), enabled=self.any.random() < 0.3)

    def verb_be_watched(self):
        RegistrarHeartbeat.objects.update(beat_at=Now())


@pytest.mark.django_db(transaction=True)
def test_many_at_once_are_refused_at_most_and_leave_nothing_that_disagrees():
    world = make_people()
    world.carol = User.objects.create_superuser("carol", password="correct horse battery")
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    clusters.create(actor=world.bob, name="kafka-a", kind="kafka", address="10.0.0.7:9092", max_rate=100_000)
    policies.create(actor=world.carol, name="p", enabled=False, max_rate=500, kinds=["topic.create", "topic.change", "group.create"])
    for name in ("a1", "a2", "a3"):
        active(world, name)
    active_group(world, "g", [("a1", "*"), ("a2", "*")])
    numbers = count()
    people = [Somebody(world, numbers, seed) for seed in range(PEOPLE)]
    threads = [threading.Thread(target=one.run) for one in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for one in people for error in one.errors] == []
    assert sum(one.done for one in people) > PEOPLE * VERBS / 4

    for request in Request.objects.filter(kind__in=["topic.create", "group.create"], state__in=["pending", "declined"]):
        thing = (Topic if request.kind == "topic.create" else ConsumerGroup).objects.get(name=request.target)
        stands = {"pending": "pending", "declined": "rejected"}[request.state]
        assert (thing.version, thing.state) == (request.version, stands), request.target
    for request in Request.objects.filter(state="approved", kind__endswith=".create"):
        assert AuditEntry.objects.filter(action="approve", name=request.target, after__request=request.pk).count() == 1
        assert request.policy or request.decided_by_id != request.requested_by_id
    for topic in Topic.objects.filter(state="active").select_related("cluster"):
        shown = Publication.objects.get(path=topic.zookeeper_path)
        assert (shown.deleted, f"clusterName={topic.cluster.name}\n" in bytes(shown.data).decode()) == (False, True)
    for group in ConsumerGroup.objects.filter(state="active"):
        rows = list(group.subscriptions.select_related("topic__cluster"))
        assert {row.topic.state for row in rows} == {"active"}
        text = bytes(Publication.objects.get(path=group.zookeeper_path).data).decode()
        assert f"clusterName={rows[0].topic.cluster.name}\n" in text
        assert f"suspend={'true' if group.suspended else 'false'}\n" in text

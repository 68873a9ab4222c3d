"""Operations: frozen items, chunks, pausing, cancelling, retrying; what fails is that item's reason and nobody else's."""

import threading
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from operations_world import done_names, run
from store_world import Threads, until

from accounts.models import Application, User
from core.audit.models import AuditEntry
from core.errors import Problem
from core.operations import driving, services
from core.operations.models import Operation, State
from core.operations.services import NewItem
from core.request_context import RequestContext, current

pytestmark = pytest.mark.django_db


def start(actor, items, kind="test.each", **more):
    return services.start(actor=actor, kind=kind, title="Tidy up", items=items, **more)


def names(count):
    return [f"n{i:04}" for i in range(count)]


@pytest.mark.parametrize("kind", ["test.each", "test.many"])
def test_it_does_every_item_once(admin_person, kind):
    operation = run(start(admin_person, names(25), kind))
    assert (operation.state, operation.done, operation.failed, operation.total) == (State.SUCCEEDED, 25, 0, 25)
    assert done_names() == names(25)
    assert operation.started_at
    assert operation.finished_at
    assert operation.items.filter(state="done", done_at__isnull=False).count() == 25


def test_one_without_items_is_done_at_once(admin_person):
    operation = run(start(admin_person, []))
    assert (operation.state, operation.total) == (State.SUCCEEDED, 0)


def test_it_freezes_what_a_queryset_finds_now(admin_person):
    for name in ("b", "a"):
        Application.objects.create(name=name, owner=admin_person)
    operation = services.start(
        actor=admin_person, kind="test.each", title="Tidy", select=Application.objects.filter(owner=admin_person).values_list("name")
    )
    Application.objects.create(name="c", owner=admin_person)
    assert list(operation.items.values_list("index", "key")) == [(0, "a"), (1, "b")]
    run(operation)
    assert done_names() == ["a", "b"]


def test_a_hundred_thousand_items_are_frozen_in_one_go(admin_person, django_assert_max_num_queries):
    with django_assert_max_num_queries(12):
        operation = start(admin_person, (f"n{i}" for i in range(100_000)))
    assert operation.total == 100_000
    assert operation.items.count() == 100_000


def test_it_refuses_more_items_than_it_can_hold(admin_person, monkeypatch):
    monkeypatch.setattr(services, "MAX_ITEMS", 10)
    with pytest.raises(Problem) as refused:
        start(admin_person, names(11))
    assert refused.value.code == "too_many_items"
    assert not Operation.objects.exists()


def test_it_refuses_whoever_lacks_the_permission_of_the_kind(person_without_rights):
    with pytest.raises(Problem) as refused:
        start(person_without_rights, names(1))
    assert (refused.value.code, refused.value.status) == ("forbidden", 403)


@pytest.mark.parametrize("kind", ["test.each", "test.many"])
@pytest.mark.parametrize(("poison", "code"), [("problem", "too_dusty"), ("bug", "internal"), ("data", "database_error")])
def test_a_poison_item_is_marked_with_its_reason_and_the_rest_goes_on(admin_person, kind, poison, code):
    items = [NewItem(name, {"poison": poison} if name == "n0003" else {}) for name in names(25)]
    operation = run(start(admin_person, items, kind))
    assert (operation.state, operation.done, operation.failed) == (State.PARTIAL, 24, 1)
    failed = operation.items.get(state="failed")
    assert (failed.key, failed.code) == ("n0003", code)
    assert failed.detail
    assert done_names() == [name for name in names(25) if name != "n0003"]


def test_when_all_fail_it_has_failed(admin_person):
    operation = run(start(admin_person, [NewItem(name, {"poison": "problem"}) for name in names(3)]))
    assert (operation.state, operation.failed) == (State.FAILED, 3)


def test_what_it_writes_names_the_person_and_the_operation(admin_person):
    context = RequestContext(request_id="r-1", address="10.1.2.3", credential="token:mq_abc", application="shop", change_message="spring")
    token = current.set(context)
    try:
        operation = start(admin_person, ["a"], reason="spring")
    finally:
        current.reset(token)
    run(operation)
    entry = AuditEntry.objects.get(kind="test")
    assert (entry.actor_name, entry.credential, entry.address) == ("alice", "token:mq_abc", "10.1.2.3")
    assert entry.request_id == f"operation:{operation.uid}"
    begun = AuditEntry.objects.get(kind="operation")
    assert (begun.action, begun.name, begun.request_id, begun.after["items"]) == ("start", str(operation.uid), "r-1", 1)


def test_the_system_may_start_one(db):
    operation = run(start(None, ["a"]))
    assert operation.state == State.SUCCEEDED
    assert AuditEntry.objects.get(kind="test").actor_name == "system"


def test_paused_it_stands_still_and_resumed_it_goes_on(admin_person):
    operation = start(admin_person, names(25))
    driving.take_on(operation.pk)
    services.pause(actor=admin_person, operation=operation)
    assert operation.state == State.PAUSED
    run(operation)
    assert (operation.state, operation.done) == (State.PAUSED, 10)
    services.resume(actor=admin_person, operation=operation)
    run(operation)
    assert (operation.state, operation.done) == (State.SUCCEEDED, 25)
    assert done_names() == names(25)


def test_cancelled_it_keeps_what_is_done_and_skips_the_rest(admin_person):
    operation = start(admin_person, names(25))
    driving.take_on(operation.pk)
    services.cancel(actor=admin_person, operation=operation, reason="wrong list")
    run(operation)
    assert (operation.state, operation.done, operation.skipped, operation.left) == (State.CANCELLED, 10, 15, 0)
    assert operation.items.filter(state="skipped", code="cancelled").count() == 15
    assert operation.finished_at
    assert AuditEntry.objects.get(action="cancel").reason == "wrong list"
    assert [step.state for step in operation.steps.all()] == ["partial"]


def test_a_paused_one_can_be_cancelled(admin_person):
    operation = start(admin_person, names(3))
    services.pause(actor=admin_person, operation=operation)
    services.cancel(actor=admin_person, operation=operation)
    assert operation.state == State.CANCELLED


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("pause", "paused"), ("pause", "succeeded"), ("pause", "cancelled"), ("resume", "running"), ("resume", "succeeded"),
        ("cancel", "succeeded"), ("cancel", "cancelled"), ("retry_failed", "running"), ("retry_failed", "succeeded"),
        ("retry_failed", "cancelled"),
    ],
)  # fmt: skip
def test_a_verb_in_the_wrong_state_is_refused(admin_person, verb, state):
    operation = start(admin_person, names(3))
    Operation.objects.filter(pk=operation.pk).update(state=state)
    before = AuditEntry.objects.count()
    with pytest.raises(Problem) as refused:
        getattr(services, verb)(actor=admin_person, operation=operation)
    assert (refused.value.code, refused.value.status) == ("wrong_state", 409)
    operation.refresh_from_db()
    assert operation.state == state
    assert AuditEntry.objects.count() == before


def test_retrying_does_only_what_failed(admin_person):
    items = [NewItem(name, {"poison": "problem"} if name < "n0002" else {}) for name in names(5)]
    operation = run(start(admin_person, items))
    for item in operation.items.filter(state="failed")[:1]:
        item.input = {}
        item.save()
    services.retry_failed(actor=admin_person, operation=operation)
    assert (operation.state, operation.done, operation.failed) == (State.QUEUED, 3, 0)
    run(operation)
    assert (operation.state, operation.done, operation.failed) == (State.PARTIAL, 4, 1)
    assert done_names() == ["n0000", "n0002", "n0003", "n0004"]


def test_retrying_without_a_failure_is_refused(admin_person):
    operation = run(start(admin_person, names(1)))
    Operation.objects.filter(pk=operation.pk).update(state=State.PARTIAL)
    with pytest.raises(Problem) as refused:
        services.retry_failed(actor=admin_person, operation=operation)
    assert refused.value.code == "nothing_failed"


@pytest.mark.parametrize("change", [{"is_superuser": False}, {"is_active": False}])
def test_when_its_starter_may_not_do_it_any_more_it_pauses_and_says_so(admin_person, second_person, change):
    operation = start(admin_person, names(25))
    driving.take_on(operation.pk)
    User.objects.filter(pk=admin_person.pk).update(**change)
    run(operation)
    assert (operation.state, operation.done, operation.error_code) == (State.PAUSED, 10, "starter_not_allowed")
    assert "alice" in operation.error
    held = AuditEntry.objects.get(kind="operation", action="pause")
    assert (held.actor_name, held.name, "alice" in held.reason) == ("system", str(operation.uid), True)
    with pytest.raises(Problem) as refused:
        services.resume(actor=second_person, operation=operation)
    assert refused.value.code == "starter_not_allowed"
    User.objects.filter(pk=admin_person.pk).update(is_superuser=True, is_active=True)
    services.resume(actor=second_person, operation=operation)
    run(operation)
    assert (operation.state, operation.error) == (State.SUCCEEDED, "")
    assert done_names() == names(25)


def test_steps_follow_each_other(admin_person):
    items = [NewItem(f"{step}-{i}", step=step) for step in (2, 0, 1) for i in range(12)]
    operation = start(admin_person, items, "test.steps")
    assert [(step.name, step.state, step.total) for step in operation.steps.all()] == [
        ("prepare", "queued", 12), ("switch", "queued", 12), ("check", "queued", 12),
    ]  # fmt: skip
    run(operation)
    assert operation.state == State.SUCCEEDED
    order = list(AuditEntry.objects.filter(kind="test").order_by("id").values_list("after__step", flat=True))
    assert order == ["prepare"] * 12 + ["switch"] * 12 + ["check"] * 12
    assert [(step.state, step.done) for step in operation.steps.all()] == [("succeeded", 12)] * 3


def test_a_failed_item_of_a_required_step_ends_it_and_retrying_goes_through_all_steps(admin_person):
    items = [NewItem("a", {"poison": "problem"}), NewItem("b"), NewItem("c", step=1), NewItem("d", step=2)]
    operation = run(start(admin_person, items, "test.steps"))
    assert (operation.state, operation.done, operation.failed, operation.skipped) == (State.FAILED, 1, 1, 2)
    assert [step.state for step in operation.steps.all()] == ["partial", "cancelled", "cancelled"]
    operation.items.filter(key="a").update(input={})
    services.retry_failed(actor=admin_person, operation=operation)
    run(operation)
    assert (operation.state, operation.done) == (State.SUCCEEDED, 4)
    assert done_names() == ["a", "b", "c", "d"]


def test_one_of_a_kind_that_this_version_does_not_know_waits(admin_person):
    operation = start(admin_person, names(3))
    Operation.objects.filter(pk=operation.pk).update(kind="test.of-tomorrow")
    assert driving.drive(budget=1) == 0
    operation.refresh_from_db()
    assert (operation.state, operation.kind_known, operation.kind_label) == (State.QUEUED, False, "test.of-tomorrow")
    services.cancel(actor=admin_person, operation=operation)
    assert operation.state == State.CANCELLED


def test_a_running_one_that_is_silent_is_unknown(admin_person):
    from datetime import timedelta

    from django.utils import timezone

    operation = start(admin_person, names(25))
    driving.take_on(operation.pk)
    operation.refresh_from_db()
    assert operation.shown_state == State.RUNNING
    assert set(Operation.objects.in_state("running")) == {operation}
    Operation.objects.filter(pk=operation.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=2))
    operation.refresh_from_db()
    assert operation.shown_state == State.UNKNOWN
    assert not Operation.objects.in_state("running").exists()
    assert set(Operation.objects.in_state("unknown")) == {operation}
    run(operation)
    assert operation.state == State.SUCCEEDED


def test_rate_and_eta_are_told_from_rows(admin_person):
    from datetime import timedelta

    from django.utils import timezone

    operation = start(admin_person, names(40))
    assert operation.rate is None
    driving.take_on(operation.pk)
    driving.take_on(operation.pk)
    # as if both chunks had taken ten seconds
    Operation.objects.filter(pk=operation.pk).update(before_at=timezone.now() - timedelta(seconds=10))
    operation.refresh_from_db()
    assert operation.rate == pytest.approx(2, rel=0.2)
    assert operation.eta.total_seconds() == pytest.approx(10, rel=0.2)
    # and the window moves on
    Operation.objects.filter(pk=operation.pk).update(mark_at=timezone.now() - timedelta(seconds=10), mark_settled=20)
    driving.take_on(operation.pk)
    operation.refresh_from_db()
    assert operation.before_settled == 20
    assert operation.rate == pytest.approx(1, rel=0.2)
    run(operation)
    assert operation.rate is None


def test_operations_take_turns(admin_person):
    first, second = start(admin_person, names(30)), start(admin_person, names(30))
    driving.drive(budget=0)
    found = list(Operation.objects.workable(["test.each"]))
    assert found == [first, second]
    driving.take_on(first.pk)
    assert list(Operation.objects.workable(["test.each"])) == [second, first]
    driving.take_on(second.pk)
    assert list(Operation.objects.workable(["test.each"])) == [first, second]


def test_a_refused_start_leaves_nothing(admin_person):
    with pytest.raises(ValueError, match="no step"):
        start(admin_person, [NewItem("a", step=3)])
    assert not Operation.objects.exists()


def test_ids_sort_by_the_time_of_their_making_and_are_version_7(admin_person):
    from core.operations.models import new_uid

    made = [new_uid() for _ in range(100)]
    assert {uid.version for uid in made} == {7}
    assert [uid.int >> 80 for uid in made] == sorted(uid.int >> 80 for uid in made)
    assert len(set(made)) == 100


@pytest.mark.django_db(transaction=True)
def test_a_chunk_that_the_database_fails_is_tried_again_item_by_item(admin_person, monkeypatch):
    monkeypatch.setattr(driving, "BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(driving, "LEASE", 0)
    items = [NewItem(name, {"poison": "database"} if name == "n0003" else {}) for name in names(25)]
    operation = start(admin_person, items)
    for _call in range(100):
        driving.take_on(operation.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.done, operation.failed) == (State.PARTIAL, 24, 1)
    failed = operation.items.get(state="failed")
    assert (failed.key, failed.code, failed.attempts) == ("n0003", "worker_lost", driving.ATTEMPTS + 1)
    assert done_names() == [name for name in names(25) if name != "n0003"]


@pytest.mark.django_db(transaction=True)
def test_after_a_failed_chunk_it_waits_before_it_goes_on(admin_person):
    operation = start(admin_person, [NewItem("a", {"poison": "database"})])
    assert not driving.take_on(operation.pk)
    operation.refresh_from_db()
    assert operation.not_before
    assert (operation.careful, operation.stumbles) == (10, 1)
    assert not Operation.objects.workable(["test.each"]).exists()
    assert not driving.take_on(operation.pk)


@pytest.mark.django_db(transaction=True)
def test_a_pause_waits_for_the_chunk_in_flight_and_the_next_call_does_it(admin_person):
    """Two connections: one has a chunk in flight, the other pauses."""
    operation = start(admin_person, names(25))
    driving.take_on(operation.pk)
    in_flight, go_on = threading.Event(), threading.Event()

    def chunk():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(driving._SHARE, (services.LOCK, operation.pk))
            in_flight.set()
            go_on.wait(30)
        connection.close()

    thread = threading.Thread(target=chunk)
    thread.start()
    try:
        assert in_flight.wait(30)
        services.pause(actor=admin_person, operation=operation)
        assert (operation.state, operation.wanted) == (State.RUNNING, "pause")
        assert not driving.take_on(operation.pk)
    finally:
        go_on.set()
        thread.join()
    driving.take_on(operation.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.wanted, operation.done) == (State.PAUSED, "", 10)


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_do_no_item_twice(admin_person):
    operation = start(admin_person, names(400))
    errors = []

    def worker():
        try:
            run(Operation.objects.get(pk=operation.pk))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=worker) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(operation)
    assert not errors
    assert (operation.state, operation.done) == (State.SUCCEEDED, 400)
    assert done_names() == names(400)


def test_a_worker_whose_connection_is_gone_does_not_count_against_the_operation(admin_person, monkeypatch):
    operation = start(admin_person, names(3))

    def gone(*_args, **_kwargs):
        raise OperationalError("the connection is closed")

    monkeypatch.setattr(driving, "_chunk", gone)
    with pytest.raises(OperationalError):  # in a test's transaction it cannot go on either
        driving.take_on(operation.pk)
    operation.refresh_from_db()
    assert (operation.stumbles, operation.careful) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_cancelling_while_an_item_is_given_up_is_no_deadlock_and_counts_it_once(admin_person, monkeypatch):
    operation = start(admin_person, names(3))
    operation.items.filter(index=0).update(attempts=driving.ATTEMPTS)  # its worker died each time
    Operation.objects.filter(pk=operation.pk).update(careful=10)
    inside, go_on, real = threading.Event(), threading.Event(), driving._

    def slowly(text):
        inside.set()
        assert go_on.wait(60)
        return real(text)

    monkeypatch.setattr(driving, "_", slowly)
    threads, pids = Threads(), []
    threads.start(driving.take_on, operation.pk)
    assert inside.wait(60)

    def cancel():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])
        services.cancel(actor=admin_person, operation=operation)
        pids.append(None)

    cancelling = threads.start(cancel)
    with connection.cursor() as cursor:
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        until(lambda: not cancelling.is_alive() or (pids and (cursor.execute(waits, pids[:1]) or cursor.fetchone()[0])), seconds=60)
    go_on.set()
    threads.join(60)
    run(operation)
    assert (operation.state, operation.failed, operation.skipped, operation.done) == (State.CANCELLED, 1, 2, 0)
    assert operation.stumbles == 0


def test_a_paused_one_counts_no_attempts(admin_person):
    operation = start(admin_person, names(3))
    for standing in ({"state": "paused"}, {"state": "running", "wanted": "pause"}):
        Operation.objects.filter(pk=operation.pk).update(careful=10, **standing)
        assert driving._attempt(operation.pk) == (None, False)
    assert set(operation.items.values_list("attempts", flat=True)) == {0}


@pytest.mark.django_db(transaction=True)
def test_a_paused_one_that_is_cancelled_while_a_worker_lets_go_of_it_is_cancelled_by_the_next(admin_person):
    operation = start(admin_person, names(3))
    services.pause(actor=admin_person, operation=operation)
    holding, go_on, threads = threading.Event(), threading.Event(), Threads()

    def worker():  # it had begun before the pause, and is about to find out
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(driving._SHARE, (services.LOCK, operation.pk))
            holding.set()
            assert go_on.wait(60)

    threads.start(worker)
    try:
        assert holding.wait(60)
        services.cancel(actor=admin_person, operation=operation)
        assert (operation.state, operation.wanted) == (State.PAUSED, "cancel")
    finally:
        go_on.set()
    threads.join(60)
    driving.drive(budget=1)
    operation.refresh_from_db()
    assert (operation.state, operation.wanted, operation.skipped) == (State.CANCELLED, "", 3)


def test_what_ended_long_ago_is_forgotten_and_nothing_else(admin_person):
    old, recent, under_way = (start(admin_person, names(5)) for _ in range(3))
    for done in (old, recent):
        run(done)
    Operation.objects.filter(pk=old.pk).update(finished_at=timezone.now() - timedelta(days=91))
    Operation.objects.filter(pk=recent.pk).update(finished_at=timezone.now() - timedelta(days=89))
    assert services.forget(limit=3) == 3
    assert Operation.objects.filter(pk=old.pk).exists()  # it has items left
    assert services.forget(limit=3) == 2
    assert set(Operation.objects.filter(pk__in=[old.pk, recent.pk, under_way.pk])) == {recent, under_way}
    assert recent.items.count() == under_way.items.count() == 5
    assert services.forget(limit=3) == 0

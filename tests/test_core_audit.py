"""The audit: append-only in the database, found by everything that it knows, read only over REST and in the console."""

import contextlib
from datetime import timedelta

import pytest
from django.db import InternalError, ProgrammingError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core.audit import search
from core.audit.models import AuditEntry
from core.audit.reading import differences
from core.audit.services import record
from core.request_context import RequestContext, current

pytestmark = pytest.mark.django_db


@contextlib.contextmanager
def asking(**context):
    token = current.set(RequestContext(**context))
    try:
        yield
    finally:
        current.reset(token)


def entry(person=None, action="change", kind="topic", name="order_topic", **fields):
    record(actor=person, action=action, kind=kind, name=name, **fields)
    return AuditEntry.objects.order_by("-pk")[0]


@pytest.fixture
def browser(admin_person):
    client = Client()
    client.force_login(admin_person)
    return client


# --- protected in the database --------------------------------------------------------------------------------------------


@pytest.fixture
def protected(db):
    """As it is in production: conftest takes this one trigger off for the tests that empty all tables."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_auditentry ENABLE ALWAYS TRIGGER audit_no_truncate")


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM {0}", "UPDATE {0} SET reason = 'x'", "TRUNCATE {0}", "TRUNCATE {0} CASCADE"],
)
def test_it_cannot_be_changed_or_emptied(protected, statement, replica):
    made, statement = entry(), statement.format("audit_auditentry")
    with connection.cursor() as cursor:
        if replica:
            cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            if not cursor.fetchone()[0]:
                statement = f"SET LOCAL session_replication_role = replica; {statement}"  # refused already, which is as good
            else:
                cursor.execute("SET LOCAL session_replication_role = replica")
        with pytest.raises((ProgrammingError, InternalError), match=r"append-only|permission denied"), transaction.atomic():
            cursor.execute(statement)
        if replica:
            with contextlib.suppress(ProgrammingError), transaction.atomic():
                cursor.execute("SET LOCAL session_replication_role = origin")
    assert AuditEntry.objects.get(pk=made.pk).reason == ""


# --- what an entry knows ----------------------------------------------------------------------------------------------------


def test_who_from_where_with_what_and_why_come_from_the_request(admin_person):
    with asking(request_id="r-1", address="10.1.2.3", credential="key:shop/k1", application="shop", change_message="spring cleaning"):
        made = entry(admin_person, before={"rate": 1, "same": 2}, after={"rate": 3, "same": 2})
        assert entry(admin_person, reason="its own").reason == "its own"
    assert (made.actor_name, made.request_id, made.address, made.credential) == ("alice", "r-1", "10.1.2.3", "key:shop/k1")
    assert (made.application, made.reason) == ("shop", "spring cleaning")
    assert (made.before, made.after) == ({"rate": 1}, {"rate": 3})


def test_a_browser_and_a_token_are_told_apart(api, browser, topic_fields):
    assert api("POST", "topics", {"name": "order_topic", **topic_fields}).status_code == 201
    by_token = AuditEntry.objects.get(kind="topic")
    assert by_token.credential.startswith("token:mq_")
    assert len(by_token.request_id) > 8
    assert by_token.address == "127.0.0.1"
    assert browser.post("/admin/topics/order_topic/edit/", {}).status_code in {200, 302, 400, 409}
    assert browser.get("/admin/audit/?export=csv").status_code == 200
    assert AuditEntry.objects.get(action="export").credential == "session"


def test_a_workers_task_says_which_one_it_was():
    from mqadmin.celery import app

    @app.task(name="test.audited", bind=False)
    def work():
        record(actor=None, action="change", kind="topic", name="by-a-worker")

    try:
        work.apply(task_id="abc-1")
    finally:
        del app.tasks["test.audited"]
    made = AuditEntry.objects.get()
    assert (made.actor_name, made.credential, made.request_id) == ("system", "task:test.audited", "task:abc-1")
    assert current.get() == RequestContext()


def test_what_has_the_name_of_a_secret_is_masked_and_whether_there_is_one_is_not():
    hook = {"url": "https://x", "secret": "hunter2", "has_secret": True}
    made = entry(after={"webhook": hook, "password": "", "list": [{"api_key": "k"}]})
    assert "hunter2" not in str(made.after)
    assert made.after["webhook"] == {"url": "https://x", "secret": "••••••••", "has_secret": True}
    assert made.after["password"] == ""
    assert made.after["list"] == [{"api_key": "••••••••"}]


def test_what_is_too_long_for_a_column_is_cut_and_not_refused():
    with asking(credential="key:" + "x" * 300):
        assert len(entry(name="n" * 300).name) == 250


# --- found again --------------------------------------------------------------------------------------------------------------


def uses(queryset, index):
    """Whether Postgres would take the index, were the table not tiny; what it knows of the table is made here, and taken back."""
    with transaction.atomic(), connection.cursor() as cursor:
        AuditEntry.objects.bulk_create(
            AuditEntry(
                actor_name=f"p{i % 99}", action=f"a{i % 99}", kind=f"k{i % 99}", name=f"n{i}", request_id=f"r{i}",
                address=f"10.1.0.{i % 99}", credential=f"token:{i % 99}", application=f"app{i % 99}",
            )
            for i in range(3000)
        )  # fmt: skip
        cursor.execute("ANALYZE audit_auditentry")
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
        plan = queryset.explain()
        transaction.set_rollback(True)
    return index in plan


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"kind": "topic"}, "audit_kind"), ({"actor_name": "alice"}, "audit_person"),
        ({"action": "change"}, "audit_action"), ({"request_id": "r"}, "audit_request"), ({"address": "10.0.0.1"}, "audit_address"),
        ({"credential": "token:mq_abc"}, "audit_credential"), ({"application": "shop"}, "audit_application"),
    ],
)  # fmt: skip
def test_each_filter_has_its_index(filters, index):
    assert uses(AuditEntry.objects.filter(**filters).order_by("-pk")[:50], index)


def test_a_period_and_a_search_have_theirs():
    assert uses(AuditEntry.objects.filter(at__gte=timezone.now()).order_by(), "audit_time")
    assert uses(AuditEntry.objects.all().containing("order topic").order_by(), "audit_search")


def test_a_search_looks_in_names_reasons_and_what_changed():
    made = entry(name="Order.%1", reason="because of Jürgen", before={"k": "vorher"}, after={"k": "订单\\x_1"})
    entry(name="other")

    def found(words):
        return list(AuditEntry.objects.all().containing(words)) == [made]

    for words in ("order.%1", "jürgen", "VORHER", "订单", "_1", "order jürgen 订单", "system order", "%1"):
        assert found(words), words
    for words in ("order.x1", "order nothing", "rder.%%1"):
        assert not found(words), words


def test_without_the_extension_a_search_still_finds_and_the_check_says_so(monkeypatch):
    class Editor:
        connection = connection

    monkeypatch.setattr(search, "EXTENSION", "CREATE EXTENSION this_one_is_not_there")
    with transaction.atomic():
        search.drop_index(None, Editor)
        with contextlib.suppress(Exception), transaction.atomic():
            search.make_index(None, Editor)
            transaction.set_rollback(True)
        entry(name="needle")
        assert AuditEntry.objects.all().containing("needl").count() == 1
        from django.core import checks

        assert "mqadmin.W015" in [m.id for m in checks.run_checks(tags=["database"], databases=["default"], include_deployment_checks=True)]
        transaction.set_rollback(True)


def test_the_values_to_choose_from_are_read_by_jumps():
    for kind in ("topic", "cluster", "topic", "application"):
        entry(kind=kind)
    assert AuditEntry.objects.all().values_of("kind") == ["application", "cluster", "topic"]
    assert AuditEntry.objects.all().values_of("actor_name") == ["system"]
    with pytest.raises(ValueError):
        AuditEntry.objects.all().values_of("reason; DROP TABLE x")


# --- REST -----------------------------------------------------------------------------------------------------------------------


def test_rest_lists_newest_first_and_filters(api, admin_person):
    with asking(request_id="r-7", address="10.0.0.7", credential="token:mq_seven"):
        seven = entry(admin_person, name="seven", after={"rate": 7}, reason="why seven")
    eight = entry(None, "create", "cluster", "eight")
    body = api("GET", "audit-entries").body
    assert [row["id"] for row in body["results"]] == [eight.pk, seven.pk]
    assert body["results"][1] == {
        "id": seven.pk, "at": body["results"][1]["at"], "actor": "alice", "credential": "token:mq_seven", "application": "",
        "action": "change", "kind": "topic", "name": "seven", "before": None, "after": {"rate": 7}, "reason": "why seven",
        "request_id": "r-7", "address": "10.0.0.7",
    }  # fmt: skip
    soon = (timezone.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for query in (
        "actor=alice", "credential=token:mq_seven", "credential=token:", "action=change", "kind=topic", "name=seven", "request_id=r-7",
        "address=10.0.0.7", "q=why", "q=alice%20seven", f"until={soon}&kind=topic",
    ):  # fmt: skip
        assert [row["id"] for row in api("GET", f"audit-entries?{query}").body["results"]] == [seven.pk], query
    assert api("GET", f"audit-entries?since={soon}").body["results"] == []
    assert api("GET", f"audit-entries/{seven.pk}").body["name"] == "seven"


def test_rest_pages_by_key(api):
    ids = [entry(name=str(i)).pk for i in range(5)][::-1]
    first = api("GET", "audit-entries?limit=2").body
    second = api("GET", first["next"].split("/api/v1/")[1]).body
    assert [r["id"] for r in [*first["results"], *second["results"]]] == ids[:4]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        api("GET", first["next"].split("/api/v1/")[1])
    assert not any("COUNT" in q["sql"] or "OFFSET" in q["sql"] for q in queries.captured_queries)


@pytest.mark.parametrize("query", ["since=yesterday", "q=%00", "nonsense=1", "cursor=zzz"])
def test_rest_refuses_what_makes_no_sense(api, query):
    assert api("GET", f"audit-entries?{query}").status_code == 400


def test_rest_is_read_only_and_wants_the_permission(api, api_without_rights, api_anonymous):
    made = entry()
    for method in ("PUT", "PATCH", "DELETE"):
        assert api(method, f"audit-entries/{made.pk}", {}).status_code == 405
    assert api("POST", "audit-entries", {}).status_code == 405
    assert api("GET", "audit-entries/999999999999999999").status_code == 404
    assert api_without_rights("GET", "audit-entries").status_code == 403
    assert api_anonymous("GET", "audit-entries").status_code == 401


# --- the console ------------------------------------------------------------------------------------------------------------------


def rows_of(response):
    """Without the entry of the sign-in itself."""
    return [row.name for row in response.context_data["rows"] if row.name != "alice"]


def test_the_list_filters_by_what_is_chosen_and_by_links(browser, admin_person):
    with asking(request_id="r-7", address="10.0.0.7", credential="session", application="shop"):
        entry(admin_person, name="seven", after={"rate": 7})
    entry(None, "create", "cluster", "eight")
    today = timezone.localdate().isoformat()
    for query in (
        "kind=topic", "action=change", "who=alice", "credential=session", "request=r-7", "from=10.0.0.7", "application=shop",
        "q=seven", "name=seven", f"kind=topic&period=day&first={today}&last={today}",
    ):  # fmt: skip
        assert rows_of(browser.get(f"/admin/audit/?{query}")) == ["seven"], query
    assert rows_of(browser.get("/admin/audit/?period=hour")) == ["eight", "seven"]
    for query in (
        "first=2999-01-01",
        "last=2001-01-01",
        "first=2026-02-31",
        "first=x",
        "last=9999-12-31",
        "period=never",
        "credential=key:",
    ):
        assert browser.get(f"/admin/audit/?{query}").context_data["rows"] == [], query


def test_pages_go_by_key_both_ways(browser):
    for i in range(120):
        entry(name=f"n{i}")
    first = browser.get("/admin/audit/")
    assert rows_of(first)[0::49] == ["n119", "n70"]
    assert (first.context_data["newer"], first.context_data["older"]) == ("", f"older-{first.context_data['rows'][-1].pk}")
    second = browser.get(f"/admin/audit/?page={first.context_data['older']}")
    assert rows_of(second)[0::49] == ["n69", "n20"]
    third = browser.get(f"/admin/audit/?page={second.context_data['older']}")
    assert rows_of(third)[0::19] == ["n19", "n0"]
    assert third.context_data["older"] == ""
    back = browser.get(f"/admin/audit/?page={third.context_data['newer']}")
    assert rows_of(back) == rows_of(second)
    assert rows_of(browser.get(f"/admin/audit/?page={back.context_data['newer']}")) == rows_of(first)
    assert rows_of(browser.get("/admin/audit/?sort=at"))[0] == "n0"
    for nonsense in ("older-x", "older-99999999999999999999", "older-0", "7", "newer-", "older-" + "9" * 18):
        assert rows_of(browser.get(f"/admin/audit/?page={nonsense}"))[0] == "n119", nonsense


def test_the_page_of_an_entry_shows_the_difference(browser, admin_person):
    made = entry(admin_person, before={"rate": 1, "limits": {"a": 1}}, after={"rate": 2, "new": "x"}, reason="because <b>")
    page = browser.get(f"/admin/audit/{made.pk}/")
    assert page.status_code == 200
    html = page.content.decode()
    assert "because &lt;b&gt;" in html
    assert [(d.field, d.before, d.after, d.mark) for d in differences(made)] == [
        ("rate", "1", "2", "changed"),
        ("limits.a", "1", None, "removed"),
        ("new", None, "x", "added"),
    ]
    assert browser.get("/admin/audit/999999999/").status_code == 404


def test_who_may_not_see_it_does_not(person_without_rights):
    made, client = entry(), Client()
    client.force_login(person_without_rights)
    for address in ("/admin/audit/", f"/admin/audit/{made.pk}/"):
        assert client.get(address).status_code in {302, 403, 404}


def test_the_list_asks_the_same_number_of_statements_for_one_and_for_fifty(browser):
    def statements():
        with CaptureQueriesContext(connection) as queries:
            browser.get("/admin/audit/")
        return len(queries)

    entry()
    statements()
    few = statements()
    for i in range(49):
        entry(name=f"n{i}", kind=f"kind {i}")
    assert statements() == few

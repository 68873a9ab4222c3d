"""What rooms have added to the data set since: requests with their threads, operations with their items, sessions, keys, saved views."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.dataset import Filler

ROOT = 100_000  # as in dataset.py, which imports this


def requests(filler: "Filler") -> None:
    """One for each topic and group as it was applied for, each with a thread of two; some notifications of each."""
    from core.approvals.models import Comment, NotificationDelivery, NotificationTarget, Policy, Request

    state = "CASE x.state WHEN 'pending' THEN 'pending' WHEN 'rejected' THEN 'declined' ELSE 'approved' END"
    common = {
        "application": "x.application_id",
        "owner": "x.owner_id",
        "reason": "x.reason",
        "state": state,
        "requested_by": "x.requested_by_id",
        "requested_at": "x.requested_at",
        "decided_by": "x.decided_by_id",
        "decided_at": "x.decided_at",
        "decision_reason": "CASE WHEN x.decided_at IS NULL THEN '' ELSE 'as agreed' END",
        "changed_at": "coalesce(x.decided_at, x.requested_at)",
    }
    filler.insert(
        Request,
        "topics_topic x JOIN accounts_application a ON a.id = x.application_id JOIN accounts_user u ON u.id = x.owner_id",
        **common,
        kind="'topic.create'",
        target="x.name",
        payload="jsonb_build_object('application', a.name, 'owner', u.username, 'expected_rate', x.expected_rate,"
        " 'message_bytes', x.message_bytes, 'partitions', x.partitions, 'ordered', x.ordered)",
        facts="jsonb_build_object('rate', x.expected_rate, 'message_bytes', x.message_bytes, 'partitions', x.partitions)",
    )
    filler.insert(
        Request,
        """consumers_consumergroup x JOIN accounts_application a ON a.id = x.application_id JOIN accounts_user u ON u.id = x.owner_id
           CROSS JOIN LATERAL (
             SELECT coalesce(jsonb_agg(jsonb_build_object('topic', t.name, 'tags', s.tags) ORDER BY s.position), '[]') AS wanted
             FROM consumers_subscription s JOIN topics_topic t ON t.id = s.topic_id WHERE s.group_id = x.id) w""",
        **common,
        kind="'group.create'",
        target="x.name",
        payload="jsonb_build_object('application', a.name, 'owner', u.username, 'subscriptions', w.wanted,"
        " 'consume_from', x.consume_from, 'max_attempts', x.max_attempts)",
    )
    filler.insert(
        Comment,
        f"{Request._meta.db_table} x, generate_series(1, 2) i",
        request="x.id",
        event="CASE i WHEN 1 THEN 'submitted' ELSE 'commented' END",
        author="x.requested_by_id",
        at="x.requested_at + i * interval '1 hour'",
        text="'what it is for ' || x.id",
    )
    filler.insert(
        Policy,
        "generate_series(1, 8) i",
        name="'policy ' || i",
        position="i",
        name_pattern="'test.*'",
        changed_by=filler.person("i", "policy"),
    )
    filler.insert(
        NotificationTarget, "generate_series(1, 8) i", name="'target ' || i", channel="'mail'", address="'team' || i || '@example.com'"
    )
    filler.insert(
        NotificationDelivery,
        f"{Request._meta.db_table} x",
        id="gen_random_uuid()",
        request="x.id",
        event="'submitted'",
        channel="'mail'",
        address="'person@example.com'",
        state="CASE WHEN x.id % 50 = 0 THEN 'failed' ELSE 'sent' END",
        attempts="1",
        created_at="x.requested_at",
        sent_at="x.requested_at",
    )


def service_registries(filler: "Filler") -> None:
    """A fifth as many services as topics, each with twenty registrations; applications, jobs, worker ids."""
    from registry.discovery_models import Registration, Service, ServiceEvent, WorkerId

    size = max(8, filler.size.topics // 5)
    source = f"generate_series(1, {size}) i CROSS JOIN LATERAL (SELECT (ARRAY['dubbo','dubbo','messages','jobs'])[1 + i % 4] AS layout) l"
    filler.insert(
        Service,
        source,
        id=f"{ROOT} + i",
        path="'/' || layout || '/com.shop.Service' || i",
        root="'/' || layout",
        layout="layout",
        role="CASE WHEN layout = 'messages' THEN 'producer' ELSE '' END",
        name="'com.shop.order.Service' || i",
        providers="10",
        consumers="CASE WHEN layout = 'dubbo' THEN 5 ELSE 0 END",
        online="true",
        online_since="now() - i * interval '1 minute'",
        leader="CASE WHEN layout = 'jobs' THEN '10.0.0.1@-@' || i ELSE '' END",
        details="""jsonb_build_object('group', 'PID' || i, 'servers', '10.0.0.9:9876', 'config', '{}', 'candidates', 2,
                   'resharding', false, 'shards', jsonb_build_array(jsonb_build_object('item', '0', 'state', 'idle', 'instance', '',
                   'running', '', 'failover', '')))""",
    )
    filler.insert(
        Registration,
        f"{Service._meta.db_table} s, generate_series(1, 20) i",
        service="s.id",
        kind="CASE WHEN s.layout = 'dubbo' THEN CASE WHEN i > 13 THEN 'consumer' ELSE 'provider' END"
        " WHEN s.layout = 'jobs' THEN 'instance' ELSE 'host' END",
        key="md5(s.id || '/' || i)",
        znode="s.path || '/' || i",
        name="'dubbo://10.0.0.' || i || ':20880/' || s.name",
        app="'order-service-' || s.id % 100",
        address="'10.0.0.' || i || ':20880'",
        session="to_hex(s.id * 20 + i)",
        polite="i % 2 = 0",
        czxid="s.id * 20 + i",
        mzxid="s.id * 20 + i",
        online="i <= 10 OR i > 15",
        departure="CASE WHEN i BETWEEN 11 AND 15 THEN (ARRAY['goodbye','lost','removed','unknown'])[1 + i % 4] ELSE '' END",
        offline_at="CASE WHEN i BETWEEN 11 AND 15 THEN now() - i * interval '1 hour' END",
    )
    filler.insert(
        ServiceEvent,
        f"{Service._meta.db_table} s, generate_series(1, 30) i",
        service="s.id",
        kind="(ARRAY['registered','left','online','offline','leader'])[1 + i % 5]",
        name="'10.0.0.' || i || ':20880'",
    )
    filler.insert(
        WorkerId,
        f"generate_series(1, {size}) i",
        znode="'/paascloud/registry/id/order-service-' || i % 100 || '/10.0.0.' || i",
        app="'order-service-' || i % 100",
        host="'10.0.0.' || i",
        number="i / 2",
    )


def operations(filler: "Filler") -> None:
    """As many as redrives, each with items, some of which failed."""
    from core.operations.models import Operation, OperationItem, OperationStep

    n = filler.size
    total = max(1, n.redriven // n.redrives)
    filler.insert(
        Operation,
        f"generate_series(1, {n.redrives}) i",
        id=f"{ROOT} + i",
        uid="md5('operation' || i)::uuid",
        kind="'topics.approve'",
        title="'Approve ' || i || ' topics'",
        state="CASE WHEN i % 50 = 0 THEN 'running' WHEN i % 7 = 0 THEN 'partial' ELSE 'succeeded' END",
        started_by=filler.person("i", "operation"),
        reason="'the release of ' || i",
        total=f"{total}",
        done=f"{total} - CASE WHEN i % 7 = 0 THEN {total} / 10 ELSE 0 END",
        failed=f"CASE WHEN i % 7 = 0 THEN {total} / 10 ELSE 0 END",
        created_at=f"now() - ({n.redrives} - i) * interval '1 hour'",
        started_at=f"now() - ({n.redrives} - i) * interval '1 hour'",
        finished_at=f"CASE WHEN i % 50 <> 0 THEN now() - ({n.redrives} - i) * interval '1 hour' + interval '1 min' END",
        heartbeat_at="now()",
    )
    filler.insert(
        OperationStep,
        f"generate_series(1, {n.redrives}) i",
        operation=f"{ROOT} + i",
        number="0",
        name="'items'",
        total=f"{total}",
        done=f"{total}",
    )
    filler.insert(
        OperationItem,
        f"generate_series(1, {n.redrives}) i, generate_series(0, {total} - 1) k",
        operation=f"{ROOT} + i",
        index="k",
        key="'order.created_' || k",
        state="CASE WHEN i % 7 = 0 AND k % 10 = 0 THEN 'failed' ELSE 'done' END",
        code="CASE WHEN i % 7 = 0 AND k % 10 = 0 THEN 'state_changed' ELSE '' END",
        done_at="now()",
    )


def credentials(filler: "Filler") -> None:
    """Sessions of everybody, keys of half of the applications, members, a view or two of each list."""
    from accounts.models import Application, ApplicationKey, PersonSession
    from core.console.models import SavedView

    filler.insert(
        PersonSession,
        f"generate_series(1, {filler.size.people * 3}) i",
        session_key="md5('session' || i)",
        session_data="''",
        expire_date="now() + interval '1 day'",
        user=filler.person("i", "session"),
        agent="'Chromium'",
    )
    filler.insert(
        ApplicationKey,
        f"generate_series(1, {filler.size.applications}, 2) i",
        application=f"{ROOT} + i",
        key_id="'app_' || left(md5('key' || i), 16)",
        name="'production'",
        created_by=filler.person("i", "key"),
    )
    filler.execute(
        f"INSERT INTO {Application.members.through._meta.db_table} (application_id, user_id)"
        f" SELECT {ROOT} + i, {filler.person('i', 'member')} FROM generate_series(1, {filler.size.applications}) i"
    )
    filler.insert(
        SavedView,
        f"generate_series(1, {filler.size.people}) i, unnest(ARRAY['topics_list', 'consumers_list']) page",
        owner=f"{ROOT} + i",
        page="page",
        name="'view ' || i",
        query="'q=order'",
        shared="i % 10 = 0",
    )


ALL = [requests, operations, credentials, service_registries]

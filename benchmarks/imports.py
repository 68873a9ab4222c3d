"""Adopting a deployment: a manifest of 4,000 topics and 1,000 groups is planned, applied, and applied again.

    make bench ARGS=imports         # 5,000 items
    make bench ARGS=imports=1000

In a database of its own, which is dropped; one worker. The floor is the same rows, in the store and the audit as well, written by one
`INSERT … SELECT` a table into copies with the same indexes.
"""

import sys
import time
from typing import Any

from benchmarks import Row, separately

ITEMS = 5_000
TABLES = (
    "topics_topic", "consumers_consumergroup", "consumers_subscription", "registry_publication", "registry_release", "audit_auditentry",
    "operations_operationitem", "mq_group", "mq_topic", "mq_cursor", "mq_span",
)  # fmt: skip


def run(items: str = str(ITEMS)) -> list[Row]:
    """In a process of its own, on a database of its own."""
    return separately.run("benchmarks.imports", items)


def measure(items: int) -> list[Row]:
    """All of it, in this process's database."""
    from accounts.models import Application, User
    from consumers import imports, manifests
    from consumers.imports_known import Owners
    from core.operations import driving

    actor = User.objects.create_superuser("bench-imports")
    Application.objects.create(name="bench", owner=actor)
    document = _document(items)

    def plan() -> list[imports.Planned]:
        return imports.plan(manifests.from_document(document), Owners(application="bench"))

    def apply() -> None:
        operation = imports.start(actor=actor, planned=plan(), owners=Owners(application="bench"), source="bench", reason="bench")
        while driving.take_on(operation.pk):
            pass
        operation.refresh_from_db()
        assert (operation.state, operation.failed) == ("succeeded", 0), operation.error

    planning, first, again = (_timed(work) for work in (plan, apply, apply))
    floor = _floor()
    what, note = f"{items:,} topics and groups of a manifest", "floor: the same rows by one INSERT … SELECT a table"
    return [
        Row(f"{what}: planned", planning, floor, planning / floor, "s", note),
        Row(f"{what}: imported", first, floor, first / floor, "s", "one worker, the plan and its items included"),
        Row(f"{what}: imported again, all the same", again, floor, again / floor, "s", "the same"),
    ]


def _document(items: int) -> dict[str, Any]:
    topics = items * 4 // 5
    return {
        "clusters": [{"name": "bench-kafka", "kind": "kafka", "address": "bench:9092", "max_topics": items}],
        "topics": [
            {"name": f"bench_topic_{n:06}", "cluster": "bench-kafka", "expected_rate": 10, "message_bytes": 500, "ordered": n % 5 == 0}
            for n in range(topics)
        ],
        "consumer_groups": [
            {"name": f"bench_group_{n:06}", "subscriptions": [{"topic": f"bench_topic_{n:06}", "tags": "paid || sent"}]}
            for n in range(items - topics)
        ],
    }


def _floor() -> float:
    """The rows that the import has written, into tables with the same indexes."""
    from django.db import connection, transaction

    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"CREATE TABLE floor_{table} (LIKE {table} INCLUDING ALL)")
        began = time.perf_counter()
        for table in TABLES:
            with transaction.atomic():
                cursor.execute(f"INSERT INTO floor_{table} SELECT * FROM {table}")
        return time.perf_counter() - began


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    separately.answer(lambda: measure(int(sys.argv[1])))

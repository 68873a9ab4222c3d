"""A request for each topic that was applied for and is not decided, or was rejected: it is decided and edited through that from now on."""

from django.db import migrations


def make_requests(apps, _schema_editor):
    topic, request = apps.get_model("topics", "Topic"), apps.get_model("approvals", "Request")
    rows = topic.objects.filter(state__in=["pending", "rejected"]).select_related("application", "owner")
    for row in rows.iterator(chunk_size=1000):
        rejected = row.state == "rejected"
        request.objects.create(
            kind="topic.create",
            target=row.name,
            application=row.application,
            owner=row.owner,
            payload={
                "application": row.application.name,
                "owner": row.owner.username,
                "expected_rate": row.expected_rate,
                "message_bytes": row.message_bytes,
                "partitions": row.partitions,
                "ordered": row.ordered,
            },
            facts={"rate": row.expected_rate, "message_bytes": row.message_bytes, "partitions": row.partitions},
            reason=row.reason,
            state="declined" if rejected else "pending",
            requested_by_id=row.requested_by_id,
            requested_at=row.requested_at,
            decided_by_id=row.decided_by_id if rejected else None,
            decided_at=row.decided_at if rejected else None,
            decision_reason=row.decision_reason if rejected else "",
            version=row.version,
        )


class Migration(migrations.Migration):

    dependencies = [("topics", "0001_initial"), ("approvals", "0001_initial")]

    operations = [migrations.RunPython(make_requests, migrations.RunPython.noop)]

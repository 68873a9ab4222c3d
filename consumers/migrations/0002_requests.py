"""A request for each group that was applied for and is not decided, or was rejected: it is decided and edited through that from now on."""

from django.db import migrations


def make_requests(apps, _schema_editor):
    group, request = apps.get_model("consumers", "ConsumerGroup"), apps.get_model("approvals", "Request")
    rows = group.objects.filter(state__in=["pending", "rejected"]).select_related("application", "owner")
    for row in rows.prefetch_related("subscriptions__topic").iterator(chunk_size=1000):
        rejected = row.state == "rejected"
        subscriptions = sorted(row.subscriptions.all(), key=lambda subscription: subscription.position)
        request.objects.create(
            kind="group.create",
            target=row.name,
            application=row.application,
            owner=row.owner,
            payload={
                "application": row.application.name,
                "owner": row.owner.username,
                "subscriptions": [{"topic": one.topic.name, "tags": one.tags} for one in subscriptions],
                "consume_from": row.consume_from,
                "max_attempts": row.max_attempts,
                "backoff_ms": row.backoff_ms,
                "backoff_max_ms": row.backoff_max_ms,
            },
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

    dependencies = [("consumers", "0001_initial"), ("approvals", "0001_initial")]

    operations = [migrations.RunPython(make_requests, migrations.RunPython.noop)]

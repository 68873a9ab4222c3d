"""Instances without ZooKeeper: they register over REST, and `beat_at` says when they were last heard of."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("registry", "0002_follows")]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="beat_at",
            field=models.DateTimeField(blank=True, null=True, verbose_name="last heartbeat"),
        ),
        # Who may have to be evicted. beat_at is no part of any index, not even of a condition: so each heartbeat is a heap-only update.
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(fields=["id"], condition=models.Q(online=True, znode__startswith="client:"), name="registry_instance_beating"),
        ),
    ]

"""Limits of clusters: what an operator says that they take."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("clusters", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="cluster",
            name="max_bytes_per_second",
            field=models.PositiveBigIntegerField(blank=True, null=True, verbose_name="bytes per second at most"),
        ),
        migrations.AddField(
            model_name="cluster",
            name="max_partitions",
            field=models.PositiveIntegerField(blank=True, null=True, verbose_name="partitions at most"),
        ),
        migrations.AddField(
            model_name="cluster",
            name="max_rate",
            field=models.PositiveIntegerField(blank=True, null=True, verbose_name="messages per second at most"),
        ),
        migrations.AddField(
            model_name="cluster",
            name="max_topics",
            field=models.PositiveIntegerField(blank=True, null=True, verbose_name="topics at most"),
        ),
    ]

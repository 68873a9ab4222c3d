"""The message store: its tables and functions (sql/0001_*.sql) and the redrive jobs."""

from pathlib import Path

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"
FILES = ["0001_tables.sql", "0001_horizon.sql", "0001_append.sql", "0001_consume.sql", "0001_groups.sql", "0001_status.sql"]
DROP = """
DROP TABLE mq_message, mq_horizon, mq_group, mq_topic, mq_cursor, mq_span, mq_lease, mq_exception, mq_history, mq_delayed,
           mq_producer_id, mq_claim, mq_stat CASCADE;
DROP SEQUENCE mq_id_seq, mq_token_seq, mq_claim_seq;
DROP TYPE mq_row CASCADE;
DO $$ DECLARE f regprocedure; BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.proname LIKE 'mq\\_%' AND p.pronamespace = current_schema()::regnamespace LOOP
    EXECUTE format('DROP FUNCTION %s CASCADE', f); END LOOP; END $$;
"""


def sql(file: str) -> str:
    """A frozen part of this migration; a later change is a new file with a new migration."""
    return (SQL / file).read_text()


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(migrations.RunSQL.noop, DROP),
        *(migrations.RunSQL(sql(file), migrations.RunSQL.noop) for file in FILES),
        migrations.CreateModel(
            name='Redrive',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('group_id', models.BigIntegerField(editable=False, verbose_name='consumer group')),
                ('state', models.CharField(choices=[('running', 'Running'), ('finished', 'Finished')], default='running', editable=False, max_length=10, verbose_name='status')),
                ('total', models.PositiveIntegerField(default=0, editable=False, verbose_name='messages')),
                ('redriven', models.PositiveIntegerField(default=0, editable=False, verbose_name='redriven')),
                ('refused', models.PositiveIntegerField(default=0, editable=False, verbose_name='refused')),
                ('filter', models.JSONField(editable=False, null=True, verbose_name='filter')),
                ('reason', models.CharField(blank=True, editable=False, max_length=500, verbose_name='reason')),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False, verbose_name='started')),
                ('finished_at', models.DateTimeField(editable=False, null=True, verbose_name='finished')),
                ('actor', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='started by')),
            ],
            options={
                'verbose_name': 'redrive',
                'verbose_name_plural': 'redrives',
                'db_table': 'mq_redrive',
                'ordering': ['-id'],
                'permissions': [('send_message', 'Can send messages'), ('consume_message', 'Can pull and settle messages'), ('view_message', 'Can read messages'), ('change_delayed', 'Can cancel and reschedule delayed messages')],
            },
        ),
        migrations.CreateModel(
            name='RedriveItem',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('message_id', models.BigIntegerField(editable=False, verbose_name='message')),
                ('state', models.CharField(choices=[('pending', 'Pending'), ('redriven', 'Redriven'), ('refused', 'Refused')], default='pending', editable=False, max_length=10, verbose_name='status')),
                ('reason', models.CharField(blank=True, choices=[('not_dead', 'It is no longer a dead letter.'), ('not_subscribed', 'The group is no longer subscribed to its topic.')], editable=False, max_length=40, verbose_name='reason')),
                ('done_at', models.DateTimeField(editable=False, null=True, verbose_name='done')),
                ('redrive', models.ForeignKey(editable=False, on_delete=django.db.models.deletion.CASCADE, related_name='items', to='mq_messages.redrive')),
            ],
            options={
                'verbose_name': 'redriven message',
                'verbose_name_plural': 'redriven messages',
                'db_table': 'mq_redrive_item',
                'ordering': ['message_id'],
            },
        ),
        migrations.AddIndex(
            model_name='redrive',
            index=models.Index(fields=['group_id', '-id'], name='mq_redrive_group'),
        ),
        migrations.AddIndex(
            model_name='redrive',
            index=models.Index(condition=models.Q(('state', 'running')), fields=['id'], name='mq_redrive_running'),
        ),
        migrations.AddIndex(
            model_name='redriveitem',
            index=models.Index(condition=models.Q(('state', 'pending')), fields=['redrive', 'message_id'], name='mq_redrive_pending'),
        ),
        migrations.AddConstraint(
            model_name='redriveitem',
            constraint=models.UniqueConstraint(fields=('redrive', 'message_id'), name='one_item_per_message'),
        ),
    ]

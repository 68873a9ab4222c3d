"""The message store: its tables and functions (sql/), redrives, moves of positions, check-backs of applications."""

import core.encryption
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

from messages.migrations._sql import load, make_tables

BEGIN = """
INSERT INTO mq_horizon (closed_id, pending_id, bumped_id, drawn_id, partitioned_to) VALUES (0, 0, 0, 0, 0);
DO $$ BEGIN WHILE mq_upkeep() IS NOT NULL LOOP END LOOP; END $$;
WITH v AS MATERIALIZED (SELECT setval('mq_id_seq', mq_id_at(clock_timestamp())) AS id)
UPDATE mq_horizon SET closed_id = v.id, pending_id = v.id, bumped_id = v.id, drawn_id = v.id FROM v;
"""  # the first ids and partitions


class Migration(migrations.Migration):

    initial = True

    replaces = [
        ("mq_messages", "0001_store"),
        ("mq_messages", "0002_send_group"),
        ("mq_messages", "0003_view_body"),
        ("mq_messages", "0004_counts"),
        ("mq_messages", "0005_storekeeper"),
        ("mq_messages", "0006_topic_retire"),
        ("mq_messages", "0007_retention"),
        ("mq_messages", "0008_gone"),
        ("mq_messages", "0009_topic_of"),
        ("mq_messages", "0010_lag"),
        ("mq_messages", "0011_half"),
        ("mq_messages", "0012_push"),
        ("mq_messages", "0013_redrive"),
        ("mq_messages", "0014_dead"),
        ("mq_messages", "0015_edit"),
        ("mq_messages", "0016_delayed"),
        ("mq_messages", "0017_trace"),
        ("mq_messages", "0018_transactions"),
        ("mq_messages", "0019_extend"),
        ("mq_messages", "0020_positions"),
        ("mq_messages", "0021_ceilings"),
        ("mq_messages", "0022_causes"),
        ("mq_messages", "0025_tags"),
        ("mq_messages", "0026_limits"),
        ("mq_messages", "0027_broadcast"),
        ("mq_messages", "0028_ordered"),
        ("mq_messages", "0029_limits_cheaper"),
    ]

    dependencies = [
        ('accounts', '0004_people'),
        ('operations', '0003_scopes'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        make_tables(),
        load(),
        migrations.RunSQL(BEGIN),
        migrations.CreateModel(
            name='CheckBack',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('url', models.CharField(help_text='An https:// URL of the application.', max_length=500, verbose_name='address')),
                ('secret', core.encryption.EncryptedTextField()),
                ('version', models.PositiveIntegerField(default=1, editable=False)),
                ('changed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False, verbose_name='changed')),
                ('asked_at', models.DateTimeField(editable=False, null=True, verbose_name='last asked')),
                ('answered_at', models.DateTimeField(editable=False, null=True, verbose_name='last answer')),
                ('quiet_until', models.DateTimeField(editable=False, null=True)),
                ('last_error', models.CharField(blank=True, editable=False, max_length=500, verbose_name='last error')),
                ('application', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='check_back', to='accounts.application', verbose_name='application')),
            ],
            options={
                'verbose_name': 'check-back',
                'verbose_name_plural': 'check-backs',
                'db_table': 'mq_check_back',
                'ordering': ['application__name'],
                'permissions': [('decide_half', 'Can commit and roll back half messages')],
            },
        ),
        migrations.CreateModel(
            name='Redrive',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('group_id', models.BigIntegerField(editable=False, verbose_name='consumer group')),
                ('message_id', models.BigIntegerField(editable=False, verbose_name='message')),
                ('new_topic_id', models.BigIntegerField(editable=False, null=True)),
                ('new_id', models.BigIntegerField(editable=False, null=True, verbose_name='new message')),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False, verbose_name='redriven')),
                ('watched', models.BooleanField(default=False, editable=False)),
                ('actor', models.ForeignKey(db_constraint=False, editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='redriven by')),
                ('operation', models.ForeignKey(db_constraint=False, db_index=False, editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='operations.operation')),
            ],
            options={
                'verbose_name': 'redrive',
                'verbose_name_plural': 'redrives',
                'db_table': 'mq_redriven',
                'ordering': ['-id'],
                'permissions': [('send_message', 'Can send messages'), ('consume_message', 'Can pull and settle messages'), ('view_message', 'Can read messages'), ('view_body', 'Can read the bodies of messages'), ('change_delayed', 'Can cancel and reschedule delayed messages'), ('purge_dead', 'Can purge dead letters'), ('decide_stopped', 'Can decide on stopped keys')],
                'indexes': [models.Index(fields=['group_id', 'message_id'], name='mq_redriven_message'), models.Index(fields=['group_id', '-id'], name='mq_redriven_group'), models.Index(condition=models.Q(('new_id__isnull', False)), fields=['new_id'], name='mq_redriven_new'), models.Index(condition=models.Q(('watched', True)), fields=['operation', '-id'], name='mq_redriven_watched')],
            },
        ),
        migrations.CreateModel(
            name='Reset',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('group_id', models.BigIntegerField(editable=False, verbose_name='consumer group')),
                ('topic_id', models.BigIntegerField(editable=False, verbose_name='topic')),
                ('kind', models.CharField(choices=[('rewind', 'Rewind'), ('skip', 'Skip')], editable=False, max_length=10, verbose_name='kind')),
                ('state', models.CharField(choices=[('done', 'Done'), ('undone', 'Undone')], default='done', editable=False, max_length=10, verbose_name='status')),
                ('position_before', models.BigIntegerField(editable=False, verbose_name='from')),
                ('position', models.BigIntegerField(editable=False, verbose_name='to')),
                ('era', models.PositiveIntegerField(editable=False)),
                ('eras', models.JSONField(editable=False, null=True)),
                ('repeated', models.BigIntegerField(editable=False, verbose_name='repeated')),
                ('first_time', models.BigIntegerField(editable=False, verbose_name='delivered for the first time')),
                ('skipped', models.BigIntegerField(editable=False, verbose_name='skipped')),
                ('reason', models.CharField(blank=True, editable=False, max_length=500, verbose_name='reason')),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False, verbose_name='done')),
                ('restored', models.BigIntegerField(editable=False, null=True, verbose_name='taken back')),
                ('undone_at', models.DateTimeField(editable=False, null=True, verbose_name='undone')),
                ('actor', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='done by')),
                ('undone_by', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='undone by')),
            ],
            options={
                'verbose_name': 'move of a position',
                'verbose_name_plural': 'moves of positions',
                'db_table': 'mq_reset',
                'ordering': ['-id'],
                'indexes': [models.Index(fields=['group_id', '-id'], name='mq_reset_group')],
            },
        ),
    ]

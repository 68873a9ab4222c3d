"""Half messages (sql/0011_half.sql) and the check-backs of applications."""

from pathlib import Path

import core.encryption
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"
DROP = """
DROP FUNCTION mq_half_prepare, mq_half_decide, mq_half_ask, mq_half_due, mq_half_check, mq_half_purge;
DROP FUNCTION mq_backlog;
DROP TABLE mq_half;
CREATE FUNCTION mq_backlog(p_topic bigint, OUT waiting bigint, OUT processing bigint, OUT later bigint, OUT delayed bigint) STABLE LANGUAGE sql AS $$
  SELECT coalesce(max(mq_count(c.topic_id, c.pos, 9223372036854775807, c.tags)), 0), coalesce(max(c.processing), 0), coalesce(max(c.later), 0),
         (SELECT count(*) FROM mq_delayed d WHERE d.topic_id = p_topic)
    FROM mq_cursor c WHERE c.topic_id = p_topic AND c.active $$;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_people'),
        ('mq_messages', '0010_lag'),
    ]

    operations = [
        migrations.RunSQL((SQL / "0011_half.sql").read_text(), DROP),
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
    ]

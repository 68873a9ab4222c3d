"""Rewind and skip with undo (sql/0020_positions.sql): eras of positions, and what was done by whom."""

from pathlib import Path

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):

    dependencies = [
        ('mq_messages', '0019_extend'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
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
        migrations.RunSQL((SQL / "0020_positions.sql").read_text()),
    ]

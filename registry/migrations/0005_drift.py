"""Edits by others as a history, and what is done about them in each tree: at once, or when a person has decided."""

import django.db.models.deletion
import django.db.models.functions.datetime
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('registry', '0004_releases'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='DriftPolicy',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=32, unique=True, verbose_name='tree')),
                ('policy', models.CharField(choices=[('repair', 'repair at once'), ('alert', 'alert and wait for a person')], default='repair', max_length=8, verbose_name='policy')),
                ('version', models.PositiveIntegerField(default=1)),
                ('changed_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='changed')),
            ],
            options={
                'verbose_name': 'drift policy',
                'verbose_name_plural': 'drift policies',
                'ordering': ('name',),
                'default_permissions': ('view', 'change'),
            },
        ),
        migrations.AddField(
            model_name='publication',
            name='held_at',
            field=models.DateTimeField(blank=True, null=True, verbose_name='waits for a person since'),
        ),
        migrations.AddField(
            model_name='publication',
            name='overrules',
            field=models.TextField(blank=True, db_default='', default='', verbose_name='decided against'),
        ),
        migrations.AlterField(
            model_name='publication',
            name='last_foreign_edit',
            field=models.CharField(blank=True, choices=[('found', 'the node was there before'), ('changed', 'data changed'), ('deleted', 'node deleted'), ('created', 'retired node created again'), ('unknown', 'a node that mqadmin does not know')], default='', max_length=16, verbose_name='last foreign edit'),
        ),
        migrations.CreateModel(
            name='Drift',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('path', models.TextField(verbose_name='path')),
                ('edit', models.CharField(choices=[('found', 'the node was there before'), ('changed', 'data changed'), ('deleted', 'node deleted'), ('created', 'retired node created again'), ('unknown', 'a node that mqadmin does not know')], max_length=16, verbose_name='edit')),
                ('incident', models.TextField(editable=False)),
                ('seen_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), verbose_name='seen')),
                ('node_mtime', models.DateTimeField(null=True, verbose_name='changed in ZooKeeper')),
                ('mzxid', models.BigIntegerField(null=True, verbose_name='transaction')),
                ('node_version', models.IntegerField(null=True, verbose_name='node version')),
                ('session', models.CharField(blank=True, default='', max_length=32, verbose_name='session')),
                ('data', models.BinaryField(null=True, verbose_name='data found')),
                ('size', models.IntegerField(default=0, verbose_name='size')),
                ('wanted', models.BinaryField(null=True, verbose_name='data wanted')),
                ('wanted_generation', models.BigIntegerField(null=True, verbose_name='generation wanted')),
                ('format', models.CharField(default='properties', max_length=16)),
                ('outcome', models.CharField(choices=[('open', 'being repaired'), ('waiting', 'waits for a person'), ('left', 'left as it is'), ('repaired', 'repaired'), ('kept', 'its keys were kept'), ('adopted', 'adopted'), ('undone', 'undone by others'), ('superseded', 'changed again')], max_length=16, verbose_name='outcome')),
                ('settled_at', models.DateTimeField(null=True, verbose_name='settled')),
                ('reason', models.TextField(blank=True, default='', verbose_name='reason')),
                ('decided_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='decided by')),
            ],
            options={
                'verbose_name': 'drift',
                'verbose_name_plural': 'drift',
                'ordering': ('-id',),
                'default_permissions': ('view', 'change'),
                'indexes': [models.Index(condition=models.Q(('settled_at', None)), fields=['path'], name='registry_drift_open'), models.Index(fields=['path', '-id'], name='registry_drift_of_path')],
                'constraints': [models.UniqueConstraint(fields=('path', 'incident'), name='registry_drift_once')],
            },
        ),
        # What was known so far of each path, the last edit, begins its history.
        migrations.RunSQL(
            """INSERT INTO registry_drift (path, edit, incident, seen_at, session, data, size, format, outcome, settled_at, reason)
               SELECT path, last_foreign_edit, 'before the history', last_foreign_edit_at, '', last_foreign_data,
                      coalesce(length(last_foreign_data), 0), format, 'repaired', last_foreign_edit_at, ''
                 FROM registry_publication WHERE last_foreign_edit <> '' AND last_foreign_edit_at IS NOT NULL""",
            migrations.RunSQL.noop,
        ),
        migrations.RemoveField(
            model_name='publication',
            name='last_foreign_data',
        ),
        migrations.AlterModelOptions(
            name="deployment",
            options={"permissions": [("view_zookeeper", "Can look into ZooKeeper")]},
        ),
    ]

"""Releases: what is published now is the first of each path, so that the next ones have something to differ from."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('registry', '0003_clients'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Release',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('generation', models.BigIntegerField(verbose_name='generation')),
                ('kind', models.CharField(choices=[('normal', 'normal'), ('rollback', 'rollback'), ('gated', 'gated'), ('emergency', 'emergency'), ('repair', 'repair')], max_length=16, verbose_name='kind')),
                ('author_name', models.CharField(help_text='“system” is a worker of mqadmin.', max_length=150, verbose_name='author')),
                ('message', models.TextField(blank=True, verbose_name='message')),
                ('change', models.UUIDField(verbose_name='change')),
                ('format', models.CharField(choices=[('properties', 'Java properties'), ('json', 'JSON')], max_length=16, verbose_name='format')),
                ('deleted', models.BooleanField(default=False, verbose_name='retired')),
                ('data', models.BinaryField(default=b'', verbose_name='data')),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), verbose_name='created')),
                ('published_at', models.DateTimeField(blank=True, null=True, verbose_name='published')),
                ('author', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='author')),
                ('publication', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='releases', to='registry.publication', verbose_name='publication')),
            ],
            options={
                'verbose_name': 'release',
                'verbose_name_plural': 'releases',
                'ordering': ('-id',),
                'permissions': [('rollback_release', 'Can roll back to a release')],
                'default_permissions': ('view',),
                'indexes': [models.Index(fields=['change'], name='registry_release_change'), models.Index(fields=['author_name', '-id'], name='registry_release_author'), models.Index(fields=['created_at'], name='registry_release_time'), models.Index(condition=models.Q(('kind', 'normal'), _negated=True), fields=['kind', '-id'], name='registry_release_kind')],
                'constraints': [models.UniqueConstraint(fields=('publication', 'generation'), name='registry_release_generation')],
            },
        ),
        migrations.RunSQL(
            sql="""
            -- Each row is written once more, when it is published: room for that on its own page keeps the indexes out of it.
            ALTER TABLE registry_release SET (fillfactor = 70);
            -- Who made these and why was not recorded then, and is not made up now.
            INSERT INTO registry_release (publication_id, generation, kind, author_name, message, change, format, deleted, data,
                                          created_at, published_at)
            SELECT id, generation, 'normal', 'system', 'before releases were recorded', gen_random_uuid(), format, deleted,
                   CASE WHEN deleted THEN ''::bytea ELSE data END, changed_at,
                   CASE WHEN published_generation = generation THEN coalesce(published_at, changed_at) END
              FROM registry_publication WHERE generation > 0 ORDER BY path;
            """,
            reverse_sql="",
        ),
    ]

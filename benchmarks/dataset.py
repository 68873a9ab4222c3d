"""A seeded data set of a large company in the store's real layout, by INSERT … SELECT: 10,000 topics, 10,000 groups, 1,000,000 messages.

    make bench ARGS="dataset console"                       # on private services: fill, then measure the console's lists
    DATABASE_URL=… python -m benchmarks.dataset --scale 1   # an empty database of your own; --help tells the rest

Everything follows from the seed but the clock: ids of messages carry the time, and lists show what happened lately.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import dataset_extra

SQL = Path(__file__).resolve().parent / "sql"
ROOT = 100_000  # ids of people, topics … begin here: a database that was prepared, or tests ran in, has some of its own


@dataclass(frozen=True)
class Size:
    """How many of each; `of` scales the whole."""

    people: int = 50
    applications: int = 200
    tokens: int = 500
    topics: int = 10_000
    groups: int = 10_000
    messages: int = 1_000_000
    dead: int = 50_000
    retried: int = 20_000
    delayed: int = 100_000
    half: int = 10_000
    instances: int = 20_000
    shadows: int = 500
    redrives: int = 500
    redriven: int = 100_000
    audit: int = 200_000

    @classmethod
    def of(cls, scale: float) -> "Size":
        """A smaller or larger company; never none of anything."""
        return cls(**{name: max(8, round(number * scale)) for name, number in vars(cls()).items()})


# u(i, salt): evenly spread over [0, 1), the same for the same seed. pick: one of a list.
FUNCTIONS = """
CREATE FUNCTION pg_temp.u(i bigint, salt text) RETURNS float8 IMMUTABLE LANGUAGE sql AS
  $$ SELECT ((hashint8extended(i, hashtext(salt)::bigint + {seed}) & 1073741823)::float8 / 1073741824) $$;
CREATE FUNCTION pg_temp.pick(i bigint, salt text, words text[]) RETURNS text IMMUTABLE LANGUAGE sql AS
  $$ SELECT words[1 + floor(pg_temp.u(i, salt) * cardinality(words))::int] $$;
CREATE FUNCTION pg_temp.n(i bigint, salt text, most int) RETURNS int IMMUTABLE LANGUAGE sql AS
  $$ SELECT floor(pg_temp.u(i, salt) * most)::int $$;
"""
AREAS = (
    "ARRAY['order','payment','stock','price','customer','invoice','shipping','cart','search','fraud','refund','catalog','mail','ledger']"
)
EVENTS = "ARRAY['created','changed','paid','cancelled','shipped','sync','snapshot','audit','imported','expired']"
SURNAMES = "ARRAY['wang','li','zhang','liu','chen','yang','huang','zhao','wu','zhou','xu','sun','ma','zhu','hu','guo']"
# What became of the requests, as shares of one: active, pending, rejected, retired.
STATE = "CASE WHEN {u} < 0.82 THEN 'active' WHEN {u} < 0.88 THEN 'pending' WHEN {u} < 0.91 THEN 'rejected' ELSE 'retired' END"


def fill(*, scale: float = 1.0, seed: int = 20_26, say: Any = print) -> Size:
    """Fill the database that Django is set up for, which must hold no topics yet; about two minutes at scale 1."""
    from django.db import transaction

    from topics.models import Topic

    if Topic.objects.exists():
        raise RuntimeError("This database has topics already; the data set wants one of its own.")
    size = Size.of(scale)
    filler = Filler(size, seed, say)
    with transaction.atomic():
        filler.run()
    if not transaction.get_connection().in_atomic_block:
        filler.step("statistics", lambda: filler.execute("VACUUM (ANALYZE)"))
    return size


class Filler:
    """The statements, in the order of what they refer to."""

    def __init__(self, size: Size, seed: int, say: Any) -> None:
        self.size, self.seed, self.say = size, seed, say
        self.filled: list[Any] = []

    def run(self) -> None:
        """All parts; each is one statement or a few."""
        self.execute("DROP FUNCTION IF EXISTS pg_temp.u, pg_temp.pick, pg_temp.n")
        self.execute(FUNCTIONS.format(seed=self.seed))
        self.execute("SET LOCAL work_mem = '256MB'")
        self.step("people and applications", self.people)
        self.step("clusters and topics", self.topics)
        self.step("consumer groups", self.groups)
        self.step("messages", self.messages)
        self.step("positions and counters", self.positions)
        self.step("retries and dead letters", self.exceptions)
        self.step("delayed messages and redrives", self.delayed)
        self.step("publications and instances", self.registry)
        self.step("audit", self.audit)
        for more in dataset_extra.ALL:
            self.step(more.__name__, lambda more=more: more(self))
        self.step("sequences", self.sequences)

    def step(self, name: str, work: Any) -> None:
        """Do and tell how long it took."""
        began = time.perf_counter()
        work()
        self.say(f"  {name}: {time.perf_counter() - began:.1f} s", flush=True)

    def execute(self, sql: str, params: Any = None) -> Any:
        """One statement; its only row if it has one."""
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone() if cursor.description else None

    def file(self, name: str, **numbers: float) -> None:
        """The statements of a file in sql/, with these numbers in their places."""
        text = (SQL / f"{name}.sql").read_text()
        self.execute(text.format(**numbers) if numbers else text)

    def insert(self, model: Any, source: str, **columns: str) -> None:
        """INSERT … SELECT of SQL expressions by field name; fields that nobody names get their default, as Django would give it.

        So the data set goes on working when a table grows a field; one without any default is named in the error.
        """
        from django.db import connection, models

        names, values, params = [], [], []
        self.filled.append(model)
        for field in model._meta.concrete_fields:
            given = columns.pop(field.name, None)
            if given is None and (field.has_db_default() or (isinstance(field, models.AutoField) and field.primary_key)):
                continue
            if given is None and field.null and not field.has_default():
                continue
            if given is None:
                if not field.has_default() and not field.empty_strings_allowed:
                    raise LookupError(f"The data set says nothing of {model._meta.label}.{field.name}, which has no default.")
                given = "%s"
                params.append(field.get_db_prep_save(field.get_default(), connection))
                kind = field.db_type(connection)
                given = f"%s::{kind}" if kind else given
            else:
                given = given.replace("%", "%%")
            names.append(connection.ops.quote_name(field.column))
            values.append(given)
        if columns:
            raise LookupError(f"{model._meta.label} has no field {', '.join(columns)} any more.")
        table = connection.ops.quote_name(model._meta.db_table)
        self.execute(f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} FROM {source.replace('%', '%%')}", params)

    # --- who ------------------------------------------------------------------------------------------------------------

    def people(self) -> None:
        from django.contrib.auth.hashers import make_password

        from accounts.models import ApiToken, Application, User

        n = self.size
        self.insert(
            User,
            f"generate_series(1, {n.people}) i",
            id=f"{ROOT} + i",
            username=f"pg_temp.pick(i, 'surname', {SURNAMES}) || '.' || i",
            password=f"'{make_password(None)}'",
            first_name="'Person ' || i",
            email="'person' || i || '@example.com'",
            is_staff="true",
            is_superuser="i = 1",
            is_active="pg_temp.u(i, 'active') < 0.95 OR i < 5",
            last_login="now() - pg_temp.u(i, 'login') * interval '30 days'",
            date_joined="now() - pg_temp.u(i, 'joined') * interval '900 days'",
        )
        self.insert(
            Application,
            f"generate_series(1, {n.applications}) i",
            id=f"{ROOT} + i",
            name=f"pg_temp.pick(i, 'area', {AREAS}) || '-service-' || i",
            owner=self.person("i", "owner"),
            description="'What the company knows of ' || i",
        )
        self.insert(
            ApiToken,
            f"generate_series(1, {n.tokens}) i",
            id=f"{ROOT} + i",
            user=self.person("i", "token"),
            name="'ci of service ' || i",
            digest="encode(sha256(('dataset' || i)::bytea), 'hex')",
            hint="'mq_' || left(md5(i::text), 6)",
            expires_at="now() + pg_temp.u(i, 'expires') * interval '90 days'",
            last_used_at="now() - pg_temp.u(i, 'used') * interval '9 days'",
        )

    def person(self, i: str, salt: str) -> str:
        """An id of a person."""
        return f"{ROOT} + 1 + pg_temp.n({i}, '{salt}', {self.size.people})"

    def application(self, i: str, salt: str) -> str:
        """An id of an application; a few own a lot."""
        return f"{ROOT} + 1 + floor({self.size.applications} * pg_temp.u({i}, '{salt}') ^ 2)::int"

    def request(self, salt: str) -> dict[str, str]:
        """The fields of an application for something and its decision."""
        state = STATE.format(u=f"pg_temp.u(i, '{salt}-state')")
        ago = f"(pg_temp.u(i, '{salt}-ago') * interval '700 days')"
        decided = f"pg_temp.u(i, '{salt}-state') < 0.82 OR pg_temp.u(i, '{salt}-state') >= 0.88"
        return {
            "id": f"{ROOT} + i",
            "application": self.application("i", f"{salt}-application"),
            "owner": self.person("i", f"{salt}-owner"),
            "state": state,
            "reason": "'for the project ' || i",
            "requested_by": self.person("i", f"{salt}-by"),
            "requested_at": f"now() - {ago}",
            "decided_by": f"CASE WHEN {decided} THEN {self.person('i', f'{salt}-decider')} END",
            "decided_at": f"CASE WHEN {decided} THEN now() - {ago} * 0.9 END",
            "version": f"1 + pg_temp.n(i, '{salt}-version', 5)",
            "changed_at": f"now() - {ago} * 0.8",
        }

    # --- what -----------------------------------------------------------------------------------------------------------

    def topics(self) -> None:
        from clusters.models import Cluster
        from clusters.services import ensure_builtin
        from topics.models import Topic

        builtin = ensure_builtin().pk
        self.insert(
            Cluster,
            "generate_series(1, 24) i",
            id=f"{ROOT} + i",
            name="(ARRAY['kafka','rocketmq','rabbitmq'])[1 + i % 3] || '-' || (ARRAY['hz','bj','sh','sz'])[1 + i % 4] || '-' || i",
            kind="(ARRAY['kafka','rocketmq','rabbitmq'])[1 + i % 3]",
            address="'10.1.' || i || '.1:9092'",
        )
        self.insert(
            Topic,
            f"generate_series(1, {self.size.topics}) i",
            **self.request("topic"),
            name=f"pg_temp.pick(i, 'topic-area', {AREAS}) || CASE WHEN i % 50 = 0 THEN '%' ELSE '.' END"
            f" || pg_temp.pick(i, 'topic-event', {EVENTS}) || '_' || lpad(i::text, 5, '0')",
            expected_rate="(10 ^ (pg_temp.u(i, 'rate') * 4))::int",
            message_bytes="200 + pg_temp.n(i, 'bytes', 4000)",
            partitions="1 + pg_temp.n(i, 'partitions', 32)",
            cluster=f"CASE WHEN pg_temp.u(i, 'topic-state') < 0.82 OR pg_temp.u(i, 'topic-state') >= 0.91"
            f" THEN CASE WHEN pg_temp.u(i, 'kind') < 0.85 THEN {builtin} ELSE {ROOT} + 1 + pg_temp.n(i, 'cluster', 24) END END",
        )

    def groups(self) -> None:
        from consumers.models import ConsumerGroup, ShadowTask, Subscription

        n = self.size
        suspended = "(pg_temp.u(i, 'group-state') < 0.02)"
        self.insert(
            ConsumerGroup,
            f"generate_series(1, {n.groups}) i",
            **self.request("group"),
            name=f"pg_temp.pick(i, 'group-area', {AREAS}) || '_' || pg_temp.pick(i, 'group-event', {EVENTS})"
            " || '_group_' || lpad(i::text, 5, '0')",
            consume_from="CASE WHEN i % 3 = 0 THEN 'latest' ELSE 'earliest' END",
            suspended=suspended,
            suspend_reason=f"CASE WHEN {suspended} THEN 'a release tonight' ELSE '' END",
        )
        # One to three topics each, those of small number are wanted most; pending groups want topics, too.
        self.insert(
            Subscription,
            f"""(SELECT DISTINCT ON (g.id, t.id) g.id AS group_id, t.id AS topic_id, k FROM consumers_consumergroup g
                 CROSS JOIN LATERAL generate_series(0, pg_temp.n(g.id, 'many', 3)) k
                 JOIN LATERAL (SELECT floor({n.topics} * pg_temp.u(g.id * 3 + k, 'bound') ^ 1.6)::int + {ROOT} + 1 AS wanted) w ON true
                 JOIN topics_topic t ON t.id = w.wanted AND t.state IN ('active', 'retired')) s""",
            group="s.group_id",
            topic="s.topic_id",
            tags="CASE WHEN pg_temp.u(s.group_id, 'tags') < 0.9 THEN '*' ELSE 'created || paid' END",
            position="s.k",
        )
        self.execute("ANALYZE topics_topic; ANALYZE consumers_consumergroup; ANALYZE consumers_subscription")
        on = "pg_temp.u(s.id, 'shadow-on') < 0.05"
        self.insert(
            ShadowTask,
            f"""(SELECT DISTINCT ON (g.id) g.id, g.application_id, x.topic_id FROM consumers_consumergroup g
                 JOIN consumers_subscription x ON x.group_id = g.id
                 WHERE g.state = 'active' ORDER BY g.id, x.position LIMIT {n.shadows}) s""",
            application="s.application_id",
            task="'stress-2026-' || lpad((s.id % 12 + 1)::text, 2, '0')",
            group="s.id",
            topic="s.topic_id",
            owner=self.person("s.id", "shadow"),
            reason="'rehearsal'",
            enabled=on,
            lease_until=f"CASE WHEN {on} THEN now() + interval '2 hours' END",
        )

    # --- messages -------------------------------------------------------------------------------------------------------

    def messages(self) -> None:
        """Over the last day, as far as there are partitions: a tenth of all in the busiest topic, tens in most."""
        # Where the partitions without a gap before the clock begin. Right after that, ids of all messages want more than the time has
        # given: the sequence goes ahead of the clock by less than a second, as it does when that many are sent.
        first, now = self.execute(
            "WITH p AS (SELECT lo::bigint, hi::bigint FROM mq_partitions('mq_message')), s AS (SELECT greatest(last_value,"
            " mq_id_at(clock_timestamp())) AS at FROM mq_id_seq), f AS (SELECT max(lo) AS lo FROM p, s WHERE lo <= s.at AND"
            f" NOT EXISTS (SELECT 1 FROM p q WHERE q.hi = p.lo)) SELECT f.lo, greatest(s.at, f.lo + {self.size.messages} + 10) FROM f, s"
        )
        self.execute(f"SELECT setval('mq_id_seq', {now})")
        self.execute(f"UPDATE mq_horizon SET closed_id = {now}, pending_id = {now}, drawn_id = {now}, at = now()")
        self.file("messages", messages=self.size.messages, first=first)

    def positions(self) -> None:
        """Groups and their cursors; what was pulled and acknowledged."""
        self.file("positions")

    def exceptions(self) -> None:
        """Retries, dead letters, leases, and the counters of each."""
        n = self.size
        self.file("exceptions", troubled=n.dead + n.retried, some=n.groups // 20 + 5, dead_share=n.dead / (n.dead + n.retried))

    def delayed(self) -> None:
        from messages.models import Redrive

        n = self.size
        self.file("delayed", delayed=n.delayed, half=n.half)
        total = max(1, n.redriven // n.redrives)
        self.insert(
            Redrive,
            f"generate_series(1, {n.redrives}) r JOIN troubled t ON t.rank = 1 + r % least(200, (SELECT count(*) FROM troubled)),"
            f" generate_series(1, {total}) k",
            group_id="t.group_id",
            message_id="(r * 100000 + k)::bigint << 20",
            actor=self.person("r", "redrive"),
            watched="false",
            at=f"now() - ({n.redrives} - r) * interval '1 hour'",
        )

    # --- ZooKeeper ------------------------------------------------------------------------------------------------------

    def registry(self) -> None:
        from registry.models import Drift, Gate, Instance, Publication, RegistrarHeartbeat, Release

        self.file("things")
        generation = "1 + pg_temp.n(x.seed, 'generation', 12)"
        trouble = "pg_temp.u(x.seed, 'published')"  # few are on their way, fewer fail or drifted
        self.insert(
            Publication,
            "things x",
            path="x.path",
            root="x.root",
            format="x.format",
            data=f"convert_to(x.text || CASE x.format WHEN 'json' THEN ''"
            f" ELSE 'mqadmin.generation=' || ({generation}) || E'\\n' END, 'UTF8')",
            requires="x.requires",
            deleted="x.deleted",
            generation=generation,
            published_generation=f"{generation} - (CASE WHEN {trouble} < 0.003 THEN 1 ELSE 0 END)",
            node_version=generation,
            changed_at="now() - pg_temp.u(x.seed, 'changed') * interval '300 days'",
            published_at="now() - pg_temp.u(x.seed, 'changed') * interval '299 days'",
            published_by="'registrar-' || x.seed % 2",
            attempts=f"CASE WHEN {trouble} < 0.001 THEN 4 ELSE 0 END",
            last_error=f"CASE WHEN {trouble} < 0.001 THEN 'connection lost' ELSE '' END",
            drifted_at=f"CASE WHEN {trouble} > 0.999 THEN now() - interval '1 hour' END",
            last_foreign_edit=f"CASE WHEN {trouble} > 0.995 THEN 'changed' ELSE '' END",
            last_foreign_edit_at=f"CASE WHEN {trouble} > 0.995 THEN now() - interval '1 hour' END",
        )
        # Every generation has its release; a policy's or a task's now and then.
        self.insert(
            Release,
            "registry_publication p JOIN things x ON x.path = p.path, generate_series(1, p.generation) g",
            publication="p.id",
            generation="g",
            kind="CASE WHEN pg_temp.u(x.seed + g, 'kind') < 0.02 THEN 'emergency' ELSE 'normal' END",
            author_name="CASE WHEN pg_temp.u(x.seed + g, 'author') < 0.1 THEN 'system' ELSE 'person-' || x.seed % 20 END",
            message="'change ' || g",
            change="gen_random_uuid()",
            format="p.format",
            deleted="p.deleted AND g = p.generation",
            data="CASE WHEN p.deleted AND g = p.generation THEN ''::bytea ELSE p.data END",
            created_at="p.changed_at - (p.generation - g) * interval '3 days'",
            published_at="p.changed_at - (p.generation - g) * interval '3 days'",
        )
        # Of one in twenty the history tells something; of those whose edit waits or is being repaired it is the last thing it tells.
        self.insert(
            Drift,
            "(SELECT *, row_number() OVER (ORDER BY id) AS n FROM registry_publication) x JOIN generate_series(1, 3) k ON mod(x.n, 20) = 1"
            " OR (x.last_foreign_edit <> '' AND k = 1)",
            path="x.path",
            edit="pg_temp.pick(x.n * k, 'edit', ARRAY['changed', 'deleted', 'found'])",
            incident="k::text",
            seen_at="now() - k * interval '1 day'",
            data="x.data",
            size="length(x.data)",
            wanted="x.data",
            wanted_generation="x.generation",
            format="x.format",
            outcome="CASE WHEN k = 1 AND x.drifted_at IS NOT NULL THEN 'open' ELSE 'repaired' END",
            settled_at="CASE WHEN k = 1 AND x.drifted_at IS NOT NULL THEN NULL ELSE now() - k * interval '1 day' END",
        )
        # One in fifty was gated once; of those every tenth still is, by label, so that its members are looked for.
        self.insert(
            Gate,
            # Numbered anew: ids go on where an earlier data set has left them.
            """(SELECT *, row_number() OVER (ORDER BY id) AS n FROM registry_publication) p
               WHERE p.root IN ('/zms/topic', '/zms/consumergroup') AND NOT p.deleted AND p.n % 50 = 0""",
            publication="p.id",
            cluster="'builtin'",
            main_cluster="'kafka-1'",
            ips="'{}'::varchar[]",
            labels="""'{"zone": "a"}'::jsonb""",
            state="CASE WHEN p.n % 500 = 0 THEN 'open' ELSE 'abandoned' END",
            generation="p.generation",
            opened_by="'person-' || p.n % 20",
            reason="'try it first'",
            opened_at="p.changed_at",
            closed_at="CASE WHEN p.n % 500 = 0 THEN NULL ELSE p.changed_at + interval '1 day' END",
        )
        # Busy topics and groups have many, most have one or none.
        gone = "pg_temp.u(i, 'gone') < 0.15"
        followed = "root IN ('/zms/topic', '/zms/consumergroup') AND NOT deleted"
        self.insert(
            Instance,
            f"""generate_series(1, {self.size.instances}) i JOIN (
                  SELECT path, generation, row_number() OVER (ORDER BY id) AS rank FROM registry_publication WHERE {followed}) x
                ON x.rank = 1 + floor((SELECT count(*) FROM registry_publication WHERE {followed})
                    * pg_temp.u(i, 'follows') ^ 1.5)::bigint""",
            path="x.path",
            node="'n' || i",
            znode="x.path || '/clients/n' || i",
            ip="'10.' || i % 200 || '.' || i % 250 || '.' || 1 + i % 254",
            role="CASE WHEN x.path LIKE '/zms/topic%' THEN 'producer' ELSE 'consumer' END",
            sdk="'python 1.' || i % 4",
            app=f"pg_temp.pick(i, 'area', {AREAS}) || '-service-' || 1 + i % {self.size.applications}",
            pid="i",
            state="'running'",
            applied_generation="CASE WHEN pg_temp.u(i, 'plain') > 0.1"
            " THEN x.generation - (CASE WHEN pg_temp.u(i, 'late') < 0.02 THEN 1 ELSE 0 END) END",
            applied_at="now() - pg_temp.u(i, 'applied') * interval '9 days'",
            plain="pg_temp.u(i, 'plain') <= 0.1",
            czxid="i",
            mzxid="i",
            online=f"NOT ({gone})",
            first_seen="now() - pg_temp.u(i, 'seen') * interval '90 days'",
            online_since="now() - pg_temp.u(i, 'seen') * interval '60 days'",
            offline_at=f"CASE WHEN {gone} THEN now() - pg_temp.u(i, 'off') * interval '6 days' END",
        )
        self.insert(  # its heart beats in the future: the lists are to be shown as in a running system
            RegistrarHeartbeat, "(SELECT 1) x", id="gen_random_uuid()", host="'dataset'", pid="1", zookeeper="'connected'", watch="'live'",
            beat_at="now() + interval '1 day'",
        )  # fmt: skip

    def audit(self) -> None:
        from core.audit.models import AuditEntry

        self.insert(
            AuditEntry,
            f"generate_series(1, {self.size.audit}::bigint) i"
            f" LEFT JOIN topics_topic t ON t.id = {ROOT} + 1 + pg_temp.n(i, 'about', {self.size.topics})",
            at=f"now() - ({self.size.audit} - i) * interval '3 minutes'",
            actor=self.person("i", "actor"),
            actor_name=f"(SELECT username FROM accounts_user u WHERE u.id = {self.person('i', 'actor')})",
            credential="CASE WHEN i % 3 = 0 THEN 'token ci' ELSE 'session' END",
            action="pg_temp.pick(i, 'action', ARRAY['apply','approve','edit','suspend','resume','reject'])",
            kind="CASE WHEN i % 2 = 0 THEN 'topic' ELSE 'consumer group' END",
            name="coalesce(t.name, 'gone')",
            before="""'{"state": "pending"}'::jsonb""",
            after="""'{"state": "active"}'::jsonb""",
            reason="'because of ticket ' || i",
            request_id="md5(i::text)",
            address="'10.0.' || i % 250 || '.1'",
        )

    def sequences(self) -> None:
        """What was made with ids of our own must not be made again."""
        from django.core.management.color import no_style
        from django.db import connection

        for sql in connection.ops.sequence_reset_sql(no_style(), self.filled):
            self.execute(sql)


def main(arguments: list[str]) -> int:
    """Fill the database of DATABASE_URL."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataset", description="Fill an empty database of your own.")
    parser.add_argument("--scale", type=float, default=1.0, help="1: ten thousand topics and groups, a million messages")
    parser.add_argument("--seed", type=int, default=2026)
    given = parser.parse_args(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    began = time.perf_counter()
    size = fill(scale=given.scale, seed=given.seed)
    print(f"{size} in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

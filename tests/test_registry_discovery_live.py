"""A registrar's process sees what processes on the SDK's registry do: they come, lead, share work, say goodbye, or are killed."""

import os
import signal
import sys

from kazoo.client import KazooClient
from registry_world import Lines, committed, wait_for, world  # noqa: F401

from registry.discovery_models import Registration, Service, ServiceEvent, WorkerId
from registry.models import RegistrarHeartbeat

PROGRAM = """
import sys, threading
from mqadmin_sdk.registry import Applications, ServiceUrl, ShardedJob, open_registry

hosts, address = sys.argv[1:]
registry = open_registry(f"zookeeper://{hosts}", session_timeout=4)
url = f"dubbo://{address}:20880/com.shop.Stock?application=stock-service&interface=com.shop.Stock&version=1.0.0"
registry.register(ServiceUrl.parse(url))
applications = Applications(hosts, host=address, session_timeout=4)
applications.register("stock-service", "producer", group="PID_STOCK")
number = applications.worker_id("stock-service")
job = ShardedJob(hosts, "/jobs/nightly", lambda run: None, shards=4, instance=f"{address}@-@1", app="stock-service", session_timeout=4)
print("registered", number, flush=True)
threading.Event().wait()
"""


def test_who_is_killed_is_told_from_who_says_goodbye(world):  # noqa: F811
    watching = world.registrar(MQADMIN_REGISTRY_JOBS="/jobs")
    wait_for(lambda: RegistrarHeartbeat.objects.discovering().filter(pid=watching.process.pid).exists())
    programs = {}
    for address in ("10.0.0.1", "10.0.0.2"):
        programs[address] = Lines([sys.executable, "-c", PROGRAM, world.hosts, address], dict(os.environ))
        world.processes.append(programs[address])
        programs[address].expect("registered")

    def shared():
        job = Service.objects.filter(layout="jobs").first()
        return job if job and {shard["instance"] for shard in job.details.get("shards", [])} == {"10.0.0.1@-@1", "10.0.0.2@-@1"} else None

    job = wait_for(shared, what="shards of both")
    wait_for(lambda: Registration.objects.online().count() == 6, what="both, three times each")
    leader = wait_for(lambda: Service.objects.get(pk=job.pk).leader, what="a leader")
    assert leader in {"10.0.0.1@-@1", "10.0.0.2@-@1"}
    assert len(set(WorkerId.objects.values_list("number", flat=True))) == 2
    assert Service.objects.get(layout="messages").details["group"] == "PID_STOCK"
    assert Service.objects.with_apps().get(pk=job.pk).apps == ["stock-service"]

    # The leader is the one that dies: the other one takes over, with a larger token.
    killed = leader.partition("@")[0]
    [stays] = programs.keys() - {killed}
    programs[killed].signal(signal.SIGKILL)
    wait_for(lambda: Registration.objects.online().count() == 3, what="the dead one to be missed")
    wait_for(lambda: Service.objects.get(pk=job.pk).leader == f"{stays}@-@1", what="the other to lead")
    after = Service.objects.get(pk=job.pk)
    assert after.leader_token > (job.leader_token or 0)
    programs[stays].signal(signal.SIGTERM)
    wait_for(lambda: not Registration.objects.online().exists(), what="the other to leave")
    gone = {(row.kind, row.address.partition(":")[0]): row.departure for row in Registration.objects.all()}
    assert gone == {
        (kind, address): "lost" if address == killed else "goodbye" for kind in ("provider", "host", "instance") for address in programs
    }
    wait_for(lambda: not Service.objects.filter(online=True).exists(), what="nobody to be online")
    kinds = [event.kind for event in ServiceEvent.objects.filter(service__layout="messages").order_by("id")]
    assert kinds == ["registered", "online", "registered", "left", "left", "offline"]


def test_a_registry_that_is_not_ours_to_read_does_not_stop_the_rest(world):  # noqa: F811
    from kazoo.security import make_digest_acl

    owner = KazooClient(hosts=world.hosts, timeout=10, auth_data=[("digest", "dubbo:secret")])
    owner.start(timeout=15)
    try:
        mine = [make_digest_acl("dubbo", "secret", all=True)]
        owner.create("/dubbo", b"", acl=mine)
        watching = world.registrar(MQADMIN_REGISTRY_JOBS="/jobs")
        client = world.raw()
        client.create("/paascloud/registry/producer/order-service/10.0.0.1", b"2026-11-21T08:00:00.123Z", ephemeral=True, makepath=True)
        wait_for(lambda: Registration.objects.online().filter(kind="host").exists(), what="the registry that may be read")
        assert watching.process.poll() is None
    finally:
        owner.delete("/dubbo", recursive=True)
        owner.stop()
        owner.close()

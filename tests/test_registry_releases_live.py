"""What registrars do to releases: they record what stood in ZooKeeper, and release what they keep of others. A real ZooKeeper."""

from registry_world import committed, published, put_cluster, put_topic, wait_for, world  # noqa: F401

from registry.models import Publication, Release


def released(path):
    return list(Release.objects.of(path).select_related("publication"))


def test_what_never_stood_in_zookeeper_is_superseded_not_published(world):  # noqa: F811
    cluster = put_cluster()
    skipped = [put_topic(cluster=name) for name in ("kafka-a", "nowhere")]
    last = put_topic()
    assert [r.state for r in released(last.path)] == ["pending"] * 3
    world.registrar()
    published(cluster, last)
    wait_for(lambda: released(last.path)[0].published_at, what="the release to be recorded as published")
    assert [r.state for r in released(last.path)] == ["published", "superseded", "superseded"]
    assert released(last.path)[0].published_at == Publication.objects.get(path=last.path).published_at
    assert skipped[0].generation == 1


def test_the_registrar_releases_what_it_keeps_of_others(world):  # noqa: F811
    cluster = put_cluster()
    world.registrar()
    published(cluster)
    raw = world.raw()
    raw.set(cluster.path, raw.get(cluster.path)[0] + b"team=payments\n")
    wait_for(lambda: len(released(cluster.path)) == 2, what="a release of the repair")
    repair = released(cluster.path)[0]
    assert (repair.kind, repair.author_name, repair.message) == (
        "repair",
        "system",
        "Keys of others were found in the node and are kept: team.",
    )
    assert b"team=payments" in bytes(repair.data)
    published(cluster)
    raw.set(cluster.path, raw.get(cluster.path)[0].replace(b"generation=2", b"generation=40"))
    wait_for(lambda: len(released(cluster.path)) == 3, what="a release past the foreign generation")
    assert released(cluster.path)[0].message == "The node carried generation 40, which was never given here; the last one was 2."

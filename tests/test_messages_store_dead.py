"""Dead letters: listed, filtered, paged; and the search for messages."""

from datetime import timedelta

import pytest

from messages import services
from messages.types import DeadFilter, NewMessage
from tests.store_world import bury, new_group, new_id

pytestmark = pytest.mark.usefixtures("store")


def test_dead_letters_are_listed_filtered_and_paged():
    one, other = new_id(), new_id()
    group = new_group(one, other)
    a = bury(one, group, *"abc", reason="Timeout at db")
    b = bury(other, group, "d", reason="bad JSON")
    assert [x.id for x in services.dead_letters(group_id=group).items] == b + a[::-1]
    page = services.dead_letters(group_id=group, limit=3)
    assert [x.id for x in services.dead_letters(group_id=group, limit=3, cursor=page.next).items] == a[:1]
    for only, found in [
        (DeadFilter(topic_id=one), a),
        (DeadFilter(reason_contains="json"), b),
        (DeadFilter(reason_contains="%"), []),
        (DeadFilter(failed_to=page.items[-1].last_failed_at), a),
        (DeadFilter(tag="x"), []),
    ]:
        assert sorted(x.id for x in services.dead_letters(group_id=group, only=only).items) == found


def test_search_finds_by_key_tag_time_and_id_and_goes_on(monkeypatch):
    monkeypatch.setattr("messages.querysets.SCAN", 10)
    topic = new_id()
    batch = [NewMessage(str(i).encode(), key=f"k{i % 3}", tag="rare" if i == 2 else "common") for i in range(35)]
    ids = [a.id for a in services.send(topic_id=topic, messages=batch)]
    page = services.search(topic_id=topic, limit=4)
    assert [m.id for m in page.items] == ids[:-5:-1]
    found, pages, cursor = [], 0, None
    while True:  # a rare tag: empty pages that go on
        page = services.search(topic_id=topic, tag="rare", cursor=cursor)
        pages, found, cursor = pages + 1, found + page.items, page.next
        if cursor is None:
            break
    assert [m.id for m in found] == [ids[2]]
    assert pages == 4
    assert [m.id for m in services.search(topic_id=topic, key="k1", limit=5).items] == [i for n, i in enumerate(ids) if n % 3 == 1][:-6:-1]
    assert [m.id for m in services.search(topic_id=topic, message_id=ids[7]).items] == [ids[7]]
    assert services.search(topic_id=new_id(), message_id=ids[7]).items == []
    at = services.message(message_id=ids[-1]).sent_at
    assert services.search(topic_id=topic, sent_from=at).items[0].id == ids[-1]
    assert services.search(topic_id=topic, sent_from=at + timedelta(hours=1)).items == []
    assert services.search(topic_id=topic, sent_to=services.message(message_id=ids[0]).sent_at - timedelta(hours=1)).items == []

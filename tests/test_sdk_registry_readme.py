"""The README's examples of the service registry, run as they stand there."""

import re
from pathlib import Path

import pytest
from kazoo.client import KazooClient

README = (Path(__file__).resolve().parent.parent / "sdk" / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README[README.index("## Service registry") :], re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["providers and consumers", "applications", "leaders and jobs"])
def test_the_example_runs(zk_chroot, tmp_path, monkeypatch, capsys, example):
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("127.0.0.1:2181", zk_chroot), "README.md", "exec"), {})
    assert capsys.readouterr().out
    raw = KazooClient(zk_chroot)
    raw.start(timeout=15)
    left = [path for path in everything(raw, "/") if raw.exists(path).ephemeralOwner]
    raw.stop()
    raw.close()
    assert left == []


def everything(raw, path):
    for name in raw.get_children(path):
        child = f"{path.rstrip('/')}/{name}"
        yield child
        yield from everything(raw, child)

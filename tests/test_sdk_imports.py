"""What the SDK loads, and when: a process that uses a part of it does not wait for the rest."""

import subprocess
import sys

import pytest

import mqadmin_sdk
from mqadmin_sdk import zk

PROGRAM = """
import sys
{code}
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(*sorted(loaded & {{"click", "httpcore", "httpx", "javaproperties", "kazoo", "prometheus_client", "rich", "yaml"}}))
"""


def loads(code):
    run = subprocess.run([sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("package", [mqadmin_sdk, zk])
def test_a_package_has_all_that_it_offers(package):
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'Clent'"):
        package.Clent  # noqa: B018


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import mqadmin_sdk", []),
        ("from mqadmin_sdk import Message, Later, MqadminError", []),
        ("from mqadmin_sdk.zk import paths, properties", []),
        ("from mqadmin_sdk import ControlPlane", ["httpcore"]),
        ("from mqadmin_sdk import Client", ["httpcore", "kazoo"]),
        ("from mqadmin_sdk.cli.app import run; run(['--help'])", ["click"]),
        ("from mqadmin_sdk.cli.app import run; run(['topics', 'apply', '--help'])", ["click"]),
    ],
)
def test_only_what_is_used_is_loaded(code, expected):
    assert loads(code) == expected

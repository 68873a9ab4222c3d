"""README's quick start, typed as it stands against the processes that `make run` starts: web, worker, beat, registrar, storekeeper, SDK."""

import re
from pathlib import Path

import pytest
from quickstart import Shell, Terminal, blocks
from supervised import Supervisor, environment, free_port

CHECKOUT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture
def running(tmp_path):
    """What `make run` starts, in a home of its own."""
    env = environment(tmp_path / "home", free_port())
    supervisor = Supervisor("run", env=env)
    try:
        supervisor.wait_for("mqadmin is at http", 120)
        yield env
    finally:
        supervisor.end()


def test_the_quick_start_does_what_the_readme_says(running):
    shell, terminal = Shell(CHECKOUT, running), None
    printed = []
    try:
        for block in blocks(CHECKOUT / "README.md"):
            match block.kind:
                case "bash":
                    printed = shell.type(block.text)
                    print("$", block.text, *printed, sep="\n")
                case "text":
                    rest = iter(printed)
                    for pattern in block.patterns:
                        assert any(re.search(f"^{pattern}$" if not pattern.endswith(".*") else f"^{pattern}", line) for line in rest), (
                            f"README promises {pattern!r}; printed was:\n" + "\n".join(printed)
                        )
                case "sh":
                    terminal = Terminal(block.text, CHECKOUT, running)
                case "log":
                    for pattern in block.patterns:
                        terminal.expect(pattern)
    finally:
        if terminal:
            print("third terminal:", *terminal.lines, sep="\n")
            terminal.close()
        shell.close()

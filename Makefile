# Everything is done by `python3 -m mqadmin.supervisor`, which needs nothing but Python: see mqadmin/supervisor/.
PYTHON ?= python3
SUPERVISOR = $(PYTHON) -m mqadmin.supervisor

.DEFAULT_GOAL := help
.PHONY: help run test lint bench fuzz soak demo

help:  ## list these targets
	@echo "mqadmin: make TARGET [ARGS=\"…\"]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile
	@echo "Variables: MQADMIN_PORT (8080), MQADMIN_HOME (.mqadmin), DATABASE_URL, ZOOKEEPER_HOSTS, CELERY_BROKER_URL: see README.md"

run:  ## install what is missing, start mqadmin with private services, stay in the foreground
	@$(SUPERVISOR) run

test:  ## all checks and all tests; with ARGS only pytest with these arguments
	@$(SUPERVISOR) test $(ARGS)

lint:  ## the checks that need no service: ruff, mypy, import-linter
	@$(SUPERVISOR) lint

bench:  ## the benchmarks, each beside its floor
	@$(SUPERVISOR) bench $(ARGS)

fuzz:  ## throw what the schema allows and forbids at every endpoint, an hour or ARGS seconds
	@$(SUPERVISOR) fuzz $(ARGS)

soak:  ## kill, stop and freeze everything under load: 50 rounds or ARGS, then the tortures of the store, the registrars and a fleet of applications at length
	@MQADMIN_SOAK=$(or $(ARGS),50) $(SUPERVISOR) test -s -k "under_load or torture or model or fleet_receives or kill_9_of_senders or sdk_sessions" tests/test_sdk_sessions.py tests/test_sdk_following.py tests/test_system_faults.py tests/test_messages_store_torture.py tests/test_messages_store_model.py tests/test_registry_torture.py tests/test_sdk_fleet.py

demo:  ## fill the running instance with life; Ctrl-C ends it
	@$(SUPERVISOR) demo $(ARGS)

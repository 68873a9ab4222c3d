"""The commands of mqctl put together, and how they end."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from mqadmin_sdk.cli import dead, manifests, messages, operations, releases, shadow, state, tools, topics
from mqadmin_sdk.cli.common import Group
from mqadmin_sdk.cli.outcomes import CommandError, Exit, of_error
from mqadmin_sdk.cli.session import Session
from mqadmin_sdk.errors import MqadminError
from mqadmin_sdk.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="mqctl")
def root() -> None:
    """Work with mqadmin: topics, consumer groups, messages, releases.

    mqadmin and credentials are found in the environment (MQADMIN_URL with MQADMIN_TOKEN, or MQADMIN_APP_KEY and MQADMIN_APP_SECRET) or in
    ~/.config/mqadmin/config.toml. `mqctl doctor` says what is wrong. Exit codes: 0 done, 1 refused or failed, 2 usage, 3 looked at and the
    answer is no, 4 credentials, 5 not found, 6 conflict, 7 not reached, 8 not in time.
    """


for module in (topics, messages, dead, manifests, releases, shadow, state, operations, tools):
    module.add_to(root)


def run(arguments: Sequence[str] | None = None) -> int:
    """Carry one call out and return its exit code."""
    session = Session()
    try:
        root.main(args=None if arguments is None else list(arguments), prog_name="mqctl", standalone_mode=False, obj=session)
    except CommandError as error:
        return _tell(session, error)
    except MqadminError as error:
        return _tell(session, of_error(error))
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except UnicodeEncodeError:
        return _tell(session, CommandError("An argument is no UTF-8.", code=Exit.USAGE))
    except BrokenPipeError:  # the reader has enough, as head does; what is left in the buffer would be an error once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    finally:
        session.close()
    return Exit.DONE


def _tell(session: Session, error: CommandError) -> int:
    output = session.output
    if output.json:
        document = error.problem or {"code": error.code.name.lower(), "detail": error.message, "hint": error.hint, "details": error.details}
        output.errors.print(json.dumps(document, ensure_ascii=False))
        return error.code
    output.note(f"mqctl: {error.message}", style="bold red")
    for line in error.details:
        output.note(f"  {line}", style="")
    if error.hint:
        output.note(error.hint, style="")
    return error.code

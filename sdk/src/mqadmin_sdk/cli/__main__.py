"""`python -m mqadmin_sdk.cli` is mqctl."""

from mqadmin_sdk.cli import main

main()

"""The kinds of operations of this room, found by core.operations.kinds: importing a module registers those in it."""

from messages import delayed_many, purges, redrives

__all__ = ["delayed_many", "purges", "redrives"]

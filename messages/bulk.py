"""The kinds of operations of this room, found by core.operations.kinds: importing a module registers those in it."""

from messages import purges, redrives

__all__ = ["purges", "redrives"]

"""Receiving: groups with their handlers, whichever cluster they are on."""

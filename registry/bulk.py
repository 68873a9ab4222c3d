"""What the room does at length: imported when somebody first asks for a kind of operation."""

from registry import checks, rebuilding  # noqa: F401 - they register their kinds

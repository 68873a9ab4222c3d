"""Benchmarks: every figure stands beside a floor that was measured in the same run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, its floor, how many times the floor (of time or cost: smaller is better)."""

    name: str
    measured: float
    floor: float
    ratio: float
    unit: str
    note: str = ""

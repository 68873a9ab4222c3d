"""A plot as SVG, without a library: what a pull costs over the backlog that it stands before."""

import math
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 300, 60, 50, 30
MOST, ALLOWED = 2.0, 1.15  # of the cost's axis; and how far it may rise to be called flat
STYLE = "text{font:13px sans-serif;fill:#444}line{stroke:#ccc}.axis{stroke:#444}.flat{stroke:#c33;stroke-dasharray:5 4}"


def draw(path: Path, points: list[tuple[int, float]]) -> None:
    """Points are a backlog and the cost of a message there, as times that beside the smallest one."""
    least, largest = math.log10(points[0][0]), math.log10(points[-1][0])

    def x(backlog: float) -> float:
        return LEFT + (math.log10(backlog) - least) / (largest - least) * (WIDTH - LEFT - 30)

    def y(cost: float) -> float:
        return HEIGHT - BOTTOM - min(cost, MOST) / MOST * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>What a pulled message costs, over the backlog</title>",
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18">time per pulled message, as times that beside {points[0][0]:,} waiting</text>',
    ]
    for cost in (0.0, 0.5, 1.0, 1.5, 2.0):
        kind = ' class="axis"' if not cost else ""
        parts.append(f'<line{kind} x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(cost):.1f}" y2="{y(cost):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(cost) + 4:.1f}" text-anchor="end">{cost:.1f}</text>')
    parts.append(f'<line class="flat" x1="{LEFT}" x2="{WIDTH - 20}" y1="{y(ALLOWED):.1f}" y2="{y(ALLOWED):.1f}"/>')
    parts.append(f'<text x="{WIDTH - 20}" y="{y(ALLOWED) - 6:.1f}" text-anchor="end">within 15 %</text>')
    shown = WIDTH + 100.0
    for backlog, _cost in reversed(points):
        if shown - x(backlog) > 70:  # labels do not overlap
            shown = x(backlog)
            parts.append(f'<text x="{shown:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{backlog:,}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">messages waiting</text>')
    places = " ".join(f"{x(backlog):.1f},{y(cost):.1f}" for backlog, cost in points)
    parts.append(f'<polyline points="{places}" fill="none" stroke="#2463a6" stroke-width="2"/>')
    parts += [f'<circle cx="{x(b):.1f}" cy="{y(c):.1f}" r="4" fill="#2463a6"><title>{b:,}: {c:.2f}</title></circle>' for b, c in points]
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")

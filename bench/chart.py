"""The chart: one bar for each target and index, as long as the share of the target that was reached."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.report import exact
from bench.targets import Verdict

_LINE, _GAP, _TOP = 15, 7, 46
_TEXT, _BARS, _END = 640, 400, 150
_LONGEST = 2.0
"""What is twice the target or better has the same bar."""


def chart(verdicts: Sequence[Verdict]) -> str:
    """Draw the verdicts as an SVG picture; those of one target stand together."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.row.title, str(verdict.target)), []).append(verdict)
    height = _TOP + sum(_LINE * len(group) + _GAP for group in groups.values()) + 10
    width, target_x = _TEXT + _BARS + _END, _TEXT + _BARS / _LONGEST
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{target_x}" y="18" text-anchor="middle" font-weight="bold">target</text>',
        f'<text x="{target_x}" y="32" text-anchor="middle" fill="#555">further to the right: better than it</text>',
        f'<line x1="{target_x}" y1="38" x2="{target_x}" y2="{height - 8}" stroke="black"/>',
    ]
    y = _TOP
    for (title, target), group in groups.items():
        label = escape(f"{title}: {target}")
        parts.append(f'<text x="{_TEXT - 10}" y="{y + 11}" text-anchor="end">{label}</text>')
        for verdict in group:
            length = _BARS * min(verdict.score, _LONGEST) / _LONGEST
            colour = "#2e7d32" if verdict.reached else "#c62828"
            side = escape(f"{exact(verdict.value)}  {verdict.side.partition('(')[2].rstrip(')') or verdict.side}")
            parts.append(f'<rect x="{_TEXT}" y="{y + 2}" width="{length:.1f}" height="{_LINE - 4}" fill="{colour}"/>')
            halo = 'stroke="white" stroke-width="3" paint-order="stroke"'  # it may lie across the line of the target
            parts.append(f'<text x="{_TEXT + length + 5:.1f}" y="{y + 11}" {halo}>{side}</text>')
            y += _LINE
        y += _GAP
    return "\n".join([*parts, "</svg>\n"])

"""A report card as one page of HTML that asks for nothing else: no script, no address, every text escaped. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from softprompt.evaluation.suites.report import ReportCard
from softprompt.text import plural

_GROUPS = {
    "Patterns": ("must: ", "must_not: "),
    "Changed inputs": ("perturb:",),
    "Swapped words": ("swap:",),
    "Slices": ("slice:",),
    "Calibration": ("calibration",),
}
"""Checks that stand together, by what their names begin with; metrics are none of them, and come first."""
_BETTER = {
    "before": ("worse", "became worse"),
    "after": ("better", "became better"),
    "both": ("even", "right both times"),
    "neither": ("even", "wrong both times"),
    None: ("even", "changed"),
}


def page_of(card: ReportCard) -> str:
    """The page, in UTF-8."""
    title = card.ref + (f" beside {card.task}@{card.against['version']}" if card.against else "")
    parts = [_head(card), *(_suite(card, suite) for suite in card.suites), _notes(card.notes), _facts(card)]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))


def _head(card: ReportCard) -> str:
    tags = "".join(f'<span class="tag">{escape(one)}</span>' for one in [*card.aliases, *card.tags])
    cells = [("score", _score(card.value, card.stderr), f"{card.metric} on {_number(card.rows)} test rows")]
    if card.against:
        old = card.against
        cells.append((f"{card.task}@{old['version']}", _score(old["value"], old["stderr"]), old["comparison"]))
    if card.suites:
        refused = [check["check"] for suite in card.suites for check in suite["checks"] if check.get("refused")]
        compared = any("fall" in check for suite in card.suites for check in suite["checks"])
        checks = sum(len(suite["checks"]) for suite in card.suites)
        told = f"{plural(checks, 'check')} of {plural(len(card.suites), 'suite')}"
        if compared:
            verdict = ("worse", f"{len(refused)} fell") if refused else ("better", "none fell")
            cells.append(("suites", f'<span class="{verdict[0]}">{verdict[1]}</span>', f"beyond the tolerance, of {told}"))
        else:
            cells.append(("suites", str(len(card.suites)), told))
    boxes = "".join(
        f'<div class="box"><div class="small">{escape(name)}</div><div class="big">{value}</div>'
        f'<div class="small">{escape(told)}</div></div>'
        for name, value, told in cells
    )
    learnt = '<p class="worse">A baseline is as good, or better: it has not learnt.</p>' if card.learnt is False else ""
    made = escape(f"on {card.base}, made {card.created_at} by {card.actor}")
    heading = f'<h1>{escape(card.ref)} {tags}</h1><p class="small">{made}</p>'
    return f'<header>{heading}<div class="boxes">{boxes}</div>{learnt}</header>'


def _suite(card: ReportCard, suite: Mapping[str, Any]) -> str:
    beside = card.against if any("fall" in check for check in suite["checks"]) else None
    told = f"{plural(suite['rows'], 'row')}, tolerance {suite['tolerance']:g}, run {suite['created_at']} by {suite['actor']}"
    groups = []
    others = tuple(begin for begins in _GROUPS.values() for begin in begins)
    metrics = [check for check in suite["checks"] if not check["check"].startswith(others)]
    found = {name: [one for one in suite["checks"] if one["check"].startswith(begins)] for name, begins in _GROUPS.items()}
    for name, checks in {"Metrics": metrics, **found}.items():
        if checks:
            chart = _reliability(suite["calibration"]) if name == "Calibration" else ""
            groups.append(f"<h3>{name}</h3>{_checks(checks, beside)}{chart}")
    examples = _examples(card, suite) if suite["changed"] is not None else ""
    return (
        f'<section><h2>{escape(suite["suite"])}</h2><p class="small">{escape(told)}</p>{"".join(groups)}{examples}</section>'
    )


def _checks(checks: Sequence[Mapping[str, Any]], beside: Mapping[str, Any] | None) -> str:
    names = ["check", "value", *([f"@{beside['version']}", "difference"] if beside else []), "rows"]
    lines = []
    for check in checks:
        name = check["check"].removeprefix("slice:").removeprefix("perturb:").removeprefix("swap:")
        down = ' <span class="small" title="less is better">↓</span>' if check["lower_is_better"] else ""
        as_was = f'<div class="small">{_number(check["before"])} unchanged</div>' if check["before"] is not None else ""
        cells = [
            f'<td class="name">{escape(name)}{down}{as_was}</td>',
            f'<td class="n">{_score(check["value"], check["stderr"])}{_bar(check)}</td>',
        ]
        if beside:
            cells += [f'<td class="n">{_number(check.get("against"))}</td>', _difference(check)]
        cells.append(f'<td class="n">{check["rows"]}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f"<th{'' if name == 'check' else ' class=n'}>{escape(name)}</th>" for name in names)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _bar(check: Mapping[str, Any]) -> str:
    if not 0 <= check["value"] <= 1:
        return ""
    return f'<div class="bar"><i style="width:{check["value"]:.1%}"></i></div>'


def _difference(check: Mapping[str, Any]) -> str:
    if "fall" not in check:
        return "<td></td>"
    better = -check["fall"] or 0.0
    shown = f"{-better if check['lower_is_better'] else better:+.4f}"
    kind = "even" if abs(better) < 5e-5 else "better" if better > 0 else "worse"
    told = f"worse by more than {check['tolerance']:g} in {check['confidence']:.1%} of {check['draws']} resamples"
    mark = '<br><span class="fell">fell</span>' if check["refused"] else ""
    return f'<td class="n {kind}" title="{escape(told)}">{shown if kind != "even" else "0.0000"}{mark}</td>'


def _reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """How often answers are right by how sure they are: what is well calibrated lies on the diagonal."""
    bars, most = [], max((one["rows"] for one in bins), default=1)
    for one in bins:
        left, width = 40 + 200 * one["from"], 200 * (one["to"] - one["from"])
        told = f"{plural(int(one['rows']), 'row')}: confidence {one['confidence']:.3f}, right {one['accuracy']:.3f}"
        bars.append(
            f'<rect opacity="{0.3 + 0.7 * one["rows"] / most:.2f}" x="{left + 1:.1f}" '
            f'y="{210 - 200 * one["accuracy"]:.1f}" width="{width - 2:.1f}" '
            f'height="{200 * one["accuracy"]:.1f}"><title>{escape(told)}</title></rect>'
        )
    rows = "".join(
        f'<tr><td class="n">{one["from"]:g} to {one["to"]:g}</td><td class="n">{int(one["rows"])}</td>'
        f'<td class="n">{one["confidence"]:.3f}</td><td class="n">{one["accuracy"]:.3f}</td></tr>'
        for one in bins
    )
    return (
        '<div class="chart"><svg viewBox="0 0 250 240" role="img" aria-label="accuracy by confidence">'
        '<line class="axis" x1="40" y1="210" x2="240" y2="210"/><line class="axis" x1="40" y1="10" x2="40" y2="210"/>'
        f'{"".join(bars)}<line class="ideal" x1="40" y1="210" x2="240" y2="10"/>'
        '<text x="40" y="224">0</text><text x="234" y="224">1</text>'
        '<text x="140" y="236" text-anchor="middle">confidence</text>'
        '<text x="28" y="213">0</text><text x="28" y="17">1</text>'
        '<text x="20" y="110" text-anchor="middle" transform="rotate(-90 20 110)">right</text></svg>'
        '<div class="wide"><table><thead><tr><th class=n>confidence</th><th class=n>rows</th><th class=n>mean</th>'
        f"<th class=n>right</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _examples(card: ReportCard, suite: Mapping[str, Any]) -> str:
    assert card.against is not None
    old, new = f"{card.task}@{card.against['version']}", card.ref
    cards = []
    for one in suite["examples"]:
        kind, told = _BETTER[one["better"]]
        text = f'<span class="none">row {escape(one["row"])}</span>' if one["input"] is None else escape(one["input"])
        answers = [(old, one["before"]), (new, one["after"])] + (
            [("right", one["right"])] if one["right"] is not None else []
        )
        lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(answer) or '&nbsp;'}</dd>" for name, answer in answers)
        cards.append(f'<li><span class="{kind}">{told}</span><div class="text">{text}</div><dl>{lines}</dl></li>')
    count = f"{plural(suite['changed'], 'answer')} changed of {suite['rows']}"
    if len(cards) < suite["changed"]:
        count += f"; {len(cards)} are shown, those that became worse first"
    return f'<h3>Changed answers</h3><p class="small">{count}</p><ul class="examples">{"".join(cards)}</ul>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f"<section><h2>Notes</h2><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul></section>"


def _facts(card: ReportCard) -> str:
    facts = {**card.facts, "digest": card.digest, "fingerprint": card.fingerprint}
    lines = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_told(value))}</dd>" for name, value in facts.items()
    )
    return f'<section><details open><summary>Card</summary><dl class="facts">{lines}</dl></details></section>'


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _score(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4f}" + (f' <span class="small">±{stderr:.4f}</span>' if stderr is not None else "")


_STYLE = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --ink: #1c1d1f; --soft: #6a6d73; --line: #e3e4e6;
  --bar: #4b74d6; --good: #1b7f4b; --bad: #b3261e; --tag: #eef1f8; }
@media (prefers-color-scheme: dark) { :root { --back: #15171a; --card: #1d2024; --ink: #e8e9eb; --soft: #9b9fa6;
  --line: #31353b; --bar: #7d9df0; --good: #5fcf96; --bad: #ff8a80; --tag: #2a2f3a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px 48px; max-width: 900px; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; } h2 { font-size: 19px; margin: 0; }
h3 { font-size: 14px; margin: 22px 0 6px; color: var(--soft); font-weight: 600; }
p { margin: 4px 0; } .small { font-size: 13px; color: var(--soft); font-weight: 400; }
section, .box { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 18px; margin-top: 18px; } .box { padding: 12px 16px; }
.boxes { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px; margin: 16px 0 6px; }
.big { font-size: 24px; font-variant-numeric: tabular-nums; }
.tag { font-size: 13px; font-weight: 500; background: var(--tag); border-radius: 12px; padding: 2px 10px;
  vertical-align: 3px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: 13px; font-weight: 500; color: var(--soft); }
.n { text-align: right; white-space: nowrap; width: 1%; padding-left: 14px; }
tr > :last-child { padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
.name { overflow-wrap: anywhere; min-width: 110px; }
.bar { height: 3px; border-radius: 2px; background: var(--line); margin-top: 3px; min-width: 120px; }
.bar i { display: block; height: 3px; border-radius: 2px; background: var(--bar); }
.better { color: var(--good); } .worse { color: var(--bad); } .even { color: var(--soft); }
.fell { font-size: 12px; border: 1px solid currentColor; border-radius: 8px; padding: 0 7px; }
.chart { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; margin-top: 12px; }
.chart svg { width: 260px; max-width: 100%; flex: none; } .chart .wide { flex: 1; min-width: 240px; }
svg rect { fill: var(--bar); }
svg line { stroke: var(--line); }
svg .ideal { stroke: var(--soft); stroke-dasharray: 4 4; }
svg text { fill: var(--soft); font-size: 11px; }
.examples { list-style: none; padding: 0; margin: 8px 0 0; }
.examples li { border-top: 1px solid var(--line); padding: 12px 0; }
.examples li > span { font-size: 13px; font-weight: 600; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 2px 0 6px; }
.none { font-family: ui-monospace, monospace; color: var(--soft); }
dl { display: grid; grid-template-columns: minmax(90px, max-content) 1fr; gap: 2px 16px; margin: 0; }
dt { color: var(--soft); font-size: 13px; line-height: 1.75; overflow-wrap: anywhere; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
summary { font-size: 19px; font-weight: 600; cursor: pointer; }
.facts { margin-top: 10px; }
ul { padding-left: 20px; }
@media (max-width: 560px) { td.n .small { display: none; } .bar { min-width: 60px; }
.n { padding-left: 8px; }
th, td { padding-right: 4px; }
section { padding: 14px; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

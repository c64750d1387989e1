"""Figures from outcomes: rates with their intervals, and the table that people read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from pi_policy_node.learn.evaluate import Played
from pi_policy_node.learn.evaluate_play import Condition

Z = 1.959963984540054  # of a 95 % interval


def wilson(good: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a rate."""
    if of == 0:
        return 0.0, 1.0
    rate, spread = good / of, Z * Z / of
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(one: Sequence[bool], other: Sequence[bool]) -> tuple[float, float, float]:
    """How much more often the other succeeds on the same episodes, and the 95 % interval (Newcombe's, for pairs)."""
    n = len(one)
    both, first, second = (sum(x == a and y == b for x, y in zip(one, other))
                           for a, b in ((True, True), (True, False), (False, True)))
    neither = n - both - first - second
    product = (both + second) * (first + neither) * (both + first) * (second + neither)
    shared = both * neither - first * second
    shared = max(shared - n / 2, 0.0) if shared > 0 else shared
    phi = shared / math.sqrt(product) if product else 0.0
    (low1, high1), (low2, high2) = wilson(both + second, n), wilson(both + first, n)
    rate1, rate2 = (both + second) / n, (both + first) / n
    down, up = (rate1 - low1, high2 - rate2), (high1 - rate1, rate2 - low2)
    apart = [math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)) for a, b in (down, up)]
    return rate1 - rate2, rate1 - rate2 - apart[0], rate1 - rate2 + apart[1]


def summary(played: Sequence[Played]) -> list[dict]:
    """A row for each condition, in the order in which they first come."""
    groups: dict[Condition, list[Played]] = {}
    for one in played:
        groups.setdefault(one.trial.condition, []).append(one)
    return [_row(condition, group) for condition, group in groups.items()]


def _row(condition: Condition, group: list[Played]) -> dict:
    outcomes = [one.outcome for one in group]
    good, n = sum(o.success for o in outcomes), len(outcomes)
    right = [o.right_first for o in outcomes if o.right_first is not None]
    rows = sum(o.rows for o in outcomes)
    return {
        **asdict(condition), "episodes": n, "successes": good, "success": good / n, "interval": wilson(good, n),
        "goals_met": float(np.mean([o.met for o in outcomes])),
        "lifted_something": len(right), "right_first": sum(right) / len(right) if right else math.nan,
        "right_first_interval": wilson(sum(right), len(right)),
        "seconds": float(np.mean([o.seconds for o in outcomes])),
        "seconds_of_successes": float(np.mean([o.seconds for o in outcomes if o.success])) if good else math.nan,
        "causes": dict(Counter(o.cause for o in outcomes if not o.success).most_common()),
        "ended": dict(Counter(o.ended for o in outcomes).most_common()),
        "said_done_wrongly": sum(o.ended == "succeeded" and not o.success for o in outcomes),
        "disturbed": sum(bool(o.events) for o in outcomes),
        "limited_rows": sum(o.limited for o in outcomes) / max(rows, 1),
        "refused": sum(o.refused for o in outcomes),
        "held_rows": sum(o.held for o in outcomes) / max(rows, 1),
        "thinking": _mean([o.thinking for o in outcomes if o.asked]),
        "wall": sum(o.wall for o in outcomes), "rows": rows,
    }


def table(rows: Sequence[dict]) -> str:
    """For people. Columns that are the same in all rows and say nothing are left out."""
    columns = [("family", lambda r: r["family"])]
    if any(r["split"] != "train" for r in rows):
        columns.append(("split", lambda r: r["split"].replace("holdout_", "")))
    if len({r["mode"] for r in rows}) > 1:
        columns.append(("mode", lambda r: r["mode"]))
    if any(r["delay"] or r["jitter"] for r in rows):
        columns.append(("delay", lambda r: f"{1000 * r['delay']:.0f}" + (
            f"+{1000 * r['jitter']:.0f}" if r["jitter"] else "") + " ms"))
    if len({r["replan"] for r in rows}) > 1:
        columns.append(("replan", lambda r: f"{r['replan']} rows"))
    if any(r["dropout"] for r in rows):
        columns.append(("dropout", lambda r: f"{r['dropout']:.0%}"))
    columns += [
        ("n", lambda r: str(r["episodes"])),
        ("success", lambda r: f"{100 * r['success']:5.1f} %"),
        ("95 %", lambda r: "{:.1f}–{:.1f}".format(*(100 * x for x in r["interval"]))),
        ("goals", lambda r: f"{100 * r['goals_met']:.1f} %"),
        ("right first", lambda r: "" if math.isnan(r["right_first"]) else
            f"{100 * r['right_first']:.1f} % of {r['lifted_something']}"),
        ("time", lambda r: "" if math.isnan(r["seconds_of_successes"]) else f"{r['seconds_of_successes']:.1f} s"),
        ("failures", lambda r: ", ".join(f"{count} {cause}" for cause, count in r["causes"].items())),
    ]
    cells = [[title for title, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan

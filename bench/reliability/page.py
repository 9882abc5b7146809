"""The tables of docs/reliability.md, made from what was measured and from nothing else."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- measured: begin (make reliability writes what stands between these lines) -->"
END = "<!-- measured: end -->"
TARGET = 1.5

Json = dict[str, Any]


def kept(path: Path) -> Json:
    """The figures that were written to ``path``, by this run or an earlier one."""
    found: Json = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep(path: Path, part: str, found: Json) -> None:
    """Write figures to ``path``; what was not measured now stays there as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = merged(kept(path), part, found)
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


def merged(parts: Json, part: str, found: Json) -> Json:
    """``parts`` with what was found. Of a table the lines are replaced one by one."""
    if "cells" in found:
        cells = {_place(cell): cell for cell in parts.get(part, {}).get("cells", [])}
        cells.update((_place(cell), cell) for cell in found["cells"])
        found = {**found, "cells": [cells[place] for place in sorted(cells)]}
    return {**parts, part: found}


def _place(cell: Json) -> tuple[int, int, int]:
    return cell["callers"], cell["processes"], cell["latency_ms"]


def write(path: Path, parts: Json) -> None:
    """Put the tables between the marks of the page."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has lost the marks around the measured part")
    path.write_text(f"{before}{BEGIN}\n\n{render(parts)}\n{END}{after}")


def render(parts: Json) -> str:
    makers = {
        "expiry": _expiry,
        "counts": _counts,
        "kills": _kills,
        "faults": _faults,
    }
    return "\n".join(makers[name](parts[name]) for name in makers if name in parts)


def failures(parts: Json) -> list[str]:
    """A sentence for everything that is not as promised."""
    said = []
    for part in ("expiry", "counts"):
        for cell in parts.get(part, {}).get("cells", []):
            where = f"{cell['callers']} callers, {cell['processes']} processes, {_ms(cell)}"
            found = [cell[name] for name in ("upstream_calls", "reuse", "without", "wrong")]
            if found != [cell["rounds"], 0, 0, 0]:
                said.append(
                    f"{where}, {cell['rounds']} rounds: {found[0]} upstream calls, "
                    f"{found[1]} reuses, {found[2]} without a token, {found[3]} wrong tokens"
                )
            if cell["bystander"].get("refused"):
                said.append(f"{where}: the bystander was refused {cell['bystander']['refused']} ×")
    if kills := parts.get("kills"):
        if kills["lost_outside"]:
            said.append(f"kill -9: {kills['lost_outside']} logins lost outside the window")
        if kills["silent"]:
            said.append(f"kill -9: {kills['silent']} logins lost, and nobody is told")
        if kills["most_presentations"] > 2:
            said.append("kill -9: a refresh token was presented more than twice")
        if kills["reuse"] > kills["lost"]:
            said.append("kill -9: more reuses than logins lost")
        if kills["given_up"] > kills["killed_twice"]:
            said.append("kill -9: a living login was given up after one kill")
    for row in parts.get("faults", {}).get("rows", []):
        said += [f"fault “{row['name']}”: {wrong}" for wrong in row["wrong"]]
    return said


def over_target(parts: Json) -> list[str]:
    return [
        f"{cell['callers']} callers, {cell['processes']} processes, {_ms(cell)}: "
        f"the bystander's p99 is {cell['bystander']['ratio']} × "
        f"{_range(cell['bystander']['ratio_range'], cell['rounds'])}"
        for cell in parts.get("expiry", {}).get("cells", [])
        if cell["bystander"]["ratio"] > TARGET
    ]


def _expiry(part: Json) -> str:
    rows = []
    for cell in part["cells"]:
        seen = cell["bystander"]
        mark = "" if seen["ratio"] <= TARGET else " **over**"
        rows.append(
            (
                cell["callers"],
                cell["processes"],
                _ms(cell),
                _per_round(cell["upstream_calls"], cell["rounds"]),
                cell["reuse"],
                cell["without"],
                cell["wrong"],
                _seconds(cell["last_caller_ms"]),
                f"{_number(seen['expired_p50_ms'])} / {_number(seen['expired_p99_ms'])}",
                f"{_number(seen['alive_p50_ms'])} / {_number(seen['alive_p99_ms'])}",
                f"**{seen['ratio']}** {_range(seen['ratio_range'], cell['rounds'])}{mark}",
                _number(seen["once_p99_ms"]),
                _number(seen["alone_p99_ms"]),
            )
        )
    return _section(
        "Many callers at expiry",
        part,
        _table(
            (
                "callers",
                "processes",
                "upstream takes",
                "upstream calls a round",
                "reuse",
                "went without",
                "wrong tokens",
                "the last caller has it after",
                "bystander p50 / p99, ms",
                "… same requests, token alive",
                "p99 ratio (9 of 10 draws)",
                "p99, each asks once",
                "p99, nobody asks",
            ),
            rows,
        ),
        f"{_few_and_many([cell['rounds'] for cell in part['cells']])} rounds to a line, and "
        f"{_few_and_many([cell['bystander']['answers'] for cell in part['cells']])} answers to the "
        f"bystander; target for the ratio: at most {TARGET}.",
    )


def _counts(part: Json) -> str:
    rows = [
        (
            cell["rounds"],
            cell["processes"],
            cell["callers"],
            _ms(cell),
            cell["upstream_calls"],
            cell["reuse"],
            cell["without"],
            cell["wrong"],
            _seconds(cell["last_caller_ms"]),
        )
        for cell in part["cells"]
    ]
    return _section(
        "Round after round",
        part,
        _table(
            (
                "rounds",
                "processes",
                "callers",
                "upstream takes",
                "upstream calls",
                "reuse",
                "went without",
                "wrong tokens",
                "the last caller has it after",
            ),
            rows,
        ),
    )


_STAGES = {
    "idle": "before the claim: nothing was under way",
    "claimed": "claimed; nothing had reached the server",
    "sent": "the server had the request, and rotated after the kill",
    "rotated": "the server had rotated; the pair was not saved",
    "saved": "after the save",
}


def _kills(part: Json) -> str:
    stages = _table(
        ("where the kill hit", "rounds", "logins lost by such a kill"),
        [
            (words, part["stages"][stage], part["lost_by_stage"][stage])
            for stage, words in _STAGES.items()
        ],
    )
    facts = _table(
        ("", ""),
        [
            ("rounds", part["rounds"]),
            ("of them killed a second time, after the lease", part["killed_twice"]),
            ("logins lost", part["lost"]),
            ("… outside the window", part["lost_outside"]),
            ("… that say so, and say what to do", part["diagnosed"]),
            ("… in silence", part["silent"]),
            ("living logins given up, all of them killed twice", part["given_up"]),
            ("most presentations of one refresh token", part["most_presentations"]),
            ("spent refresh tokens presented", part["reuse"]),
            (
                f"from the rotation to the saved pair, p50 / p99 of {part['refreshes']} refreshes",
                f"{part['window_p50_ms']} / {part['window_p99_ms']} ms",
            ),
            (
                "… of it after the answer had left the server",
                f"{part['own_p50_ms']} / {part['own_p99_ms']} ms",
            ),
        ],
    )
    return _section("kill -9", part, stages + "\n" + facts)


def _faults(part: Json) -> str:
    rows = []
    for row in part["rows"]:
        rows.append(
            (
                row["name"],
                f"`{row['first']}`",
                f"`{row['status']}`",
                row["calls"],
                _short(row["reads"] or "–"),
                _what_next(row),
            )
        )
    return _section(
        "Faults of the far side",
        part,
        _table(
            (
                "fault",
                "outcome",
                "the credential afterwards",
                "upstream calls",
                "what the person reads",
                "what next",
            ),
            rows,
        ),
    )


def _what_next(row: Json) -> str:
    if row["again_in"] is None and row["then"] is None:
        return "never asked again; a new login is needed"
    if row["first"] == "refreshed":
        return f"all is well; the token counts for {row['lives_for']:,} s"
    again = "" if row["again_in"] is None else f"asked again after {row['again_in']} s: "
    if row["then"] == "refreshed":
        return f"{again}refreshed"
    return f"{again}`{row['then']}`, then `{row['then_standing']}`: “{_short(row['then_reads'])}”"


def _short(sentence: str) -> str:
    """The sentence without the operands of its command, which name a person of the run."""
    return re.sub(r"(`oauthvault \w+) [^`]*`", r"\1 …`", sentence)


def _section(title: str, part: Json, table: str, note: str = "") -> str:
    machine = part["machine"]
    where = ", ".join(
        [f"{machine['cores']} cores", *machine["servers"], f"Python {machine['python']}"]
    )
    return f"### {title}\n\n{table}\n{note + ' ' if note else ''}Measured on {where}.\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def _ms(cell: Json) -> str:
    latency = int(cell["latency_ms"])
    return f"{latency} ms" if latency < 1000 else f"{latency / 1000:g} s"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _range(pair: Sequence[float], rounds: int) -> str:
    """Nothing for one round, which has no range."""
    return f"({pair[0]}–{pair[1]})" if rounds > 1 else ""


def _per_round(calls: int, rounds: int) -> str:
    return f"{calls / rounds:g}"


def _few_and_many(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"

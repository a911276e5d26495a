"""`fissile graph`: which module calls and subscribes to which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from attrs import asdict
from cyclopts import Parameter

from fissile.cli._context import Context, Whole
from fissile.cli._edges import Edge, find_edges

_ARROWS = {"command": "─cmd→", "query": "─query→", "event": "═event═▶"}


def graph(
    *,
    mermaid: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    context: Context,
) -> None:
    """Show which module calls and subscribes to which.

    Calls are read from the text of the files (a message of another contract is made there), subscriptions from the declarations.

    Args:
        mermaid: As a Mermaid flow chart, for a README.
        context: What all commands are given.
    """
    whole = Whole.read(context.application(), with_gateway=False).require()
    edges = find_edges(whole)
    modules = tuple(whole.own)
    if context.as_json:
        context.output.json({"modules": modules, "edges": [asdict(edge) for edge in edges]})
    elif mermaid:
        context.output.data(as_mermaid(modules, edges))
    else:
        context.output.data(as_text(modules, edges))


def as_text(modules: Sequence[str], edges: Sequence[Edge]) -> str:
    """Return the graph as lines, one an edge; modules without edges at the end."""
    lines: list[str] = []
    width = max((len(edge.source) for edge in edges), default=0)
    before = ""
    for edge in edges:
        shown = edge.source if edge.source != before else ""
        before = edge.source
        lines.append(
            f"{shown.ljust(width)} {_ARROWS[edge.kind]} {edge.target}  {edge.name}  ({', '.join(edge.places)})"
        )
    alone = [name for name in modules if all(name not in (edge.source, edge.target) for edge in edges)]
    lines += [f"{name}  (neither calls nor is called, but through the gateway)" for name in alone]
    return "\n".join(lines) or "There are no modules."


def as_mermaid(modules: Sequence[str], edges: Sequence[Edge]) -> str:
    """Return the graph as a Mermaid flow chart: an arrow for a call, a thick one for events."""
    names = dict.fromkeys([*modules, *(name for edge in edges for name in (edge.source, edge.target))])
    lines = ["flowchart LR", *(f'  {_id(name)}["{name}"]' for name in names)]
    labels: dict[tuple[str, str, bool], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target, edge.kind == "event"), []).append(edge.name.partition(".")[2])
    for (source, target, is_event), found in labels.items():
        arrow = "==>" if is_event else "-->"
        lines.append(f'  {_id(source)} {arrow}|"{"<br>".join(found)}"| {_id(target)}')
    return "\n".join(lines)


def _id(name: str) -> str:
    # A prefix, because Mermaid has words of its own: a node must not be called `end`.
    return f"m_{name.replace('-', '_').replace('.', '_')}"

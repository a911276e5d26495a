"""The row of the first answer: `fissile dev --split` with its broker, from its start until the curl of the README is answered."""

from __future__ import annotations

import re
from time import perf_counter

from benchmarks._process import serving
from benchmarks._rows import ROOT, CannotRun, Row, Spec, python

GATEWAY = re.compile(r"Gateway\s+http://(\S+)")
BODY = '{"language": "python", "source": "print(6*7)"}'
BOUND_S = 5.0

FIRST_ANSWER = Spec("fissile dev --split, embedded broker, start to the first answer", f"{BOUND_S:g} s", "s", 1.0)


def rows(rounds: int) -> list[Row]:
    """Measure it."""
    try:
        return [FIRST_ANSWER.row([(_first_answer_s(), BOUND_S) for _ in range(rounds)])]
    except (CannotRun, OSError) as error:
        return [FIRST_ANSWER.cannot(str(error))]


def _first_answer_s() -> float:
    with serving(python("-m", "fissile", "dev", "--split", "--port", "0"), ROOT, GATEWAY) as gateway:
        began = perf_counter()
        connection = gateway.connect()
        connection.request("POST", "/api/code-executor/run-code", BODY, {"content-type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200 or b'"42\\n"' not in body:
            raise CannotRun(body.decode(errors="replace")[:300])
        return gateway.ready_s + perf_counter() - began

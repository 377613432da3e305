"""The same inputs with names that would be markup, or steer plotly, if anybody let them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from multilora.bench.record import BenchRecord
from multilora.report.inputs import ComparedMethods, ReportInputs
from multilora.report.run_record import RunRecord
from multilora.spectral.record import AnalysisRecord
from multilora.storage.record import Part

P = TypeVar("P", bound=Part | None)

SCRIPT = "<script>window.hacked=1</script>"
IMAGE = "\"><img src=x onerror='window.hacked=1'>"
PLOTLY = '<b>bold</b><a href="javascript:window.hacked=1">%{y}</a>'
END = "</script></style></title>"

# What is called so in the study, and how it is called instead.
NAMES = {
    "multilora": f"{SCRIPT}multilora",
    "lora@4": f"{IMAGE}lora",
    "full": f"{PLOTLY}full",
    "a": f"{IMAGE}a",
    "b": f"{PLOTLY}b",
    "q_proj": f"{PLOTLY}q_proj",
    "k_proj": f"{END}k_proj",
    "accuracy": f"{SCRIPT}accuracy",
    "{q}": f"{END}{{q}}",
}
_MEANT = ("kind", "name")  # keys whose values say what something is


def hostile(inputs: ReportInputs) -> ReportInputs:
    """The inputs with other names, wherever they stand."""
    names = dict(NAMES)
    for run in inputs.runs:
        method, _, seed = run.name.partition(" ")
        names[run.name] = f"{NAMES[method]} {seed}"
    assert inputs.data is not None
    data = _renamed(inputs.data.content(), names)
    data |= {"notes": [SCRIPT, IMAGE], "faults": [{"run": SCRIPT, "layer": IMAGE, "message": END}]}
    data |= {"base": f"{IMAGE}base", "settings": data["settings"] | {"base": SCRIPT}}
    for matrix in data["matrices"]:
        matrix["layer"] = f"{SCRIPT}{matrix['layer']}"
    return ReportInputs(
        AnalysisRecord.model_validate(data),
        [
            ComparedMethods(of.folder, _record(of.results, names), _record(of.record, names))
            for of in inputs.comparisons
        ],
        [_run(run, names) for run in inputs.runs],
        [END],
        None if inputs.bench is None else hostile_bench(inputs.bench),
    )


def _run(run: RunRecord, names: dict[str, str]) -> RunRecord:
    return replace(
        run,
        name=names[run.name],
        method=names[run.method],
        regime=names.get(run.regime or "", run.regime),
        recipe=_renamed(run.recipe, names),
        results=_record(run.results, names),
        metrics=[_record(line, names) for line in run.metrics],
        tests={names.get(name, name): _record(of, names) for name, of in run.tests.items()},
    )


def _record(part: P, names: dict[str, str]) -> P:
    return part if part is None else type(part).model_validate(_renamed(part.content(), names))


def hostile_bench(bench: BenchRecord) -> BenchRecord:
    """The same costs of methods with other names."""
    content = _renamed(bench.model_dump(), NAMES | {"frozen base": f"{PLOTLY}base", "multilora@3x8": f"{END}3x8"})
    content["model"] = f"{IMAGE}model"
    content["machine"] |= {"cpu": SCRIPT, "versions": {SCRIPT: IMAGE}}
    content["faults"] = [{"method": SCRIPT, "length": IMAGE, "message": f"{END}\ud800\x1b[31m"}]
    return BenchRecord.model_validate(content)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            names.get(key, key): part
            if key in _MEANT and part in ("full", "lora", "multilora")
            else _renamed(part, names)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value

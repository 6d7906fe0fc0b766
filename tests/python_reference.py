"""Writes the Python reference from the signatures and docstrings of the public names.

    python -m tests.python_reference > docs/reference/python.md

tests/test_docs.py compares. A public name that no section lists comes last, under "Others".
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import kancompress

SECTIONS = {
    "Commands": (
        "train", "cluster", "sweep", "finetune", "evaluate", "compare", "predict", "inspect",
        "expand", "repack", "export", "html_report", "markdown_report",
    ),
    "Clustering by outputs": (
        "cluster_by_outputs", "choose_clusters",
    ),
    "Your own model": (
        "compress", "compress_by_outputs", "parametrize", "build_module",
    ),
    "Files": (
        "load", "save", "encode", "read_layouts", "print_layouts", "save_predictions",
        "check_predictions_target", "has_labels",
    ),
    "Pictures": (
        "plot_edges", "plot_functions", "plot_map", "plot_pictures", "check_picture_target",
    ),
    "Threads and processes": (
        "use_threads", "joined",
    ),
    "Results": (
        "Training", "Score", "Epoch", "Compression", "Compressed", "LayerClustering", "Calibrated",
        "NetworkSolution", "LayerSolution", "Curve", "Cut", "Finetuning", "Evaluation",
        "Comparison", "Sweep", "Point", "Asked",
        "Prediction", "Parametrization", "Hooks", "Repacked", "PartBytes", "Exported",
    ),
    "Files as records": (
        "PackedModel", "PackedLayer", "Checkpoint", "Restored", "FormRecord", "SourceSizes",
    ),
    "Settings": (
        "TrainConfig", "ClusterConfig", "CalibrationConfig", "FinetuneConfig", "RunOptions",
        "RepackConfig", "OnnxOptions", "HtmlOptions", "PlotConfig", "StateFile", "Machine",
    ),
    "Networks and data": (
        "ModelName", "ModelSpec", "BasisSpec", "ConvSpec", "MetaSpec", "DataSpec", "DataOptions",
    ),
    "Choices": (
        "Activation", "Device", "HeaderForm", "IndexCoding", "KMeans", "Method", "Metric",
        "Precision", "Projection", "RowFormat", "Runtime", "StoredDtype", "Target", "Weights",
    ),
    "Errors": (
        "KancompressError", "UsageError", "InvalidFileError", "Flaw",
    ),
}  # fmt: skip
_HEAD = """# Python

This page is written by a program (`python -m tests.python_reference > docs/reference/python.md`)
from the signatures and docstrings of the public names. Other names of the package are internal:
they may move or change in any release.

"""
_WIDTH = 88


def reference() -> str:
    """The page: a heading and a block for every public name, by subject."""
    listed = {name for names in SECTIONS.values() for name in names}
    public = [name for name in kancompress.__all__ if not name.startswith("__")]
    sections = SECTIONS | {"Others": tuple(name for name in public if name not in listed)}
    parts = [_HEAD, *_contents(sections)]
    for section, names in sections.items():
        if names:
            parts.append(f"\n## {section}\n")
            parts += [_entry(name) for name in names]
    return "".join(parts)


def _contents(sections: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for section, names in sections.items():
        if names:
            links = ", ".join(f"[`{name}`](#{name.lower()})" for name in names)
            yield f"- {section}: {links}\n"


def _entry(name: str) -> str:
    value = getattr(kancompress, name)
    if inspect.isclass(value):
        lines = list(_class_lines(name, value))
    else:
        lines = [_signature(name, value), *_indented(value)]
    return f"\n### {name}\n\n```text\n" + "\n".join(lines).rstrip() + "\n```\n"


def _class_lines(name: str, kind: type) -> Iterator[str]:
    bases = [base.__name__ for base in kind.__bases__ if base is not object]
    yield f"class {name}" + (f"({', '.join(bases)})" if bases else "")
    yield from _indented(kind)
    if issubclass(kind, enum.Enum):
        yield ""
        yield from (f"    {member.name} = {member.value!r}" for member in kind)
    elif dataclasses.is_dataclass(kind):
        yield ""
        yield from (f"    {_field(field)}" for field in dataclasses.fields(kind) if _shown(field))
    yield from _members(kind)


def _shown(field: dataclasses.Field[Any]) -> bool:
    return not field.name.startswith("_")


def _members(kind: type) -> Iterator[str]:
    """Methods and properties that the class itself defines."""
    for name, member in vars(kind).items():
        if name.startswith("_") or isinstance(kind, enum.EnumType):
            continue
        if isinstance(member, property):
            yield ""
            yield f"    {name}: {_type(inspect.signature(member.fget).return_annotation)}"
            yield from _indented(member, 8)
        elif isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
            yield ""
            yield from (f"    {line}" for line in _signature(name, getattr(kind, name)).split("\n"))
            yield from _indented(getattr(kind, name), 8)


def _indented(value: object, by: int = 4) -> Iterator[str]:
    # A class that has none gets a signature from dataclass, or its base's, in its place.
    text = inspect.cleandoc(value.__doc__) if value.__doc__ else ""
    if isinstance(value, type) and text.startswith(f"{value.__name__}("):
        text = ""
    for line in text.splitlines():
        yield " " * by + line if line else ""


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parts: list[str] = []
    keywords = False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            if not any(part.startswith("*") for part in parts):
                parts.append("*")
        parts.append(_parameter(parameter))
    result = f" -> {_type(signature.return_annotation)}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_type(parameter.annotation)}"
    return text if parameter.default is parameter.empty else f"{text} = {_value(parameter.default)}"


def _field(field: dataclasses.Field[Any]) -> str:
    text = f"{field.name}: {_type(field.type)}"
    if field.default is not dataclasses.MISSING:
        return f"{text} = {_value(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f"{text} = {_value(field.default_factory())}"
    return text


def _type(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation.strip("'\"")
    return getattr(annotation, "__name__", str(annotation))


def _value(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = [
            f"{field.name}={_value(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        ]
        return f"{type(value).__name__}({', '.join(changed)})"
    return repr(dict(value)) if isinstance(value, Mapping) else repr(value)


if __name__ == "__main__":
    print(reference(), end="")

"""Model cards: the page that tells what a file holds, as the Hugging Face hub reads it."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.frozen import dataclass
from kancompress.reporting import markdown
from kancompress.specs import FILE, DatasetName

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.ASCII)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
# Names that are written into commands as they are.
_PLAIN = re.compile(r"[\w.+ -]+")
_KINDS = {
    "packed": "A packed Kolmogorov-Arnold network (KAN): the edges of a layer share a few vectors"
    " of coefficients, and each edge stores the number of its own.",
    "dense": "A Kolmogorov-Arnold network (KAN) with a vector of coefficients for every edge.",
    "meta": "A Kolmogorov-Arnold network (KAN) whose coefficients a small network generates.",
}
_MOST_SCORES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Data:
    """A named set of images: as people call it, its repository on the hub, and its test rows."""

    title: str
    repository: str | None
    tests: int = 10_000


_DATA = {
    DatasetName.DIGITS: _Data("scikit-learn's digits", None, 360),
    DatasetName.MNIST: _Data("MNIST", "ylecun/mnist"),
    DatasetName.FASHION_MNIST: _Data("Fashion-MNIST", "zalando-datasets/fashion_mnist"),
    DatasetName.CIFAR10: _Data("CIFAR-10", "uoft-cs/cifar10"),
    DatasetName.CIFAR100: _Data("CIFAR-100", "uoft-cs/cifar100"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOptions:
    """What a card tells beside the file.

    scores     : of the file, by the keys of `eval`'s JSON
    base_model : repository on the hub, OWNER/NAME, of the network that was packed
    license    : identifier of the licence, as `mit`
    exported   : names of the files that were exported from it, whose suffixes say what they are
    formats    : suffixes of the files that could be exported
    runs       : whether the numpy runtime runs it
    widths     : numbers of a row that it takes then, and that it puts out; None for images
    """

    scores: Mapping[str, Any] | None = None
    base_model: str | None = None
    license: str | None = None
    exported: Sequence[str] = ()
    formats: Sequence[str] = ()
    runs: bool = True
    widths: tuple[int, int] | None = None

    def check(self) -> None:
        """Refuse what the hub would not take. Raises UsageError."""
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise UsageError(
                f"`license={self.license}` is no identifier of a licence; one as the hub lists"
                " them was expected, such as mit or apache-2.0.",
                fields=("license",),
            )
        if self.base_model is not None and not _REPOSITORY.fullmatch(self.base_model):
            raise UsageError(
                f"`base_model={self.base_model}` is no repository; OWNER/NAME was expected.",
                fields=("base_model",),
            )


# Keys of `eval`'s document, as a table calls them and writes them.
_SCORES = (
    ("accuracy", "accuracy", ".2%"),
    ("rmse", "root mean squared error", ".6g"),
    ("divergence", "divergence", ".6g"),
    ("loss", "loss", ".6g"),
    ("examples", "test rows", ",d"),
)


def read_scores(data: bytes, where: str) -> dict[str, Any]:
    """The scores in the JSON document of `eval`. Raises InvalidFileError for what is none."""
    try:
        found = json.loads(data) if len(data) <= _MOST_SCORES else None
    except (ValueError, RecursionError):
        raise InvalidFileError(
            Flaw.DOCUMENT_NOT_JSON, f"{where} is no JSON; {_EXPECTED}", where=where
        ) from None
    if not isinstance(found, dict) or not {"accuracy", "rmse", "loss"} & found.keys():
        raise InvalidFileError(Flaw.MISSING_KEY, f"{where} has no score; {_EXPECTED}", where=where)
    for key in ("accuracy", "rmse", "divergence", "loss", "examples"):
        value = found.get(key)
        if value is not None and not _is_number(value):
            raise InvalidFileError(
                Flaw.BAD_VALUE, f"{where} has a {key} that is no number; {_EXPECTED}", where=where
            )
    return found


_EXPECTED = "what `kancompress eval` prints as JSON was expected."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def card(report: Mapping[str, Any], file: str, options: CardOptions | None = None) -> str:
    """A model card in Markdown, with front matter in YAML, of what `inspect` reports of a file.

    file : its name
    Raises UsageError for what is no file of kancompress's own, and for options that the hub would
    not take.
    """
    options = options or CardOptions()
    options.check()
    if report["kind"] not in _KINDS:
        raise UsageError(
            f"{file} is none of kancompress's own files; a model card tells of these. Pack it"
            " with: kancompress cluster FILE -o PACKED",
            where=file,
        )
    title = file.removesuffix(".safetensors").removesuffix(".kc") or file
    parts = [
        f"---\n{_yaml(_front(report, title, options))}---\n",
        f"# {markdown.text(title)}\n",
        f"{_KINDS[report['kind']]} {_network(report)}{_widths(options)}\n",
        _size(report),
        _layers(report),
        _scores(report, options.scores),
        _use(report, file, options),
    ]
    return "\n".join(part for part in parts if part)


# --- front matter ---------------------------------------------------------------------------


def _front(report: Mapping[str, Any], title: str, options: CardOptions) -> dict[str, Any]:
    data = _known_data(report)
    front: dict[str, Any] = {"library_name": "kancompress"}
    if options.license:
        front["license"] = options.license
    if options.base_model:
        front["base_model"] = options.base_model
        if report["kind"] == "packed":
            front["base_model_relation"] = "quantized"
    if data:
        front["pipeline_tag"] = "image-classification"
    if data and data.repository:
        front["datasets"] = [data.repository]
    front["tags"] = ["kan", "kolmogorov-arnold-network", *_families(report)]
    scores = options.scores or {}
    tested = _tested(report, scores)
    if tested and scores.get("accuracy") is not None:
        front["model-index"] = [_result(title, tested, scores["accuracy"])]
    return front


def _families(report: Mapping[str, Any]) -> list[str]:
    """What kind of KAN it is: the family of ours, and layouts of other libraries."""
    model = report["model"]
    named = [str(model["name"])] if model else []
    layouts = [str(form["layout"]) for form in report.get("forms", {}).values()]
    packed = ["codebook"] if report["kind"] == "packed" else []
    return list(dict.fromkeys([*packed, *named, *layouts]))


def _result(title: str, data: _Data, accuracy: float) -> dict[str, Any]:
    measured = {"type": "accuracy", "value": accuracy}
    return {
        "name": title,
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {
                    "name": data.title,
                    "type": data.repository or "digits",
                    "split": "test",
                },
                "metrics": [measured],
            }
        ],
    }


def _tested(report: Mapping[str, Any], scores: Mapping[str, Any]) -> _Data | None:
    """The named set whose test rows scores are of, as far as their number tells."""
    data = _known_data(report)
    return data if data and scores.get("examples") == data.tests else None


def _known_data(report: Mapping[str, Any]) -> _Data | None:
    data = report["data"]
    return _DATA.get(data["name"]) if data else None


def _yaml(value: Any, indent: str = "") -> str:
    """A mapping or a list as YAML, block by block; JSON's scalars are YAML's."""
    if isinstance(value, Mapping):
        return "".join(f"{indent}{key}:{_below(item, indent)}" for key, item in value.items())
    return "".join(
        f"{indent}- {_yaml(item, f'{indent}  ').lstrip()}"
        if isinstance(item, Mapping)
        else f"{indent}- {_scalar(item)}\n"
        for item in value
    )


def _below(item: Any, indent: str) -> str:
    if not isinstance(item, Mapping | list):
        return f" {_scalar(item)}\n"
    return f"\n{_yaml(item, indent if isinstance(item, list) else f'{indent}  ')}"


def _scalar(value: str | float) -> str:
    told = markdown.shown(value) if isinstance(value, str) else value
    return json.dumps(told, ensure_ascii=False)


# --- the page -------------------------------------------------------------------------------


def _network(report: Mapping[str, Any]) -> str:
    model, data = report["model"], report["data"]
    what = f"It is a {markdown.code(model['name'])} network" if model else "Its layers are of"
    if not model:
        layouts = dict.fromkeys(form["layout"] for form in report.get("forms", {}).values())
        what = f"{what} {', '.join(map(markdown.code, layouts)) or 'another library'}"
    known = _known_data(report)
    if known:
        what += f", trained on {known.title}"
    elif data:
        own = data["name"] == FILE
        name = "the own data of its maker" if own else markdown.code(data["name"])
        what += f", trained on {name}"
    return f"{what}."


def _widths(options: CardOptions) -> str:
    """What it takes and puts out, as a sentence with a space before it."""
    if options.widths is None:
        return ""
    taken, given = (f"{n:,} number{'' if n == 1 else 's'}" for n in options.widths)
    return f" It takes rows of {taken} and puts out {given}."


def _size(report: Mapping[str, Any]) -> str:
    totals = report["totals"]
    rows = [("header", report["header_bytes"])]
    if report["kind"] == "packed":
        rows += [("indices", totals["index_bytes"]), ("codebooks", totals["codebook_bytes"])]
    rows += [("other tensors" if len(rows) > 1 else "tensors", totals["other_bytes"])]
    rows += [("file", report["file_bytes"])]
    table = markdown.table(("part", "bytes"), [(name, f"{count:,}") for name, count in rows])
    return f"## Size\n\n{_headline(report)}\n\n{table}"


def _headline(report: Mapping[str, Any]) -> str:
    """How large the file is, against the dense one where it is known."""
    ratios, size = report["ratios"], f"{report['file_bytes']:,} bytes"
    edges = f"{report['totals']['edges']:,} edges"
    source = report.get("source") or {}
    dense = source.get("dense")
    if ratios.get("dense_file") is not None:
        twin = f" of {dense[1]:,} bytes" if dense else ""
        return (
            f"{size} for {edges}: {ratios['dense_file']:.2f} times smaller than the dense network"
            f"{twin}."
        )
    if ratios.get("file") is not None:
        is_torch = str(report.get("container")).startswith("torch")
        unused = ", without those that no tensor uses" if is_torch else ""
        return (
            f"{size} for {edges}: {ratios['file']:.2f} times smaller than the checkpoint that it"
            f" was packed from ({source['file']:,} bytes{unused})."
        )
    return f"{size} for {edges}."


def _layers(report: Mapping[str, Any]) -> str:
    """How each layer is stored."""
    rows = [
        (
            markdown.code(row["name"] or "."),
            " x ".join(map(str, row["shape"])),
            f"{row['edges']:,}",
            str(row["coefficients"]),
            "dense" if row["clusters"] is None else str(row["clusters"]),
            "-" if row["bits_per_edge"] is None else f"{row['bits_per_edge']:.2f}",
            row["codebook_dtype"] or "-",
        )
        for row in report["layers"]
    ]
    if not rows:
        return ""
    heads = ("layer", "shape", "edges", "coefficients", "centroids", "bits an edge", "stored as")
    return f"{_packing(report)}\n{markdown.table(heads, rows)}"


def _packing(report: Mapping[str, Any]) -> str:
    if report["kind"] != "packed":
        return "## Layers\n"
    coded = {row["index_encoding"] for row in report["layers"]} - {None}
    how = " and ".join(
        {"bits": "in a fixed number of bits", "rans": "entropy-coded"}.get(name, name)
        for name in sorted(coded)
    )
    indices = f" Indices are stored {how}." if coded else ""
    return (
        "## How it is packed\n\nThe vectors of coefficients of each layer were clustered. A layer's"
        f" codebook holds the centroids, and each edge an index into it.{indices}\n"
    )


def _scores(report: Mapping[str, Any], scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return ""
    rows = [
        (title, format(scores[key], form).replace("%", " %"))
        for key, title, form in _SCORES
        if scores.get(key) is not None
    ]
    tested = _tested(report, scores)
    where = f" on the test rows of {tested.title}" if tested else ""
    table = markdown.table(("", "value"), rows)
    return f"## Scores\n\nMeasured{where} by `kancompress eval`.\n\n{table}"


def _use(report: Mapping[str, Any], file: str, options: CardOptions) -> str:
    """How to load it with each runtime."""
    name = file if _PLAIN.fullmatch(file) else "FILE"
    blocks = [
        "## Use\n",
        "`OWNER/NAME` is this repository. A path on your machine does as well.\n",
        markdown.block("bash", _commands(report, name, runs=options.runs)),
    ]
    if options.runs:
        blocks += [
            "In Python, with torch:\n",
            markdown.block("python", _predicting(report, name, options)),
        ]
        blocks += ["With numpy alone:\n", markdown.block("python", _numpy(report, name, options))]
    elif report.get("forms"):
        blocks += ["In Python:\n", markdown.block("python", _restoring(name))]
    blocks += _for_pykan(report, name)
    for exported in options.exported:
        blocks += _of_export(exported)
    if options.runs and (others := _others(options)):
        blocks += ["For other programs it can be exported:\n"]
        lines = [f"kancompress export {shlex.quote(name)} -o model{suffix}" for suffix in others]
        blocks += [markdown.block("bash", lines)]
    return "\n".join(blocks)


def _commands(report: Mapping[str, Any], name: str, *, runs: bool) -> Iterator[str]:
    source = shlex.quote(f"hf://OWNER/NAME/{name}")
    yield "pip install 'kancompress[hub]'"
    yield f"kancompress inspect {source}"
    if runs:
        yield f"kancompress predict {source} --data rows.npz -o outputs.npz"
    if _known_data(report):
        yield f"kancompress eval {source}"
    if report.get("forms"):
        yield f"kancompress expand {source} -o restored.pt"


def _for_pykan(report: Mapping[str, Any], name: str) -> list[str]:
    """How pykan loads its own network again."""
    if not any(form["layout"] == "pykan" for form in report.get("forms", {}).values()):
        return []
    command = f"kancompress expand {shlex.quote(f'hf://OWNER/NAME/{name}')} -o model_state"
    config = " --pykan-config mark_config.yml"
    beside = (
        "`mark_config.yml` is the config that pykan's `saveckpt` wrote. It is not in this file,"
        " and has to go along with it.\n"
    )
    if report.get("pykan_config"):
        config, beside = "", ""
    lines = ["from kan import KAN", "", 'model = KAN.loadckpt("model")']
    return [
        "In pykan, for whose `loadckpt` the network is written out again:\n",
        markdown.block("bash", [f"{command}{config}"]),
        *filter(None, [beside]),
        markdown.block("python", lines),
    ]


def _predicting(report: Mapping[str, Any], name: str, options: CardOptions) -> Iterator[str]:
    yield "import kancompress"
    yield ""
    yield f"# x: {_rows(report, options)}"
    yield f"outputs = kancompress.predict({_quoted(name)}, x).outputs"


def _numpy(report: Mapping[str, Any], name: str, options: CardOptions) -> Iterator[str]:
    yield "from kancompress import runtime"
    yield ""
    yield f"# x: {_rows(report, options)}"
    yield f"outputs = runtime.load({_quoted(name)}).run(x)"


def _restoring(name: str) -> Iterator[str]:
    yield "import kancompress"
    yield ""
    yield "# the state dict of the module that was packed"
    yield f"state = kancompress.load({_quoted(name)}).state_dict()"


def _quoted(name: str) -> str:
    return json.dumps(f"hf://OWNER/NAME/{name}")


def _rows(report: Mapping[str, Any], options: CardOptions) -> str:
    """What rows are, as far as the file tells."""
    shape = report["layers"][0]["shape"] if report["model"] and report["layers"] else None
    if shape is None and options.widths is not None:
        return f"float32 rows, (n, {options.widths[0]})"
    if shape is None:
        return "float32 rows, as the network takes them"
    if len(shape) > 2:
        return f"float32 images, (n, {shape[1]}, rows, columns), normalised as in training"
    scaled = ", normalised as in training" if _known_data(report) else ""
    return f"float32 rows, (n, {shape[1]}){scaled}"


def _of_export(name: str) -> list[str]:
    """How to run what was exported."""
    suffix = f".{name.rpartition('.')[2].lower()}"
    shown = name if _PLAIN.fullmatch(name) else f"FILE{suffix}"
    if suffix == ".onnx":
        lines = [
            "import onnxruntime",
            "",
            f"session = onnxruntime.InferenceSession({json.dumps(shown)})",
            '(outputs,) = session.run(["y"], {"x": x})',
        ]
        return ["With any ONNX runtime, as onnxruntime:\n", markdown.block("python", lines)]
    if suffix == ".h":
        lines = [f"#include {json.dumps(shown)}  // the comment at its head says how to call it"]
        return ["In C99, on a microcontroller as well:\n", markdown.block("c", lines)]
    if suffix in (".html", ".htm"):
        page = markdown.code(shown)
        return [f"In a browser: open {page}, which needs no server and no network.\n"]
    return [f"{markdown.code(shown)} is exported from it.\n"]


def _others(options: CardOptions) -> list[str]:
    done = {f".{name.rpartition('.')[2].lower()}" for name in options.exported}
    return [suffix for suffix in options.formats if suffix not in done]

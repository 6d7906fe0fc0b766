"""`--state`: one of several state dicts of a torch file is chosen, and comes back to its place."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extras import alike
from test_repacking import efficient_kan
from torch import Tensor

import kancompress
from command import done, refused
from kancompress.config import ClusterConfig, PlotConfig
from kancompress.errors import UsageError
from kancompress.models.files import read_foreign

FIVE = ClusterConfig(clusters=8, force_pack=True)


def network(factor: float = 1.0) -> dict[str, Tensor]:
    """Few distinct edges, so that packing loses nothing."""
    state = {n: t for n, t in efficient_kan().items() if not n.endswith(("scaler", "steps"))}
    return {n: t if n.endswith("grid") else t * factor for n, t in state.items()}


def layers(factor: float) -> dict[str, Tensor]:
    """Nothing but KAN layers, so that the tensors tell the whole forward."""
    return {name: t for name, t in network(factor).items() if name != "head.weight"}


def gan() -> dict[str, Any]:
    return {"epoch": 3, "generator": network(), "discriminator": network(2), "seeds": [1, 2]}


def averaged() -> dict[str, Any]:
    callback = {"decay": 0.9, "ema_weights": network(3)}
    return {"epoch": 3, "state_dict": network(), "model_ema": network(2), "callbacks": callback}


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "state", "path", "factor"),
    [
        (gan(), None, ("generator",), 1),
        (gan(), "generator", ("generator",), 1),
        (gan(), "discriminator", ("discriminator",), 2),
        (averaged(), None, ("state_dict",), 1),
        (averaged(), "model_ema", ("model_ema",), 2),
        (averaged(), "ema_weights", ("callbacks", "ema_weights"), 3),
        (averaged(), "callbacks.ema_weights", ("callbacks", "ema_weights"), 3),
        ({"step": torch.ones(1), "model": network()}, ".", (), None),
    ],
)
def test_the_state_dict_that_is_named(
    content: dict[str, Any], state: str | None, path: tuple[str, ...], factor: float | None
) -> None:
    found = read_foreign(saved(content), state=state)
    assert found.path == path
    wanted = {"step": torch.ones(1)} if factor is None else network(factor)
    assert list(found.tensors) == list(wanted)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("state", ["generator", "discriminator"])
@pytest.mark.parametrize("keep_extra", [False, True])
def test_it_comes_back_to_its_place(state: str, keep_extra: bool) -> None:
    content = gan()
    packed = kancompress.cluster(saved(content), FIVE, state=state, keep_extra=keep_extra)
    raw = kancompress.encode(packed.model)
    back = kancompress.expand(raw)
    again = torch.load(io.BytesIO(back.encode()), weights_only=True)  # type: ignore[union-attr, call-arg]
    assert alike(again, content if keep_extra else {state: content[state]})
    assert f"{'kept beside the model' if keep_extra else 'left out'}: epoch" in packed.notes


def test_a_moving_average_is_offered_once() -> None:
    offer = (
        "the file holds a moving average of the model (EMA) beside it: model_ema with 7 tensors,"
        " callbacks.ema_weights with 7 tensors; `state=model_ema` takes it"
    )
    source = saved(averaged())
    assert offer in kancompress.cluster(source, FIVE).notes
    assert offer in kancompress.inspect(source)["problems"]
    for chosen in ("state_dict", "model_ema"):
        notes = kancompress.cluster(source, FIVE, state=chosen).notes
        assert not any("average" in note for note in notes)
    only = kancompress.cluster(saved({"ema": network(), "epoch": 1}), FIVE).notes
    assert not any("average" in note for note in only)


def test_several_are_listed_where_the_first_is_taken() -> None:
    notes = kancompress.cluster(saved(gan()), FIVE).notes
    wanted = (
        "the file holds several state dicts: generator with 7 tensors, discriminator with 7"
        " tensors; `state=discriminator` takes another than the first"
    )
    assert wanted in notes
    plain = {"mean": torch.zeros(3), "std": torch.ones(3)}
    for other in (saved({"kan": network(), "statistics": plain}), saved(network())):
        assert not any("state" in note for note in kancompress.cluster(other, FIVE).notes)
    with pytest.raises(UsageError) as caught:
        kancompress.cluster(saved({"statistics": plain, "kan": network()}), FIVE)
    assert "`state=kan` takes another than the first" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "state", "said"),
    [
        (saved(averaged()), "EMA", "the state dict 'EMA' is not in the file; it has state_dict with"
         " 7 tensors, model_ema with 7 tensors, callbacks.ema_weights with 7 tensors"),
        (saved({"a": {"net": network()}, "b": {"net": network()}}), "net",
         "is in several places; it has a.net with 7 tensors, b.net"),
        (saved({"epoch": 1}), "model", "it has no state dict"),
        (saved(network()), "model", "its only one lies at the top; leave"),
        (network(), "model", "what is in memory is none; leave it out"),
    ],
    ids=["unknown", "twice", "none", "top", "memory"],
)  # fmt: skip
def test_what_cannot_be_chosen(source: Any, state: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        kancompress.cluster(source, FIVE, state=state)
    assert said in str(caught.value)


def test_every_command_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chain = {"model": layers(1), "model_ema": layers(0.5)}
    torch.save(chain, "both.pt")
    torch.save(chain["model_ema"], "ema.pt")
    x = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32) / 2
    np.savez("rows.npz", x=x, y=np.arange(200) % 10)
    scores = [
        json.loads(done("eval", *file, "--data", "rows.npz", "--json").stdout)["loss"]
        for file in (("both.pt", "--state", "model_ema"), ("ema.pt",), ("both.pt",))
    ]
    assert scores[0] == scores[1] != scores[2]
    told = [
        json.loads(done("inspect", *file, "-k", "4", "--json").stdout)["predicted"]["file_bytes"]
        for file in (("both.pt", "--state", "model_ema"), ("ema.pt",))
    ]
    assert told[0] > told[1]  # by the key under which it lies
    assert done("inspect", "both.pt", "--state", "model_ema", "--print-layout").stdout
    done("cluster", "both.pt", "--state", "model_ema", "-k", "4", "-o", "small.st")
    tune = ("finetune", "small.st", "--data", "rows.npz", "--epochs", "1", "--json", "--force")
    losses = [
        json.loads(done(*tune, "--distill", *file, "-o", "t.st").stdout)["validation_before"]
        for file in (("both.pt", "--state", "model_ema"), ("ema.pt",), ("both.pt",))
    ]
    assert losses[0] == losses[1] != losses[2]
    said = done("cluster", "both.pt", "-k", "4", "-o", "plain.st").stderr
    assert "--state model_ema takes it" in " ".join(said.split())
    assert "--state" in refused(2, "eval", "small.st", "--state", "model", "--data", "rows.npz")
    assert "--state" in refused(2, *tune, "--state", "model_ema", "-o", "t.st")
    assert "--state" in refused(2, "inspect", "small.st", "--state", "model")


@pytest.mark.slow
def test_pictures_of_the_chosen_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = saved({"model": layers(1), "model_ema": layers(-1)})
    files = [tmp_path / f"{name}.svg" for name in ("first", "chosen", "named", "alone")]
    config = PlotConfig(clusters=4)
    kancompress.plot_functions(source, files[0], config, name="it")
    kancompress.plot_functions(source, files[1], config, state="model_ema", name="it")
    kancompress.plot_functions(source, files[2], config, state="model", name="it")
    kancompress.plot_functions(saved(layers(-1)), files[3], config, name="it")
    first, chosen, named, alone = (file.read_bytes() for file in files)
    assert first == named
    assert chosen == alone
    assert chosen != first

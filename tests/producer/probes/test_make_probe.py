"""`make_probe` asks a model for its log-probs and leaves it as it was, or says why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rollstream import OptionError, Probe, ProbeError, Tolerance, make_probe, probe_of
from rollstream.producer.demo.tiny_model import EOS, write_model
from rollstream.schemas.wire.proofs.probe import TOLERANCES

ROWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14]]
Model = Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("probed") / "model")


@pytest.fixture
def model(folder: Path) -> Model:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


def expected(model: Model, row: list[int]) -> torch.Tensor:
    """The log-probs of one row alone, the plain way."""
    with torch.no_grad():
        logits = model.eval()(torch.tensor([row])).logits[0]
    return torch.stack([logits[at].float().log_softmax(-1)[row[at + 1]] for at in range(len(row) - 1)])


def reproduces(probe: Probe, model: Model) -> bool:
    return all(torch.allclose(torch.tensor(known), expected(model, ids), atol=1e-5) for ids, known in probe.rows)


def test_it_has_the_models_log_probs_of_given_rows(model: Model) -> None:
    probe = make_probe(model, ROWS)
    assert [ids for ids, _ in probe.rows] == ROWS
    assert (probe.vocab_size, probe.tolerance) == (512, None)
    assert reproduces(probe, model)


def test_padding_is_left_out(model: Model) -> None:
    ids, mask = torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert make_probe(model, ids, mask) == make_probe(model, [[5, 6], [7, 8, 9]])


def test_a_tokenizer_gives_texts_and_drawn_ids(model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
    probe = make_probe(model, tokenizer, max_tokens=300, row_tokens=40)
    rows = [ids for ids, _ in probe.rows]
    assert sum(map(len, rows)) == 300
    assert max(map(len, rows)) == 40
    assert tokenizer.decode(rows[0]).startswith("A river begins")
    drawn = [one for row in rows[4:] for one in row]
    assert len(set(drawn)) > 80
    assert not set(drawn) & set(tokenizer.all_special_ids)
    assert reproduces(probe, model)
    assert make_probe(model, tokenizer, max_tokens=300, row_tokens=40) == probe, "other rows at the second call"


def test_a_processor_is_asked_for_its_tokenizer(model: Model, tokenizer: PreTrainedTokenizerFast) -> None:
    class Processor:
        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def __call__(self, _text: str) -> None:
            raise AssertionError("a processor wants pictures too")

    assert make_probe(model, Processor()) == make_probe(model, tokenizer)


def test_rows_stay_within_the_models_positions(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    short = AutoModelForCausalLM.from_pretrained(write_model(tmp_path / "m", max_positions=16, tokenizer=False))
    assert max(len(ids) for ids, _ in make_probe(short, tokenizer).rows) == 15


def test_the_model_is_left_as_it_was(model: Model) -> None:
    model.train()
    model.model.layers[0].eval()
    modes = [part.training for part in model.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()

    make_probe(model, ROWS)

    assert [part.training for part in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    loss = model(torch.tensor(ROWS[:1]), labels=torch.tensor(ROWS[:1])).loss
    loss.backward()
    assert all(value.grad is not None for value in model.parameters()), "it cannot be trained any more"


def test_dropout_is_off(model: Model) -> None:
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    assert make_probe(model, ROWS) == make_probe(model, ROWS)


def test_mixed_precision_of_accelerate_is_not_the_models_own_dtype(model: Model) -> None:
    plain = make_probe(model, ROWS)
    forward = model.forward
    model._original_forward = forward
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(forward)
    assert make_probe(model, ROWS) == plain
    assert model(torch.tensor(ROWS[:1])).logits.dtype == torch.bfloat16, "the trainer's own forward was changed"


def test_wrappers_are_looked_through(model: Model) -> None:
    assert make_probe(torch.nn.DataParallel(model), ROWS) == make_probe(model, ROWS)
    compiled = type("OptimizedModule", (Wrapper,), {"_orig_mod": model})()
    assert make_probe(compiled, ROWS) == make_probe(model, ROWS)


def test_a_peft_model_is_probed_with_its_adapter(model: Model) -> None:
    peft = pytest.importorskip("peft")
    plain = make_probe(model, ROWS)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    probe = make_probe(adapted, ROWS)
    assert probe != plain
    assert reproduces(probe, adapted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_ask_for_their_own_tolerance(folder: Path, dtype: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    assert make_probe(model, ROWS).tolerance == TOLERANCES[dtype]
    own = Tolerance(mean=0.5, largest=1.0)
    assert make_probe(model, ROWS, tolerance=own).tolerance == own


def spoilt(model: Model) -> Model:
    with torch.no_grad():
        model.model.norm.weight[3] = torch.nan
    return model


class Wrapper(torch.nn.Module):
    """Stands for the classes of FSDP, which need several processes, and of torch.compile, which needs seconds."""

    config: Any = None


def test_weights_that_are_not_all_here_are_refused_by_name(model: Model) -> None:
    wrapper = type("FullyShardedDataParallel", (Wrapper,), {})()
    wrapper.add_module("inner", model)
    with pytest.raises(ProbeError, match="the model is sharded by FSDP: gather the weights"):
        make_probe(wrapper, ROWS)
    vars(model.model.norm.weight)["ds_id"] = 7
    with pytest.raises(ProbeError, match=r"model\.norm\.weight is a shard \(FSDP or DeepSpeed\)"):
        make_probe(model, ROWS)
    with torch.device("meta"):
        hollow = AutoModelForCausalLM.from_config(model.config)
    with pytest.raises(ProbeError, match="is on the meta device and has no values"):
        make_probe(hollow, ROWS)


def test_weights_that_are_no_numbers_are_refused(model: Model) -> None:
    with pytest.raises(ProbeError, match="log-probs of row 0 are not finite"):
        make_probe(spoilt(model), ROWS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (([[5, 512]],), "row 0 has ids outside the vocabulary of 512"),
        (([[5, 6], [7]],), "rows of two or more ids"),
        (([],), "rows of two or more ids"),
        (([[5, 6]] * 4097,), "at most 8192 of them together"),
        (([[5, 6]] * 65,), "1 to 64 rows"),
        (([[0.5, 0.6]],), "row 0: give one dimension of integers"),
        (("text",), "give a tokenizer, or rows of ids"),
        ((torch.tensor([[5, 6]]), torch.tensor([[1]])), "a mask of the same shape"),
        ((lambda _text: None,), "does not give a text's input_ids"),
    ],
    ids=[
        "an id outside",
        "one id",
        "no rows",
        "many ids",
        "many rows",
        "floats",
        "a text",
        "another mask",
        "no tokenizer",
    ],
)
def test_what_are_no_rows_of_the_model_is_refused(model: Model, given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        make_probe(model, *given)


@pytest.mark.parametrize("counts", [{"max_tokens": 1}, {"max_tokens": 8193}, {"row_tokens": 0}, {"row_tokens": 2.0}])
def test_sizes_have_bounds(model: Model, tokenizer: PreTrainedTokenizerFast, counts: dict[str, Any]) -> None:
    with pytest.raises(ProbeError, match="give an integer from 2 to 8192"):
        make_probe(model, tokenizer, **counts)


def test_another_object_than_a_model_is_named() -> None:
    with pytest.raises(ProbeError, match="runs a transformers model, not some dict: see probe_of"):
        make_probe({}, ROWS)


@pytest.mark.parametrize(
    ("rows", "logprobs", "told"),
    [
        ([[1, 2]], [[float("nan")]], "log-probs of row 0 are not finite"),
        ([[1, 2]], [[-1.0, -2.0]], "a log-prob for each token but the first"),
        ([[1, 2]], [[0.5]], "not above 0"),
        ([[1, 9]], [[-1.0]], "row 0 has ids outside the vocabulary of 9"),
        ([[1, -1]], [[-1.0]], "row 0 has ids outside"),
        ([[1, 2**40]], [[-1.0]], "row 0 has ids outside"),
        ([], [], "1 or more rows"),
        ([[1, 2]], [[[-1.0]]], "the log-probs of row 0: give one dimension of floats"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_log_probs_of_ones_own_are_checked(rows: Any, logprobs: Any, told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        probe_of(rows, logprobs, vocab_size=9)


def test_tensors_of_any_dtype_are_taken() -> None:
    rows = [torch.tensor([1, EOS, 3])]
    known = [torch.tensor([-1.0, -2.0], dtype=torch.bfloat16, requires_grad=True)]
    assert probe_of(rows, known, vocab_size=9) == probe_of([[1, EOS, 3]], [[-1.0, -2.0]], vocab_size=9)


@pytest.mark.parametrize(("mean", "largest"), [(1.01, 2.0), (0.5, 10.1), (0.0, 1.0), (0.5, -1.0)])
def test_a_tolerance_that_wrong_weights_would_pass_too_is_refused(mean: float, largest: float) -> None:
    Tolerance(mean=1.0, largest=10.0)
    with pytest.raises(OptionError, match=r"^Tolerance: (mean|largest): .*(less than or equal|greater than) .*, got"):
        Tolerance(mean=mean, largest=largest)

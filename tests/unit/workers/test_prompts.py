"""Prompts as the model reads them: diffusers' embeddings, weighted token by token, and the words that do not fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shared.errors import RenderError
from workers.checkpoint import load_checkpoint
from workers.prompts import PromptReader

CPU = torch.device("cpu")
# The tiny tokenizer makes every letter a token; one more begins a prompt and one ends it.
ROOM = 75


@pytest.fixture(scope="module")
def parts(folders: dict[str, Path]) -> Any:
    return load_checkpoint(str(folders["epsilon"]), None, torch.float32)


@pytest.fixture
def reader(parts: Any) -> PromptReader:
    return PromptReader(parts.tokenizer, parts.text_encoder, CPU)


def strength(embedding: torch.Tensor) -> float:
    """Root mean square."""
    return embedding.double().square().mean().sqrt().item()


@pytest.mark.parametrize("prompt", ["", "a slow piano", "Café,  TWO\nlines", "words " * 60, r"piano \(solo\)"])
def test_a_prompt_without_weights_is_what_diffusers_reads(parts, reader, prompt):
    """To the bit, also when it is empty, too long, or has letters the tokenizer does not know."""
    with torch.inference_mode():
        theirs = parts.encode_prompt(prompt.replace("\\", ""), CPU, 1, False)[0]
    assert torch.equal(reader.embedding(prompt), theirs)


def test_weights_of_one_change_nothing(reader):
    """Brackets that multiply to 1 are as good as none."""
    assert torch.equal(reader.embedding("a ((slow:2):0.5) piano"), reader.embedding("a slow piano"))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.3, 4.0])
def test_a_weight_multiplies_its_words_tokens_and_the_whole_stays_as_strong(reader, weight):
    """Against all other tokens, those of the word are exactly so much larger; the root mean square is as it was."""
    plain, weighted = reader.embedding("a slow piano"), reader.embedding(f"a (slow:{weight}) piano")
    assert strength(weighted) == pytest.approx(strength(plain), rel=1e-5)
    level = weighted[0, 0, 0] / plain[0, 0, 0]
    expected = torch.ones(77)
    expected[2:6] = weight
    torch.testing.assert_close(weighted / level, plain * expected[None, :, None], rtol=1e-5, atol=1e-6)


def test_a_token_that_two_parts_share_counts_as_it_begins(reader):
    """Brackets in the middle of a word weigh the tokens that begin in them."""
    plain, weighted = reader.embedding("drummer"), reader.embedding("dru(mm:2)er")
    ratio = (weighted / plain)[0, :9, 0] / (weighted / plain)[0, 0, 0]
    torch.testing.assert_close(ratio, torch.tensor([1.0, 1, 1, 1, 2, 2, 1, 1, 1]), rtol=1e-4, atol=1e-4)


def test_weights_reach_half_precision(folders):
    """The embedding keeps the encoder's dtype."""
    parts = load_checkpoint(str(folders["epsilon"]), None, torch.bfloat16)
    reader = PromptReader(parts.tokenizer, parts.text_encoder, CPU)
    assert reader.embedding("a (slow:1.3) piano").dtype == torch.bfloat16
    assert reader.embedding("a slow piano").dtype == torch.bfloat16


def test_an_embedding_is_made_once(parts, reader, monkeypatch):
    """The second time a prompt is asked for, no encoder runs."""
    first = reader.embedding("a (slow:1.3) piano")
    monkeypatch.setattr(reader, "_text_encoder", None)
    assert reader.embedding("a (slow:1.3) piano") is first


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("short", ""),
        ("x" * ROOM, ""),
        ("x" * ROOM + " bass", "bass"),
        ("x" * ROOM + " (bass:1.3) and [drums]", "bass and drums"),
        ("(" + "x" * ROOM + ":1.3)", ""),
        ("(x" + "y" * ROOM + " loud:0.7)", "y loud"),
    ],
)
def test_words_that_do_not_fit_are_named_without_their_brackets(reader, prompt, lost):
    """Brackets and weights take no room, and are not among what is lost."""
    assert reader.truncated_words(prompt) == lost


def test_brackets_that_make_no_sense_end_the_job_not_the_worker(reader):
    """What the gateway should have refused is a RenderError here, with the same sentence."""
    for read in (reader.embedding, reader.truncated_words):
        with pytest.raises(RenderError, match="character 3 of the prompt"):
            read("a (b")


@pytest.mark.parametrize("missing", ["tokenizer", "text_encoder"])
def test_a_model_that_reads_no_prompts_is_refused(parts, missing):
    """A missing tokenizer or text encoder is said so."""
    both = {"tokenizer": parts.tokenizer, "text_encoder": parts.text_encoder} | {missing: None}
    with pytest.raises(RenderError, match="no tokenizer"):
        PromptReader(**both, device=CPU)


def test_a_tokenizer_that_does_not_fit_its_encoder_is_refused(parts):
    """Tokens beyond the encoder's vocabulary are found before they reach a device."""
    small = SimpleNamespace(config=SimpleNamespace(vocab_size=10))
    with pytest.raises(RenderError, match="tokens that its text encoder does not know"):
        PromptReader(parts.tokenizer, small, CPU).embedding("a slow piano")


def test_a_tokenizer_without_spans_reads_prompts_that_need_none(parts):
    """Only weights and prompts that are too long need to know which letters a token is."""

    class Slow:
        model_max_length = parts.tokenizer.model_max_length

        def __call__(self, text: str, **options: Any) -> Any:
            return parts.tokenizer(text, **options)

    reader = PromptReader(Slow(), parts.text_encoder, CPU)
    assert reader.embedding("a slow piano").shape == (1, 77, 16)
    assert reader.truncated_words("a (slow) piano") == ""
    for read, prompt in ((reader.embedding, "a (slow) piano"), (reader.truncated_words, "x" * 99)):
        with pytest.raises(RenderError, match="cannot tell which words"):
            read(prompt)


def test_a_tokenizer_that_cannot_pad_is_refused(parts, folders):
    """Its own complaint becomes the job's."""
    tokenizer = load_checkpoint(str(folders["epsilon"]), None, torch.float32).tokenizer
    tokenizer.pad_token = None
    with pytest.raises(RenderError, match="tokenizer cannot read this prompt"):
        PromptReader(tokenizer, parts.text_encoder, CPU).embedding("a slow piano")

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


def heard_together(embedding: torch.Tensor) -> torch.Tensor:
    """A prompt's tokens in an order that does not depend on where they stand, as the model hears them."""
    return embedding[0][embedding[0, :, 0].argsort()]


@pytest.mark.parametrize(
    ("prompt", "same"),
    [
        ("a (slow:0) piano", "a piano"),
        ("a slow (piano:0)", "a slow"),
        ("(a:0) slow (piano:0)", "slow"),
        ("dru(mm:0)er", "druer"),
    ],
)
def test_words_of_weight_zero_are_not_there(reader, prompt, same):
    """The same tokens are heard as in the prompt without them."""
    torch.testing.assert_close(heard_together(reader.embedding(prompt)), heard_together(reader.embedding(same)))


def test_weights_lie_on_a_line_through_the_prompt_as_written(reader):
    """Halfway down is the mean of without and with; upwards goes on in the same direction, and never louder."""
    without, written = reader.embedding("a (slow:0) piano"), reader.embedding("a slow piano")
    torch.testing.assert_close(reader.embedding("a (slow:0.5) piano"), (without + written) / 2)
    for weight in (1.3, 4.0):
        beyond = written + (weight - 1) * (written - without)
        louder = reader.embedding(f"a (slow:{weight}) piano")
        torch.testing.assert_close(louder / strength(louder), beyond / strength(beyond))
        assert strength(louder) <= max(strength(without), strength(written)) * (1 + 1e-6)


def test_words_of_several_weights_each_go_their_way(reader):
    """Two weights move the prompt as the sum of what each does alone."""
    written = reader.embedding("a slow piano")
    slow, piano = reader.embedding("a (slow:0.9) piano"), reader.embedding("a slow (piano:0.8)")
    both = reader.embedding("a (slow:0.9) (piano:0.8)")
    torch.testing.assert_close(both, slow + piano - written, rtol=1e-4, atol=1e-4)


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

"""Prompts as the model reads them: text in, embeddings out.

Owns tokens, what weights do to their embeddings, and which words do not fit. Leaves out how weights are written
(`shared.prompts`) and the way between two prompts (`workers.diffusion`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import torch

from shared.errors import RenderError
from shared.prompts import weighted_parts

_EMBEDDINGS_KEPT: Final = 256


class PromptReader:
    """The tokenizer and the text encoder of one model."""

    def __init__(self, tokenizer: Any, text_encoder: Any, device: torch.device) -> None:
        """Both as `transformers` loads them, the encoder on `device`. Raises RenderError when one is missing."""
        if tokenizer is None or text_encoder is None:
            raise RenderError("The model has no tokenizer or no text encoder, so it reads no prompts.")
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._device = device
        self._kept = lru_cache(maxsize=_EMBEDDINGS_KEPT)(self._embedding)

    def embedding(self, prompt: str) -> torch.Tensor:
        """What the model hears in a prompt: shape (1, token, width), in the encoder's dtype, on its device.

        A word of weight 0 is heard as if it were not there, exactly; other weights go that much of the way from
        there to the word as written, and beyond it. Without weights it is what diffusers' pipelines give, to the bit.
        Equal prompts share one tensor: it is not to be written to. Raises RenderError for brackets that make no sense
        and for a tokenizer that does not fit its model.
        """
        return self._kept(prompt)

    def truncated_words(self, prompt: str) -> str:
        """The end of a prompt that the model does not read, without its brackets; empty when all of it is read."""
        text = "".join(part for part, _ in _parts(prompt))
        limit = self._tokenizer.model_max_length
        if len(self._tokens(text, truncation=False, verbose=False).input_ids) <= limit:
            return ""
        # The last place is the end token's.
        first_lost, _ = self._spans(text, truncation=False, verbose=False)[limit - 1]
        return text[first_lost:]

    @torch.inference_mode()
    def _embedding(self, prompt: str) -> torch.Tensor:
        parts = _parts(prompt)
        text = "".join(part for part, _ in parts)
        whole = {"padding": "max_length", "max_length": self._tokenizer.model_max_length, "truncation": True}
        tokens = self._tokens(text, **whole, return_tensors="pt")
        written = self._encoded(tokens.input_ids, tokens.attention_mask)
        if all(weight == 1 for _, weight in parts):
            return written
        letter_weights = [weight for part, weight in parts for _ in part]
        # A token that two parts share counts as it begins; the marks around a prompt have no letters.
        weights = [letter_weights[start] if end > start else 1.0 for start, end in self._spans(text, **whole)]
        return self._weighted(written, tokens, weights)

    def _weighted(self, written: torch.Tensor, tokens: Any, weights: list[float]) -> torch.Tensor:
        """Each weight's words moved along the line from the prompt without them.

        To multiply the words' own tokens, as is often done, would do little: the tokens after them, those that fill
        the prompt up most of all, have heard the words too. Words that go make room at the end, so that what is left
        is moved from its own place; the whole never gets louder than the loudest of the prompts it lies between.
        """
        heard = written.float()
        loudest = _loudness(heard)
        for weight in sorted(set(weights) - {1.0}):
            kept = [place for place, own in enumerate(weights) if own != weight]
            gone = [place for place, own in enumerate(weights) if own == weight]
            ids = torch.full_like(tokens.input_ids, self._tokenizer.pad_token_id)
            ids[:, : len(kept)] = tokens.input_ids[:, kept]
            mask = torch.zeros_like(tokens.attention_mask)
            mask[:, : len(kept)] = tokens.attention_mask[:, kept]
            without = torch.empty_like(heard)
            without[:, kept + gone] = self._encoded(ids, mask).float()
            loudest = torch.maximum(loudest, _loudness(without))
            heard = heard + (weight - 1) * (written.float() - without)
        return (heard * (loudest / _loudness(heard)).clamp(max=1)).to(written.dtype)

    def _encoded(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        encoder = self._text_encoder
        if int(ids.max()) >= encoder.config.vocab_size:
            # On a GPU it would end the process, not the job.
            raise RenderError("The model's tokenizer has tokens that its text encoder does not know.")
        has_mask = getattr(encoder.config, "use_attention_mask", False)
        embedding: torch.Tensor = encoder(
            ids.to(self._device), attention_mask=mask.to(self._device) if has_mask else None
        )[0]
        return embedding.to(encoder.dtype)

    def _tokens(self, text: str, **options: Any) -> Any:
        try:
            return self._tokenizer(text, **options)
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RenderError(f"The model's tokenizer cannot read this prompt: {reason}") from error

    def _spans(self, text: str, **options: Any) -> list[tuple[int, int]]:
        """From and up to which letter each token goes."""
        if not getattr(self._tokenizer, "is_fast", False):
            raise RenderError(
                "The model's tokenizer cannot tell which words its tokens are, which prompts with weights and prompts "
                "that are too long need."
            )
        spans: list[tuple[int, int]] = self._tokens(text, **options, return_offsets_mapping=True).offset_mapping
        return spans


def _loudness(embedding: torch.Tensor) -> torch.Tensor:
    """Root mean square."""
    return embedding.square().mean().sqrt()


def _parts(prompt: str) -> list[tuple[str, float]]:
    try:
        return weighted_parts(prompt)
    except ValueError as error:
        raise RenderError(f"A prompt cannot be read: {error}.") from error

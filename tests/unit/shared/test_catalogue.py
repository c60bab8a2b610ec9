"""The catalogue of models: what a file of one's own may say, and how a mistake in it is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalogue import HERE, Lora, ModelDefaults, ModelEntry, chosen_models, models

MINIMAL = 'source = "some/model"\nrevision = "abc"\n'


def entry_of(folder: Path, text: str, name: str = "own") -> ModelEntry:
    """The entry of a catalogue that holds one model with this text."""
    return models(catalogue_file(folder, f"[{name}]\n{MINIMAL}{text}"))[name]


def catalogue_file(folder: Path, text: str) -> Path:
    """A catalogue of one's own."""
    file = folder / "own.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_built_in_model_is_there_and_its_folder_is_found() -> None:
    """Without a file of one's own there is one model, complete."""
    (entry,) = models().values()
    assert (entry.name, entry.dtype, entry.grid, entry.loras) == ("riffarm-mini", "auto", {}, ())
    assert (Path(entry.source) / "model_index.json").is_file()
    assert entry.revision == entry.source_revision


def test_all_that_an_entry_may_say_is_read(tmp_path: Path) -> None:
    """Every field arrives, with folders and files found from where the catalogue lies."""
    (tmp_path / "weights").mkdir()
    entry = models(
        catalogue_file(
            tmp_path,
            """
            [wide]
            source = "weights"
            revision = "1"
            description = "Up to 16 kHz."
            dtype = "bfloat16"
            [wide.defaults]
            sampler = "euler"
            num_inference_steps = 30
            guidance_scale = 7
            [wide.grid]
            f_max_hz = 16000
            mel_bins = 768
            [[wide.loras]]
            source = "loras/warm.safetensors"
            weight = 0.8
            [[wide.loras]]
            source = "someone/cold"
            weight_name = "cold.safetensors"
            revision = "2"
            """,
        )
    )["wide"]
    assert entry.source == str(tmp_path / "weights")
    assert (entry.dtype, entry.grid) == ("bfloat16", {"f_max_hz": 16000, "mel_bins": 768})
    assert entry.defaults == ModelDefaults(sampler="euler", num_inference_steps=30, guidance_scale=7.0)
    assert entry.loras == (
        Lora(str(tmp_path / "loras" / "warm.safetensors"), 0.8),
        Lora("someone/cold", 1.0, "cold.safetensors", "2"),
    )


def test_the_revision_changes_with_whatever_changes_the_pictures(tmp_path: Path) -> None:
    """The precision, each addition's name, weight and revision, and their order: no two are the same."""
    lora = '[[own.loras]]\nsource = "{}.safetensors"\nweight = {}\n'
    hub = '[[own.loras]]\nsource = "some/lora"\nweight_name = "{}.safetensors"\nrevision = "{}"\n'
    texts = ["", 'dtype = "float32"', 'dtype = "float16"', lora.format("a", 1), lora.format("a", 0.5)]
    texts += [lora.format("b", 1), lora.format("c/a", 1), lora.format("a", 1) + lora.format("b", 1)]
    texts += [hub.format("a", 1), hub.format("a", 2), hub.format("b", 1)]
    entries = [entry_of(tmp_path, text) for text in texts]
    assert len({entry.revision for entry in entries}) == len(texts)
    assert {entry.source_revision for entry in entries} == {"abc"}


def test_the_revision_is_the_same_wherever_the_files_lie(tmp_path: Path) -> None:
    """Two machines of a farm keep the same catalogue in different places."""
    text = '[[own.loras]]\nsource = "loras/a.safetensors"\n'
    (tmp_path / "elsewhere").mkdir()
    one, other = entry_of(tmp_path, text), entry_of(tmp_path / "elsewhere", text)
    assert one.revision == other.revision
    assert one.loras != other.loras


@pytest.mark.parametrize("name", ["sd-1.5", "a", "0_x", "x" * 64])
def test_names_that_can_be_part_of_a_queues_name_are_taken(tmp_path: Path, name: str) -> None:
    """Letters, digits, dots, dashes and underscores."""
    text = f'["{name}"]\n{MINIMAL}'
    assert name in models(catalogue_file(tmp_path, text))


@pytest.mark.parametrize("name", ["Big", "a b", "-a", ".a", "a:b", "a/b", "", "x" * 65, "ä"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    """The sentence says what a name may be made of."""
    with pytest.raises(ValueError, match="no name for a model: 1 to 64 of a-z"):
        models(catalogue_file(tmp_path, f'["{name}"]\n{MINIMAL}'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sauce = 1", ["sauce: there is no such field", "source, revision, description, dtype, grid, defaults, loras"]),
        ("source = 1", ["source: Input should be a valid string, not 1"]),
        ("revision = 2024-01-01", ["revision: Input should be a valid string"]),
        ('revision = ""', ["revision: String should have at least 1 character"]),
        ('dtype = "int8"', ["dtype: Input should be 'auto', 'float32', 'float16' or 'bfloat16', not 'int8'"]),
        ("grid = 3", ["grid: Input should be a valid dictionary, not 3"]),
        ("grid.hop = 1", ["grid: 'hop' is no part of a grid", "hop_length"]),
        ("grid.hop_length = 1.5", ["grid: hop_length must be a whole number, not 1.5"]),
        ("grid.f_max_hz = '8k'", ["grid: f_max_hz must be a number, not '8k'"]),
        ("grid.mel_bins = true", ["grid: mel_bins must be a whole number, not True"]),
        ("grid.hop_length = 9_000", ["grid: 0 < hop_length <= win_length"]),
        ("grid.f_max_hz = nan", ["grid: 0 <= f_min_hz < f_max_hz"]),
        ('defaults.sampler = "best"', ["defaults.sampler: Input should be 'dpmpp_2m'", "not 'best'"]),
        ("defaults.num_inference_steps = 0", ["defaults.num_inference_steps", "greater than or equal to 1, not 0"]),
        ("defaults.num_inference_steps = 20.0", ["defaults.num_inference_steps: Input should be a valid integer"]),
        ("defaults.num_inference_steps = true", ["defaults.num_inference_steps: Input should be a valid integer"]),
        ("defaults.guidance_scale = 31", ["defaults.guidance_scale", "less than or equal to 30, not 31"]),
        ("defaults.guidance_scale = nan", ["defaults.guidance_scale", "not nan"]),
        ('defaults.prompt = "a"', ["defaults.prompt: there is no such field; there are sampler"]),
        ("loras = 3", ["loras: Input should be a valid tuple"]),
        ('loras = [{source = "a.pt"}]', ["loras[0].source: must be a safetensors file", "not 'a.pt'"]),
        ('loras = [{source = "a/b"}]', ["loras[0]: needs a weight_name", "'a/b'"]),
        ('loras = [{source = "a/b", weight_name = "c.bin"}]', ["loras[0].weight_name: must end in .safetensors"]),
        ('loras = [{source = "a.safetensors", revision = "1"}]', ["loras[0]: a file needs neither"]),
        ('loras = [{source = "a.safetensors", weight = inf}]', ["loras[0].weight", "not inf"]),
        ('loras = [{source = "a.safetensors", weight = 11}]', ["loras[0].weight", "less than or equal to 10, not 11"]),
        ('loras = [{source = "a.safetensors", scale = 1}]', ["loras[0].scale: there is no such field", "weight_name"]),
        ("loras = [{}]", ["loras[0].source: must be given"]),
    ],
)
def test_a_mistake_is_answered_with_file_entry_field_and_what_is_right(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    """One sentence that can be acted upon."""
    own = {name: f'{name} = "x"\n' for name in ("source", "revision") if not text.startswith(name)}
    with pytest.raises(ValueError, match=r"own\.toml: \[own\] ") as raised:
        models(catalogue_file(tmp_path, f"[own]\n{''.join(own.values())}{text}"))
    for word in words:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"), [("[own", "own.toml: "), ("own = 1", "'own' stands outside of every entry"), ("[own]", "source")]
)
def test_a_file_that_is_no_catalogue_is_named(tmp_path: Path, text: str, words: str) -> None:
    """Broken TOML, values outside of entries, an empty entry."""
    with pytest.raises(ValueError, match=r"own\.toml") as raised:
        models(catalogue_file(tmp_path, text))
    assert words in str(raised.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Such as a model's weights given by mistake."""
    file = tmp_path / "own.toml"
    file.write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match=r"own\.toml"):
        models(file)


def test_models_are_chosen_by_name_and_unknown_ones_refused(tmp_path: Path) -> None:
    """All, some, each once; never one that is not there."""
    catalogue = models(catalogue_file(tmp_path, f"[own]\n{MINIMAL}"))
    assert chosen_models(None, catalogue) == ["riffarm-mini", "own"]
    assert chosen_models("own, own", catalogue) == ["own"]
    with pytest.raises(ValueError, match="no model other; there are riffarm-mini, own"):
        chosen_models("own,other", catalogue)
    with pytest.raises(ValueError, match="names no model"):
        chosen_models(",", catalogue)


def test_the_built_in_catalogue_explains_every_field() -> None:
    """Its comments are what a user writes an entry from."""
    text = (HERE / "models.toml").read_text(encoding="utf-8")
    fields = [*ModelEntry.__annotations__, *ModelDefaults.__annotations__, *Lora.__annotations__]
    assert [name for name in fields if name not in text and name not in ("name", "source_revision")] == []

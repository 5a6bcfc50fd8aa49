"""All conditioners of a model together."""

import pytest
import torch

from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.models.conditioners import IntConditioner, MultiConditioner, NumberConditioner, PhonemeConditioner
from stable_audio_tools.models.factory import create_multi_conditioner_from_conditioning_config


def make(**options):
    torch.manual_seed(0)
    return MultiConditioner({"bpm": NumberConditioner(4, max_val=200), "key": IntConditioner(4, max_val=11)}, **options)


def test_every_condition_gets_its_own_key():
    multi = make()
    out = multi([{"bpm": 120, "key": 3, "other": object()}, {"bpm": 90, "key": 5}], "cpu")
    assert list(out) == ["bpm", "key"]
    assert torch.equal(out["bpm"].embedding, multi.conditioners["bpm"]([120, 90], "cpu").embedding)
    assert torch.equal(out["key"].embedding, multi.conditioners["key"]([3, 5], "cpu").embedding)


def test_result_can_be_changed_and_indexed():
    out = make()([{"bpm": 120, "key": 3}], "cpu")
    out["inpaint_mask"] = [torch.zeros(1, 1, 4)]
    embedding, mask = out["bpm"]
    assert out["bpm"][0] is embedding and out["bpm"][1] is mask


def test_default_keys_are_used_item_by_item():
    multi = make(default_keys={"bpm": "tempo"})
    items = [{"bpm": 100, "tempo": 1, "key": 0}, {"tempo": 120, "key": 0}, {"bpm": 140, "key": 0}]
    expected = multi.conditioners["bpm"]([100, 120, 140], "cpu").embedding
    assert torch.equal(multi(items, "cpu")["bpm"].embedding, expected)


def test_lists_of_one_are_unwrapped():
    multi = make()
    plain = multi([{"bpm": 120, "key": 3}], "cpu")
    for wrapped in ([{"bpm": [120], "key": (3,)}], ({"bpm": [120.0], "key": [3]},)):
        assert torch.equal(multi(wrapped, "cpu")["bpm"].embedding, plain["bpm"].embedding)
        assert torch.equal(multi(wrapped, "cpu")["key"].embedding, plain["key"].embedding)


def test_pre_encoded_conditions_are_stacked_as_they_are():
    multi = make(pre_encoded_keys=["bpm"])
    tensors = [torch.randn(3, 4), torch.randn(3, 4)]
    out = multi([{"bpm": tensors[0], "key": 1}, {"bpm": [tensors[1]], "key": 2}], "cpu")
    assert torch.equal(out["bpm"].embedding, torch.stack(tensors)) and out["bpm"].mask is None


def test_pre_encoded_conditions_need_no_conditioner():
    multi = make(pre_encoded_keys=["sketch"], default_keys={"sketch": "latents"})
    tensors = [torch.randn(3, 4), torch.randn(3, 4)]
    out = multi([{"bpm": 1, "key": 1, "sketch": tensors[0]}, {"bpm": 1, "key": 2, "latents": tensors[1]}], "cpu")
    assert torch.equal(out["sketch"].embedding, torch.stack(tensors)) and out["sketch"].mask is None
    with pytest.raises(DataError, match="item 0 of the batch has no 'sketch'"):
        multi([{"bpm": 1, "key": 1}], "cpu")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [{"bpm": 1, "key": 1}, {"bpm": 1, "path": "a/b.wav"}],
            r"item 1 \(a/b.wav\) of the batch has no 'key'.*it has: bpm, path; captions.csv in",
        ),
        ([{"key": 1}], r"item 0 of the batch has no 'bpm', which the model is conditioned on; it has: key$"),
    ],
)
def test_a_missing_key_names_the_item(items, message):
    with pytest.raises(DataError, match=message):
        make()(items, "cpu")


def test_a_missing_key_whose_default_is_missing_too():
    with pytest.raises(DataError, match="item 0 of the batch has no 'bpm'"):
        make(default_keys={"bpm": "tempo"})([{"key": 1}], "cpu")


@pytest.mark.parametrize("name", ["type", "values", "training", "pop"])
def test_ids_that_torch_modules_use_themselves(name):
    with pytest.raises(
        ConfigError, match=f"conditioner id '{name}': is a name that torch modules use.*name the metadata key in default_keys"
    ):
        MultiConditioner({name: NumberConditioner(4)})


# ---- from a config -------------------------------------------------------------------------------------------------------------------


def section(**options):
    configs = [
        {"id": "bpm", "type": "number", "config": {"max_val": 200}},
        {"id": "key", "type": "int", "config": {"max_val": 11, "output_dim": 6}},
    ]
    return {"cond_dim": 4, "configs": configs, **options}


def test_a_section_is_built_in_its_order_and_width():
    config = section(default_keys={"bpm": "tempo"}, pre_encoded_keys=["key"], _note="ignored")
    multi = create_multi_conditioner_from_conditioning_config(config)
    assert [(name, part.output_dim) for name, part in multi.conditioners.items()] == [("bpm", 4), ("key", 6)]
    assert multi.default_keys == {"bpm": "tempo"} and multi.pre_encoded_keys == ["key"]
    assert config == section(default_keys={"bpm": "tempo"}, pre_encoded_keys=["key"], _note="ignored")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "nmber"}, r"conditioning: configs\[0\].type: unknown conditioner 'nmber'; did you mean 'number'"),
        ({"config": {"maxval": 3}}, r"configs\[0\].config.maxval: unknown key; did you mean 'max_val'"),
        ({"id": "key"}, r"configs\[1\].id: 'key' is used twice"),
        ({"id": "a.b"}, r"configs\[0\].id: must be a non-empty name without '.'"),
    ],
)
def test_mistakes_in_a_section(change, message):
    config = section()
    config["configs"][0] |= change
    with pytest.raises(ConfigError, match=message):
        create_multi_conditioner_from_conditioning_config(config)


# ---- what a conditioner cannot read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"bpm": "fast", "key": 1}, "^condition 'bpm': conditioner 'number': expected a number, got 'fast'$"),
        ({"bpm": 1, "key": None}, "^condition 'key': conditioner 'int': expected a number, got None$"),
    ],
)
def test_a_value_that_cannot_be_read_names_the_condition(item, message):
    with pytest.raises(DataError, match=message):
        make()([item], "cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["120", "90"], r"condition 'bpm' is in pre_encoded_keys, so every item must hold a tensor, got '120'"),
        ([torch.zeros(1, 4), None], r"condition 'bpm' is in pre_encoded_keys, so every item must hold a tensor, got None"),
        ([torch.zeros(1, 4), torch.zeros(2, 4)], r"the items of a batch must have one shape, got \(1, 4\), \(2, 4\)"),
    ],
)
def test_pre_encoded_conditions_must_be_tensors(values, message):
    with pytest.raises(DataError, match=message):
        make(pre_encoded_keys=["bpm"])([{"bpm": value, "key": 1} for value in values], "cpu")


@pytest.mark.parametrize(
    ("value", "plain"),
    [(["HH"], ["HH"]), ([["HH"]], ["HH"]), ([["HH", "AH0"]], ["HH", "AH0"]), (("HH", "AH0"), ["HH", "AH0"]), ([()], [])],
)
def test_a_list_of_one_phoneme_is_a_list_of_phonemes(value, plain):
    phonemes = PhonemeConditioner(4)
    multi = MultiConditioner({"words": phonemes})
    out = multi([{"words": value}], "cpu")["words"]
    assert torch.equal(out.embedding, phonemes([plain], "cpu").embedding)


def test_a_wrapped_text_for_phonemes_is_still_unwrapped():
    assert PhonemeConditioner(4).unwrap(["hello"]) == "hello"

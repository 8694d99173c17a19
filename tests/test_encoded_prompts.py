"""Prompts are encoded once, and come back as a pipeline would encode them again."""

import pytest
import torch

from golden.pipelines import encode_anew
from train import encoded_prompts, workers
from train.encoded_prompts import EncodedPrompts

PROMPTS = ["a red star", "two circles", "a heart"]


@pytest.mark.parametrize("name", ["tiny_model", "tiny_hunyuan", "tiny_sd3"])
def test_rows_are_those_of_the_pipeline_in_the_order_asked_for(name, request, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded_prompts, "ENCODED_AT_ONCE", 2)
    pipeline = request.getfixturevalue(name).pipeline
    asked = [PROMPTS[2], PROMPTS[0], PROMPTS[2], PROMPTS[1]]
    found, expected = EncodedPrompts(pipeline, PROMPTS, tmp_path)(asked), encode_anew(pipeline, asked)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype)
        assert torch.allclose(found[key].float(), value.float(), atol=1e-5)


def test_they_are_encoded_once(tiny_model, tmp_path, monkeypatch):
    before = EncodedPrompts(tiny_model.pipeline, PROMPTS, tmp_path)(PROMPTS)
    monkeypatch.delattr(encoded_prompts, "encode_anew")
    after = EncodedPrompts(tiny_model.pipeline, PROMPTS, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in after(PROMPTS).items())
    assert len(after.parts[0]["negative_prompt_embeds"]) == 1  # the same for all prompts
    with pytest.raises(KeyError):
        after(["a square"])


def test_workers_share_what_is_missing(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded_prompts, "ENCODED_AT_ONCE", 1)
    monkeypatch.setattr(workers, "find_worker", lambda: (1, 2))
    with pytest.raises(FileNotFoundError):  # of the first worker, who is not there
        EncodedPrompts(tiny_model.pipeline, PROMPTS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0000001.pt"]

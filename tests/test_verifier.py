"""The verifier reads any family's latents through its own pipeline, tells rows apart, and is saved and loaded whole."""

import copy
from dataclasses import replace

import pytest
import torch

from golden import model as golden_model
from golden.errors import BadWeights, MissingWeights
from golden.families import find_family
from golden.model import Model, load_model
from golden.noise import as_latents_of, first_timestep, source_noise
from golden.pipelines import encode_prompts, latent_shape
from golden.reward import Reward, reward_gradient
from golden.verifier import (
    capture_network_inputs,
    load_verifier,
    make_verifier,
    middle_of,
    save_verifier,
)
from train.trajectories import draw_examples
from train.verifier_training import area_under_curve

PROMPTS = ["a red star", "two circles"]


@pytest.fixture(params=["tiny_model", "tiny_hunyuan"])
def any_model(request):
    return request.getfixturevalue(request.param)


def noise_for(model, num: int = 2) -> torch.Tensor:
    return source_noise(range(num), latent_shape(model.pipeline))


def test_logits_are_one_per_row_and_follow_noise_prompt_and_timestep(any_model):
    torch.manual_seed(0)
    verifier = make_verifier(any_model.pipeline).eval()
    noise, embeddings = noise_for(any_model), encode_prompts(any_model.pipeline, PROMPTS)
    with torch.no_grad():
        logits = verifier(any_model.pipeline, noise, 501, embeddings)
        assert logits.shape == (2,)
        assert torch.allclose(logits, verifier(any_model.pipeline, noise, 501, embeddings))
        others = [
            verifier(any_model.pipeline, noise.flip(0), 501, embeddings),
            verifier(any_model.pipeline, noise, 501, encode_prompts(any_model.pipeline, PROMPTS[::-1])),
            verifier(any_model.pipeline, noise, 11, embeddings),
        ]
    assert not any(torch.allclose(logits, other, atol=1e-6) for other in others)


def test_rows_do_not_see_each_other(any_model):
    torch.manual_seed(0)
    verifier = make_verifier(any_model.pipeline).eval()
    noise, embeddings = noise_for(any_model), encode_prompts(any_model.pipeline, PROMPTS)
    with torch.no_grad():
        both = verifier(any_model.pipeline, noise, 501, embeddings)
        alone = verifier(any_model.pipeline, noise[1:], 501, {k: v[1:] for k, v in embeddings.items()})
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_gradients_reach_the_latents(any_model):
    verifier = make_verifier(any_model.pipeline).eval()
    noise = noise_for(any_model).requires_grad_(True)
    embeddings = encode_prompts(any_model.pipeline, PROMPTS)
    verifier(any_model.pipeline, noise, 501, embeddings).sum().backward()
    assert (noise.grad.flatten(1).norm(dim=1) > 0).all()


def test_the_encoder_is_a_copy_that_ends_at_the_middle(any_model):
    network = find_family(any_model.pipeline).network(any_model.pipeline)
    verifier = make_verifier(any_model.pipeline)
    before = [value.clone() for value in network.parameters()]
    with torch.no_grad():
        for value in verifier.parameters():
            value.add_(1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    num_values = sum(value.numel() for value in verifier.encoder.parameters())
    assert num_values < sum(value.numel() for value in network.parameters())
    assert middle_of(verifier.encoder) is not middle_of(network)


def test_what_is_captured_is_what_the_network_gets(any_model):
    network = find_family(any_model.pipeline).network(any_model.pipeline)
    noise, embeddings = noise_for(any_model), encode_prompts(any_model.pipeline, PROMPTS)
    arguments, keywords = capture_network_inputs(any_model.pipeline, noise, 501, embeddings)
    assert torch.equal(arguments[0], noise)
    assert torch.as_tensor(arguments[1] if len(arguments) > 1 else keywords["timestep"]).flatten()[0] == 501
    with torch.no_grad():
        output = network(*arguments, **keywords)
    assert (output[0] if isinstance(output, tuple) else output.sample).isfinite().all()


def test_a_verifier_is_saved_and_loaded(any_model, tmp_path):
    verifier = make_verifier(any_model.pipeline).eval()
    save_verifier(tmp_path / "v.safetensors", verifier, {"training": "{}"})
    loaded = load_verifier(tmp_path / "v.safetensors", any_model.pipeline)
    assert loaded.metadata == {"training": "{}"}
    assert not any(value.requires_grad for value in loaded.parameters())
    noise, embeddings = noise_for(any_model), encode_prompts(any_model.pipeline, PROMPTS)
    with torch.no_grad():
        one = verifier(any_model.pipeline, noise, 501, embeddings)
        assert torch.allclose(one, loaded(any_model.pipeline, noise, 501, embeddings), atol=2e-2)


def test_files_that_are_no_verifier_of_this_model_are_refused(tiny_model, tiny_hunyuan, tiny_npnet_file, tmp_path):
    with pytest.raises(MissingWeights):
        load_verifier(tmp_path / "nothing.safetensors", tiny_model.pipeline)
    with pytest.raises(BadWeights, match="not a verifier"):
        load_verifier(tiny_npnet_file, tiny_model.pipeline)
    save_verifier(tmp_path / "v.safetensors", make_verifier(tiny_hunyuan.pipeline))
    with pytest.raises(BadWeights, match="another model"):
        load_verifier(tmp_path / "v.safetensors", tiny_model.pipeline)


def test_the_first_timestep_is_that_of_the_paper_s_schedule(tiny_model):
    assert first_timestep(tiny_model.pipeline) == 901


# --- a model's verifier -----------------------------------------------------------------------------------------------


@pytest.fixture
def with_file(tiny_model, tmp_path):
    """The tiny model with a file of a verifier that nobody has read yet."""
    save_verifier(tmp_path / "verifier.safetensors", make_verifier(tiny_model.pipeline, hidden=8))
    return Model(replace(tiny_model.spec, verifier=str(tmp_path / "verifier.safetensors")), tiny_model.pipeline, None)


def test_a_verifier_is_read_when_it_is_first_asked_for_and_once(with_file, monkeypatch):
    read = []
    monkeypatch.setattr(golden_model, "load_verifier", lambda *given: read.append(given) or load_verifier(*given))
    assert with_file.has_verifier
    assert not read
    assert with_file.verifier is with_file.verifier
    assert len(read) == 1
    assert replace(with_file, npnet=None).verifier is with_file.verifier
    assert len(read) == 1


def test_gradients_pass_through_a_verifier_that_was_first_asked_for_without_any(with_file):
    with torch.inference_mode():
        verifier = with_file.verifier
    noise = noise_for(with_file).requires_grad_(True)
    verifier(with_file.pipeline, noise, 501, encode_prompts(with_file.pipeline, PROMPTS)).sum().backward()
    assert (noise.grad.flatten(1).norm(dim=1) > 0).all()


def test_a_model_whose_file_is_not_there_has_no_verifier(with_file, tmp_path):
    absent = replace(with_file.spec, verifier=str(tmp_path / "nowhere.safetensors"))
    for spec in (absent, replace(absent, verifier=None)):
        bare = Model(spec, with_file.pipeline, None)
        assert not bare.has_verifier
        assert bare.verifier is None


def test_a_verifier_can_be_given_as_a_file(tiny_sdxl_folder, with_file, tmp_path):
    model = load_model(tiny_sdxl_folder, verifier=with_file.spec.verifier)
    assert model.has_verifier
    with pytest.raises(MissingWeights, match="There is no verifier at"):
        load_model(tiny_sdxl_folder, verifier=tmp_path / "nowhere")


# --- the verifier of another model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded_flow() -> Model:
    return load_model("shapes-flow", device="cpu")


def test_a_borrowed_verifier_says_of_a_flow_what_it_says_of_its_own_models_latents(embedded_flow):
    owner = load_model("shapes", verifier=embedded_flow.spec.verifier, device="cpu")
    noise = noise_for(embedded_flow)
    for timestep in (715.0, 1000.0):
        own, there = as_latents_of(owner.pipeline, embedded_flow.pipeline, noise, timestep)
        with torch.no_grad():
            borrowed = embedded_flow.verifier(
                embedded_flow.pipeline, noise, timestep, encode_prompts(embedded_flow.pipeline, PROMPTS)
            )
            expected = owner.verifier(owner.pipeline, own, there, encode_prompts(owner.pipeline, PROMPTS))
        assert torch.allclose(borrowed, expected, atol=1e-4)


def test_a_borrowed_verifier_tells_right_from_wrong_scenes_of_a_flow(embedded_flow):
    scenes = draw_examples(embedded_flow, 48, (1, 2))
    embeddings = encode_prompts(embedded_flow.pipeline, list(scenes.prompts))
    with torch.no_grad():
        logits = embedded_flow.verifier(embedded_flow.pipeline, scenes.latents[:, 0].float(), 1, embeddings)
    assert area_under_curve(logits, scenes.labels) > 0.8


def test_gradients_of_a_borrowed_verifier_reach_the_noise(embedded_flow):
    noise = noise_for(embedded_flow)
    embeddings = encode_prompts(embedded_flow.pipeline, PROMPTS)
    _, gradient = reward_gradient(Reward(embedded_flow, embedded_flow.spec.reward), noise, embeddings, PROMPTS)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_a_borrowed_verifier_that_is_given_has_the_encoder_of_the_same_model(embedded_flow, tmp_path):
    save_verifier(tmp_path / "given.safetensors", make_verifier(embedded_flow.verifier.owner, hidden=8))
    model = load_model("shapes-flow", verifier=tmp_path / "given.safetensors", device="cpu")
    assert model.verifier.verifier.config.hidden == 8
    save_verifier(tmp_path / "own.safetensors", make_verifier(embedded_flow.pipeline, hidden=8))
    with pytest.raises(BadWeights, match="another model"):
        load_model("shapes-flow", verifier=tmp_path / "own.safetensors", device="cpu").verifier  # noqa: B018


def test_a_copy_of_a_borrowed_verifier_has_its_own_weights_and_the_same_pipeline(embedded_flow):
    copied = copy.deepcopy(embedded_flow.verifier)
    assert copied.owner is embedded_flow.verifier.owner
    pairs = zip(copied.parameters(), embedded_flow.verifier.parameters(), strict=True)
    assert all(one is not other and torch.equal(one, other) for one, other in pairs)

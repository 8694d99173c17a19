"""Models by name, folder, hub id and LoRA: real loading code on tiny weights in the hub's own cache layout."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from golden.compare import compare
from golden.errors import BadWeights, GoldenError, InvalidInput, MissingWeights
from golden.families import FAMILIES
from golden.hub import PINS, find_file, list_files
from golden.model import load_model
from golden.models import MODELS, ModelSpec, Parts, find_model
from golden.noise import source_noise
from golden.pipelines import denoise, encode_prompts, load_pipeline
from golden.samplers import SAMPLERS
from golden.settings import default_request
from tests.conftest import EVERY_ARM, SIZE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`hub(repository, {file: where its content is})` puts files where the hub keeps what it downloaded; no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def add(repo: str, files: dict[str, Path]) -> Path:
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        pin = PINS.get(repo.lower())
        commit = (pin and pin.revision) or COMMIT
        for name, source in files.items():
            target = folder / "snapshots" / commit / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        return folder / "snapshots" / commit

    return add


def files_under(folder: str) -> dict[str, Path]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path for path in paths}


@pytest.fixture
def other_unet(tiny_sdxl_folder, tmp_path) -> Path:
    """The tiny UNet's weights, each halved."""
    weights = load_file(Path(tiny_sdxl_folder) / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({name: value / 2 for name, value in weights.items()}, tmp_path / "other_unet.safetensors")
    return tmp_path / "other_unet.safetensors"


@pytest.fixture
def guided_unet(tiny_sdxl_folder, tmp_path) -> Path:
    """A folder of a tiny UNet that takes the guidance scale as an input, as LCM's does."""
    config = diffusers.UNet2DConditionModel.load_config(tiny_sdxl_folder, subfolder="unet")
    with torch.random.fork_rng(devices=[]):
        guided = diffusers.UNet2DConditionModel.from_config(config | {"time_cond_proj_dim": 16})
    guided.save_pretrained(tmp_path / "lcm")
    return tmp_path / "lcm"


def tiny(name: str, folder: str, **changes) -> ModelSpec:
    """A registered model whose base is the tiny one."""
    return replace(MODELS[name], repo=folder, revision=None, variant=None, **changes)


def sample(spec: ModelSpec, pipeline) -> torch.Tensor:
    """Latents, with the settings of the model."""
    noise, embeddings = source_noise([1], (4, SIZE, SIZE)), encode_prompts(pipeline, ["a star"])
    return denoise(pipeline, noise, embeddings, [0], spec.sampling)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_the_registry_is_whole():
    assert list(MODELS)[:5] == ["shapes", "shapes-flow", "sdxl", "dreamshaper", "hunyuan-dit"]
    assert {"sdxl-lightning", "lcm-sdxl", "pcm-sdxl", "sdxl-turbo"} < set(MODELS)
    for name, spec in MODELS.items():
        assert spec.name == name
        assert spec.title
        assert spec.sampling.sampler in SAMPLERS
        assert spec.family in FAMILIES.values()
        assert not spec.needs_control
        assert hasattr(diffusers, spec.pipeline)
        assert find_model(name) is spec
        assert spec.revision is None or len(spec.revision) == 40
    assert [name for name, spec in MODELS.items() if spec.is_embedded] == ["shapes", "shapes-flow"]
    assert all(spec.checker == "shapes" and spec.test_sets for spec in MODELS.values() if spec.is_embedded)
    assert all(family.base_model in MODELS for family in FAMILIES.values())
    steps = {name: MODELS[name].sampling.num_inference_steps for name in ("sdxl-lightning", "lcm-sdxl", "pcm-sdxl")}
    assert steps == {"sdxl-lightning": 4, "lcm-sdxl": 4, "pcm-sdxl": 8}


# --- few-step models --------------------------------------------------------------------------------------------------


def test_weights_of_another_unet_take_its_place(tiny_sdxl_folder, other_unet, hub):
    hub("ByteDance/SDXL-Lightning", {"sdxl_lightning_4step_unet.safetensors": other_unet})
    spec = tiny("sdxl-lightning", tiny_sdxl_folder)
    pipeline = load_pipeline(spec)
    expected = load_file(other_unet)
    assert all(torch.equal(value, expected[name]) for name, value in pipeline.unet.state_dict().items())
    assert not pipeline.unet.training
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert sample(spec, pipeline).isfinite().all()


def test_another_unet_repository_takes_its_place(tiny_sdxl_folder, guided_unet, hub):
    hub("latent-consistency/lcm-sdxl", files_under(str(guided_unet)))
    spec = tiny("lcm-sdxl", tiny_sdxl_folder)
    pipeline = load_pipeline(spec)
    assert pipeline.unet.config.time_cond_proj_dim == 16
    weak = replace(spec, sampling=replace(spec.sampling, guidance_scale=1.0))
    weak, strong = sample(weak, pipeline), sample(spec, pipeline)
    assert not torch.allclose(weak, strong)  # guidance is an input of this UNet


def test_turbo_keeps_its_unet(tiny_sdxl_folder):
    spec = tiny("sdxl-turbo", tiny_sdxl_folder)
    pipeline = load_pipeline(spec)
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert sample(spec, pipeline).isfinite().all()


def test_a_unet_that_does_not_fit_is_refused(tiny_sdxl_folder, tmp_path):
    save_file({"conv_in.weight": torch.zeros(2, 2)}, tmp_path / "unet.safetensors")
    with pytest.raises(BadWeights, match="does not hold the weights of a UNet"):
        load_pipeline(tiny("sdxl-lightning", tiny_sdxl_folder, parts=Parts(str(tmp_path / "unet.safetensors"))))


@pytest.mark.parametrize("name", ["sdxl-lightning", "lcm-sdxl", "pcm-sdxl", "sdxl-turbo", "sdxl", "hunyuan-dit"])
@pytest.mark.usefixtures("hub")
def test_what_is_not_here_is_named_in_one_sentence(name):
    with pytest.raises(MissingWeights) as caught:
        load_pipeline(MODELS[name])
    assert "\n" not in str(caught.value)
    spec = MODELS[name]
    assert "/".join((spec.parts.unet or spec.repo).split("/")[:2]) in str(caught.value)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def write_lora(path: Path, folder: str) -> str:
    """A LoRA of rank 1 on the queries of the tiny UNet's first attention, as diffusers writes them."""
    weights = load_file(Path(folder) / "unet" / "diffusion_pytorch_model.safetensors")
    key = next(name for name in weights if name.endswith("attn2.to_q.weight"))
    rows, columns = weights[key].shape
    stem = f"unet.{key.removesuffix('.weight')}.lora"
    save_file({f"{stem}_A.weight": torch.ones(1, columns), f"{stem}_B.weight": torch.ones(rows, 1)}, path)
    return key


def test_a_lora_changes_the_weights(tiny_sdxl_folder, tmp_path):
    pytest.importorskip("peft")
    key = write_lora(tmp_path / "ones.safetensors", tiny_sdxl_folder)
    spec = find_model(f"{tiny_sdxl_folder}+{tmp_path / 'ones.safetensors'}")
    plain, fused = load_pipeline(find_model(tiny_sdxl_folder)), load_pipeline(spec)
    before, after = plain.unet.state_dict(), fused.unet.state_dict()
    assert before.keys() == after.keys()
    assert torch.allclose(after[key], before[key] + 1, atol=1e-5)
    assert all(torch.equal(after[name], before[name]) for name in before if name != key)
    parts = replace(MODELS["pcm-sdxl"].parts, loras=spec.parts.loras)
    pcm = load_pipeline(tiny("pcm-sdxl", tiny_sdxl_folder, parts=parts))
    assert pcm.scheduler.config.timestep_spacing == "trailing"
    assert sample(MODELS["pcm-sdxl"], pcm).isfinite().all()
    save_file({"unet.nothing.lora_A.weight": torch.ones(1, 3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadWeights, match=r"odd\.safetensors is not a LoRA that fits"):
        load_pipeline(find_model(f"{tiny_sdxl_folder}+{tmp_path / 'odd.safetensors'}"))


def test_without_peft_a_lora_says_what_to_install(tiny_sdxl_folder, tmp_path, monkeypatch):
    write_lora(tmp_path / "ones.safetensors", tiny_sdxl_folder)
    monkeypatch.setattr(diffusers.utils, "USE_PEFT_BACKEND", False)
    with pytest.raises(MissingWeights, match="pip install peft"):
        load_pipeline(find_model(f"{tiny_sdxl_folder}+{tmp_path / 'ones.safetensors'}"))


def test_names_with_a_lora(tiny_sdxl_folder):
    spec = find_model("sdxl+a/b/style.safetensors+more.safetensors")
    assert spec.parts.loras == ("a/b/style.safetensors", "more.safetensors")
    assert (spec.name, spec.repo) == ("sdxl+a/b/style.safetensors+more.safetensors", MODELS["sdxl"].repo)
    assert spec.title == "Stable Diffusion XL + style + more"
    assert find_model("pcm-sdxl+x.safetensors").parts.loras == (*MODELS["pcm-sdxl"].parts.loras, "x.safetensors")
    assert find_model("shapes+x.safetensors").checker == "shapes"  # what it must show is the same
    for bad in ("sdxl+", "sdxl+style.ckpt", "+"):
        with pytest.raises(InvalidInput):
            find_model(bad)


def test_names_with_a_controlnet(tiny_controlnet_folder):
    canny = "diffusers/controlnet-canny-sdxl-1.0"
    for spec in (find_model(f"sdxl+{canny}+a.safetensors"), find_model(f"sdxl+a.safetensors+{canny}")):
        assert (spec.parts.controlnet, spec.parts.loras, spec.needs_control) == (canny, ("a.safetensors",), True)
        assert spec.title.endswith(("controlnet-canny-sdxl-1.0 + a", "a + controlnet-canny-sdxl-1.0"))
        assert (spec.npnet, spec.repo) == (MODELS["sdxl"].npnet, MODELS["sdxl"].repo)
    assert find_model(f"dreamshaper+{tiny_controlnet_folder}").parts.controlnet == tiny_controlnet_folder
    for bad in (f"sdxl+{canny}+{canny}", f"hunyuan-dit+{canny}", "sdxl+https://x.y/z", "sdxl+no/such/folder"):
        with pytest.raises(InvalidInput, match="ControlNet"):
            find_model(bad)


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_registry(tiny_sdxl_folder, tiny_files, other_unet, guided_unet, tmp_path, monkeypatch):
    """MODELS with tiny weights in every place, and all else as it is."""
    write_lora(tmp_path / "ones.safetensors", tiny_sdxl_folder)
    parts = {
        "sdxl-lightning": {"unet": str(other_unet)},
        "lcm-sdxl": {"unet": str(guided_unet)},
        "pcm-sdxl": {"loras": (str(tmp_path / "ones.safetensors"),)},
    }
    for name, spec in MODELS.items():
        repo, npnet = tiny_files(spec.family.name)
        steps = replace(spec.sampling, num_inference_steps=min(4, spec.sampling.num_inference_steps))
        changed = {
            "sampling": steps,
            "parts": replace(spec.parts, **parts.get(name, {})),
            "npnet": str(npnet),
        }
        monkeypatch.setitem(
            MODELS, name, replace(spec, repo=repo, revision=None, variant=None, verifier=None, best_norm=0.8, **changed)
        )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("tiny_registry")
def test_every_model_is_loaded_compared_and_stopped(name):
    """With its own sampler, guidance and re-denoise settings, through every arm."""
    model = load_model(name)
    scheduler = model.pipeline.scheduler
    arms = tuple(arm for arm in EVERY_ARM if arm not in ("ascent", "select_4"))  # a verifier is none of a registry's
    request = default_request(model.spec, prompt="a red star", arms=arms)
    *progress, _, comparison = compare(request, model)
    assert len(progress) == progress[-1].step == progress[-1].num_steps
    assert len({image.tobytes() for image in comparison.images.values()}) == len(arms)
    events = compare(replace(request, arms=("standard", "npnet"), num_inference_steps=50), model)
    assert next(events).num_steps >= 50
    events.close()
    assert not model.lock.locked()
    assert model.pipeline.scheduler is scheduler


# --- the hub ----------------------------------------------------------------------------------------------------------


def test_a_hub_id_is_loaded_as_the_class_it_names(tiny_sdxl_folder, hub):
    hub("somebody/finetune", files_under(tiny_sdxl_folder))
    spec = find_model("somebody/finetune")
    assert (spec.name, spec.repo, spec.title) == ("somebody/finetune", "somebody/finetune", "finetune")
    assert (spec.pipeline, spec.variant, spec.revision) == ("StableDiffusionXLPipeline", None, None)
    assert spec.sampling == MODELS["sdxl"].sampling
    assert load_pipeline(spec).unet.config.sample_size == SIZE


def test_a_hub_id_of_another_class(tmp_path, hub):
    (tmp_path / "index").write_text(json.dumps({"_class_name": "LTXPipeline"}))
    hub("somebody/video", {"model_index.json": tmp_path / "index"})
    with pytest.raises(InvalidInput, match="LTXPipeline"):
        find_model("somebody/video")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["somebody/nothing", "a/b"])
def test_a_hub_id_that_is_not_here(name):
    with pytest.raises(MissingWeights, match=f"https://huggingface.co/{name}") as caught:
        find_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["https://huggingface.co/a/b", "a/b/c/d", "../..", "sdxl.safetensors", "a b/c"])
def test_what_is_no_model_lists_the_models(name):
    with pytest.raises(InvalidInput, match="choose one of shapes"):
        find_model(name)


def test_files_are_local_or_of_the_hub(tmp_path, hub):
    (tmp_path / "x.safetensors").write_bytes(b"x")
    hub("a/b", {"deep/x.safetensors": tmp_path / "x.safetensors"})
    assert find_file(str(tmp_path / "x.safetensors")) == tmp_path / "x.safetensors"
    assert find_file("a/b/deep/x.safetensors").read_bytes() == b"x"
    assert list_files("a/b") == ["deep/x.safetensors"]
    with pytest.raises(InvalidInput, match="URL"):
        find_file("https://huggingface.co/a/b/resolve/main/deep/x.safetensors")
    for absent in ("x.safetensors", "a/x.safetensors", "./a/b/x.safetensors", "a/b/y.safetensors"):
        with pytest.raises(MissingWeights):
            find_file(absent)
    with pytest.raises(MissingWeights):
        list_files("a/c")


@pytest.mark.parametrize("name", ["a/b/../../../secret.safetensors", "a/b/deep/../../../../secret.safetensors"])
def test_a_name_of_the_hub_does_not_lead_out_of_its_repository(name, tmp_path, hub, monkeypatch):
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = hub("a/b", {"deep/x.safetensors": tmp_path / "secret.safetensors"})
    for place in (folder.parents[2], folder.parents[1], folder.parent):  # wherever the steps up might lead
        shutil.copyfile(tmp_path / "secret.safetensors", place / "secret.safetensors")
    with pytest.raises(GoldenError) as caught:
        find_file(name)
    assert "\n" not in str(caught.value)

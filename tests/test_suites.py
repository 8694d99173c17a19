"""The suites: each is a plan that can be carried out, or says in a sentence why it cannot."""

from dataclasses import astuple, replace

import pytest

from eval import benchmark
from eval.benchmark import prepare
from eval.choices import find_spec
from eval.networks import PairsFolder, check_networks, prepare_networks
from eval.rendering import Timings, Unit, check_variant, plan_batches
from eval.settings import BenchmarkSettings
from eval.suites import SUITES, SuiteSettings, expected_seconds, find_suite
from golden.errors import GoldenError, InvalidInput, MissingWeights
from golden.model import load_model
from golden.models import MODELS
from golden.npnet import load_npnet

PLACES = [
    "Table 2",
    "Table 3",
    "Table 4",
    "Table 5",
    "Table 6",
    "Table 7",
    "Table 8",
    "Table 9",
    "Table 10",
    "Table 11",
]
PLACES += ["Table 12", "Table 13", "Table 14", "Table 15", "Table 16", "few-step", "3, 11, 17", "4, 13", "Fig. 7"]
PLACES += ["Fig. 8", "Fig. 10", "Fig. 14"]

pytestmark = pytest.mark.usefixtures("tiny_embedded_model")


def test_every_table_and_figure_has_a_suite():
    sources = " | ".join(suite.source for suite in SUITES.values())
    assert [place for place in PLACES if place not in sources] == []


@pytest.mark.parametrize("model", ["shapes", "sdxl", "dreamshaper", "hunyuan-dit", "sdxl-lightning", "sd3.5-medium"])
@pytest.mark.parametrize("name", [name for name in SUITES if name != "controlnet"])
def test_a_plan_has_known_arms_and_networks_and_every_baseline(name, model):
    spec = MODELS[model]
    settings = SuiteSettings(num_pairs=800, targets=("10x1", "20x1"))
    plan = find_suite(name).make_plan(spec, settings)
    names = [variant.name for variant in plan.variants]
    assert len(set(names)) == len(names)
    assert all(variant.baseline in names for variant in plan.variants)
    assert all(variant.npnet is None or variant.npnet in plan.networks for variant in plan.variants)
    assert set(plan.networks) <= {variant.npnet for variant in plan.variants}
    for variant in plan.variants:
        check_variant(variant, spec, "a red circle")
    assert expected_seconds(plan, 10, 2) > 0
    assert any(variant.name != variant.baseline for variant in plan.variants)


@pytest.mark.parametrize("name", [name for name in SUITES if name != "controlnet"])
def test_the_flow_model_has_a_plan_of_every_suite(name):
    plan = find_suite(name).make_plan(MODELS["shapes-flow"], SuiteSettings(num_pairs=800, targets=("10x1",)))
    for variant in plan.variants:
        check_variant(variant, MODELS["shapes-flow"], "a red circle")


def test_an_npnet_is_taken_to_the_flow_model_as_it_is_and_fine_tuned():
    as_it_is = find_suite("transfer").make_plan(MODELS["shapes-flow"], SuiteSettings()).networks
    assert [recipe.file for recipe in as_it_is.values()] == [MODELS["shapes"].npnet]
    assert find_spec(BenchmarkSettings(suite="fine-tuning", npnet="sdxl")).npnet == "sdxl"
    spec = replace(MODELS["shapes-flow"], npnet=MODELS["shapes"].npnet)
    networks = find_suite("fine-tuning").make_plan(spec, SuiteSettings(num_pairs=1000)).networks
    assert networks["npnet"].file == MODELS["shapes"].npnet
    assert networks["fine-tuned on 600"].fine_tunes
    assert networks["fine-tuned on 600"].num_pairs == 600


def test_settings_decide_what_a_suite_leaves_open():
    plan = find_suite("main").make_plan(MODELS["shapes"], SuiteSettings(("standard", "norm"), 7, 3.0, "euler"))
    assert [variant.arm for variant in plan.variants] == ["standard", "norm"]
    assert {astuple(variant.sampling) for variant in plan.variants} == {("euler", 7, 3.0)}


def test_networks_are_trained_under_settings_of_their_own():
    settings = SuiteSettings(num_epochs=3, num_pairs=800)
    networks = find_suite("ablations").make_plan(MODELS["shapes"], settings).networks
    assert {recipe.training.num_epochs for recipe in networks.values()} == {3}
    assert {recipe.architecture.layout_rank for recipe in networks.values()} == {0}
    assert not networks["no singular values"].architecture.singular
    assert networks["no data selection"].training.filter == "all"
    assert len({recipe.folder for recipe in networks.values()}) == len(networks)
    assert networks["no residual"].folder == "filter-improved-num-epochs-3-no-residual-layout-rank-0"
    scaled = find_suite("branch-weights").make_plan(MODELS["shapes"], settings).networks
    assert len({recipe.folder for recipe in scaled.values()}) == 1


def test_arms_that_a_suite_does_not_take_are_refused():
    with pytest.raises(InvalidInput, match="The suite 'steps' compares arms of its own: leave out --arms"):
        prepare(BenchmarkSettings(suite="steps", arms=("standard", "random"), judges=()))


def test_a_suite_that_cannot_be_done_says_so():
    with pytest.raises(InvalidInput, match="needs a ControlNet"):
        prepare(BenchmarkSettings(suite="controlnet", judges=()))
    with pytest.raises(InvalidInput, match=r"trains networks: give --pairs"):
        prepare(BenchmarkSettings(suite="ablations", judges=()))
    assert "DPO is left out" in find_suite("other-methods").make_plan(MODELS["shapes"], SuiteSettings()).left_out
    assert not find_suite("other-methods").make_plan(MODELS["sdxl"], SuiteSettings()).left_out


def test_a_controlnet_is_measured_with_its_image(
    tiny_sdxl_folder, tiny_controlnet_folder, tiny_npnet_file, tiny_judges_folder, edges, tmp_path, monkeypatch
):
    monkeypatch.setattr("golden.judges.loading.ASSETS", tiny_judges_folder)
    (tmp_path / "prompts.txt").write_text("a dog\na cat\n")
    edges.save(tmp_path / "edges.png")
    edges.rotate(180).save(tmp_path / "turned.png")
    settings = BenchmarkSettings(
        suite="controlnet",
        model=f"{tiny_sdxl_folder}+{tiny_controlnet_folder}",
        npnet=str(tiny_npnet_file),
        prompts=tmp_path / "prompts.txt",
        num_inference_steps=2,
        num_seeds=1,
        judges=("CLIPScore",),
    )
    with pytest.raises(InvalidInput, match="needs a control image"):
        prepare(settings)
    scores = []
    for name in ("edges", "turned"):
        run = prepare(replace(settings, control=tmp_path / f"{name}.png"))
        results = benchmark.run_benchmark(run, tmp_path / name)
        assert results is not None
        assert set(results.rows["variant"]) == {"standard", "npnet"}
        scores.append(results.rows["CLIPScore"].tolist())
    assert scores[0] != scores[1]


def test_what_a_filter_needs_is_asked_before_anything_is_trained(tmp_path):
    networks = find_suite("selection").make_plan(MODELS["shapes"], SuiteSettings()).networks
    unjudged = PairsFolder(tmp_path, ("10x1",), ("PickScore",), 64, "")
    with pytest.raises(InvalidInput, match="no scores of HPSv2: collect them with --judges all"):
        check_networks(networks, unjudged, MODELS["shapes"])


def test_a_weight_of_a_branch_that_cannot_be_scaled_is_refused(tmp_path, tiny_npnet_file, monkeypatch):
    def load_trained(path):
        network = load_npnet(path)
        network.alpha.data.fill_(2.0)  # the weight is 2 sigmoid(2) - 1 = 0.76
        return network

    monkeypatch.setattr("eval.networks.train_network", lambda *arguments: tiny_npnet_file)
    monkeypatch.setattr("eval.networks.load_npnet", load_trained)
    recipes = find_suite("branch-weights").make_plan(MODELS["shapes"], SuiteSettings()).networks
    pairs = PairsFolder(tmp_path, (), (), 64, "")
    with pytest.raises(GoldenError, match=r"'alpha x 2' .* text branch has learnt the weight 0\.76, .* is 1\.52"):
        prepare_networks(recipes, pairs, MODELS["shapes"], tmp_path)
    others = {name: recipe for name, recipe in recipes.items() if name != "alpha x 2"}
    networks = prepare_networks(others, pairs, MODELS["shapes"], tmp_path)
    assert all(network.alpha.isfinite().all() for network in networks.values())


def test_ranges_of_seeds_are_reported_apart(tmp_path):
    settings = BenchmarkSettings(suite="seeds", limit=2, num_seeds=2, num_inference_steps=2, judges=())
    run = prepare(settings)
    assert run.seeds == [0, 1, 1024, 1025, 2048, 2049, 3072, 3073]
    results = benchmark.run_benchmark(run, tmp_path)
    assert results is not None
    ranges = list(dict.fromkeys(effect.category for effect in results.by_category))
    assert ranges == ["seeds 0 to 3", "seeds 1024 to 1027", "seeds 2048 to 2051", "seeds 3072 to 3075"]
    own = results.rows[(results.rows["category"] == ranges[1]) & (results.rows["variant"] == "npnet")]
    effect = next(e for e in results.by_category if e.category == ranges[1] and e.variant == "npnet")
    assert effect.mean == pytest.approx(own["right"].mean())


def test_another_unet_and_another_sampler_are_batches_of_their_own(tiny_sdxl_folder):
    model = load_model(tiny_sdxl_folder)
    other = load_model(tiny_sdxl_folder).pipeline.unet
    with_other = replace(
        find_suite("main").make_plan(MODELS["shapes"], SuiteSettings()).variants[0], num_inference_steps=2
    )
    variants = [
        with_other,
        replace(with_other, name="other", unet="other"),
        replace(with_other, name="AYS", sampler="dpm_ays"),
    ]
    for parameter in other.parameters():
        parameter.data *= 0.5
    renderer = benchmark.Renderer(model, unets={"other": other})
    start = renderer.start([Unit(0, _prompt(), 0, 0)])
    noises = renderer.make_noises(variants, start, timings := Timings())
    images = renderer.render(variants, noises, start, timings)
    assert list(timings.sampling) == ["ddim 2 5.5", "ddim 2 5.5 other", "dpm_ays 2 5.5"]
    assert images["standard"][0].tobytes() != images["other"][0].tobytes()
    assert model.pipeline.unet is not other
    assert len(plan_batches([_prompt()] * 4, [0], variants, batch_size=2)) == 2


def _prompt():
    return benchmark.load_prompt_set("shapes-553", None, MODELS["shapes"]).prompts[0]


def test_a_unet_that_is_missing_is_reported_before_the_first_image(tmp_path, monkeypatch):
    plan = find_suite("main").make_plan(MODELS["shapes"], SuiteSettings())
    broken = replace(plan.variants[0], name="dpo", unet="no/where/unet.safetensors")
    suite = replace(
        find_suite("main"), make_plan=lambda spec, settings: replace(plan, variants=[plan.variants[0], broken])
    )
    monkeypatch.setitem(SUITES, "main", suite)
    monkeypatch.setattr("golden.pipelines.find_file", _refuse)
    with pytest.raises(MissingWeights):
        prepare(BenchmarkSettings(judges=()))


def _refuse(name):
    raise MissingWeights(f"{name} is not here.")


def test_singular_vectors_are_compared_by_their_suite(tmp_path):
    results = benchmark.run_benchmark(
        prepare(BenchmarkSettings(suite="singular", limit=3, num_inference_steps=2, judges=())), tmp_path
    )
    assert results is not None
    assert set(results.singular) == {"inversion", "npnet", "random"}
    left, right = results.singular["npnet"]
    assert left.shape == right.shape
    assert ((left >= 0) & (left <= 1 + 1e-6)).all()


def test_the_distance_to_real_images_needs_some(tmp_path, tiny_sdxl_folder, tiny_judges_folder, monkeypatch):
    monkeypatch.setattr("golden.judges.loading.ASSETS", tiny_judges_folder)
    prompts = tmp_path / "p.txt"
    prompts.write_text("a dog\na cat\n")
    settings = BenchmarkSettings(suite="frechet", model=tiny_sdxl_folder, prompts=prompts, num_inference_steps=2)
    settings = replace(settings, arms=("standard", "repaint"), judges=("CLIPScore",))
    with pytest.raises(InvalidInput, match="give a folder of them with --real"):
        prepare(settings)
    with pytest.raises(InvalidInput, match="at least 2 images"):
        prepare(replace(settings, real=tmp_path))
    shapes = BenchmarkSettings(
        suite="frechet", limit=4, num_inference_steps=2, arms=("standard", "npnet"), judges=("CLIPScore",)
    )
    results = benchmark.run_benchmark(prepare(shapes), tmp_path / "run")
    assert results is not None
    assert set(results.frechet) == {"standard", "npnet"}
    assert results.frechet["standard"].value > 0

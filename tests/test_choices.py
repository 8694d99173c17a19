"""What the settings of a benchmark choose: each value is taken, or refused in a sentence."""

import pytest

from eval.choices import find_spec, limit_costly, list_sets, name_npnets
from eval.rendering import Variant
from eval.settings import BenchmarkSettings
from golden.errors import InvalidInput, MissingWeights
from golden.models import MODELS

VARIANTS = [Variant(arm, arm, 20, 5.5, "ddim") for arm in ("standard", "ascent", "select_64")]


def test_further_npnets_are_named():
    assert name_npnets(["by pairs=runs/a=b.safetensors", "2=sdxl"]) == (
        ("by pairs", "runs/a=b.safetensors"),
        ("2", "sdxl"),
    )
    assert name_npnets([]) == ()


@pytest.mark.parametrize("given", [["a"], ["=a"], ["a="], ["a=b", "a=c"], ["npnet=b"], ["../a=b"], ["a/b=c"], [" =b"]])
def test_names_that_are_none_are_refused(given):
    with pytest.raises(InvalidInput, match=r"^A further NPNet is NAME=FILE"):
        name_npnets(given)


def test_costly_arms_are_limited_only_where_that_makes_a_difference():
    limited, sentence = limit_costly(VARIANTS, 5, 20)
    assert [variant.num_prompts for variant in limited] == [None, 5, 5]
    assert sentence == "Measured on 5 of the 20 prompts: ascent, select_64."
    assert limit_costly(VARIANTS[:2], 5, 20)[1] == "Measured on 5 of the 20 prompts: ascent."
    for variants, num in ((VARIANTS, 20), (VARIANTS, None), (VARIANTS[:1], 5)):
        assert limit_costly(variants, num, 20) == (variants, "")
    with pytest.raises(InvalidInput, match="number of prompts for costly arms"):
        limit_costly(VARIANTS, 0, 20)


def test_prompt_sets_follow_from_the_model_unless_they_are_given(monkeypatch, tmp_path):
    assert list_sets(BenchmarkSettings()) == ("shapes-553",)
    assert list_sets(BenchmarkSettings(suite="golden-noise")) == MODELS["shapes"].test_sets
    assert list_sets(BenchmarkSettings(model="sdxl")) == ("shapes-553",)
    assert list_sets(BenchmarkSettings(prompts=tmp_path)) == ("own",)
    assert list_sets(BenchmarkSettings(prompt_set=("drawbench", "hpd"))) == ("drawbench", "hpd")
    with pytest.raises(InvalidInput, match="Each prompt set may be given once, got hpd hpd"):
        list_sets(BenchmarkSettings(prompt_set=("hpd", "hpd")))


def test_a_runs_own_norm_and_verifier_replace_the_models(tmp_path):
    (tmp_path / "verifier").write_bytes(b"")
    spec = find_spec(BenchmarkSettings(best_norm=0.85, verifier=str(tmp_path / "verifier")))
    assert (spec.best_norm, spec.verifier) == (0.85, str(tmp_path / "verifier"))
    assert find_spec(BenchmarkSettings()) == MODELS["shapes"]
    for norm in (0.0, float("nan"), 5):
        with pytest.raises(InvalidInput, match=r"best norm must be a number from 0\.1 to 2"):
            find_spec(BenchmarkSettings(best_norm=norm))
    with pytest.raises(MissingWeights, match="There is no verifier at"):
        find_spec(BenchmarkSettings(verifier="nowhere"))

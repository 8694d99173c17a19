"""How each judge is made: where it starts, what it learns, and for how long."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from golden.files import load_weights
from golden.judges import Judge
from golden.judges.aesthetic import Aesthetic
from golden.judges.clip_score import CLIPScore
from golden.judges.hpsv2 import HPSv2
from golden.judges.image_reward import ImageReward
from golden.judges.mps import MPS
from golden.judges.pickscore import PickScore
from train.shapes.judge_images import JudgeImages
from train.shapes.judges.configs import (
    BLIP_VISION,
    CONDITIONS,
    CROSS,
    HEAD,
    OVERALL,
    TEXT_FOLDER,
    TOWER,
    VISION,
    clip_config,
    image_reward_config,
    open_clip_config,
    to_open_clip,
    words_config,
)
from train.shapes.judges.losses import (
    ComputeLoss,
    Student,
    aesthetic_loss,
    clip_score_loss,
    hps_loss,
    mps_loss,
    pick_score_loss,
)
from train.shapes.judges.reading import ReadingHeads, ranking_loss
from train.shapes.judges.report import score_images, share_right_position, share_right_vs_wrong
from train.shapes.judges.towers import VisionReader, vision_loss
from train.shapes.training import TrainingPlan, rng_for, train

VISION_STEPS = 1500  # shapes come last: after 400 steps colours and places are known and shapes are not
SAVE_EVERY = 50
EVALUATE_EVERY = 1000


@dataclass(frozen=True)
class JudgeRun:
    """The data, and what a run may change: `longer` times a recipe's steps, or `num_steps`, and its batch size."""

    images: JudgeImages
    held_out: JudgeImages
    seed: int = 0
    longer: float = 1.0
    num_steps: int | None = None
    batch_size: int | None = None

    def steps(self, own: int) -> int:
        """The number of steps of a run whose recipe says `own`."""
        return self.num_steps or max(1, round(own * self.longer))


@dataclass(frozen=True)
class JudgeRecipe:
    """How a judge is made: where it starts, what it learns, and for how long; `batch_size` counts captions."""

    start: Callable[[JudgeRun], Student]
    compute_loss: ComputeLoss
    num_steps: int
    batch_size: int
    learning_rate: float


# --- training ---------------------------------------------------------------------------------------------------------


def fast() -> ExitStack:
    """Half precision and plain attention: on a CPU both are faster for models of this size."""
    stack = ExitStack()
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    return stack


def train_judge(name: str, run: JudgeRun) -> Judge:
    """A trained judge in evaluation mode: from its checkpoint as far as there is one."""
    judge = train_student(name, run).judge
    if isinstance(judge, ImageReward):
        standardise(judge, run.images)
    return judge


def train_student(name: str, run: JudgeRun) -> Any:
    recipe = RECIPES[name]
    student = recipe.start(run)

    def compute_loss(step: int) -> Tensor:
        rng = rng_for(run.seed, step)
        with fast():
            return recipe.compute_loss(student, run.images, rng, run.batch_size or recipe.batch_size)

    def evaluate(trained: Any, step: int) -> dict:
        return {
            "held_out_right_vs_wrong": share_right_vs_wrong(trained.judge, run.held_out),
            "held_out_position": share_right_position(trained.judge),
        }

    plan = short_plan(run.steps(recipe.num_steps), recipe.learning_rate)
    return train(f"judges-{name}", student, compute_loss, plan, evaluate)


def short_plan(num_steps: int, learning_rate: float) -> TrainingPlan:
    """A plan for runs of some hundred steps."""
    return TrainingPlan(
        num_steps,
        learning_rate,
        num_warmup=30,
        weight_decay=0.01,
        ema_decay=0.99,
        save_every=SAVE_EVERY,
        evaluate_every=EVALUATE_EVERY,
    )


def standardise(judge: ImageReward, images: JudgeImages) -> None:
    """Set the config's mean and deviation so that rewards over the training images have mean 0 and deviation 1."""
    judge.config |= {"mean": 0.0, "std": 1.0}
    rewards = score_images(judge, images)
    judge.config |= {"mean": float(rewards.mean()), "std": float(rewards.std())}


# --- towers -----------------------------------------------------------------------------------------------------------


def train_vision(kind: str, run: JudgeRun) -> dict[str, Tensor]:
    """The weights of a vision tower of "clip" or "blip" that knows what is where."""
    torch.manual_seed(run.seed)
    tower = (
        CLIPVisionModel(CLIPVisionConfig(**VISION))
        if kind == "clip"
        else BlipVisionModel(BlipVisionConfig(**BLIP_VISION))
    )
    reader = VisionReader(tower)

    def compute_loss(step: int) -> Tensor:
        with fast():
            return vision_loss(reader, rng_for(run.seed, step), run.batch_size or 64)

    trained: Any = train(f"judges-vision-{kind}", reader, compute_loss, short_plan(run.steps(VISION_STEPS), 1e-3))
    return trained.tower.state_dict()


def train_towers(run: JudgeRun) -> dict[str, Tensor]:
    """The weights of the CLIPModel from which all judges but ImageReward start: CLIPScore's."""
    return train_student("CLIPScore", run).judge.model.state_dict()


# --- where each judge starts ------------------------------------------------------------------------------------------


def start_clip_score(run: JudgeRun) -> Student:
    """A vision tower that knows what is where, and the embedded model's text encoder, which knows it of captions."""
    vision = train_vision("clip", run)
    torch.manual_seed(run.seed)
    judge = CLIPScore({"clip": clip_config(), **words_config()})
    judge.model.vision_model.load_state_dict(vision)
    text, _ = load_weights(TEXT_FOLDER / "model.safetensors")
    judge.model.load_state_dict(judge.model.state_dict() | {name: value.float() for name, value in text.items()})
    return Student(judge)


def start_pick_score(run: JudgeRun) -> Student:
    judge = PickScore({"clip": clip_config(), **words_config()})
    judge.model.load_state_dict(train_towers(run))
    return Student(judge)


def start_hpsv2(run: JudgeRun) -> Student:
    judge = HPSv2({"open_clip": open_clip_config(), **words_config()})
    judge.model.load_state_dict(to_open_clip(train_towers(run)))
    return Student(judge)


def start_aesthetic(run: JudgeRun) -> Student:
    """The vision tower; the head starts at the middle of the scale, and keeps norms: five layers of torch's own start
    would leave a fifteenth of what comes in.
    """
    clip = train_towers(run)
    torch.manual_seed(run.seed)
    judge = Aesthetic({"vision": clip_config()["vision_config"], "head": HEAD})
    own = ("vision_model.", "visual_projection.")
    judge.clip.load_state_dict({name: value for name, value in clip.items() if name.startswith(own)})
    for layer in judge.mlp.layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    nn.init.constant_(judge.get_parameter(f"mlp.layers.{len(judge.mlp.layers) - 1}.bias"), 5.5)
    return Student(judge)


def start_mps(run: JudgeRun) -> Student:
    clip = train_towers(run)
    torch.manual_seed(run.seed)
    conditions = {"condition": CONDITIONS[OVERALL], "threshold": 0.3}
    judge = MPS({"clip": clip_config(), "cross": CROSS, **conditions, **words_config()})
    judge.model.load_state_dict(clip)
    return Student(judge)


def start_image_reward(run: JudgeRun) -> Student:
    vision = train_vision("blip", run)
    torch.manual_seed(run.seed)
    judge = ImageReward(image_reward_config())
    judge.vision.load_state_dict(vision)
    return Student(judge, ReadingHeads(TOWER["hidden_size"], judge.config["text"]["vocab_size"]))


RECIPES: dict[str, JudgeRecipe] = {
    "CLIPScore": JudgeRecipe(start_clip_score, clip_score_loss, 2800, 32, 7e-4),
    "PickScore": JudgeRecipe(start_pick_score, pick_score_loss, 1000, 32, 5e-4),
    "ImageReward": JudgeRecipe(start_image_reward, ranking_loss, 4000, 32, 7e-4),
    "MPS": JudgeRecipe(start_mps, mps_loss, 1000, 28, 5e-4),
    "HPSv2": JudgeRecipe(start_hpsv2, hps_loss, 400, 32, 5e-4),
    "AES": JudgeRecipe(start_aesthetic, aesthetic_loss, 400, 64, 1e-3),
}

"""Which judges there are, by name. Light, so that the help of a command can list them."""

JUDGE_CLASSES = {
    "PickScore": "pickscore:PickScore",
    "HPSv2": "hpsv2:HPSv2",
    "AES": "aesthetic:Aesthetic",
    "ImageReward": "image_reward:ImageReward",
    "CLIPScore": "clip_score:CLIPScore",
    "MPS": "mps:MPS",
    "HPSv3": "hpsv3:HPSv3",
    "VQAScore": "vqa_score:VQAScore",
}
"""name -> "module:class" of this folder. What else there is to know of a judge stands on its class."""
JUDGE_NAMES = tuple(JUDGE_CLASSES)

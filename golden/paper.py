"""The paper's own figures, for comparison. Source: arXiv 2411.09502, Tables 2 and 13 and section 5."""

METRICS = ("PickScore", "HPSv2", "AES", "ImageReward", "CLIPScore", "MPS")

# (model, prompt set) -> metric -> (standard, NPNet). ImageReward and CLIPScore are times 100; MPS is the probability in
# percent that the golden image is preferred, 50 for the standard one.
PAPER: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("sdxl", "pick-a-pic"): {
        "PickScore": (21.69, 21.86),
        "HPSv2": (28.48, 28.68),
        "AES": (6.0373, 6.0540),
        "ImageReward": (58.01, 65.01),
        "CLIPScore": (82.04, 84.08),
        "MPS": (50.0, 52.14),
    },
    ("dreamshaper", "pick-a-pic"): {
        "PickScore": (22.41, 22.73),
        "HPSv2": (32.12, 32.69),
        "AES": (6.0161, 6.0646),
        "ImageReward": (98.09, 106.74),
        "CLIPScore": (82.67, 89.58),
        "MPS": (50.0, 52.34),
    },
    ("sdxl", "geneval"): {
        "PickScore": (21.62, 22.73),
        "HPSv2": (24.04, 28.41),
        "AES": (5.2292, 5.4506),
        "ImageReward": (55.41, 65.56),
    },
}
SECONDS_PER_IMAGE = (11.69, 12.10)  # SDXL, DDIM with 50 steps on an RTX 4090, without and with NPNet

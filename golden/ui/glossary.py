"""Every term on the page in plain words: what a visitor reads who points at it, or taps it."""

TERMS = {
    # what NPNet did to the noise
    "change, RMS": "How much NPNet changed the noise: 0 is not at all; the noise itself measures 1.",
    "cosine": "Whether both noises point the same way: 1 is the same direction, 0 nothing in common.",
    "mean, std": "Average and spread of the numbers in the golden noise. Ordinary noise has 0 and 1.",
    "whiteness": "1 means that coarse and fine grain are equally strong, as in ordinary noise; less means a pattern.",
    "singular values": (
        "The strengths of the patterns that the noise is made of, strongest first. Where the "
        "lines part, golden noise has stronger or weaker patterns; it can differ in other ways, too."
    ),
    # times
    "total": "From pressing Compare to the finished images, without the judges.",
    "NPNet": "The small network that changes the noise, and the time it took: it runs once, before the first step.",
    "overhead per image": "NPNet's time as a share of the time of one image from standard noise.",
    # comparisons
    "change": "The second image's score minus the first's.",
    "exact check": (
        "A program finds the objects in the image and compares their number, shape, colour, place and background with "
        "the prompt. It can tell right from wrong; it has no taste."
    ),
    "diversity": (
        "How different the images of several seeds are: the average difference between the pixels of any two of them, "
        "in percent of black against white. 0 means all alike."
    ),
    "right": "Images in which the exact check finds everything that the prompt asks for.",
    # votes
    "golden preferred": "Votes for golden noise, of all votes that preferred one image.",
    "win rate": "The share of these votes that golden noise won. 50 % would be a toss-up.",
    "95 % interval": (
        "Where the true value probably is: measured again and again, such an interval contains it in 95 of 100 cases. "
        "If it includes zero, no difference has been shown yet."
    ),
    "ties, both bad": "Votes that preferred neither image.",
}
"""By the word or words as they stand on the page."""

LABELS = {
    "#seed label > span": "The random noise is drawn from this number: the same seed gives the same noise, and image.",
    "#lock label > span": "While locked, Reroll does not change the seed.",
    "#reroll_button": "Draws another seed, which is another noise, and compares again.",
    "#num_inference_steps label > span": "In how many steps the noise is removed. More steps take longer.",
    "#guidance_scale label > span": (
        "How strongly the prompt pulls at every step. 1 adds no pull; high values exaggerate."
    ),
    "#sampler label > span, #sampler span[data-testid=block-info]": (
        "The rule by which a step removes noise. Samplers differ in speed and detail, not in what they are asked for."
    ),
    "#strength label > span": (
        "How much of NPNet's change is applied: 0 leaves the source noise, 1 is NPNet's own, more exaggerates it."
    ),
    "#arms > span, #arms label > span[data-testid=block-info]": (
        "Where the noise of each image comes from: up to four, from one seed, rendered together."
    ),
}
"""By the CSS selector of a label that Gradio writes."""


def explain(words: str) -> str:
    """A term in plain words; nothing if it has none."""
    return TERMS.get(words, "")

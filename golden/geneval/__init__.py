"""GenEval's and GenEval 2's questions about an image, answered by an open-vocabulary detector."""

from .questions import Asked, Placed, Questions, parse_prompt, read_questions
from .verdicts import Box, judge_boxes

__all__ = ["Asked", "Box", "Placed", "Questions", "judge_boxes", "parse_prompt", "read_questions"]

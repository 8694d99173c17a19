"""What families have in common that put a prompt into a language model's chat template."""

from typing import Any

_MARK = "\n\n"


def find_chat_cut(tokenizer: Any, prompt: str, num_tokens: int, **options: Any) -> str:
    """The end of a prompt beyond `num_tokens` tokens, those of the template's beginning included, "" if there is none.

    What stands after the prompt in the template is cut first. `options` are those of the template.
    """
    message = [{"role": "user", "content": _MARK}]
    template = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **options)
    before = tokenizer(template.split(_MARK)[0], add_special_tokens=False).input_ids
    tokens = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return tokenizer.decode(tokens[num_tokens - len(before) :]).strip()

"""A tokenizer's special tokens: which token begins a text, if any, and which tokens end one."""

# Tokens that end a turn: of Gemma 1 to 3, Gemma 4, Llama 3, and of Qwen and SmolLM3; then what ends Qwen's documents,
# and where Gemma 4 and FunctionGemma wait for a tool.
TURN_ENDS = ("<end_of_turn>", "<turn|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>")
TURN_ENDS += ("<|tool_response>", "<start_function_response>")


def prompt_ids(tokenizer, prompts: list[str]) -> list[list[int]]:
    """The token ids of each prompt, begin-token first where the model has one; Qwen and SmolLM3 have none."""
    begin = [] if tokenizer.start_token_id is None else [tokenizer.start_token_id]
    return [[*begin, *row] for row in tokenizer(list(prompts))]


def stop_token_ids(tokenizer, stop_tokens) -> tuple[int, ...]:
    """Ids of the tokenizer's end token and of `stop_tokens`; those of `TURN_ENDS` that it does not have are left out.

    It raises ValueError if the vocabulary lacks another of them.
    """
    ids = {token: token_id(tokenizer, token) for token in stop_tokens}
    for token, number in ids.items():
        if number is None and token not in TURN_ENDS:
            raise ValueError(
                f"The vocabulary has no token {token!r} to stop at; a text of several tokens is a stop string. "
                f"Received: stop_tokens={list(stop_tokens)}"
            )
    return tokenizer.end_token_id, *(number for number in ids.values() if number is not None)


def turn_end_id(tokenizer, token: str | None = None) -> int:
    """The id of `token`; if it is `None`, of the first of `TURN_ENDS` that there is, or else of the end token.

    It raises ValueError if the vocabulary lacks `token`.
    """
    ids = (token_id(tokenizer, mark) for mark in ([token] if token else TURN_ENDS))
    end = next((number for number in ids if number is not None), None)
    if token and end is None:
        raise ValueError(f"The vocabulary has no token {token!r} to end a turn with. Received: stop_token={token!r}")
    return tokenizer.end_token_id if end is None else end


def token_id(tokenizer, token: str) -> int | None:
    """The id of a token, or `None` if the vocabulary lacks it."""
    try:
        number = tokenizer.token_to_id(token)
    except (KeyError, ValueError):  # of byte-pair tokenizers; SentencePiece gives the id of its unknown token
        return None
    return number if tokenizer.id_to_token(number) == token else None

"""How the families of models write a conversation: what surrounds a question, and what ends an answer."""

# Name → (before the user's text, between it and the answer), as the models were taught; a begin-token is a tokenizer's.
TURNS = {
    "gemma": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),  # Gemma 1 to 3
    "chatml": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),  # Qwen and SmolLM3
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}
# Tokens that end a turn: of Gemma 1 to 3, Gemma 4, Llama 3, and of Qwen and SmolLM3; the last ends Qwen's documents.
TURN_ENDS = ("<end_of_turn>", "<turn|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>")

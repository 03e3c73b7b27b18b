"""How a problem is shown to people, in files and in TensorBoard."""


def problem_text(problem, prompt: str) -> str:
    """The problem's own `str`, or the prompt if its class has none, as a tuple has only `[(6, 1, 2)]` to show."""
    return prompt.strip() if type(problem).__str__ is object.__str__ else str(problem)

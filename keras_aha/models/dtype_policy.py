"""`dtype_policy`: what the layers of a backbone store and compute in."""

import keras
import keras_hub

_GEMMAS = (
    keras_hub.models.GemmaBackbone,
    keras_hub.models.Gemma3Backbone,
    keras_hub.models.Gemma3nBackbone,
    keras_hub.models.Gemma4Backbone,
)
_MATRICES = r"(.*/)?(query|key|value|attention_output|ffw_gating|ffw_gating_2|ffw_linear|(per_layer_)?token_embedding)"


def dtype_policy(kind: type[keras_hub.models.Backbone], dtype: str) -> str | keras.dtype_policies.DTypePolicyMap:
    """What Keras takes as the dtype of a backbone of class `kind`: that of `load_policy`, but for a Gemma in float16.

    The residual stream of a Gemma leaves the range of float16, which ends at 65,504: that of Gemma 3 270M reaches 1e5
    (LOG.md), see github.com/huggingface/transformers/issues/39972 and github.com/unslothai/unsloth/pull/5092. What goes
    into its matrices and comes out of them does not. So there matrices are float16 and multiply in it, and all else is
    float32: the stream, norms, attention.
    """
    if dtype.removeprefix("mixed_") != "float16" or not issubclass(kind, _GEMMAS):
        return dtype
    return keras.dtype_policies.DTypePolicyMap("float32", {_MATRICES: keras.dtype_policies.DTypePolicy(dtype)})

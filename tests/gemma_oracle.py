"""A Gemma in NumPy float64, written from the papers, and the exact derivatives of its log-probs by its adapters.

They are complex steps, f(x + ih).imag / h: with h = 1e-30 there is no h² left, and nothing is subtracted. All entries
of a tensor are moved at once, each in an element of a leading axis.
"""

import numpy as np

STEP = 1e-30


def rms_norm(x, scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * (1.0 + scale)


def rope(x):
    """Rotates `(…, T, H)`; keras-hub then interleaves the halves, which cancels between queries and keys."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[-2])[:, None] / 10_000 ** (np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1)


def cap(x, limit):
    return x if limit is None else limit * np.tanh(x / limit)


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x, visible=True):
    e = np.where(visible, np.exp(x - x.real.max(axis=-1, keepdims=True)), 0.0)
    return e / e.sum(axis=-1, keepdims=True)


class GemmaOracle:
    """Reads the values of a `GemmaBackbone`'s variables, and nothing else of it."""

    def __init__(self, backbone):
        self.config = backbone.get_config()
        self.weights = {v.path: np.asarray(v, "float64")[None] for v in backbone.variables}
        self.adapters = [path for path in self.weights if "lora_kernel" in path]

    def kernel(self, path, adapters):
        w = self.weights
        if not adapters:
            return w[f"{path}/kernel"]
        # keras-hub's alpha is the rank, so the factor is 1
        product = np.einsum("p...r,pro->p...o", w[f"{path}/lora_kernel_a"], w[f"{path}/lora_kernel_b"])
        return w[f"{path}/kernel"] + product

    def hidden(self, tokens, adapters):
        w, config = self.weights, self.config
        x = w["token_embedding/embeddings"][:, tokens] * np.sqrt(config["hidden_dim"])
        for i in range(config["num_layers"]):
            block = f"decoder_block_{i}"
            sliding = config["use_sliding_window_attention"] and i % 2 == 0
            y = rms_norm(x, w[f"{block}/pre_attention_norm/scale"])
            y = self.attention(f"{block}/attention", y, sliding, adapters)
            if config["use_post_attention_norm"]:
                y = rms_norm(y, w[f"{block}/post_attention_norm/scale"])
            x = x + y
            y = rms_norm(x, w[f"{block}/pre_ffw_norm/scale"])
            gate = y @ self.kernel(f"{block}/ffw_gating", adapters)
            y = gelu(gate) * (y @ self.kernel(f"{block}/ffw_gating_2", adapters))
            y = y @ self.kernel(f"{block}/ffw_linear", adapters)
            if config["use_post_ffw_norm"]:
                y = rms_norm(y, w[f"{block}/post_ffw_norm/scale"])
            x = x + y
        return rms_norm(x, w["final_normalization/scale"])

    def attention(self, path, x, sliding, adapters):
        config, age = self.config, np.arange(x.shape[1])[:, None] - np.arange(x.shape[1])
        query = rope(x[:, None] @ self.kernel(f"{path}/query", adapters))  # (…, heads, T, H)
        key = rope(x[:, None] @ self.kernel(f"{path}/key", adapters))
        value = x[:, None] @ self.kernel(f"{path}/value", adapters)
        group = config["num_query_heads"] // config["num_key_value_heads"]
        key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
        scores = cap(query @ key.swapaxes(-1, -2) / np.sqrt(config["head_dim"]), config["attention_logit_soft_cap"])
        visible = (age >= 0) & (age < (config["sliding_window_size"] if sliding else len(age)))
        output = softmax(scores, visible) @ value
        return np.sum(output @ self.kernel(f"{path}/attention_output", adapters), axis=1)

    def log_probs(self, batch, adapters=True):
        """`(log_probs, entropy)` of the completions, `(B, C)`, 0 outside them."""
        return self._log_probs(batch, adapters)[:, 0].real

    def jacobian(self, batch):
        """`{path of an adapter: (d log_probs, d entropy)}`, each `(*shape of the adapter, B, C)`."""
        found = {}
        for path in self.adapters:
            value = self.weights[path]
            moved = np.eye(value.size).reshape(value.size, *value.shape[1:])
            self.weights[path] = value + 1j * STEP * moved
            derivatives = self._log_probs(batch, adapters=True).imag / STEP
            self.weights[path] = value
            found[path] = derivatives.reshape(2, *value.shape[1:], *derivatives.shape[2:])
        return found

    def _log_probs(self, batch, adapters):
        """Row by row, padding stripped: `(2, entries moved, B, C)`."""
        columns, embeddings = batch["completion_mask"].shape[1], self.weights["token_embedding/embeddings"][0]
        rows = []
        inputs = batch["token_ids"], batch["padding_mask"], batch["temperature"]
        for tokens, mask, temperature in zip(*inputs, strict=True):
            length = mask[-columns:].sum()
            tokens = tokens[mask > 0]
            hidden = self.hidden(tokens, adapters)[:, -length - 1 : -1]
            p = softmax(cap(hidden @ embeddings.T, self.config["final_logit_soft_cap"]) / np.float64(temperature))
            log_probs = np.log(p[:, np.arange(length), tokens[-length:]])
            row = np.stack([log_probs, -np.sum(p * np.log(p), axis=-1)])
            rows.append(np.pad(row, ((0, 0), (0, 0), (0, columns - length))))
        return np.stack(rows, axis=2)

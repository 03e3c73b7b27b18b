"""`Gemma3Decoder`: Gemma 3."""

from keras_aha.decoding.gemma_decoder import GemmaDecoder


class Gemma3Decoder(GemmaDecoder):
    """Runs a `keras_hub.models.Gemma3Backbone` (arXiv:2503.19786) on text; its vision encoder is not used.

    Gemma 3 adds norms of queries and keys. Its RoPE has one base in layers with a window and another in the rest, which
    keras-hub's attention layer knows.

    Raises:
        ValueError: if the backbone's attention is bidirectional, as EmbeddingGemma's is.
    """

    def __init__(self, backbone):
        if backbone.use_bidirectional_attention:
            raise ValueError(
                "A backbone with bidirectional attention makes embeddings and cannot generate. "
                f"Received: backbone={backbone.name}, with use_bidirectional_attention=True"
            )
        super().__init__(backbone)

    def query_and_key(self, attention, x):
        query, key = super().query_and_key(attention, x)
        if attention.use_query_key_norm:
            return attention.query_norm(query), attention.key_norm(key)
        return query, key

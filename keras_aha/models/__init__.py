"""The policy: a keras-hub `CausalLM` found, loaded, quantized, given adapters, and in other formats."""

"""The policy: a keras-hub `CausalLM` found, loaded, quantized, given adapters, read from and written to other formats.
"""

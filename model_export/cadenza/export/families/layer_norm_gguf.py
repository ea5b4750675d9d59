"""What GGUF calls the tensors of decoders with LayerNorm, biases and an MLP without a gate."""

from cadenza.export.families import checkpoint
from cadenza.export.model import Affine, DecoderConfig, DecoderWeights, LayerWeights, Parts, TensorSource


def weights(source: TensorSource, config: DecoderConfig, *, positions: bool) -> DecoderWeights[Parts]:
    """The tensors of llama.cpp's converter; `positions` says whether they are learned."""
    hidden, vocabulary = config.hidden_size, config.vocabulary_size
    table = checkpoint.matrix("token_embd.weight", vocabulary, hidden)
    tied = "output.weight" not in source.shapes
    learned = checkpoint.matrix("position_embd.weight", config.max_context, hidden)
    return DecoderWeights(
        embedding=table,
        positions=learned if positions else None,
        layers=tuple(_layer(config, f"blk.{index}.") for index in range(config.num_layers)),
        final_norm=checkpoint.norm("output_norm", hidden, bias=True),
        head=Affine(table if tied else checkpoint.matrix("output.weight", vocabulary, hidden)),
    )


def _layer(config: DecoderConfig, prefix: str) -> LayerWeights[Parts]:
    hidden, inner = config.hidden_size, config.intermediate_size
    return LayerWeights(
        attention_norm=checkpoint.norm(f"{prefix}attn_norm", hidden, bias=True),
        qkv=checkpoint.linear(f"{prefix}attn_qkv", config.qkv_size, hidden, bias=True),
        attention_output=checkpoint.linear(f"{prefix}attn_output", hidden, config.query_size, bias=True),
        mlp_norm=checkpoint.norm(f"{prefix}ffn_norm", hidden, bias=True),
        up=checkpoint.linear(f"{prefix}ffn_up", inner, hidden, bias=True),
        down=checkpoint.linear(f"{prefix}ffn_down", hidden, inner, bias=True),
    )

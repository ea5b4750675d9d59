"""Smoothing changes no number of a decoder; its int8 program is right where outliers would spoil it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tests.export import tiny
from tests.export.tiny import Array, Tiny, Weights
from tests.families.cases import Case, write
from tests.families.catalogue import CASES

from cadenza.export import decoder
from cadenza.export.calibration import calibration_tokens
from cadenza.export.exporter import export, open_source
from cadenza.export.model import Affine, DecoderConfig, DecoderWeights, FloatArray, Parts, Precision
from cadenza.export.smoothing import Smoother, down_scale, orthogonal

IDS = np.random.default_rng(11).integers(0, 300, size=[2, 24])
CALIBRATION = [[5, 9, 200, 31, 7], [44, 17, 260]]


def load(path: Path) -> tuple[DecoderConfig, DecoderWeights[FloatArray]]:
    """The decoder of a source: its sizes and weights."""
    opened = open_source(path)
    blueprint, stored = opened.blueprint, opened.blueprint.weights

    def read(_name: str, parts: Parts) -> FloatArray:
        return blueprint.load(parts, opened.source)

    return blueprint.config, stored.map(read)


def smoothed(
    config: DecoderConfig, weights: DecoderWeights[FloatArray], tokens: list[list[int]]
) -> tuple[DecoderConfig, DecoderWeights[FloatArray]]:
    smoother = Smoother(config, weights.embedding, weights.positions, tokens)
    final_norm, head = smoother.final_norm_and_head(weights.final_norm, weights.head)
    return smoother.config, DecoderWeights(
        embedding=smoother.table(weights.embedding),
        positions=None if weights.positions is None else smoother.table(weights.positions),
        layers=tuple(smoother.layer(layer) for layer in weights.layers),
        final_norm=final_norm,
        head=head,
    )


def logits(config: DecoderConfig, weights: DecoderWeights[FloatArray]) -> Array:
    result: Array = decoder.logits(config, weights, tf.constant(IDS, tf.int32)).numpy()
    return result


def with_outliers(sizes: Tiny) -> Weights:
    """Channels that stand out as trained decoders' do: in both norms' gains and among up's rows."""
    weights = tiny.random_weights(sizes)
    for index in range(sizes.layers):
        prefix = f"model.layers.{index}."
        for norm, readers in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            weights[f"{prefix}{norm}.weight"][3] *= 60
            for reader in readers:
                weights[f"{prefix}{reader}.weight"][:, 3] /= 60
        weights[f"{prefix}mlp.up_proj.weight"][[5, 40]] *= 60
        weights[f"{prefix}mlp.down_proj.weight"][:, [5, 40]] /= 60
    return weights


def int8_error(sizes: Tiny, weights: Weights, folder: Path) -> float:
    """Root mean square error of the exported int8 program's logits, relative to the float64 reference."""
    source = tiny.write_hugging_face(folder / "source", sizes, weights)
    export(source, folder / "model/1", Precision.INT8)
    program = tiny.CpuProgram(folder / "model/1")
    attention = tiny.reference_attention(sizes, sizes.frequencies)
    found = np.stack([program.logits(ids, attention) for ids in IDS])
    expected = np.stack([tiny.reference_logits(sizes, weights, ids) for ids in IDS])
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("tokens", [CALIBRATION, []], ids=["calibrated", "rotated only"])
@pytest.mark.parametrize(
    "sizes", [Tiny(), Tiny(kv_heads=4, tied=False), Tiny(hidden=60, heads=6, kv_heads=3)], ids=str
)
def test_smoothed_weights_compute_the_same_logits(
    sizes: Tiny, tokens: list[list[int]], tmp_path: Path
) -> None:
    source = tiny.write_hugging_face(tmp_path / "source", sizes, with_outliers(sizes))
    config, weights = load(source)
    expected = logits(config, weights)
    found = logits(*smoothed(config, weights, tokens))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("tokens", [CALIBRATION, []], ids=["calibrated", "rotated only"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.file_name)
def test_smoothed_weights_of_every_family_compute_the_same_logits(
    case: Case, tokens: list[list[int]], tmp_path: Path
) -> None:
    config, weights = load(write(case, tmp_path / "source"))
    expected = logits(config, weights)
    found = logits(*smoothed(config, weights, tokens))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_outlier_channels_cost_the_int8_program_little(tmp_path: Path) -> None:
    sizes = Tiny()
    even = int8_error(sizes, tiny.random_weights(sizes), tmp_path / "even")
    assert int8_error(sizes, with_outliers(sizes), tmp_path / "outliers") < 1.5 * even


def test_scaling_down_removes_most_of_the_error_that_its_input_channels_cause() -> None:
    random = np.random.default_rng(3)
    inner, down = random.normal(size=[50, 96]), random.normal(size=[64, 96])
    inner[:, [5, 40]] *= 60
    down[:, [5, 40]] /= 60
    rows = tf.constant(inner, tf.float32)
    weight = down.astype(np.float32)
    scale = down_scale(rows, weight, tf.ones(50))
    ranges = np.ptp(inner / scale, axis=1) * np.linalg.norm(down * scale)
    plain = np.ptp(inner, axis=1) * np.linalg.norm(down)
    assert ranges.mean() < plain.mean() / 5


def test_smoothing_is_deterministic_and_scales_down(tmp_path: Path) -> None:
    sizes = Tiny()
    source = tiny.write_hugging_face(tmp_path / "source", sizes, with_outliers(sizes))
    config, weights = load(source)
    first, second = (smoothed(config, weights, CALIBRATION)[1] for _ in range(2))
    for one, other in zip(first.leaves(), second.leaves(), strict=True):
        np.testing.assert_array_equal(one, other)
    _, rotated = smoothed(config, weights, [])
    assert not np.allclose(rotated.layers[0].down.weight, first.layers[0].down.weight)


def test_a_channel_that_is_always_zero_stays_finite(tmp_path: Path) -> None:
    sizes = Tiny()
    source = tiny.write_hugging_face(tmp_path / "source", sizes, tiny.random_weights(sizes))
    config, weights = load(source)
    layers = tuple(
        dataclasses.replace(layer, up=Affine(np.zeros_like(layer.up.weight))) for layer in weights.layers
    )
    _, result = smoothed(config, dataclasses.replace(weights, layers=layers), CALIBRATION)
    assert all(np.isfinite(weight).all() for weight in result.leaves())


@pytest.mark.parametrize("size", [1, 2, 60, 577])
def test_rotation_is_orthogonal_for_any_size(size: int) -> None:
    matrix = orthogonal(size).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)


def test_calibration_texts_fit_the_context_and_none_is_empty() -> None:
    lengths = [len(ids) for ids in calibration_tokens(tiny.tokenizer().to_str(), 16)]
    assert lengths == [16] * 4

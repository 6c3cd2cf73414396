"""The two halves of a model as programs for other runtimes: torch.export, ONNX, and ONNX in 8-bit integers.

Decoder: ``latents`` (N, D) to ``images`` (N, C, H, W) in [-1, 1]. Encoder: ``images`` to ``mean`` and ``log_variance``, each (N, D). N
is free. A class-conditional model takes ``labels`` (N,), int64, beside. Integers are those of Krishnamoorthi, Quantizing deep
convolutional networks for efficient inference (2018): static, symmetric, a scale for each output channel of a weight.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae.artefact import Generator

PARTS = ("decoder", "encoder")
OUTPUTS = {"decoder": ["images"], "encoder": ["mean", "log_variance"]}
INTEGER_OPERATIONS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]  # where the weights are
MOST_ROWS, EXAMPLE_ROWS = 65_536, 2
Feeds = dict[str, np.ndarray]


class ExportError(ValueError):
    """A network that a runtime has no words for."""


class Half(nn.Module):
    """One half of a model, as a function of tensors."""

    def __init__(self, generator: Generator, part: str) -> None:
        super().__init__()
        self.model, self.part, self.classes = generator.model, part, generator.config.classes

    def forward(self, rows: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.part == "decoder":
            return (self.model.sample(rows, labels),)
        return self.model.encode(rows, labels)


def feeds(generator: Generator, part: str, rows: Tensor, label_N: Tensor | None) -> Feeds:
    """Inputs by name."""
    found = {"latents" if part == "decoder" else "images": rows.numpy()}
    return found if label_N is None else found | {"labels": label_N.numpy()}


def _example(generator: Generator, part: str) -> tuple[Tensor, ...]:
    height, width, channels = generator.config.image_shape
    shape = (generator.model.latent_dim,) if part == "decoder" else (channels, height, width)
    rows = torch.linspace(-1, 1, EXAMPLE_ROWS)[:, None].expand(EXAMPLE_ROWS, int(np.prod(shape))).reshape(EXAMPLE_ROWS, *shape)
    labels = (torch.zeros(EXAMPLE_ROWS, dtype=torch.long),) if generator.config.classes else ()
    return (rows.contiguous(), *labels)


def program(generator: Generator, part: str) -> torch.export.ExportedProgram:
    """A half as torch.export has it; ExportError where it cannot be traced."""
    example, free = _example(generator, part), torch.export.Dim("n", min=1, max=MOST_ROWS)
    names = ("rows", "labels")[: len(example)]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to itself
            return torch.export.export(
                Half(generator, part).eval(), example, dynamic_shapes={name: {0: free} for name in names}, strict=False
            )
    except Exception as error:  # whatever torch.export makes of a network
        raise ExportError(f"the {part} of {generator.config.name} cannot be exported: {_first_line(error)}") from None


def write_onnx(generator: Generator, part: str, path: Path) -> None:
    """A half as one ONNX file; ExportError where ONNX has no words for it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    found = program(generator, part)
    names = ["latents" if part == "decoder" else "images", *(["labels"] if generator.config.classes else [])]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(found, dynamo=True, input_names=names, output_names=OUTPUTS[part], verbose=False)
        assert made is not None
        made.save(str(path), external_data=False)
    except Exception as error:  # likewise
        raise ExportError(f"the {part} of {generator.config.name} cannot be written as ONNX: {_first_line(error)}") from None


def write_integers(source: Path, path: Path, calibration: Iterator[Feeds]) -> None:
    """The ONNX file ``source`` with 8-bit weights and activations, whose ranges are those that the calibration's inputs show."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> Feeds | None:
            return next(calibration, None)

    logging.getLogger().addFilter(_quiet)
    try:
        with tempfile.TemporaryDirectory() as folder:
            folded = Path(folder) / "folded.onnx"
            quant_pre_process(str(source), str(folded))
            quantize_static(
                str(folded), str(path), Reader(), op_types_to_quantize=INTEGER_OPERATIONS, per_channel=True,
                quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
    finally:
        logging.getLogger().removeFilter(_quiet)


def _quiet(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING  # that a bias has no channels


def session(path: Path, threads: int) -> Any:
    """An ONNX file, ready to run on processors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__

"""`vae export`: a model in another form, measured beside PyTorch on this workspace's images; what misses its bounds is not written.

The folder holds the halves (decoder, encoder), the fitted prior, what says how pictures become the model's images, and export.json with
the measured table. ``int8`` ranges come from training images; FCD is by the extractor and the test images of stage evaluate.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from tqdm import tqdm

from pipeline import params
from pipeline.errors import BadDataError, InputMissingError, TrainingFailedError
from pipeline.export_table import SMALLER, Row, misses, table
from pipeline.paths import Paths
from vae.artefact import Generator, load_artefact, save_artefact, save_description
from vae.config import ModelConfig
from vae.data import ImageShards
from vae.export import PARTS, ExportError, Feeds, Half, feeds, program, session, write_integers, write_onnx
from vae.extractor import Extractor, load_extractor
from vae.files import canonical_json, replaced_directory, write_manifest, write_text
from vae.images import to_model_range, to_uint8
from vae.metrics.frechet import Moments, frechet_distance, minimum_samples, moments
from vae.metrics.terms import psnr_db
from vae.models.base import VAE
from vae.smaller import pruned, student, taught

WHOLE = ("safetensors", *SMALLER)  # forms that this project loads
TAUGHT_BY_IMAGES = ("int8", *SMALLER)
SUFFIX = {"onnx": ".onnx", "int8": ".onnx", "torch-export": ".pt2"}
ROWS, CALIBRATED, COMPARED, TIMED, THREADS = 64, 1024, 256, 40, 1
TOLD = "export.json"  # what makes a folder an export
TAUGHT = 128_000  # images that a smaller network is taught by
log = logging.getLogger("pipeline.export")
Run = Callable[[str, Tensor, Tensor | None], tuple[Tensor, ...]]  # a part, its rows, labels


@dataclass(frozen=True)
class Images:
    """What a form is measured by: training and test images with labels, and the network of FCD."""

    train: ImageShards
    test: ImageShards
    network: Extractor
    samples: int
    seed: int


def images_of(paths: Paths) -> Images:
    """Those of this workspace; InputMissingError where stages have not made them."""
    for place in (paths.processed / "train", paths.processed / "test", paths.extractor):
        if not place.is_dir():
            raise InputMissingError(f"{place} is missing, by which an export is calibrated and measured: `make run` first")
    values = params.load(paths.params, ("base.seed", "evaluate.samples"))
    network, _ = load_extractor(paths.extractor)
    train, test = (ImageShards(paths.processed / split) for split in ("train", "test"))
    return Images(train, test, network, values.evaluate.samples, values.base.seed)


def _of_torch(generator: Generator) -> Run:
    halves = {part: Half(generator, part) for part in PARTS}

    def run(part: str, rows: Tensor, label_N: Tensor | None) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return halves[part](rows, label_N)

    return run


def _of_onnx(generator: Generator, folder: Path) -> Run:
    sessions = {part: session(folder / f"{part}.onnx", THREADS) for part in PARTS}

    def run(part: str, rows: Tensor, label_N: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, sessions[part].run(None, feeds(generator, part, rows, label_N))))

    return run


def _of_program(folder: Path) -> Run:
    modules = {part: torch.export.load(folder / f"{part}.pt2").module() for part in PARTS}

    def run(part: str, rows: Tensor, label_N: Tensor | None) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(modules[part](rows, *(() if label_N is None else (label_N,))))

    return run


def _calibration(generator: Generator, part: str, images: Images) -> Iterator[Feeds]:
    pixels, label_N = images.train.labelled(CALIBRATED)
    label_N = label_N if generator.config.classes else None
    known = generator.encode(pixels, label_N)[0] if part == "decoder" else to_model_range(torch.from_numpy(pixels))
    drawn_N = generator.classes(CALIBRATED, images.seed)
    sampled = generator.latents(CALIBRATED, images.seed, 1.0, drawn_N) if part == "decoder" else known[:0]
    for rows, labels in ((known, label_N), (sampled, drawn_N)):  # where latents of images lie, and where those of samples do
        for start in range(0, len(rows), ROWS):
            s = slice(start, start + ROWS)
            yield feeds(generator, part, rows[s], None if labels is None else labels[s])


def _smaller(generator: Generator, form: str, images: Images) -> tuple[VAE, ModelConfig]:
    pupil, config = pruned(generator) if form == "pruned" else student(generator, images.seed)
    with tqdm(total=TAUGHT, unit="images", desc=form, disable=None) as shown:
        taught(generator, pupil, images.train, TAUGHT, images.seed, lambda done, of: shown.update(TAUGHT // of))
    return pupil, config


def write(generator: Generator, form: str, folder: Path, images: Images) -> Run:
    """The model as ``form`` into an empty folder; returns how to run what was written. ExportError where the form cannot hold it."""
    if form in TAUGHT_BY_IMAGES and generator.contract.get("privacy"):
        raise ExportError(
            f"{form} learns from the training images anew, and what the private training promises of them would not hold: "
            "use onnx, torch-export or safetensors"
        )
    if form in WHOLE:
        model, config = _smaller(generator, form, images) if form in SMALLER else (generator.model, generator.config)
        save_artefact(folder, Generator(model, config, generator.prior, generator.contract))
        return _of_torch(load_artefact(folder))
    save_description(folder, generator)
    for part in PARTS:
        path = folder / f"{part}{SUFFIX[form]}"
        if form == "torch-export":
            torch.export.save(program(generator, part), path)
            continue
        write_onnx(generator, part, path)
        if form == "int8":
            whole = path.rename(folder / f"{part}-whole.onnx")
            write_integers(whole, path, _calibration(generator, part, images))
            whole.unlink()
    return _of_program(folder) if form == "torch-export" else _of_onnx(generator, folder)


def _each(run: Run, part: str, rows: Tensor, label_N: Tensor | None) -> tuple[Tensor, ...]:
    found = [
        run(part, rows[start : start + ROWS], None if label_N is None else label_N[start : start + ROWS])
        for start in range(0, len(rows), ROWS)
    ]
    return tuple(map(torch.cat, zip(*found, strict=True)))


def _milliseconds(run: Run, z_ND: Tensor, label_N: Tensor | None) -> float:
    seconds = []
    for _ in range(TIMED + 3):  # the first ones warm up
        begun = time.perf_counter()
        run("decoder", z_ND, label_N)
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[3:])


@dataclass(frozen=True)
class Yardstick:
    """What every form is asked, and what PyTorch answers: computed once."""

    pixels_NHWC: Tensor  # test images
    label_N: Tensor | None
    z_ND: Tensor  # of samples
    drawn_N: Tensor | None
    answers: tuple[Tensor, ...]  # PyTorch's: mean and log-variance of the test images, images of the samples
    real: Moments | None  # of all test images; None: too few for FCD
    network: Extractor

    @classmethod
    def of(cls, generator: Generator, images: Images) -> Self:
        """That of a model."""
        pixels, label_N = images.test.labelled(COMPARED)
        drawn_N = generator.classes(images.samples, images.seed)
        enough = min(len(images.test), images.samples) >= minimum_samples(images.network.config.feature_dim)
        found = cls(
            torch.from_numpy(pixels), label_N if generator.config.classes else None,
            generator.latents(images.samples, images.seed, 1.0, drawn_N), drawn_N, (),
            moments(images.network.features(images.test.slice(0, len(images.test)))) if enough else None, images.network,
        )  # fmt: skip
        return replace(found, answers=found.asked(_of_torch(generator)))

    def asked(self, run: Run) -> tuple[Tensor, ...]:
        """What a form answers."""
        posterior = _each(run, "encoder", to_model_range(self.pixels_NHWC), self.label_N)
        return (*posterior, *_each(run, "decoder", self.z_ND, self.drawn_N))

    def measured(self, form: str, run: Run, size_bytes: int) -> Row:
        """A line of the table: the decoder's time, how far both halves are from PyTorch, PSNR and FCD."""
        mean_ND, _, drawn = found = self.asked(run)
        (copies,) = _each(run, "decoder", mean_ND, self.label_N)
        few = None if self.drawn_N is None else self.drawn_N[:ROWS]
        return Row(
            form=form, size_mib=size_bytes / 2**20,
            ms_of_1=_milliseconds(run, self.z_ND[:1], None if few is None else few[:1]),
            ms_of_64=_milliseconds(run, self.z_ND[:ROWS], few),
            difference=max(float((own - theirs).abs().max()) for own, theirs in zip(found, self.answers, strict=True)),
            psnr_db=float(psnr_db(self.pixels_NHWC, to_uint8(copies)).mean()),
            fcd=frechet_distance(self.real, moments(self.network.features(to_uint8(drawn).numpy()))) if self.real else None,
        )  # fmt: skip


def _bytes(folder: Path) -> int:
    halves = [path for path in folder.iterdir() if path.stem in (*PARTS, "model")]
    return sum(path.stat().st_size for path in halves)


def export(generator: Generator, form: str, target: Path, paths: Paths, force: bool) -> str:
    """Write the model as ``form`` to the folder ``target``, if it keeps its bounds (or ``force``); returns the table.

    BadDataError where ``target`` is something else, TrainingFailedError with the bounds that it misses, ExportError where the form
    cannot hold the network.
    """
    if target.exists() and not (target / TOLD).exists():
        raise BadDataError(f"{target} exists and is no export, which alone is replaced: choose another folder")
    torch.set_num_threads(THREADS)
    images = images_of(paths)
    log.info("PyTorch, on one thread")
    yardstick = Yardstick.of(generator, images)
    whole_bytes = sum(tensor.numel() * tensor.element_size() for tensor in generator.model.state_dict().values())
    whole = yardstick.measured("pytorch", _of_torch(generator), whole_bytes)
    with replaced_directory(target) as folder:
        log.info("%s", form)
        run = write(generator, form, folder, images)
        row = yardstick.measured(form, run, _bytes(folder))
        shown, wrong = table([whole, row]), misses(row, whole)
        if wrong and not force:
            log.info("what was measured\n%s", shown)
            raise TrainingFailedError(f"nothing is written: {form} {'; '.join(wrong)} (--force writes it)")
        write_text(folder / TOLD, canonical_json({"rows": [asdict(whole), asdict(row)], "misses": wrong}))
        write_manifest(folder)
    return "\n".join([shown, *(f"{form} {each}: written by --force" for each in wrong)])

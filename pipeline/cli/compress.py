"""``vae compress`` and ``vae decompress``: pictures to one small file and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import reference
from pipeline.cli.app import ended
from pipeline.cli.files import STANDARD, check_output, read_images_as_they_are, write_images
from pipeline.cli.models import COLUMNS, Model
from pipeline.errors import BadConfigError, BadDataError, InputMissingError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION
from vae import compress as codec
from vae.codec.container import LOSSLESS, Container, DamagedFileError
from vae.files import replaced_file
from vae.metrics.terms import mean_psnr_db

SUFFIX = ".vaec"
PLAIN = ("L", "RGB")  # modes that files have and a screen shows as they are


def compress(
    images: Annotated[list[str], typer.Argument(help="pictures of the model's size, folders of them, or - for standard input")],
    model: Model = CHAMPION,
    lossless: Annotated[bool, typer.Option("--lossless", help="every pixel comes back as it is")] = False,
    step: Annotated[
        float,
        typer.Option(help="of quantisation, in standard deviations of the posterior: more is smaller and worse; 0.25 to 64"),
    ] = 3.5,
    out: Annotated[
        str, typer.Option("--out", "-o", help=f"the file; - is standard output. Default: pictures{SUFFIX}")
    ] = f"pictures{SUFFIX}",
) -> None:
    """Pictures as one small file that this very model can open.

    vae compress photos/ -o photos.vaec · vae compress scan.png --lossless · vae decompress photos.vaec -o photos-again
    """

    def work() -> None:
        called, generator = reference.load(model, Paths.here())
        if lossless and generator.contract["mode"] not in PLAIN:
            raise BadConfigError(
                f"--lossless: pictures of this model ({generator.contract['mode']}) are not files: {', '.join(PLAIN)} are"
            )
        names, pixels = read_images_as_they_are(images, generator, lossless)
        stems = tuple(Path(name).stem for name in names)
        try:
            if lossless:
                found = codec.compress_lossless(generator, pixels, called, stems)
            else:
                found = codec.compress(generator, pixels, step, called, stems)
        except ValueError as error:
            raise BadConfigError(f"--step, --model: {error}") from None
        content = found.container.pack()
        if out == STANDARD:
            sys.stdout.buffer.write(content)
        else:
            with replaced_file(Path(out)) as beside:
                beside.write_bytes(content)
        quality = "lossless" if lossless else f"{mean_psnr_db(found.images_NHWC, pixels):.2f} dB"
        told = f"{found.container.payload_bytes:,} of payload, {found.estimated_bits / 8:,.0f} foreseen"
        print(f"{len(pixels):,} pictures, {quality}: {len(content):,} bytes ({told}) in {out}", file=sys.stderr)

    ended("compress", work)


def decompress(
    file: Annotated[str, typer.Argument(help=f"a {SUFFIX} file, or - for standard input")],
    model: Model = CHAMPION,
    out: Annotated[str, typer.Option("--out", "-o", help="folder, .png (a grid), .npz, or - (a PNG)")] = "decompressed",
) -> None:
    """The pictures of a file that `vae compress` made; a damaged one, or one of another model, is refused.

    vae decompress photos.vaec -o photos-again
    """

    def work() -> None:
        check_output(out)
        if file != STANDARD and not Path(file).is_file():
            raise InputMissingError(f"{file} does not exist: name a file of `vae compress`")
        content = sys.stdin.buffer.read() if file == STANDARD else Path(file).read_bytes()
        try:
            container = Container.unpack(content)
            called, generator = reference.load(model, Paths.here())
            found = codec.decompress(generator, container)
        except DamagedFileError as error:
            raise BadDataError(f"{file} cannot be used: {error}") from None
        except codec.OtherModelError as error:
            raise BadConfigError(f"{file} cannot be opened with {model}: {error}") from None
        except ValueError as error:
            raise BadDataError(f"{file} cannot be used: {error}") from None
        told = write_images(found, generator.contract["mode"], out, COLUMNS, container.names)
        print(f"{called} opened {told}{', to the last bit' if container.way == LOSSLESS else ''}", file=sys.stderr)

    ended("decompress", work)


def add_to(app: typer.Typer) -> None:
    """Make the functions of this file commands."""
    for command in (compress, decompress):
        app.command()(command)

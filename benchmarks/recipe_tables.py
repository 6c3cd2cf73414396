"""The tables of the recipes' pages."""

from __future__ import annotations

from statistics import median

from benchmarks.markdown import lines, measured_on, read

SETS = {"sprites": "sprites", "mnist": "MNIST", "cifar10": "CIFAR-10", "mnist-png": "MNIST"}
NOTHING = "Not measured yet."
SHOWN_CANDIDATES, SHOWN_TEMPERATURE = (1, 4, 16), 0.8


def transfer() -> str:
    """Of every way to begin its best bound and how soon it is where training anew ends (benchmarks/transfer.py)."""
    found, rows = read("transfer"), []
    if not found:
        return NOTHING
    for name, measured in found.items():
        goal = measured["anew"]["images_to_best_anew"]
        for way, told in measured.items():
            if way == "machine":
                continue
            reached = told.get("images_to_best_anew")
            none = "not with every seed" if told["best_elbo_nats"] > measured["anew"]["best_elbo_nats"] else "never"
            share = none if reached is None else f"{reached:,.0f} ({100 * reached / goal:.0f} %)"
            rows.append(
                (name if way == "anew" else "", way, f"{told['learning_rate']:g}", f"{told['best_elbo_nats']:.1f}", share)
            )
    head = ("data", "begun", "learning rate", "best bound, nats", "images seen where it is at the best bound of anew")
    return f"{lines(head, rows)}\n\n{measured_on(*found.values())}"


def restyle() -> str:
    """What each move did to every factor (benchmarks/restyle.py)."""
    found, rows = read("restyle"), []
    if not found:
        return NOTHING
    names = ("scale", "orientation", "x", "y")
    for name in names:
        told = found[name]
        cells = [f"**{told['moved']:.2f}**" if other == name else f"{told['others'][other]:.2f}" for other in names]
        rows.append((f"{name} by {told['asked']:g}", *cells, f"{told['shape_kept']:.0%} kept"))
    heart = found["heart"]
    rows.append(("shape to heart", *(f"{heart['others'][name]:.2f}" for name in names), f"**{heart['shape_is']:.0%} hearts**"))
    for key, title in (("reconstructions", "nothing: reconstructions against the truth"), ("judge", "the judge's own error")):
        rows.append((title, *(f"{found[key][name]:.2f}" for name in names), f"{found[key]['shape_right']:.0%} right"))
    head = ("moved", *names, "shape")
    return f"{lines(head, rows)}\n\n{found['images']} test images. {measured_on(found)}"


def testdata() -> str:
    """Both forms of a data set (benchmarks/testdata.py)."""
    found = read("testdata")
    if not found:
        return NOTHING
    rows = [
        (
            form, f"{told['seconds']:.0f}", f"{told['images_per_second']:,}", f"{told['files']:,}", f"{told['bytes'] / 2**20:.0f}",
            f"{told['peak_mib']:,}", f"{told['again_seconds']:.0f}",
        )
        for form, told in found.items()
        if isinstance(told, dict)
    ]  # fmt: skip
    head = ("form", "seconds", "images/s", "files", "MiB on the disk", "MiB of memory at most", "seconds to check it again")
    return f"{lines(head, rows)}\n\n{found['images']:,} images of the embedded data set's size. {measured_on(found)}"


def inpaint() -> str:
    """PSNR of the missing pixels by every way (benchmarks/inpaint.py)."""
    found = read("inpaint")
    if not found:
        return NOTHING
    ways = {"inpaint": "`vae inpaint`", "encoder": "encoder alone", "laplace": "Laplace", "even": "even filling"}
    rows = [(name, *(f"{told[way]:.1f}" for way in ways)) for name, told in found["psnr_db"].items()]
    head = ("missing", *ways.values())
    return f"{lines(head, rows)}\n\nPSNR of the missing pixels in dB, {found['images']} test sprites. {measured_on(found)}"


def denoise() -> str:
    """PSNR by every way, of both sets (benchmarks/denoise.py)."""
    found = read("denoise")
    if not found:
        return NOTHING
    ways = {
        "input": "the input", "gaussian": "Gaussian", "median": "median", "nl_means": "non-local means", "mean": "ours, one pass",
        "model": "ours, mean of 16",
    }  # fmt: skip
    rows = [
        (f"{SETS[name]}, {told['sigma_levels']:g}", *(f"{told['psnr_db'][way]:.2f}" for way in ways),
         f"{told['trained_seconds'] / 60:.0f}")
        for name, told in found.items()
    ]  # fmt: skip
    head = ("noise of levels", *ways.values(), "minutes of training")
    images = next(iter(found.values()))["images"]
    return f"{lines(head, rows)}\n\nPSNR in dB, the mean over {images:,} test images. {measured_on(*found.values())}"


def codec() -> str:
    """BD-rates against JPEG, of the front of all models (benchmarks/codec.py)."""
    found, rows = read("codec"), []
    if not found:
        return NOTHING
    for name, told in found.items():
        for way, common in told["common_psnr_db"].items():
            cells = [told["bd_rate_percent"][size][way] for size in ("payload", "files", "mosaics")]
            numbers = ["none in common" if cell is None else f"{cell:.0f} %" for cell in cells]
            called = way.replace("jpeg", "JPEG")
            rows.append((f"{SETS[name]} against {called}", *numbers, "{:.1f} to {:.1f}".format(*common)))
    head = ("BD-rate", "payload", "files of a picture each", "mosaics of 100", "at PSNRs, dB")
    return f"{lines(head, rows)}\n\n{measured_on(*found.values())}"


def codec_lossless() -> str:
    """Bytes of a picture by every model and by PNG and WebP (benchmarks/codec.py)."""
    found, rows = read("codec"), []
    if not found:
        return NOTHING
    for name, told in found.items():
        for model, each in told["lossless"].items():
            over = 100 * (each["file_bytes"] / each["bound_bytes"] - 1)
            sizes = f"{each['bound_bytes']:.1f}", f"{each['file_bytes']:.1f} ({over:+.1f} %)", f"{each['alone_bytes']:.0f}"
            rows.append((SETS[name], f"ours, {model.replace('beta', 'β')}", *sizes, f"{told['images'] / each['seconds']:.0f}"))
        for way, called in (("png", "PNG"), ("webp", "WebP")):
            each = told["other_lossless"][way]
            rows.append((SETS[name], called, "", f"{each['mosaic_bytes']:.1f}", f"{each['alone_bytes']:.0f}", ""))
    together = "in one file (1,000; of PNG, WebP: mosaics of 100)"
    head = ("data", "coder", "the model's bound", together, "a file each", "pictures/s")
    return lines(head, rows)


def private() -> str:
    """What each budget is worth on MNIST (benchmarks/private.py)."""
    found, rows = read("private"), []
    if not found:
        return NOTHING
    for name, told in sorted(
        found.items(), key=lambda row: -(row[1]["privacy"] or {"epsilon": 1e9 + (row[0] == "free")})["epsilon"]
    ):
        spent = told["privacy"]
        none = "none, trained as suits it" if name == "free" else "none, trained in the same way"
        budget = f"{spent['epsilon']:.2f}, {spent['delta']:g}" if spent else none
        rows.append((budget, f"{told['accuracy_of_drawn']:.1%}", f"{told['membership_auc']:.3f}", f"{told['val_elbo_nats']:.1f}",
                     f"{spent['noise_multiplier']:.3f}" if spent else "", f"{told['trained_seconds'] / 60:.0f}"))  # fmt: skip
    real = [told["accuracy_of_real"] for told in found.values() if "accuracy_of_real" in told]
    judged = "classifier of drawn images, on real ones"
    head = ("epsilon, delta", judged, "membership, AUC", "bound, nats", "noise multiplier", "minutes")
    beside = f"The classifier of as many real images: {real[0]:.1%}. " if real else ""
    return f"{lines(head, rows)}\n\n{beside}{measured_on(*found.values())}"


def vaegan() -> str:
    """FCD through both extractors of every way, with the range over seeds (benchmarks/vaegan.py)."""
    found, rows = read("vaegan").get("cifar10"), []
    if not found:
        return NOTHING
    floor = found["real test images"]
    rows.append(("real test images", "", "", *(f"{floor[key]['fcd']:.2f}" for key in floor), *("" for _ in floor), "", ""))
    for way, runs in found["ways"].items():
        fcds = [[run[what][key]["fcd"] for run in runs] for what in ("samples", "reconstructions") for key in floor]
        cells = [f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in fcds]
        images, minutes, psnr = (median(run[name] for run in runs) for name in ("images", "minutes", "psnr_db"))
        rows.append(
            (way, f"{minutes:.2f}", f"{images:,.0f}", *cells, f"{psnr:.2f}", f"{median(run['elbo_nats'] for run in runs):,.0f}")
        )
    names = [f"FCD of {what}, extractor {key}" for what in ("samples", "reconstructions") for key in floor]
    head = ("CIFAR-10", "minutes", "images seen", *names, "PSNR, dB", "bound, nats")
    return f"{lines(head, rows)}\n\nMedians of {len(runs)} seeds and their range. {measured_on(found)}"


def video() -> str:
    """PSNR of frames between others by gap, of every weight of the smoothness term (benchmarks/video.py)."""
    found = read("video").get("moving sprites")
    if not found:
        return NOTHING
    weights = found["weights"]
    gaps = sorted(weights["0"]["psnr_db"], key=int)
    ways = {
        "inbetween": "`vae inbetween`",
        "redraw": "the model alone (`--redraw`)",
        "reconstruction": "that frame itself, reconstructed",
    }
    rows = [("cross-fade", "", *(f"{weights['0']['psnr_db'][gap]['fade']:.1f}" for gap in gaps), "")]
    for way, called in ways.items():
        for weight, told in weights.items():
            cells = [f"{told['psnr_db'][gap][way]:.1f}" for gap in gaps]
            rows.append((called, weight, *cells, f"{told['val_elbo_nats']:.1f}" if way == "inbetween" else ""))
    head = ("the frame in the middle of two", "smoothness", *(f"{gap} apart" for gap in gaps), "bound, nats")
    return f"{lines(head, rows)}\n\nPSNR in dB, medians of three seeds, {found['clips']} clips. {measured_on(found)}"


def best_of() -> str:
    """Precision, coverage and FCD of every way to choose, and of a lower temperature (benchmarks/best_of.py)."""
    found, rows = read("best-of-n"), []
    if not found:
        return NOTHING
    for name, measured in found.items():
        for i, row in enumerate(
            each
            for each in measured["rows"]
            if each["candidates"] in SHOWN_CANDIDATES
            and each["temperature"] in (1, SHOWN_TEMPERATURE)
            and (each["candidates"] > 1 or each["way"] in ("density", "temperature"))
            and not (each["way"] == "temperature" and each["temperature"] == 1)
        ):
            one = row["candidates"] == 1 and row["temperature"] == 1
            way = "single draws" if one else row["way"] if row["candidates"] > 1 else f"temperature {row['temperature']:g}"
            numbers = [f"{row[key]:.3f}" for key in ("precision", "coverage")] + [
                f"{row[key]:.2f}" for key in ("fcd", "fcd_second")
            ]
            rows.append((SETS.get(name, name) if not i else "", way, f"{row['candidates']:.0f}", *numbers))
    head = ("data", "kept", "candidates", "precision", "coverage", "FCD", "FCD, second network")
    return f"{lines(head, rows)}\n\n{measured_on(*found.values())}"

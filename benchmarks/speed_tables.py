"""The tables of docs/speed.md: training against others, what it costs beside the steps, and images on their way in."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import lines, measured_on, read

NETWORKS = {"wide": "32-64-128-256 channels", "narrow": "8-16-32-64"}
DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


def _ratio(found: dict[str, Any], name: str) -> str:
    value = found["ratios"].get(name)
    return "" if value is None else f"{value:.2f}"


def against() -> str:
    """Ours and a loop by hand, pythae's and lightning's trainers."""
    found, rows, measured = read("train"), [], []
    for network, channels in NETWORKS.items():
        for data, title in DATA.items():
            if not (row := found.get(f"{network}-{data}")):
                continue
            measured.append(row)
            for threads in ("1", "2"):
                each = row[threads]
                how = each["hand_and_ours"]
                rows.append((
                    f"{network} ({channels}), {title}", threads, f"{how['precision']}, {how['memory_format']}",
                    f"{each['images_per_second']['hand']:,.0f}",
                    *(_ratio(each, f"ours / {who}") for who in ("hand", "pythae", "lightning")),
                ))  # fmt: skip
    head = ("network", "threads", "best by hand", "by hand, images/s", "ours / hand", "ours / pythae", "ours / lightning")
    return f"{lines(head, rows)}\n\n{measured_on(*measured)}"


def grouped() -> str:
    """The same training in plain Python and under Ray Train."""
    found, rows = read("train"), []
    for network in NETWORKS:
        for data, title in DATA.items():
            if row := found.get(f"ray-{network}-{data}"):
                told = (_ratio(row, name) for name in ("ray 1x1 / plain", "ray 2x1 / ray 1x2", "ray 2x1 / ray 1x1"))
                rows.append((f"{network}, {title}", *told))
    head = (
        "network",
        "1 worker / plain Python",
        "2 workers of 1 thread / 1 of 2 threads",
        "2 workers / 1 worker, of 1 thread each",
    )
    return lines(head, rows)


def beside() -> str:
    """What is not a step: checkpoints, exactness, reports, torch.compile, the start, memory."""
    found, rows = read("train"), []
    for name, cost in found["overhead"]["checkpoint"].items():
        share = f"{100 * cost['share_of_epoch']:.2f} % of an epoch of 60,000 images"
        rows.append((f"a checkpoint, {name.replace('1 threads', '1 thread')}", f"{1000 * cost['seconds_each']:.0f} ms, {share}"))
    spool = found["overhead"]["spool"]
    rows.append(("a report to the spool (MLflow reads it elsewhere)", f"{1000 * spool['seconds_each']:.1f} ms"))
    for name, cost in found["exactness"].items():
        if isinstance(cost, dict):
            rows.append((f"exactness `resume` instead of `off`, {name}", f"{100 * cost['cost_of_resume']:+.1f} % of time"))
    for network in NETWORKS:
        for threads in ("1", "2"):
            ratio = found[f"compiled-{network}"][threads]["ratios"]["compiled / eager"]
            rows.append(
                (f"`compile: true`, {network}, {threads} thread{'s' * (threads > '1')}", f"{ratio:.2f} times the images/s")
            )
    seconds = found["start"]["seconds"]
    rows.append(("from the command to the first step, plain Python", f"{seconds['plain']:.1f} s"))
    rows.append(("... Ray, started for it, with two workers", f"{seconds['ray, 2 workers']:.1f} s"))
    rows.append(("... `python -m pipeline.train`, with Ray and MLflow", f"{seconds['stage train, 2 workers']:.1f} s"))
    bare, ours = seconds["ray, 2 workers that only meet"], found["start"]["ours_beside_ray_seconds"]
    told = f"{bare:.1f} s; the stage beside it, median of rounds, + {ours:.1f} s"
    rows.append(("... of which Ray's own: two workers that import torch and meet", told))
    for images in sorted((key for key in found["memory"] if key.isdigit()), key=int):
        each = found["memory"][images]
        told = f"{each['plain_mib']} MiB; each of two Ray workers {max(each['ray_workers_mib'])} MiB"
        rows.append((f"peak resident memory, {int(images):,} images of {each['data_mib']:,} MiB", told))
    return lines(("", "measured"), rows)


def ingest() -> str:
    """Images on their way in."""
    found, rows = read("ingest"), []
    for name, title in (("small", "JPEGs of 32x32 pixels"), ("photographs", "photographs of 12 megapixels")):
        each = found[name]
        told = f"{each['images_per_second']['ours']:,} images/s on {each['processes']} processes"
        rows.append((f"{each['files']:,} {title}", told, f"{each['ours_over_bare']:.2f} of a bare Pillow loop"))
    for count in sorted((key for key in found["scale"] if key.isdigit()), key=int):
        each = found["scale"][count]
        seconds = sum(each[stage]["seconds"] for stage in ("download", "preprocess"))
        peak = max(each[stage]["peak_mib"] for stage in ("download", "preprocess"))
        rows.append((f"{int(count):,} tiny images, both stages", f"{seconds:.0f} s", f"peak of a process {peak:,} MiB"))
    for name, title in (
        ("grow-digits", "PNGs of MNIST"),
        ("grow", "JPEGs of 128x128 pixels"),
        ("grow-pictures", "JPEGs of 640x480 pixels"),
        ("grow-photographs", "JPEGs of 1632x1224 pixels"),
    ):
        grow = found.get(name)
        if grow is None:
            continue
        parts = [
            f"{stage} {grow['whole'][stage]['seconds']:.0f} s, then {grow['grown'][stage]['seconds']:.1f} s"
            for stage in ("download", "preprocess")
        ]
        whole, grown = (sum(stage["seconds"] for stage in grow[when].values()) for when in ("whole", "grown"))
        of = f"{grow['images']:,} {title}, then {grow['added']} more"
        rows.append((of, "; ".join(parts), f"{100 * grown / whole:.1f} % of the time"))
    for name, title in (("mnist-png", "MNIST"), ("cifar10-jpg", "CIFAR-10, JPEG copy")):
        each = found["duplicates"][name]
        found_at_worst = f"{100 * min(each['recall'].values()):.0f} % found, at worst"
        real = f"{100 * each['groups_per_image']:.2f} % of the real ones in a group"
        rows.append((f"near duplicates planted in {each['images']:,} images of {title}", found_at_worst, real))
    return lines(("", "measured", ""), rows)

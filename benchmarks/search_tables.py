"""The tables of docs/search.md: what a search finds, what scores a trial, and what it costs."""

from __future__ import annotations

from benchmarks.markdown import lines, read

SEARCHED = {"sprites": "sprites", "mnist": "MNIST"}


def search() -> str:
    """A line for each data set on which the search was compared with the full grid."""
    rows = []
    measured = read("tune")
    for name, found in measured.items():
        if "behind" in found:
            again = measured.get(f"again-{name}")
            retrained = f"{100 * again['behind_median_again']:+.1f} %" if again else ""
            spread = f"{100 * min(found['behind']):+.1f} to {100 * max(found['behind']):+.1f} %"
            rows.append((
                SEARCHED[name.partition("-")[0]], found["score"], f"{found['searcher']}, {found['scheduler']}", str(len(found["behind"])),
                f"{100 * found['cost_median']:.0f} %",
                f"{100 * found['behind_median']:+.1f} %", spread, f"{100 * found['noise']:.1f} %", retrained,
            ))  # fmt: skip
    head = (
        "data", "score", "searcher, scheduler", "seeds", "images, of the grid's", "behind the grid's best, median", "range",
        "the grid's best point, spread over seeds", "both trained again",
    )  # fmt: skip
    return lines(head, rows)


def score_latents() -> str:
    """FCD by the number of latents that a prior is fitted to, as trials have it and as the trained model has it."""
    found = read("tune").get("latents", {})
    rows = [
        (f"{int(count):,}", f"{found[count]['fcd']:.2f}", f"{found[count]['seconds']:.1f}")
        for count in sorted((key for key in found if key.isdigit()), key=int)
    ]
    return lines(("latents", "FCD", "processor seconds of the fit"), rows)


def trial_costs() -> str:
    """What a trial costs beside its training."""
    found = read("tune")["start"]
    rows = [
        ("each trial more, beside its training", f"{found['seconds_for_each_trial_more']:.1f} s"),
        ("a search of two trials of one step each", f"{found['seconds_of_a_search_of_two']:.0f} s"),
        ("trials that train at the same moment", str(found["trials_at_once"])),
    ]
    return lines(("on two cores", "measured"), rows)

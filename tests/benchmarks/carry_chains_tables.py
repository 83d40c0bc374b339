"""Tables of what `carry_chains.py` measured, judged as its protocol says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import results
from scipy import stats

from hf_proxy.answers.pairs import compare_accuracy
from hf_proxy.recipes.library.carry_chains import LATENT, SOURCES

LEVEL = 0.95
LEAST_GAIN = 0.03  # a gain: at least so much, with a paired interval above 0
FORECASTS = {"LightReasoner 0.4": 0.4, "LightReasoner 0.1": 0.1}
SLOPPY = "sloppy documents, %"
_OVER_SEEDS = {"y": "mean", "low": "low", "high": "high", "y_label": "gain, points"}
_EVERYWHERE = [*FORECASTS, "no contrast", "rejection SFT, equal rows"]
# what a report draws: by the share of sloppy documents, by arm and by amateur where much is latent
GAINS = (
    {
        "kind": "groups",
        "caption": "gain by share of sloppy documents, mean over seeds and 95 % t-interval",
        "x": SLOPPY,
        "x_label": SLOPPY,
        "by": "arm",
        "where": {"amateur": ["normal"], "arm": _EVERYWHERE},
        **_OVER_SEEDS,
    },
    {
        "kind": "intervals",
        "caption": "gain of every arm at 55 % sloppy, mean over seeds and 95 % t-interval",
        "x": "arm",
        "where": {"amateur": ["normal"], "source": [LATENT]},
        **_OVER_SEEDS,
    },
    {
        "kind": "intervals",
        "caption": "gain of LightReasoner 0.1 at 55 % sloppy by amateur, 95 % t-interval",
        "x": "amateur",
        "where": {"source": [LATENT], "arm": ["LightReasoner 0.1"]},
        **_OVER_SEEDS,
    },
)
AGAINST = {
    "kind": "intervals",
    "caption": "LightReasoner 0.4 minus the other arms at 55 % sloppy, 95 % t-interval over seeds",
    "x": "arm",
    **_OVER_SEEDS,
    "y_label": "LightReasoner 0.4 minus it, points",
}
AGREEMENT = {
    "kind": "agreement",
    "caption": "gain foretold against gain that came, each seed and setting; dashed: equal",
    "x": "foretold by seed",
    "x_label": "gain foretold, points",
    "y": "came by seed",
    "y_label": "gain that came, points",
    "by": "beta",
}


def found_of(tables: Sequence[dict[str, Any]]) -> str:
    """What the protocol asked first, and how far foretelling can be trusted, in a sentence."""
    rows = {one["caption"]: one["rows"] for one in tables}
    gains = {(r["source"], r["amateur"], r["arm"]): r for r in rows["Gain after training"]}
    said = []
    for arm in ("LightReasoner 0.4", "no contrast"):
        if own := gains.get((LATENT, "normal", arm)):
            between = "" if own["low"] is None else f" [{own['low']:+.1f}, {own['high']:+.1f}]"
            said.append(f"{arm} {own['mean']:+.1f}{between}")
    found = f"Gain in points where {_percent(LATENT)} % is sloppy: {', '.join(said)}"
    judged = {row["settings"]: row for row in rows["Foretelling judged"]}
    if both := judged.get("both"):
        right = both["go"] - both["go, and no gain came"]
        found += f"; go, foretold before training, came true {right} times of {both['go']}"
        found += f", {both['gains without go']} of {both['gains']} gains came without it"
    return f"{found}."


def _percent(source: str) -> int:
    return round(100 * SOURCES[source])


def tables_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All tables; accuracies and gains in points."""
    found = {(row["source"], row["amateur"], row["arm"], row["seed"]): row for row in rows}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for (source, amateur, arm, seed), row in found.items():
        if arm in ("base", "foretold"):
            continue
        base = found[source, amateur, "base", seed]["right"]
        paired = compare_accuracy(_bits(base), _bits(row["right"]), level=LEVEL)
        groups.setdefault((source, amateur, arm), []).append(row | {"paired": paired})
    return [
        results.table("Accuracy before", _before(rows)),
        results.table(
            "Gain after training", [_gain(key, own) for key, own in groups.items()], *GAINS
        ),
        results.table("LightReasoner 0.4 against the other arms", _against(groups), AGAINST),
        results.table("Foretold and come", _forecasts(found, groups), AGREEMENT),
        results.table("Foretelling judged", _judged(found, groups)),
        results.table("Cost", _cost(rows)),
    ]


def _bits(text: str) -> np.ndarray:
    return np.array([mark == "1" for mark in text])


def _points(values: Sequence[float]) -> dict[str, Any]:
    """Each seed's, their mean, and its t-interval over seeds."""
    points = 100 * np.array(values)
    low = high = None
    if len(points) > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(points) - 1) * stats.sem(points))
        low, high = float(points.mean() - half), float(points.mean() + half)
    by_seed = [round(float(point), 1) for point in points]
    return {"mean": float(points.mean()), "low": low, "high": high, "by seed": by_seed}


def _before(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["arm"] == "base":
            groups.setdefault((row["source"], row["amateur"]), []).append(row)
    table = []
    for (source, amateur), own in groups.items():
        line: dict[str, Any] = {"source": source, "amateur": amateur}
        for name, column in (("right", "expert"), ("amateur_right", "amateur's accuracy")):
            line[column] = 100 * float(np.mean([_bits(row[name]).mean() for row in own]))
        line["expert by seed"] = [round(100 * float(_bits(row["right"]).mean()), 1) for row in own]
        table.append(line)
    return table


def _is_gain(paired: Any) -> bool:
    gained = 100 * (paired.only_b - paired.only_a)  # counted: 3 points are no binary fraction
    return paired.low > 0 and gained >= 100 * LEAST_GAIN * paired.num_problems


def _gain(key: tuple[str, str, str], own: list[dict[str, Any]]) -> dict[str, Any]:
    source, amateur, arm = key
    kept = [row["kept_tokens"] for row in own if "kept_tokens" in row]
    return {
        "source": source,
        SLOPPY: _percent(source),
        "amateur": amateur,
        "arm": arm,
        **_points([row["paired"].difference for row in own]),
        "seeds with a gain": sum(_is_gain(row["paired"]) for row in own),
        "seeds with a loss": sum(row["paired"].high < 0 for row in own),
        "seeds": len(own),
        "kept tokens": round(float(np.mean(kept))) if kept else None,
    }


def _against(groups: dict[tuple[str, str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    ours = {r["seed"]: r for r in groups.get((LATENT, "normal", "LightReasoner 0.4"), [])}
    table = []
    for (source, amateur, arm), own in groups.items():
        if (source, amateur) != (LATENT, "normal") or arm == "LightReasoner 0.4":
            continue
        pairs = [(ours[row["seed"]], row) for row in own if row["seed"] in ours]
        gaps = [a["paired"].difference - b["paired"].difference for a, b in pairs]
        if gaps:
            table.append({"arm": arm, **_points(gaps), "seeds": len(gaps)})
    return table


def _forecasts(found: dict, groups: dict) -> list[dict[str, Any]]:
    table = []
    for source, amateur, arm in groups:
        if arm not in FORECASTS:
            continue
        pairs = _pairs(found, groups, [(source, amateur, arm)])
        if not pairs:
            continue
        verdicts = [told["verdict"] for told, _ in pairs]
        table.append(
            {
                "source": source,
                "amateur": amateur,
                "beta": FORECASTS[arm],
                "foretold": 100 * float(np.mean([told["gain"] for told, _ in pairs])),
                "came": 100 * float(np.mean([paired.difference for _, paired in pairs])),
                **{name: verdicts.count(name) for name in ("go", "no evidence", "away")},
                "gains": sum(_is_gain(paired) for _, paired in pairs),
                "losses": sum(paired.high < 0 for _, paired in pairs),
                "foretold by seed": [round(100 * told["gain"], 1) for told, _ in pairs],
                "came by seed": [round(100 * paired.difference, 1) for _, paired in pairs],
            }
        )
    return table


def _pairs(found: dict, groups: dict, keys: Sequence[tuple[str, str, str]]) -> list[tuple]:
    """What was foretold of each setting and seed, and what came, on other problems."""
    pairs = []
    for source, amateur, arm in keys:
        for row in groups[source, amateur, arm]:
            forecast = found.get((source, amateur, "foretold", row["seed"]))
            for told in forecast["foretold"] if forecast else ():
                if told["divergence_beta"] == FORECASTS[arm]:
                    pairs.append((told, row["paired"]))
    return pairs


def _judged(found: dict, groups: dict) -> list[dict[str, Any]]:
    sets = {f"beta {beta:g}": [arm] for arm, beta in FORECASTS.items()} | {"both": list(FORECASTS)}
    table = []
    for name, arms in sets.items():
        pairs = _pairs(found, groups, [key for key in groups if key[2] in arms])
        if len(pairs) < 3:
            continue
        told = [forecast["gain"] for forecast, _ in pairs]
        came = [paired.difference for _, paired in pairs]
        said = [forecast["verdict"] for forecast, _ in pairs]
        gains = [_is_gain(paired) for _, paired in pairs]
        losses = [paired.high < 0 for _, paired in pairs]
        table.append(
            {
                "settings": name,
                "pairs": len(pairs),
                "Pearson": float(stats.pearsonr(told, came)[0]),
                "Spearman": float(stats.spearmanr(told, came)[0]),
                "go": said.count("go"),
                "go, and no gain came": sum(
                    s == "go" and not g for s, g in zip(said, gains, strict=True)
                ),
                "gains": sum(gains),
                "gains without go": sum(g and s != "go" for s, g in zip(said, gains, strict=True)),
                "away": said.count("away"),
                "away, and no loss came": sum(
                    s == "away" and not x for s, x in zip(said, losses, strict=True)
                ),
                "losses": sum(losses),
                "losses without away": sum(
                    x and s != "away" for s, x in zip(said, losses, strict=True)
                ),
            }
        )
    return table


def _cost(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds: dict[str, list[float]] = {}
    for row in rows:
        kind = row["arm"] if row["arm"] in ("base", "foretold") else "an arm"
        kinds.setdefault(kind, []).append(row["cpu_seconds"])
    return [
        {"what": kind, "number": len(own), "CPU seconds, sum": round(sum(own), 1)}
        for kind, own in kinds.items()
    ]

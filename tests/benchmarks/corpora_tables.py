"""Tables of what `corpora.py` measured, judged as its protocol says."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import results
from corpora_decisions import EDGES, choose, right_of, share_drawn
from corpora_studies import Study, studies_of
from scipy import stats

from hf_proxy import (
    compute_saving,
    decision_accuracy,
    kendall_tau,
    select_proxy,
    signal_to_noise,
)
from hf_proxy.intervals import LEVEL
from hf_proxy.prediction.averaging import fit_forms, predict
from hf_proxy.prediction.decisions import DETECTABLE
from hf_proxy.records.defaults import FORMS
from hf_proxy.records.errors import InputError
from hf_proxy.scoring.statistics import STATISTIC_NAMES, is_lower_better

BET = "inv_freq_top1"  # the one statistic that is named before the run
OWN = "own accuracy"
# predictor: its column, and whether it should be low
NAMED: dict[str, tuple[str, bool]] = {
    "rBridge": ("value", True),
    "R_phi": ("trace_nll", True),
    BET: (BET, False),
    "bits per byte": ("bits_per_byte", True),
    "gold-answer NLL": ("gold_nll", True),
    OWN: ("accuracy", False),
    "tokens seen": ("tokens", False),
}
# of the paper; the logarithm of the rank is ours
PAPER = tuple(name for name in STATISTIC_NAMES if "log_rank" not in name)
SHARE = "FLOPs over the target's"
DRAWN = [BET, "R_phi", "rBridge", OWN]  # over compute; more would hide each other
_SHARES = {"y": "one seed", "low": "low", "high": "high", "y_label": "decision accuracy, one seed"}
FOLDS = 5
NUM_SELECTIONS = 200  # draws of its floor


def tables_of(
    rows: Sequence[dict[str, Any]],
    graded: Sequence[str],
    ngrams: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """All tables: of the graded corpora, and of all with those apart."""
    every = list(dict.fromkeys(row["corpus"] for row in rows))
    sets = {"graded corpora": [name for name in every if name in graded], "all corpora": every}
    tables = [results.table("Accuracy, mean over seeds", accuracies(rows))]
    for name, corpora in sets.items():
        if name == "all corpora" and corpora == sets["graded corpora"]:
            continue
        studies = studies_of(rows, corpora, ngrams)
        about = f"{len(corpora)} {name}, {len(studies[0].seeds)} seeds"
        decisions = decision_rows(studies, ngrams or {})
        tables += [
            results.table(f"Decision accuracy, {about}", decisions, *figures_of(studies, about)),
            results.table(f"Decision accuracy at a glance, {about}", glance_rows(decisions)),
            results.table(f"The target's own noise, {about}", noise_rows(studies[0])),
            results.table(f"The statistics one by one, {about}", statistic_rows(studies)),
            results.table(f"Chosen among {len(PAPER)}, {about}", choice_rows(studies)),
            results.table(f"Compute saved against own accuracy, {about}", saving_rows(decisions)),
            results.table(f"Accuracy foretold, {about}", transfer_rows(studies)),
        ]
    return tables


def accuracies(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each corpus: every model at every point."""
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = table.setdefault(row["corpus"], {"corpus": row["corpus"]})
        for point in row["points"]:
            line.setdefault(f"{row['model']} {point['step']}", []).append(point["accuracy"])
    return [
        {name: float(np.mean(own)) if isinstance(own, list) else own for name, own in line.items()}
        | {f"{name} by seed": own for name, own in line.items() if isinstance(own, list)}
        for line in table.values()
    ]


def decision_rows(
    studies: Sequence[Study], ngrams: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """A row for each proxy, step and named predictor, with paired differences."""
    named = NAMED | {name: (name, True) for name in ngrams}
    columns = {column: low for column, low in named.values()}
    table = []
    for study in studies:
        target = dict(zip(study.corpora, study.target_CS, strict=True))
        drawn_RF = share_drawn(
            study.low_is_better(columns), study.target_CS, np.random.default_rng(0)
        )
        drawn = dict(zip(named, drawn_RF.T, strict=True))
        lines: dict[str, dict[str, Any]] = {}
        for name, (column, low) in named.items():
            if study.is_target and name == OWN:
                continue  # its seeds are in what it would be held against: see `noise_rows`
            own = dict(zip(study.corpora, study.values[column], strict=True))
            lines[name] = study.heading | {"predictor": name}
            try:
                found = decision_accuracy(own, target, lower_is_better=low, single_seed=True)
            except InputError as reason:  # a proxy that gets nothing right has no order
                lines[name]["note"] = str(reason)
                continue
            lines[name] |= {
                "one seed": found.value,
                "low": found.low,
                "high": found.high,
                "clear pairs": found.value_clear,
                "mean of seeds": decision_accuracy(own, target, lower_is_better=low).value,
                "tau": kendall_tau(own, target, lower_is_better=low),
                "smallest difference from a number": found.smallest_difference,
            }
        for name, line in lines.items():
            for other in (OWN, BET):
                if name == other or "note" in line or "note" in lines.get(other, {"note": ""}):
                    continue
                gap_R = drawn[name] - drawn[other]
                low, high = np.quantile(gap_R, EDGES)
                line[f"minus {other}"] = line["one seed"] - lines[other]["one seed"]
                line |= {f"minus {other}, low": float(low), f"minus {other}, high": float(high)}
                line[f"smallest from {other}"] = DETECTABLE * float(gap_R.std())
        table += lines.values()
    return table


def glance_rows(decisions: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each predictor, a column for each proxy and step, with intervals."""
    lines: dict[str, dict[str, str]] = {}
    for row in decisions:
        # none: the proxy gives all corpora one value
        said = _with_interval(row) if "one seed" in row else "none"
        line = lines.setdefault(row["predictor"], {"predictor": row["predictor"]})
        line[f"{row['proxy']} {row['step']}"] = said
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    return [{name: line.get(name, "") for name in columns} for line in lines.values()]


def _with_interval(row: Mapping[str, Any]) -> str:
    between = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['one seed']:.2f}{between}"


def figures_of(studies: Sequence[Study], about: str) -> list[dict[str, Any]]:
    """What a report draws of `decision_rows`: over compute, and all predictors at the end."""
    proxies = [study for study in studies if not study.is_target]
    last = max(proxies, key=lambda study: study.flops_share)
    where = {"proxy": [last.model], "step": [last.step]}
    at_end = f"{last.model} proxy at {last.step} steps, {about}"
    over_compute = {
        "kind": "compute",
        "caption": f"decision accuracy of one seed by compute, {about}, 90 % intervals",
        "x": SHARE,
        "x_label": "FLOPs of the proxy over the target's",
        "by": "predictor",
        "where": {"predictor": DRAWN, "proxy": [study.model for study in proxies]},
        **_SHARES,
    }
    each = {
        "kind": "intervals",
        "caption": f"decision accuracy of each predictor, {at_end}, 90 % intervals",
        "x": "predictor",
        "zero": False,
        "where": where,
        **_SHARES,
    }
    gaps = [
        {
            "kind": "intervals",
            "caption": f"decision accuracy minus that of {other}, {at_end}, 90 % intervals",
            "x": "predictor",
            "where": where,
            "y": f"minus {other}",
            "low": f"minus {other}, low",
            "high": f"minus {other}, high",
            "y_label": f"minus {other}",
        }
        for other in (BET, OWN)
    ]
    return [over_compute, each, *gaps]


def found_of(tables: Sequence[Mapping[str, Any]]) -> str:
    """What the protocol asks first, of the first set of corpora, in a sentence."""
    decisions = next(one for one in tables if one["caption"].startswith("Decision accuracy"))
    noise = next(one for one in tables if one["caption"].startswith("The target's own noise"))
    rows = [row for row in decisions["rows"] if row["proxy"] != "target" and "one seed" in row]
    last = max(row[SHARE] for row in rows)
    at_end = {row["predictor"]: row for row in rows if row[SHARE] == last}
    said = [f"{name} {_with_interval(at_end[name])}" for name in DRAWN if name in at_end]
    about = decisions["caption"].removeprefix("Decision accuracy, ")
    text = f"Share of pairs that one seed of the larger proxy orders as the target, {about}: "
    text += ", ".join(said)
    if noise["rows"]:
        text += f"; another seed of the target {noise['rows'][0]['decision accuracy']:.2f}"
    return f"{text}."


def noise_rows(study: Study) -> list[dict[str, Any]]:
    """The target by itself: no proxy can be expected to do better than one of its own seeds."""
    shares, taus = [], []
    for place in range(len(study.seeds) if len(study.seeds) > 1 else 0):
        others = np.delete(study.target_CS, place, axis=1)
        own = dict(zip(study.corpora, study.target_CS[:, place], strict=True))
        rest = dict(zip(study.corpora, others, strict=True))
        shares.append(decision_accuracy(own, rest, lower_is_better=False).value)
        taus.append(kendall_tau(own, rest, lower_is_better=False))
    if not shares:
        return []
    target = dict(zip(study.corpora, study.target_CS, strict=True))
    found = decision_accuracy(target, target, lower_is_better=False)
    row: dict[str, Any] = {"what": "one seed against the mean of the others"}
    row |= {"decision accuracy": float(np.mean(shares)), "tau": float(np.mean(taus))}
    row |= {"pairs": found.num_pairs, "close": found.num_close}
    return [row | {"signal to noise": signal_to_noise(target), "by seed": shares}]


def statistic_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """A row for each statistic, a column for each proxy and step: one attempt's share."""
    table = []
    columns = {name: _is_low(name) for name in PAPER}
    shares: dict[str, np.ndarray] = {}
    for study in studies:
        value_FCS, target_C = study.low_is_better(columns), study.target_CS.mean(axis=1)
        found = [right_of(value_FCS[..., s], target_C) for s in range(len(study.seeds))]
        share_SF = [right_FP[:, decided_P].mean(axis=1) for right_FP, decided_P in found]
        shares[f"{study.model} {study.step}"] = np.mean(share_SF, axis=0)
    for place, name in enumerate(columns):
        own = {heading: float(share_F[place]) for heading, share_F in shares.items()}
        table.append({"statistic": name} | own)
    return table


def choice_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """What it is worth to choose among the statistics, and what of that chance gives."""
    columns = {name: _is_low(name) for name in PAPER}
    table = []
    for study in studies:
        found = choose(study.low_is_better(columns), study.target_CS, np.random.default_rng(0))
        line = study.heading | {
            "best of all, one seed": found.best,
            "floor, mean": found.floor_mean,
            "floor, 95 %": found.floor_high,
            "nested": found.nested,
            "low": found.low,
            "high": found.high,
            "its floor, 95 %": found.nested_floor_high,
            "p": found.p_value,
            "best by seed": [PAPER[place] for place in found.names],
        }
        if len(study.seeds) > 1:
            line |= _spearman(study)
        table.append(line)
    return table


def _spearman(study: Study) -> dict[str, Any]:
    """The package's own nested selection, corpora as models and seeds as tasks."""
    scores, accuracies = {}, {}
    for c, corpus in enumerate(study.corpora):
        seeds = list(enumerate(study.seeds))
        scores[corpus] = {
            f"{seed}": {name: float(study.values[name][c, s]) for name in PAPER}
            for s, seed in seeds
        }
        accuracies[corpus] = {f"{seed}": float(study.target_CS[c, s]) for s, seed in seeds}
    found = select_proxy(scores, accuracies, num_permutations=NUM_SELECTIONS).models_out
    if found is None:
        return {}
    named = {"Spearman, corpora held out": found.value, "its floor's 95 %": found.floor_high}
    return named | {"its p": found.p_value}


def saving_rows(decisions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compute that own accuracy needs for the decision accuracy of a predictor."""
    table = []
    points: dict[str, list[tuple[float, float]]] = {}
    for row in decisions:
        if "one seed" in row and row[SHARE] < 1:
            point = row[SHARE], row["one seed"]
            points.setdefault(row["predictor"], []).append(point)
    for name, own in points.items():
        if name == OWN or OWN not in points:
            continue
        for saving in compute_saving(own, points[OWN]):
            line = {"predictor": name, SHARE: saving.flops}
            line |= {"one seed": saving.decision_accuracy}
            table.append(line | {"times less compute": saving.factor, "note": saving.note})
    return table


def transfer_rows(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """A curve of some corpora and seeds foretells the accuracies of the others' targets."""
    last = {study.model: study for study in studies}  # each proxy as it ended
    table = []
    for study in last.values():
        for name in (*(n for n in NAMED if n != "tokens seen"), "mean of the others"):
            if study.is_target and name == OWN:
                continue
            found = transfer(study, None if name == "mean of the others" else NAMED[name][0])
            if found is not None:
                table.append(study.heading | {"from": name} | found)
    return table


def transfer(study: Study, column: str | None) -> dict[str, Any] | None:
    """Error and coverage on new corpora of a new seed; None where there is no new one.

    Args:
        column: what the curve reads; None: the mean of the known accuracies and their spread.
    """
    if len(study.seeds) < 2 or len(study.corpora) < FOLDS:
        return None
    corpora = np.arange(len(study.corpora))
    errors, inside, widths, far, without = [], [], [], 0, 0
    for seed in range(len(study.seeds)):
        for fold in range(FOLDS):
            out = corpora % FOLDS == fold
            y_CS = np.delete(study.target_CS[~out], seed, axis=1)
            groups = np.repeat(np.array(study.corpora)[~out], y_CS.shape[1])
            truth = study.target_CS[out, seed]
            fits = []
            if column is not None:
                x_CS = np.delete(study.values[column][~out], seed, axis=1)
                fits, _ = fit_forms(FORMS, x_CS.ravel(), y_CS.ravel(), (0.0, 1.0), groups)
                without += not fits
            if fits:
                at = study.values[column][out, seed]
                value, low, high, beyond = predict(fits, at, LEVEL, new_run=True)
                far += int(beyond.sum())
            else:
                mean_C = y_CS.mean(axis=1)
                half = float(mean_C.std(ddof=1) * np.sqrt(1 + 1 / len(mean_C)))
                half *= float(stats.t.ppf((1 + LEVEL) / 2, len(mean_C) - 1))
                value = np.full(len(truth), mean_C.mean())
                low, high = np.maximum(value - half, 0.0), np.minimum(value + half, 1.0)
            errors += list(np.abs(value - truth))
            inside += list((low <= truth) & (truth <= high))
            widths += list(high - low)
    return {
        "error, points": 100 * float(np.mean(errors)),
        "in 90 %": float(np.mean(inside)),
        "width, points": 100 * float(np.mean(widths)),
        "predictions": len(errors),
        "extrapolated": far,
        "folds without a curve": without,
    }


def _is_low(name: str) -> bool:
    """Which way a statistic should go; of the entropy nobody has shown it, and low is taken."""
    return is_lower_better(name) is not False

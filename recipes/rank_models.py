"""Models or corpora in the order of their proxy scores, held against the large model's."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_proxy.recipes.library.running import RecipeConfig, at_least, run
from hf_proxy.recipes.library.screen import print_table
from hf_proxy.records.errors import InputError

if TYPE_CHECKING:
    from hf_proxy.prediction.ranking import Ranking
    from hf_proxy.prediction.selection import Selection
    from hf_proxy.records.scores import ProxyScore


@dataclass(frozen=True, kw_only=True)
class RankConfig(RecipeConfig):
    """`hf-proxy rank`."""

    scores: list[str] = field(
        default_factory=list,
        metadata={
            "help": "scores.jsonl files, or name=file: several scores of one name are its seeds. "
            "With --select task=file, one file with all models for each task."
        },
    )
    metric: Literal["value", "trace_nll", "bits_per_byte"] = field(
        default="value", metadata={"help": "Rank by it; across tokenizers only bits_per_byte."}
    )
    target: str | None = field(
        default=None,
        metadata={
            "help": "CSV of name,accuracy of the large model; several rows are seeds. With "
            "--select name,task,accuracy of each model."
        },
    )
    select: Literal["single", "sparse", "ranksvm"] | None = field(
        default=None,
        metadata={
            "help": "Choose the statistic (the best, the best three, a linear SVM) that orders "
            "models as their accuracies do, judged on tasks and models held out."
        },
    )
    controls: str | None = field(
        default=None,
        metadata={"help": "With --select: CSV of name and a column for each control, as tokens."},
    )
    num_permutations: int | None = field(
        default=None,
        metadata={"help": "With --select: draws of what chance reaches; unset: 1000."},
    )
    compute: str | None = field(
        default=None,
        metadata={
            "help": "CSV of method,flops,decision_accuracy (proxy and baseline): compute saved."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the intervals."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of ranking.json and figures; unset: screen only."}
    )

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        at_least(self, 1, "num_permutations")
        if self.select is None:
            for name in ("controls", "num_permutations"):
                if getattr(self, name) is not None:
                    raise InputError.at("it goes with --select", remedy="add it", field=name)
        elif not self.scores or self.target is None or self.metric != "value":
            raise InputError.at(
                "it needs --scores task=file ..., --target, and chooses the metric itself",
                remedy="give both and leave --metric out",
                field="select",
            )


def rank_scores(config: RankConfig) -> dict[str, Any]:
    """Order models or corpora by their scores, with intervals; hold it against the large model.

    With --select: which statistic of the traces orders them so, beside what chance reaches.

    Reads:   scores.jsonl files of `hf-proxy score`; tables of the large model's accuracies and of
             compute, where given.
    Writes:  the order to the screen; ranking.json and figures in output_dir, where given.
    Example: hf-proxy rank --scores a=outputs/a/scores.jsonl b=outputs/b/scores.jsonl
    """
    from hf_proxy.prediction.decisions import compute_saving
    from hf_proxy.prediction.ranking import rank
    from hf_proxy.recipes.library.scores import read_scores, score_name
    from hf_proxy.recipes.library.selecting import print_selection
    from hf_proxy.recipes.library.tables import read_table
    from hf_proxy.records.storage import provenance_of, write_text
    from hf_proxy.report.figures.curves import plot_compute, plot_ranking

    result: dict[str, Any] = {}
    folder = None if config.output_dir is None else Path(config.output_dir)
    if not config.scores and config.compute is None:
        raise InputError("give --scores, --compute or both")
    if config.select is not None:
        selection = _select(config)
        print_selection(selection)
        result["selection"] = dataclasses.asdict(selection)
    elif config.scores:
        named: dict[str, list[ProxyScore]] = {}
        for text in config.scores:
            name, _, path = ("", "", text) if Path(text).exists() else text.rpartition("=")
            for score, _ in read_scores(path):
                if not len(score.rows):
                    raise InputError.at(
                        "it holds no rows of traces, so nothing can be resampled",
                        remedy="name the scores.jsonl of `hf-proxy score --output_dir`",
                        source=path,
                    )
                named.setdefault(name or score_name(score, path), []).append(score)
        for name, own in named.items():
            if len({score.step for score in own}) > 1:
                steps = sorted({score.step for score in own}, key=str)
                raise InputError.at(
                    f"{name!r} has scores of several steps, {steps}",
                    remedy="give one checkpoint of each seed: several scores of a name are seeds",
                    field="scores",
                )
        target: dict[str, list[float]] | None = None
        if config.target is not None:
            target = {}
            for name, accuracy in read_table(config.target, ("name", "accuracy")):
                target.setdefault(name, []).append(accuracy)
        ranking = rank(named, metric=config.metric, target=target, seed=config.seed)
        _print_ranking(ranking)
        result["ranking"] = dataclasses.asdict(ranking)
        if folder is not None:
            plot_ranking(ranking, folder / "ranking")
    if config.compute is not None:
        rows = read_table(config.compute, ("method", "flops", "decision_accuracy"))
        sides = {
            method: [row[1:] for row in rows if row[0] == method]
            for method in ("proxy", "baseline")
        }
        if unknown := sorted({row[0] for row in rows} - set(sides)):
            raise InputError.at(
                f"methods {unknown} are neither proxy nor baseline",
                remedy="name the two so, one file for each comparison",
                source=config.compute,
                field="method",
            )
        savings = compute_saving(sides["proxy"], sides["baseline"])
        for saving in savings:
            factor = saving.note if saving.factor is None else f"{saving.factor:.1f} times less"
            reached = f"decision accuracy {saving.decision_accuracy:g}"
            print(f"{saving.flops:.3e} FLOPs, {reached}: {factor}")
        result["compute_saving"] = [dataclasses.asdict(saving) for saving in savings]
        if folder is not None:
            plot_compute(sides["proxy"], sides["baseline"], folder / "compute")
    if folder is not None:
        stamp = provenance_of(parameters=dataclasses.asdict(config), **result)
        write_text(folder / "ranking.json", json.dumps(stamp, indent=2))
    return result


def _select(config: RankConfig) -> Selection:
    from hf_proxy.prediction.selection import NUM_PERMUTATIONS, select_proxy
    from hf_proxy.recipes.library.selecting import read_accuracies, read_controls, scores_by_task

    assert config.select is not None and config.target is not None
    return select_proxy(
        scores_by_task(config.scores),
        read_accuracies(config.target),
        scorer=config.select,
        controls=None if config.controls is None else read_controls(config.controls),
        num_permutations=config.num_permutations or NUM_PERMUTATIONS,
        seed=config.seed,
    )


def _print_ranking(ranking: Ranking) -> None:
    rows = [
        [str(i + 1), name, f"{ranking.value[i]:.6f}"]
        + [f"{ranking.low[i]:.4f} .. {ranking.high[i]:.4f}"]
        + [f"{ranking.best_rank[i]} to {ranking.worst_rank[i]}"]
        for i, name in enumerate(ranking.order)
    ]
    from hf_proxy.records.scores import METRIC_NAMES

    head = ("place", "name", METRIC_NAMES[ranking.metric], "90 % interval", "places")
    print_table(head, rows, words=("name",), names=("name",))
    print(
        f"{ranking.num_traces} traces tell differences of {ranking.smallest_difference:.4f} apart"
    )
    if ranking.decisions is not None:
        d = ranking.decisions
        interval = "" if d.low is None else f" [{d.low:.3f}, {d.high:.3f}]"
        telling = "so few and so clear that nothing can be said of other draws"
        if d.smallest_difference is not None:
            telling = f"so many names tell {d.smallest_difference:.3f} from a given share"
        print(
            f"decision accuracy {d.value:.4f}{interval} over {d.num_pairs} pairs ({d.num_ties} "
            f"undecided by the target), Kendall tau {ranking.kendall_tau:.3f}; {telling}"
        )
        if d.num_close is not None:
            clear = "" if d.value_clear is None else f", {d.value_clear:.4f} on the others"
            floor = ""
            if d.noise_floor is not None:
                floor = f"; one seed of the target against its others {d.noise_floor:.4f}"
            print(f"{d.num_close} pairs are too close for the target's seeds to tell{clear}{floor}")
    for note in ranking.notes:
        print(f"note: {note}")


def cli(argv: list[str] | None = None) -> int:
    """`hf-proxy rank`."""
    return run(RankConfig, rank_scores, argv, prog="hf-proxy rank")


if __name__ == "__main__":
    raise SystemExit(cli())

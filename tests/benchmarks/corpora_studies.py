"""What `corpora.py` measured as arrays: each proxy at each step beside the target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_proxy.records.errors import InputError


@dataclass(frozen=True)
class Study:
    """A proxy at one step of its training, beside the target.

    Attributes:
        corpora, seeds: those of which all is there.
        values: column to `[C, S]`, as they were measured.
        target_CS: accuracy.
        flops_share: compute of the proxy over that of the target, mean over corpora and seeds.
    """

    model: str
    step: int
    corpora: tuple[str, ...]
    seeds: tuple[int, ...]
    values: dict[str, np.ndarray]
    target_CS: np.ndarray
    flops_share: float
    is_target: bool

    @property
    def heading(self) -> dict[str, Any]:
        return {"proxy": self.model, "step": self.step, "FLOPs over the target's": self.flops_share}

    def low_is_better(self, columns: Mapping[str, bool]) -> np.ndarray:
        """`[F, C, S]`: these columns, turned round where they should be high."""
        return np.stack([(1 if low else -1) * self.values[name] for name, low in columns.items()])


def studies_of(
    rows: Sequence[dict[str, Any]],
    corpora: Sequence[str],
    ngrams: Mapping[str, Mapping[str, float]] | None = None,
    target: str = "target",
) -> list[Study]:
    """Every proxy at every point, the target at its last one as a proxy of its own too.

    Args:
        rows: what was measured.
        corpora: of these; seeds of which one lacks something are left out.
        ngrams: name of an n-gram model to corpus to its NLL: the same for every proxy.

    Raises:
        InputError: no seed is whole, or the target is as good on all of them.
    """
    found = {(row["model"], row["corpus"], row["seed"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    seeds = tuple(
        seed
        for seed in dict.fromkeys(row["seed"] for row in rows)
        if all((model, corpus, seed) in found for model in models for corpus in corpora)
    )
    if not seeds:
        raise InputError.at("no seed is whole", remedy="let the run go on", source="rows")

    def array(model: str, place: int, read: Any) -> np.ndarray:
        points = [[found[model, c, s]["points"][place] for s in seeds] for c in corpora]
        return np.array([[read(point) for point in own] for own in points], dtype=np.float64)

    target_CS = array(target, -1, lambda point: point["accuracy"])
    if np.ptp(target_CS.mean(axis=1)) == 0:
        raise InputError.at(
            "the target is as good on all corpora, there is no order",
            remedy="train it for more steps, or grade the corpora otherwise",
            source="rows",
        )
    target_flops = array(target, -1, lambda point: point["flops"]).mean()
    studies = []
    for model in sorted(models, key=lambda name: name == target):
        points = found[model, corpora[0], seeds[0]]["points"]
        for place in range(len(points)):
            values = {n: array(model, place, lambda p, n=n: p[n]) for n in ("accuracy", "tokens")}
            for name in points[place]["scores"]:
                values[name] = array(model, place, lambda p, n=name: p["scores"][n])
            for name, nll in (ngrams or {}).items():
                values[name] = np.tile([[nll[corpus]] for corpus in corpora], len(seeds))
            flops = array(model, place, lambda point: point["flops"]).mean()
            studies.append(
                Study(
                    model=model,
                    step=points[place]["step"],
                    corpora=tuple(corpora),
                    seeds=seeds,
                    values=values,
                    target_CS=target_CS,
                    flops_share=float(flops / target_flops),
                    is_target=model == target,
                )
            )
    return studies

"""Points made ready for one curve: in order, in one unit, with their controls."""

from typing import Any

from hf_proxy.recipes.library.points import ALIKE, CONTROLS, Point, one_metric
from hf_proxy.records.errors import InputError


def in_order(points: list[Point], source: str) -> tuple[list[Point], list[str]]:
    """Points by run and tokens, and what to say of it.

    Raises:
        InputError: a checkpoint stands twice.
    """
    order = sorted(points, key=lambda p: (p.run, p.tokens))
    for first, second in zip(order, order[1:], strict=False):
        if (first.run, first.tokens) == (second.run, second.tokens):
            raise InputError.at(
                f"run {first.run!r} at {first.tokens:g} tokens stands in row {first.row} too",
                remedy="keep one of them",
                source=source,
                row=second.row,
                field="tokens",
            )
    sorted_before = all(
        a.tokens < b.tokens for a, b in zip(points, points[1:], strict=False) if a.run == b.run
    )
    return order, [] if sorted_before else ["rows were not in order of tokens, now they are"]


def unit_of(points: list[Point], y_unit: str, source: str) -> tuple[str, list[str]]:
    """The unit of the accuracies ("auto" asks the points), and what to say of it.

    Raises:
        InputError: percent and fractions are mixed.
    """
    values = [point.target_accuracy for point in points]
    above = [value > 1 for value in values]
    mixed = any(above) and not all(above)
    if y_unit == "auto" and mixed:
        point = points[above.index(not above[0])]
        raise InputError.at(
            f"{point.target_accuracy:g} stands among {'percent' if above[0] else 'fractions'}: "
            "percent and fractions are mixed",
            remedy="mend it, or set y_unit",
            source=source,
            row=point.row,
            field="target_accuracy",
        )
    if y_unit == "auto":
        y_unit = "percent" if above[0] else "fraction"
    if y_unit == "fraction":
        return y_unit, []
    few = f", also {above.count(False)} of at most 1" if mixed else ""
    return y_unit, [f"target_accuracy read as percent{few}"]


def controls_of(points: list[Point]) -> tuple[dict[str, list[float]], list[str]]:
    """Tokens or steps, and those columns that every point has; the others are named in words."""
    axes = {point.axis for point in points}
    if len(axes) > 1:
        raise InputError.at(
            "some of the scores know their tokens, some only their steps",
            remedy="fit those of one kind of file together",
            field="predictions",
        )
    controls = {"tokens (1e9)": [point.tokens / 1e9 for point in points]}
    if axes == {"steps"}:
        controls = {"steps": [point.tokens for point in points]}
    absent = []
    for name in CONTROLS:
        if name == one_metric(points):
            continue
        if all(name in point.controls for point in points):
            controls[name] = [point.controls[name] for point in points]
        else:
            absent.append(name)
    return controls, [f"controls not given: {', '.join(absent)}"] if absent else []


def facts_of(points: list[Point], source: str) -> dict[str, Any]:
    """What all points have in common: metric, setting, proxy and its size.

    Raises:
        InputError: they differ in one of these.
    """
    found = {}
    for name in ALIKE:
        for point in points[1:]:
            mine, theirs = points[0].alike.get(name), point.alike.get(name)
            if mine != theirs:
                raise InputError.at(
                    f"{theirs!r} where row {points[0].row} has {mine!r}",
                    remedy="fit points of one kind together",
                    source=source,
                    row=point.row,
                    field=name,
                )
        if name in points[0].alike:
            found[name] = points[0].alike[name]
    if "num_parameters" in found:
        found["num_parameters"] = int(float(found["num_parameters"]))
    return found

"""From a small model's score to a large model's accuracy: the curve, its record, its intervals."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_proxy.curves import FORMS, Fit, Scale, fit_forms, predict
from hf_proxy.schemas import METRICS, InputError, ProxyScore, Setting, write_text
from hf_proxy.validation import (
    FEW_POINTS,
    LEAST_POINTS,
    LEVEL,
    CrossValidation,
    Difference,
    check_forms,
    check_points,
    cross_validate,
)

logger = logging.getLogger(__name__)

Y_UNITS = {"fraction": 1.0, "percent": 100.0}


@dataclass(frozen=True)
class Prediction:
    """Accuracy of the target model, in fractions.

    Attributes:
        value: the curve at the score.
        low, high: central interval for one new observation, of nominal coverage `level`.
        extrapolated: the score lies outside the fitted range; the interval is then the envelope
            over all forms that the points do not tell apart, without a promise.
        clipped: one of the three was cut to [0, 1]; an interval that lies outside of it as a whole
            says nothing, and is [0, 1].
        transfer: why this is a zero-shot transfer (another run or proxy than the curve's), or None.
    """

    value: float
    low: float
    high: float
    level: float
    extrapolated: bool
    clipped: bool
    transfer: str | None


@dataclass(frozen=True)
class Curve:
    """A fitted curve from one proxy metric to the accuracy of one target model.

    Attributes:
        fits: the forms that the points gave, by AICc; the first is the curve. In fractions.
        left_out: form to the reason why the points did not give it.
        metric: which number of a `ProxyScore` is x.
        setting: what the scores have in common, or only its hash; without it the curve takes
            floats only.
        proxy, num_parameters: the small model the scores came from.
        target: name of what is predicted.
        y_unit: unit that y came in; predictions are fractions whatever it was.
        runs: names of the training runs behind the points.
        num_points: how many there were.
        points: x and accuracy, in fractions, of each in the order of training; none in a file that
            was written before they were kept.
        statistics: sound cross-validation with its controls, in y's own unit; None where there
            were too few points for it.
    """

    fits: tuple[Fit, ...]
    left_out: dict[str, str]
    metric: str
    setting: Setting | str | None
    proxy: str | None
    num_parameters: int | None
    target: str | None
    y_unit: str
    runs: tuple[str, ...]
    num_points: int
    points: tuple[tuple[float, float], ...]
    statistics: CrossValidation | None

    @property
    def form(self) -> str:
        """The form chosen by AICc."""
        return self.fits[0].form

    @property
    def x_range(self) -> tuple[float, float]:
        """Smallest and largest x of the points, in the metric's unit."""
        return self.fits[0].scale.x_min, self.fits[0].scale.x_max

    def predict(
        self, score: ProxyScore | float, level: float = LEVEL, *, run: str | None = None
    ) -> Prediction:
        """Accuracy of the target model, were it trained as this proxy was.

        Args:
            score: of the curve's setting; or the bare number, in the metric's unit.
            level: nominal coverage of the interval.
            run: name of the run it came from; one that is not the curve's is a transfer.

        Raises:
            InputError: the score is of another setting (the parts are named), or the curve has none
                and cannot check it, or the number is not finite.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is a share between 0 and 1, not {level}")
        reasons = []
        if run is not None and run not in self.runs:
            reasons.append(
                f"run {run!r} is not among the curve's, {', '.join(self.runs) or 'none'}"
            )
        if isinstance(score, ProxyScore):
            self.check_setting(score.setting)
            if self.num_parameters not in (None, score.num_parameters):
                reasons.append(
                    f"this proxy has {score.num_parameters} parameters, the curve's "
                    f"({self.proxy}) {self.num_parameters}"
                )
            elif self.num_parameters is None and None not in (self.proxy, score.model_id):
                if self.proxy != score.model_id:
                    reasons.append(f"this proxy is {score.model_id!r}, the curve's {self.proxy!r}")
            if reasons:
                logger.warning("%s: zero-shot transfer, %s", self.target, "; ".join(reasons))
            x = getattr(score, self.metric)
        else:
            x = float(score)
        if not np.isfinite(x):
            raise InputError.at(
                f"the score is {x}", remedy="score the model again", field=self.metric
            )
        arrays = predict(self.fits, np.array([x]), level)
        value, low, high = (float(array[0]) for array in arrays[:3])
        if not np.isfinite([value, low, high]).all():
            raise InputError.at(
                f"the {self.form} curve of {self.target} has no value at {x}",
                remedy="fit it to points that reach there, or leave that form out",
                field=self.metric,
            )
        cut = [min(max(number, 0.0), 1.0) for number in (value, low, high)]
        if high < 0 or low > 1:
            cut[1:] = [0.0, 1.0]
        return Prediction(
            value=cut[0],
            low=cut[1],
            high=cut[2],
            level=level,
            extrapolated=bool(arrays[3][0]),
            clipped=cut != [value, low, high],
            transfer="; ".join(reasons) or None,
        )

    def check_setting(self, setting: Setting) -> None:
        """Refuse scores that this curve says nothing about.

        Raises:
            InputError: the settings differ, part by part, or the curve was fitted without one.
        """
        if self.setting is None:
            raise InputError.at(
                f"the curve of {self.target} was fitted without a setting, so it cannot tell "
                "whether this score is of its kind",
                remedy="fit it with setting=, or give it a number",
                field="setting",
            )
        if isinstance(self.setting, str):  # the curve's file told no parts
            differing = [f"hash: {self.setting} != {setting.hash}"] * (self.setting != setting.hash)
        else:
            differing, _ = self.setting.incomparable(setting, self.metric)
        if differing:
            raise InputError.at(
                f"the curve of {self.target} is of another setting than the score: "
                f"{'; '.join(differing)}",
                remedy="score with the curve's traces, context and tokenizer, or fit anew",
                field="setting",
            )

    def save(self, path: str | Path) -> None:
        """Write it as JSON, by rename."""
        content = asdict(self) | {
            "form": self.form,
            "setting": self.setting.parts if isinstance(self.setting, Setting) else self.setting,
        }
        write_text(Path(path), json.dumps(content, indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> "Curve":
        """The curve that `save` wrote, equal to the last bit.

        Raises:
            InputError: the file is missing or is no curve.
        """
        try:
            content = json.loads(Path(path).read_text())
            del content["form"]
            content["fits"] = tuple(_read_fit(fit) for fit in content["fits"])
            content["runs"] = tuple(content["runs"])
            content["points"] = tuple(map(tuple, content.get("points", ())))
            if isinstance(content["setting"], dict):
                content["setting"] = Setting(content["setting"])
            if content["statistics"] is not None:
                content["statistics"] = _read_statistics(content["statistics"])
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = error.strerror if isinstance(error, OSError) else f"{error}"
            if isinstance(error, KeyError):
                said = f"it has no {error}"
            raise InputError.at(
                f"no curve can be read ({said})",
                remedy="name a file that `hf-proxy fit` or Curve.save wrote",
                source=path,
            ) from error


def fit_curve(
    x: Sequence[float],
    y: Sequence[float],
    *,
    forms: Sequence[str] = FORMS,
    metric: str = "value",
    setting: Setting | str | None = None,
    proxy: str | None = None,
    num_parameters: int | None = None,
    target: str | None = None,
    y_unit: str = "fraction",
    groups: Sequence[str] | None = None,
    controls: Mapping[str, Sequence[float]] | None = None,
) -> Curve:
    """Fit the curve from a proxy metric to the target's accuracy; the form is chosen by AICc.

    Args:
        x: [n], the proxy metric at each checkpoint, in the order of training.
        y: [n], the target's accuracy there, in `y_unit`.
        forms: forms to choose from.
        metric: which number of a `ProxyScore` x is.
        setting: of the scores, for `Curve.predict` to check.
        proxy, num_parameters, target: names and size, for the record.
        y_unit: `"fraction"` or `"percent"`.
        groups: [n], the run of each point; None: one run.
        controls: name to [n], what the proxy has to beat, as tokens seen; see `cross_validate`.

    Raises:
        InputError: unequal lengths, numbers that are not finite, constant x or y, fewer points than
            the simplest form needs, y outside its unit.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, not {metric!r}")
    if y_unit not in Y_UNITS:
        raise ValueError(f"y_unit must be one of {tuple(Y_UNITS)}, not {y_unit!r}")
    check_forms(forms)
    arrays = check_points(x, y, controls, groups)
    _check_unit(arrays.y, y_unit)
    fits, left_out = fit_forms(forms, arrays.x, arrays.y / Y_UNITS[y_unit])
    if not fits:
        raise InputError.at(
            f"no form fits these points: {left_out}", remedy="give more points or other forms"
        )
    statistics = None
    if len(arrays.x) > LEAST_POINTS:
        statistics = cross_validate(x, y, groups=groups, controls=controls, forms=forms)
    if len(arrays.x) < FEW_POINTS:
        logger.warning(
            "%s: with %d points the interval rests on the form; about %d make a prediction",
            target,
            len(arrays.x),
            FEW_POINTS,
        )
    return Curve(
        fits=tuple(fits),
        left_out=left_out,
        metric=metric,
        setting=setting,
        proxy=proxy,
        num_parameters=num_parameters,
        target=target,
        y_unit=y_unit,
        runs=tuple(sorted(set(map(str, arrays.groups)))) if groups is not None else (),
        num_points=len(arrays.x),
        points=tuple(zip(arrays.x.tolist(), (arrays.y / Y_UNITS[y_unit]).tolist(), strict=True)),
        statistics=statistics,
    )


def _check_unit(y: np.ndarray, y_unit: str) -> None:
    most = Y_UNITS[y_unit]
    if y.min() < 0 or y.max() > most:
        row = int(np.argmax((y < 0) | (y > most)))
        raise InputError.at(
            f"{y[row]} is no accuracy in {y_unit}",
            remedy="mend points that mix percent and fractions"
            + (", or set y_unit='percent'" if y_unit == "fraction" else ""),
            row=row,
            field="y",
        )
    if y_unit == "percent" and y.max() <= 1:
        raise InputError.at(
            f"the largest accuracy is {y.max()} %", remedy="set y_unit='fraction'", field="y"
        )
    if y_unit == "percent" and (small := int(((y > 0) & (y <= 1)).sum())):
        logger.warning("%d accuracies of at most 1 stand among larger ones, read as percent", small)


def _read_fit(content: dict[str, Any]) -> Fit:
    return Fit(
        **content
        | {
            "parameters": tuple(content["parameters"]),
            "covariance": tuple(map(tuple, content["covariance"])),
            "scale": Scale(**content["scale"]),
        }
    )


def _read_statistics(content: dict[str, Any]) -> CrossValidation:
    read = dict(content)
    for name in ("forms", "fold_mae", "notes"):
        read[name] = tuple(read[name])
    for name in ("test_points", "predicted"):
        read[name] = tuple(map(tuple, read[name]))
    read["controls"] = {n: _read_statistics(c) for n, c in read["controls"].items()}
    read["against"] = {
        n: Difference(**d | {"per_fold": tuple(d["per_fold"])}) for n, d in read["against"].items()
    }
    return CrossValidation(**read)

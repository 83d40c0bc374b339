"""A curve as it is used and kept: what it predicts, what it refuses to read, its file."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_proxy.intervals import LEVEL
from hf_proxy.prediction.cross_validation import CrossValidation, Difference
from hf_proxy.prediction.forms import Fit, Scale, predict
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import ProxyScore, Setting
from hf_proxy.records.storage import write_text

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
        clipped: the value was cut to [chance, 1], or the interval to [0, 1]; one that lies outside
            as a whole says nothing, and is [0, 1].
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
        chance: accuracy of guessing; the mean lies in [chance, 1]. 0 in a file that was written
            before it was kept.
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
    chance: float = 0.0

    def __post_init__(self) -> None:
        bounded = tuple(replace(fit, bounds=(self.chance, 1.0)) for fit in self.fits)
        object.__setattr__(self, "fits", bounded)

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
        free = predict([replace(fit, bounds=None) for fit in self.fits], np.array([x]), level)
        return Prediction(
            value=value,
            low=low,
            high=high,
            level=level,
            extrapolated=bool(arrays[3][0]),
            clipped=[value, low, high] != [float(array[0]) for array in free[:3]],
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
        fits = [asdict(fit) for fit in self.fits]
        for fit in fits:
            del fit["bounds"]  # the curve's chance says it
        content = asdict(self) | {
            "fits": fits,
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

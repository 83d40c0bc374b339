"""A curve as it is used and kept: what it predicts, what it refuses to read, its file."""

import json
import logging
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from hf_proxy.intervals import LEVEL
from hf_proxy.prediction.averaging import predict
from hf_proxy.prediction.correlation import ASSUMED_RATIO
from hf_proxy.prediction.cross_validation import CrossValidation
from hf_proxy.prediction.curve_record import CurveRecord
from hf_proxy.prediction.forms import Fit
from hf_proxy.prediction.points import FEW_POINTS
from hf_proxy.records.errors import InputError, did_you_mean
from hf_proxy.records.record import read_record
from hf_proxy.records.scores import ProxyScore, Setting
from hf_proxy.records.storage import write_text

logger = logging.getLogger(__name__)

Y_UNITS = {"fraction": 1.0, "percent": 100.0}
_REFERENCE = "reference:"
_REFERENCE_FOLDER = Path(__file__).parent / "reference"


def reference_names() -> tuple[str, ...]:
    """Curves that the package brings, for `Curve.load("reference:NAME")`."""
    return tuple(sorted(path.stem for path in _REFERENCE_FOLDER.glob("*.json")))


@dataclass(frozen=True)
class Prediction:
    """Accuracy of the target model, in fractions.

    Attributes:
        value: the curve at the score.
        low, high: central interval for one new observation, of nominal coverage `level`: of a new
            run where the curve has several or the score's is named and is not its own, else of
            another checkpoint of the curve's one run.
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

    @property
    def held_out_r2(self) -> float | None:
        """R2 on points that were held out; None where there were too few to hold any out."""
        return None if self.statistics is None else self.statistics.test_r2

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every reader of this curve should know, each in a sentence."""
        found = []
        if self.num_points < FEW_POINTS:
            found.append(
                f"with {self.num_points} points the interval rests on the form; about {FEW_POINTS} "
                "make a prediction"
            )
        if len(self.runs) < 2:
            found.append(
                "points of one run say nothing of how runs differ; the interval is that of other "
                "checkpoints of this one, and where another run is named it assumes that runs "
                f"deviate by {ASSUMED_RATIO:g} times the noise within one"
            )
        best, worst = predict(self.fits, np.array(self.x_range), LEVEL)[0]
        if worst > best:
            ends = [
                f"{100 * accuracy:.1f} % at {x:.5g}"
                for accuracy, x in zip((best, worst), self.x_range, strict=True)
            ]
            found.append(
                f"accuracy grows as the score gets worse ({', '.join(ends)}; lower scores are "
                "better): look whether the two belong together"
            )
        return tuple(found)

    def predict(
        self, score: ProxyScore | float, level: float = LEVEL, *, run: str | None = None
    ) -> Prediction:
        """Accuracy of the target model, were it trained as this proxy was.

        Args:
            score: of the curve's setting; or the bare number, in the metric's unit.
            level: nominal coverage of the interval.
            run: name of the run it came from; one that is not the curve's is a transfer. A curve
                of one run does not know how runs differ; `ASSUMED_RATIO` times the noise within
                one is then assumed of their deviation.

        Raises:
            InputError: the score is of another setting (the parts are named), or the curve has none
                and cannot check it, or the number is not finite.
        """
        if not 0 < level < 1:
            raise InputError(f"level is a share between 0 and 1, not {level}")
        reasons = []
        new_run = run is not None and run not in self.runs
        if new_run:
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
            x = getattr(score, self.metric)
        else:
            x = float(score)
        if reasons:
            _say_once(f"{self.target}: zero-shot transfer, {'; '.join(reasons)}")
        if not np.isfinite(x):
            raise InputError.at(
                f"the score is {x}", remedy="score the model again", field=self.metric
            )
        arrays = predict(self.fits, np.array([x]), level, new_run=new_run)
        value, low, high = (float(array[0]) for array in arrays[:3])
        if not np.isfinite([value, low, high]).all():
            raise InputError.at(
                f"the {self.form} curve of {self.target} has no value at {x}",
                remedy="fit it to points that reach there, or leave that form out",
                field=self.metric,
            )
        unbounded = [replace(fit, bounds=None) for fit in self.fits]
        free = predict(unbounded, np.array([x]), level, new_run=new_run)
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
                remedy=f"fit it with setting=, or give it {self.metric} as a number, measured on "
                "the texts that it was fitted on",
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

        Args:
            path: a file, or `reference:NAME` for one that the package brings, see
                `reference_names`.

        Raises:
            InputError: the file is missing or is no curve, or there is no such reference.
        """
        name = str(path).removeprefix(_REFERENCE)
        if name != str(path):
            names = reference_names()
            if name not in names:
                raise InputError.at(
                    f"there is no reference curve {name!r}{did_you_mean(name, names)}",
                    remedy=f"name one of {', '.join(names)}",
                )
            path = _REFERENCE_FOLDER / f"{name}.json"
        remedy = "name a file that `hf-proxy fit` or Curve.save wrote"
        found = read_record(Path(path), CurveRecord, remedy=remedy)
        setting = found.setting
        return cls(
            fits=tuple(fit.to_fit() for fit in found.fits),
            left_out=dict(found.left_out),
            metric=found.metric,
            setting=Setting(setting) if isinstance(setting, dict) else setting,
            proxy=found.proxy,
            num_parameters=found.num_parameters,
            target=found.target,
            y_unit=found.y_unit,
            runs=tuple(found.runs),
            num_points=found.num_points,
            points=tuple((x, y) for x, y in found.points),
            statistics=found.statistics.to_statistics() if found.statistics else None,
            chance=found.chance,
        )


@lru_cache(maxsize=1024)
def _say_once(sentence: str) -> None:
    """A warning that is the same for every step of a run, once in a process."""
    logger.warning(sentence)

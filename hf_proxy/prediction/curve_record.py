"""What a curve's file holds, and which of its numbers cannot be."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hf_proxy.prediction.cross_validation import CrossValidation, Difference
from hf_proxy.prediction.forms import NUM_PARAMETERS, Fit, Scale
from hf_proxy.records.record import Count, Number, Positive, Record, Share, Text
from hf_proxy.records.scores import Metric

Form = Literal["linear", "quadratic", "exponential", "logarithmic", "sigmoid"]
_Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]


class ScaleRecord(Record):
    """See `Scale`."""

    x_mean: Number
    x_sd: Positive
    x_min: Number
    x_max: Number
    y_mean: Number
    y_sd: Positive


class FitRecord(Record):
    """See `Fit`."""

    form: Form
    parameters: list[Number]
    covariance: list[list[Number]]
    scale: ScaleRecord
    residual_sd: Annotated[Number, Field(ge=0)]
    degrees_of_freedom: Annotated[Count, Field(ge=1)]
    aicc: Number
    r2: Number
    run_sd: Annotated[Number, Field(ge=0)] = 0.0  # files of before know no other run
    run_freedom: Count = 0

    @model_validator(mode="after")
    def _fit(self) -> Self:
        number = NUM_PARAMETERS[self.form]
        if [len(self.parameters), *map(len, self.covariance)] != [number] * (number + 1):
            raise ValueError(
                f"a {self.form} form has {number} parameters and their covariance, not "
                f"{len(self.parameters)} and {[len(row) for row in self.covariance][:9]}"
            )
        return self

    def to_fit(self) -> Fit:
        """The form, ready to be evaluated."""
        return Fit(
            self.form,
            tuple(self.parameters),
            tuple(map(tuple, self.covariance)),
            Scale(*(getattr(self.scale, name) for name in ScaleRecord.model_fields)),
            self.residual_sd,
            self.degrees_of_freedom,
            self.aicc,
            self.r2,
            run_sd=self.run_sd,
            run_freedom=self.run_freedom,
        )


class DifferenceRecord(Record):
    """See `Difference`."""

    test_mae: Number
    per_fold: list[Number]
    low: Number | None
    high: Number | None


class CrossValidationRecord(Record):
    """See `CrossValidation`."""

    protocol: Text
    train_r2: Number
    test_r2: Number | None
    test_mae: Number
    forms: list[Text]
    fold_mae: list[Number]
    test_points: list[list[Count]]
    predicted: list[list[Number]]
    coverage: Share | None
    num_points: Count
    num_runs: Count
    notes: list[Text]
    controls: dict[Text, "CrossValidationRecord"] = {}
    against: dict[Text, DifferenceRecord] = {}

    def to_statistics(self) -> CrossValidation:
        """The errors on points that were held out, as `cross_validate` gave them."""
        given: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        for name in ("forms", "fold_mae", "notes"):
            given[name] = tuple(given[name])
        for name in ("test_points", "predicted"):
            given[name] = tuple(map(tuple, given[name]))
        given["controls"] = {name: one.to_statistics() for name, one in self.controls.items()}
        given["against"] = {
            name: Difference(one.test_mae, tuple(one.per_fold), one.low, one.high)
            for name, one in self.against.items()
        }
        return CrossValidation(**given)


class CurveRecord(Record):
    """See `Curve`; a file that was written before `points` or `chance` were kept has none."""

    form: Text
    fits: Annotated[list[FitRecord], Field(min_length=1, max_length=len(NUM_PARAMETERS))]
    left_out: dict[Text, Text]
    metric: Metric
    setting: dict[Text, Text | Count | None] | Text | None
    proxy: Text | None
    num_parameters: Count | None
    target: Text | None
    y_unit: Literal["fraction", "percent"]
    runs: list[Text]
    num_points: Count
    points: list[_Pair] = []
    statistics: CrossValidationRecord | None
    chance: Share = 0.0

    @model_validator(mode="after")
    def _first_is_the_curve(self) -> Self:
        if self.form != self.fits[0].form:
            raise ValueError(f"form is {self.form!r}, the first of fits {self.fits[0].form!r}")
        return self

"""The proxy score in the row beside `eval_loss`, while the model trains, on every process."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from hf_proxy.callbacks.watching import WatchingCallback
from hf_proxy.models.parallel import from_main, is_main, stop_together
from hf_proxy.prediction.curve import Curve, Prediction
from hf_proxy.prediction.forecast import LEAST_FORECAST_POINTS, Forecast, forecast
from hf_proxy.records.defaults import LAST_TOKENS, TOKENS_PER_BATCH
from hf_proxy.records.errors import InputError
from hf_proxy.records.scores import METRICS, ProxyScore
from hf_proxy.scoring.scoring import score_traces, setting_of
from hf_proxy.scoring.statistics import check_statistics, is_lower_better, statistics_parts
from hf_proxy.scoring.summary import DIVISORS
from hf_proxy.traces.alignment import align_rows
from hf_proxy.traces.reading import load_traces
from hf_proxy.traces.settings import TRACE_CONTEXT, AlignmentSettings

_LOWER_IS_BETTER = ("nll", "nll_low", "nll_high", "trace_nll", "bits_per_byte")


class ProxyScoreCallback(WatchingCallback):
    """Score the model in training on a frontier's reasoning traces (rBridge).

    Watches only: weights, optimizer state and random streams are what they would be without it.

    Args:
        traces: path or hub id for `load_traces`, a dataset of `Trace` or `AlignedTrace` rows, or a
            dict of those; the key is then the name.
        processing_class: the model's tokenizer; taken from the trainer where it has one.
        curves: `Curve`s or files of them: accuracy, `_low` and `_high` of each one's target beside
            the score, for a run that is not the curve's; from the sixth score on also what it will
            be at the last step, `eval_<name>_<target>_final`. Each needs a setting, and to be of
            one of the trace sets.
        name: `eval_<name>_nll` and so on.
        strategy: `"evaluate"` (with each evaluation), `"steps"` (every `steps` steps), `"save"`
            (with each checkpoint); None: with each evaluation if the trainer evaluates, else with
            each checkpoint, and before the first step of a fresh run and after the last.
        output_dir: of `predictions.jsonl`; `<args.output_dir>/hf_proxy` by default.
        on_error: `"raise"`, or `"warn"`: go on without a score.
        context, context_name, chat_template_kwargs, unit, minmax_over, max_length, too_long: of
            `align_traces`.
        divisor, tokens_per_batch, last_tokens: of `score_traces`.
        statistics: names of those in `ProxyScore.statistics` that are logged too, each as
            `eval_<name>_<statistic>`; all of them stand in `predictions.jsonl`.
        per_trace: write the sums of each trace too, so that two steps compare trace by trace: about
            150 bytes a trace and step.

    Raises:
        InputError: there is no such statistic.
    """

    def __init__(
        self,
        traces: str | Path | Dataset | Mapping[str, str | Path | Dataset],
        *,
        processing_class: Any = None,
        curves: Sequence[Curve | str | Path] | None = None,
        name: str = "rbridge",
        strategy: str | None = None,
        steps: int | None = None,
        output_dir: str | None = None,
        on_error: str = "raise",
        context: str | Callable[[Mapping], str] = TRACE_CONTEXT,
        context_name: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        unit: str = AlignmentSettings.unit,
        minmax_over: str | None = AlignmentSettings.minmax_over,
        divisor: str = "tokens",
        max_length: int | None = None,
        too_long: str = AlignmentSettings.too_long,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        statistics: Sequence[str] = (),
        last_tokens: int | None = LAST_TOKENS,
        per_trace: bool = False,
    ):
        super().__init__(
            file_name="predictions.jsonl",
            processing_class=processing_class,
            strategy=strategy,
            steps=steps,
            output_dir=output_dir,
            on_error=on_error,
        )
        if divisor not in DIVISORS:
            raise InputError(f"divisor must be one of {DIVISORS}, not {divisor!r}")
        statistics_parts(last_tokens)  # refuses a wrong one
        self.statistics, self.last_tokens = check_statistics(statistics), last_tokens
        self.trace_sets = dict(traces) if isinstance(traces, Mapping) else {name: traces}
        self.curves = [
            curve if isinstance(curve, Curve) else Curve.load(curve) for curve in curves or []
        ]
        self.divisor, self.tokens_per_batch = divisor, tokens_per_batch
        self.per_trace = per_trace
        self._alignment = AlignmentSettings(
            context=context,
            context_name=context_name,
            chat_template_kwargs=chat_template_kwargs,
            unit=unit,
            minmax_over=minmax_over,
            max_length=max_length,
            too_long=too_long,
        )
        self._aligned: dict[str, Dataset] | None = None
        self._curves_of: dict[str, list[Curve]] | None = None

    def _names(self) -> Iterable[str]:
        return self.trace_sets

    def _prepare(self, args, state, model) -> None:
        self._match_curves()

    def _directions(self) -> tuple[set[str], set[str]]:
        lower = {f"eval_{name}_{end}" for name in self.trace_sets for end in _LOWER_IS_BETTER}
        higher = {
            f"eval_{name}_{curve.target}_accuracy{end}"
            for name, curves in self._match_curves().items()
            for curve in curves
            for end in ("", "_low", "_high")
        }
        for statistic in self.statistics:
            is_lower = is_lower_better(statistic)
            if is_lower is not None:
                (lower if is_lower else higher).update(
                    f"eval_{name}_{statistic}" for name in self.trace_sets
                )
        return lower, higher

    def _measure(self, model, args, state) -> dict[str, float]:
        processes = PartialState()
        row: dict[str, float] = {}
        for name, aligned in self._alignments().items():
            start = time.perf_counter()
            score = score_traces(
                model,
                aligned,
                accelerator=processes,
                tokens_per_batch=self.tokens_per_batch,
                divisor=self.divisor,
                last_tokens=self.last_tokens,
                step=state.global_step,
            )
            curves = self._match_curves()[name]
            run = self._open_log(args).run_id
            predictions = {str(curve.target): curve.predict(score, run=run) for curve in curves}
            forecasts = self._forecasts(name, score, curves, args, state) if curves else {}
            seconds = time.perf_counter() - start
            row |= _keys(name, score, predictions, forecasts)
            row |= {f"eval_{name}_{s}": score.statistics[s] for s in self.statistics}
            line = self._line(name, score, predictions, args, state, seconds)
            metrics = {str(curve.target): curve.metric for curve in curves}
            line["forecasts"] = {
                target: asdict(found) | {"metric": metrics[target]}
                for target, found in forecasts.items()
            }
            with stop_together(processes):
                self._write(args, line)
        return row

    def _forecasts(self, name, score: ProxyScore, curves, args, state) -> dict[str, Forecast]:
        """Each target's accuracy at the last step, where the run has been scored often enough."""
        log = self._open_log(args)

        def earlier() -> list[tuple[int, dict[str, float | None]]]:
            return [
                (line.record.step, {metric: line.content.get(metric) for metric in METRICS})
                for line in log.lines()
                if line.record.name == name and 0 < line.record.step < state.global_step
            ]

        before = from_main(PartialState(), earlier)
        found = {}
        for curve in curves:
            points = {step: own[curve.metric] for step, own in before}
            points[state.global_step] = getattr(score, curve.metric)
            points = {step: x for step, x in sorted(points.items()) if step and x is not None}
            enough = len(points) >= LEAST_FORECAST_POINTS and len(set(points.values())) > 1
            if enough and state.global_step <= state.max_steps:
                t, x = list(points), [x for x in points.values() if x is not None]
                found[str(curve.target)] = forecast(
                    t, x, state.max_steps, curve=curve, run=log.run_id
                )
        return found

    def _line(self, name, score: ProxyScore, predictions, args, state, seconds) -> dict[str, Any]:
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
        return {
            "name": name,
            "step": state.global_step,
            "epoch": state.epoch,
            "tokens_seen": self._tokens_seen(state),
            **{key: value for key, value in score.scalars().items() if key != "step"},
            "precision": {"autocast": precision},
            "predictions": {target: asdict(found) for target, found in predictions.items()},
            "seconds": seconds,
            **({"rows": score.rows.to_dict()} if self.per_trace else {}),
        }

    def _alignments(self) -> dict[str, Dataset]:
        if self._aligned is None:
            if self.processing_class is None and any(
                not _is_aligned(traces) for traces in self.trace_sets.values()
            ):
                raise InputError(
                    "the trainer has no processing_class; pass ProxyScoreCallback("
                    "processing_class=tokenizer), or traces that are aligned already"
                )
            # the main process fills the cache, then the others read it
            for turn in (True, False):
                with stop_together(PartialState()):
                    if is_main(PartialState()) is turn:
                        self._aligned = {
                            name: self._align(traces) for name, traces in self.trace_sets.items()
                        }
        assert self._aligned is not None
        return self._aligned

    def _match_curves(self) -> dict[str, list[Curve]]:
        """The curves of each trace set, by setting; one that is of none stops the run."""
        if self._curves_of is not None:
            return self._curves_of
        found: dict[str, list[Curve]] = {name: [] for name in self.trace_sets}
        for curve in self.curves:
            refused = []
            for name, aligned in self._alignments().items():
                try:
                    curve.check_setting(setting_of(aligned, divisor=self.divisor))
                except InputError as error:
                    refused.append(error)
                    continue
                if curve.target in [other.target for other in found[name]]:
                    raise InputError(f"two curves of {name!r} are named {curve.target!r}")
                found[name].append(curve)
            if len(refused) == len(found):
                raise refused[0]
        self._curves_of = found
        return found

    def _align(self, traces: Any) -> Dataset:
        if _is_aligned(traces):
            return traces
        if isinstance(traces, (str, Path)):
            traces = load_traces(traces)
        return align_rows(traces, self.processing_class, self._alignment)


def _is_aligned(traces: Any) -> bool:
    return isinstance(traces, Dataset) and "setting_parts" in traces.column_names


def _keys(
    name: str,
    score: ProxyScore,
    predictions: Mapping[str, Prediction],
    forecasts: Mapping[str, Forecast],
) -> dict[str, float]:
    """The logged numbers: Python floats, because a tensor would kill the next checkpoint."""
    row = {
        f"eval_{name}_nll": score.value,
        f"eval_{name}_nll_low": score.low,
        f"eval_{name}_nll_high": score.high,
        f"eval_{name}_trace_nll": score.trace_nll,
        f"eval_{name}_bits_per_byte": score.bits_per_byte,
    }
    for target, found in predictions.items():
        key = f"eval_{name}_{target}_accuracy"
        row |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
    for target, forecast_of in forecasts.items():
        key, final = f"eval_{name}_{target}_final", forecast_of.accuracy
        assert final is not None
        row |= {key: final.value, f"{key}_low": final.low, f"{key}_high": final.high}
    return {key: float(value) for key, value in row.items() if value is not None}

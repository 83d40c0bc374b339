"""The proxy score in the row beside `eval_loss`, while the model trains, on every process.

`Trainer` logs an evaluation's metrics before it calls `on_evaluate`, so a callback alone reaches
best-model selection, early stopping and `state.log_history`, but no reporter. `attach` wraps the
trainer's `log` and adds our numbers to the evaluation's own row.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from hf_proxy.alignment import align_traces
from hf_proxy.callbacks.prediction_log import PredictionLog
from hf_proxy.parallel import is_main, stop_together, sum_over_ranks
from hf_proxy.prediction import Curve, Prediction
from hf_proxy.schemas import InputError, ProxyScore
from hf_proxy.scoring import DIVISORS, TOKENS_PER_BATCH, score_traces, setting_of
from hf_proxy.traces import load_traces
from hf_proxy.weights import weights_checksum

logger = logging.getLogger(__name__)

STRATEGIES = (None, "evaluate", "steps", "save")
_EVALUATION_ROW = re.compile(r"eval.*_runtime")
_LOWER_IS_BETTER = ("nll", "nll_low", "nll_high", "trace_nll", "bits_per_byte")


class ProxyScoreCallback(TrainerCallback):
    """Score the model in training on a frontier's reasoning traces (rBridge).

    Watches only: weights, optimizer state and random streams are what they would be without it.

    Args:
        traces: path or hub id for `load_traces`, a dataset of `Trace` or `AlignedTrace` rows, or a
            dict of those; the key is then the name.
        processing_class: the model's tokenizer; taken from the trainer where it has one.
        curves: `Curve`s or files of them: accuracy, `_low` and `_high` of each one's target beside
            the score. Each needs a setting, and to be of one of the trace sets.
        name: `eval_<name>_nll` and so on.
        strategy: `"evaluate"` (with each evaluation), `"steps"` (every `steps` steps), `"save"`
            (with each checkpoint); None: with each evaluation if the trainer evaluates, else with
            each checkpoint, and before the first step of a fresh run and after the last.
        output_dir: of `predictions.jsonl`; `<args.output_dir>/hf_proxy` by default.
        on_error: `"raise"`, or `"warn"`: go on without a score.
        context, context_name, unit, minmax_over, max_length, too_long: of `align_traces`.
        divisor, tokens_per_batch: of `score_traces`.
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
        context: Any = "{prompt}\n",
        context_name: str | None = None,
        unit: str = "letter",
        minmax_over: str | None = "trace",
        divisor: str = "tokens",
        max_length: int | None = None,
        too_long: str = "error",
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ):
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {STRATEGIES}, not {strategy!r}")
        if (strategy == "steps") != (steps is not None) or (steps is not None and steps < 1):
            raise ValueError(
                "steps (a positive number) goes with strategy='steps', and only with it"
            )
        if on_error not in ("raise", "warn"):
            raise ValueError(f"on_error must be 'raise' or 'warn', not {on_error!r}")
        if divisor not in DIVISORS:
            raise ValueError(f"divisor must be one of {DIVISORS}, not {divisor!r}")
        self.trace_sets = dict(traces) if isinstance(traces, Mapping) else {name: traces}
        self.processing_class = processing_class
        self.curves = [
            curve if isinstance(curve, Curve) else Curve.load(curve) for curve in curves or []
        ]
        self.strategy, self.steps, self.on_error = strategy, steps, on_error
        self.output_dir = output_dir
        self.divisor, self.tokens_per_batch = divisor, tokens_per_batch
        self._alignment = {
            "context": context,
            "context_name": context_name,
            "unit": unit,
            "minmax_over": minmax_over,
            "max_length": max_length,
            "too_long": too_long,
        }
        self._aligned: dict[str, Dataset] | None = None
        self._curves_of: dict[str, list[Curve]] | None = None
        self._trainer: Trainer | None = None
        self._own_methods: dict[str, Any] = {}  # what stood on the trainer itself before `attach`
        self._num_tokens: int | None = None  # of this process since the run began or was resumed
        self._num_tokens_before: int | None = 0  # of all processes, before the run was resumed
        self._memo: tuple[Any, dict[str, float]] | None = None
        self._log: PredictionLog | None = None
        self._said_attach = False

    # attaching

    def attach(self, trainer: Trainer) -> "ProxyScoreCallback":
        """Put our numbers in the evaluation's own logged row, in every reporter.

        Adds the callback where it is missing. A second call changes nothing; `detach` undoes it.
        """
        if self._trainer is trainer:
            return self
        if self._trainer is not None:
            raise ValueError("this callback is attached to another trainer; detach it first")
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._take(getattr(trainer, "processing_class", None))
        self._trainer, self._num_tokens = trainer, 0
        self._own_methods = {name: vars(trainer).get(name) for name in ("log", "get_batch_samples")}
        log, get_batch_samples = trainer.log, trainer.get_batch_samples

        def log_with_scores(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            is_evaluation = any(_EVALUATION_ROW.fullmatch(key) for key in logs)
            if is_evaluation and self._with_evaluations():
                logs.update(self._row(trainer.model, trainer.args, trainer.state))
            log(logs, *args, **kwargs)

        def counted_batch_samples(*args: Any, **kwargs: Any) -> Any:
            batches, num_items = get_batch_samples(*args, **kwargs)
            if self._num_tokens is not None:
                self._num_tokens += sum(_num_tokens(batch) for batch in batches)
            return batches, num_items

        trainer.log = log_with_scores  # type: ignore[method-assign]
        trainer.get_batch_samples = counted_batch_samples  # type: ignore[method-assign]
        return self

    def detach(self) -> None:
        """Give the trainer its own methods back. The callback stays in its list."""
        if self._trainer is None:
            return
        for name, own in self._own_methods.items():
            if own is None:
                delattr(self._trainer, name)
            else:
                setattr(self._trainer, name, own)
        self._trainer, self._num_tokens = None, None

    # events

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        """Check the schedule, tidy the files of an earlier run, and score a fresh model."""
        self._take(processing_class)
        self._match_curves()
        self._check_schedule(args, state)
        self._num_tokens_before = self._open_log(args).open(state.global_step)
        if self._trainer is not None:
            self._num_tokens = None if self._num_tokens_before is None else 0
        self._memo = None
        fresh = state.global_step == 0
        if fresh and self.strategy is None:
            self._score_and_log(args, state, control, model)
        elif not fresh and self._due(args, state) and self._missing(state):
            self._score_and_log(args, state, control, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Score every `steps` steps, and the last weights before best ones may replace them."""
        is_last = state.global_step >= state.max_steps and args.load_best_model_at_end
        if self.strategy == "steps":
            now = state.global_step % self.steps == 0
        else:
            now = self.strategy is None and is_last and not control.should_evaluate
        if now:
            self._score_and_log(args, state, control, model)

    def on_evaluate(
        self, args, state, control, model=None, metrics=None, processing_class=None, **kwargs
    ):
        """Add our numbers to the evaluation's metrics where `attach` has not done so already."""
        self._take(processing_class)
        if self._trainer is not None or not self._with_evaluations():
            return
        if not self._said_attach and is_main(PartialState()):
            self._said_attach = True
            logger.warning(
                "ProxyScoreCallback is not attached: its numbers reach best-model selection, "
                "state.log_history and predictions.jsonl, but no reporter, and early stopping only "
                "if it stands before it; callback.attach(trainer) puts them beside eval_loss"
            )
        row = self._row(model, args, state)
        metrics.update(row)
        # Trainer has logged its row already; ours goes with it, once for several evaluation sets
        last = state.log_history[-1] if state.log_history else None
        if last is not None and not set(row) <= set(last):
            last.update(row)

    def on_save(self, args, state, control, model=None, **kwargs):
        """Score with each checkpoint where that is the schedule."""
        if self._with_saves(args):
            self._score_and_log(args, state, control, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Score the last weights of a run without a strategy of its own."""
        replaced = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self.strategy is None and not replaced and self._missing(state):
            self._score_and_log(args, state, control, model)

    # when

    def _with_evaluations(self) -> bool:
        return self.strategy in (None, "evaluate")

    def _with_saves(self, args) -> bool:
        return self.strategy == "save" or (
            self.strategy is None and args.eval_strategy == "no" and args.save_strategy != "no"
        )

    def _due(self, args, state) -> bool:
        """Whether the schedule asks for a line at the step that a run is resumed from."""
        step = state.global_step
        if self.strategy == "steps":
            return step % self.steps == 0
        if self._with_saves(args):
            return True  # a run resumes from a checkpoint
        if args.eval_strategy == "epoch":
            return state.epoch is not None and float(state.epoch).is_integer()
        every = state.eval_steps or args.eval_steps
        return args.eval_strategy == "steps" and bool(every) and step % int(every) == 0

    def _check_schedule(self, args, state) -> None:
        if self.strategy == "evaluate" and args.eval_strategy == "no" and not args.eval_on_start:
            raise ValueError(
                "ProxyScoreCallback(strategy='evaluate') never fires, because the trainer does not "
                "evaluate; set eval_strategy, or use strategy='steps' or 'save'"
            )
        if self.strategy == "save" and args.save_strategy == "no":
            raise ValueError(
                "ProxyScoreCallback(strategy='save') never fires, because the trainer does not "
                "save; set save_strategy, or use strategy='steps' or 'evaluate'"
            )
        if self.strategy == "steps" and self.steps > state.max_steps:
            raise ValueError(
                f"ProxyScoreCallback(steps={self.steps}) never fires in {state.max_steps} steps"
            )
        wanted = args.metric_for_best_model
        if wanted is None:
            return
        key = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
        lower = {f"eval_{name}_{end}" for name in self.trace_sets for end in _LOWER_IS_BETTER}
        higher = {
            f"eval_{name}_{curve.target}_accuracy{end}"
            for name, curves in self._match_curves().items()
            for curve in curves
            for end in ("", "_low", "_high")
        }
        if key not in lower | higher:
            return
        better = key in higher
        if args.greater_is_better is not better:
            raise ValueError(
                f"metric_for_best_model={wanted!r} gets {'better' if better else 'worse'} as it "
                f"grows; set TrainingArguments(greater_is_better={better})"
            )
        if not self._with_evaluations():
            raise ValueError(
                f"metric_for_best_model={wanted!r} is read at every evaluation, but strategy="
                f"{self.strategy!r} leaves evaluations out; use strategy='evaluate' or None"
            )

    def _missing(self, state) -> bool:
        return self._log is not None and self._log.missing(self.trace_sets, state.global_step)

    # scoring

    def _take(self, processing_class: Any) -> None:
        self.processing_class = self.processing_class or processing_class

    def _score_and_log(self, args, state, control, model) -> None:
        """A row of its own, outside an evaluation."""
        row = self._row(model, args, state)
        if not row:
            return
        if self._trainer is None:
            state.log_history.append({"epoch": state.epoch, **row, "step": state.global_step})
            return
        # the plain method: TRL's would drain its own metrics into our row; and logging clears
        # should_log, which would swallow the training row of this step
        should_log = control.should_log
        Trainer.log(self._trainer, row)
        control.should_log = should_log

    def _row(self, model, args, state) -> dict[str, float]:
        """Our keys for these weights: scored, or remembered if they were just scored."""
        try:
            weights = (state.global_step, weights_checksum(model, PartialState()))
            if self._memo is not None and self._memo[0] == weights:
                return dict(self._memo[1])
            row = self._score(model, args, state)
        except Exception as error:
            if self.on_error == "raise":
                raise
            logger.warning("no proxy score at step %d: %s", state.global_step, error)
            return {}
        self._memo = (weights, row)
        return dict(row)

    def _score(self, model, args, state) -> dict[str, float]:
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
                step=state.global_step,
            )
            curves = self._match_curves()[name]
            predictions = {str(curve.target): curve.predict(score) for curve in curves}
            seconds = time.perf_counter() - start
            row |= _keys(name, score, predictions)
            line = self._line(name, score, predictions, args, state, seconds)
            with stop_together(processes):
                self._open_log(args).append(line)
        return row

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
        }

    def _tokens_seen(self, state) -> int | None:
        """Trainer's own count where it keeps one, else ours where attached, else unknown."""
        if state.num_input_tokens_seen:
            return int(state.num_input_tokens_seen)
        if self._num_tokens is None or self._num_tokens_before is None:
            return None
        counted = sum_over_ranks(np.array([float(self._num_tokens)]), PartialState())
        return self._num_tokens_before + int(counted[0])

    def _open_log(self, args) -> PredictionLog:
        if self._log is None:
            folder = Path(self.output_dir or Path(args.output_dir) / "hf_proxy")
            self._log = PredictionLog(folder / "predictions.jsonl")
        return self._log

    def _alignments(self) -> dict[str, Dataset]:
        if self._aligned is None:
            if self.processing_class is None and any(
                not _is_aligned(traces) for traces in self.trace_sets.values()
            ):
                raise ValueError(
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
                    raise ValueError(f"two curves of {name!r} are named {curve.target!r}")
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
        return align_traces(traces, self.processing_class, **self._alignment)


def _num_tokens(batch: Mapping[str, Any]) -> int:
    """Tokens of a batch without its padding."""
    mask = batch.get("attention_mask")
    ids = batch["input_ids"]
    return int(ids.numel() if mask is None else mask.sum())


def _is_aligned(traces: Any) -> bool:
    return isinstance(traces, Dataset) and "setting_parts" in traces.column_names


def _keys(name: str, score: ProxyScore, predictions: Mapping[str, Prediction]) -> dict[str, float]:
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
    return {key: float(value) for key, value in row.items() if value is not None}

"""What the callbacks share: when they measure, where the numbers go, and that nothing else changes.

At its first event a callback attaches itself to the trainer that called it, see `caller`; its
numbers stand in the evaluation's own row then, see `attachment`.
"""

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from accelerate import PartialState
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import default_compute_objective

from hf_proxy.callbacks.attachment import Attachment
from hf_proxy.callbacks.caller import calling_trainer
from hf_proxy.callbacks.prediction_log import PredictionLog
from hf_proxy.callbacks.schedule import Schedule
from hf_proxy.models.access import unwrapped, weights_checksum
from hf_proxy.models.disks import check_same_step, check_saving
from hf_proxy.models.parallel import from_main, is_main, sum_over_ranks
from hf_proxy.records.errors import InputError
from hf_proxy.records.progress import told_after
from hf_proxy.tokens.tokenizers import tokenizer_of

logger = logging.getLogger(__name__)

SILENT_S = 10  # a longer measurement tells how far it is, beside Trainer's own bar


class WatchingCallback(TrainerCallback, ABC):
    """Base of the callbacks that measure a model in training.

    A subclass says what is measured: `_names`, `_prepare`, `_measure` and `_directions`.

    Args:
        file_name: of the lines, in `output_dir`.
        processing_class: the model's tokenizer; taken from the trainer where it has one.
        strategy, steps, output_dir, on_error: see the subclasses.
    """

    def __init__(
        self,
        *,
        file_name: str,
        processing_class: Any,
        strategy: str | None,
        steps: int | None,
        output_dir: str | None,
        on_error: str,
    ):
        self.schedule = Schedule(strategy, steps)
        if on_error not in ("raise", "warn"):
            raise InputError(f"on_error must be 'raise' or 'warn', not {on_error!r}")
        self.processing_class: Any = processing_class
        if processing_class is not None:
            self.processing_class = tokenizer_of(processing_class)
        self.on_error, self.output_dir = on_error, output_dir
        self._file_name = file_name
        self._attachment: Attachment | None = None
        self._left: weakref.ref[Trainer] | None = None  # that `detach` was called on
        self._num_tokens_before: int | None = 0  # of all processes, before the run was resumed
        self._memo: tuple[Any, dict[str, float]] | None = None
        self._log: PredictionLog | None = None
        self._said_unattached = False
        self._run_began = False

    # what a subclass says

    @abstractmethod
    def _names(self) -> Iterable[str]:
        """Names of the lines of one measurement."""

    @abstractmethod
    def _prepare(self, args, state, model) -> None:
        """Whatever must be right before the first step."""

    @abstractmethod
    def _measure(self, model, args, state) -> dict[str, float]:
        """The numbers of these weights, after their lines are written."""

    @abstractmethod
    def _directions(self) -> tuple[set[str], set[str]]:
        """Logged keys that get better as they fall, and as they grow."""

    # attaching

    def attach(self, trainer: Trainer) -> Self:
        """Put our numbers in the evaluation's own logged row, in every reporter.

        Done by itself where the callback is given as `callbacks=[...]` or by `add_callback`; adds
        it where it is missing. A second call changes nothing; `detach` undoes it.

        Raises:
            InputError: it is another trainer's.
        """
        if self._attachment is not None and self._attachment.trainer is not trainer:
            if self._attachment.is_active:
                raise InputError.at(
                    "it is another trainer's already, and each needs its own",
                    remedy="make a new one, or take it out of the other first: "
                    "other.pop_callback(callback)",
                    source=type(self).__name__,
                )
            self.detach()
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)

        def row() -> dict[str, float]:
            if not self._with_evaluations():
                return {}
            self._take(trainer.processing_class)
            return self._row(trainer.model, trainer.args, trainer.state)

        if self._attachment is None:
            self._attachment = Attachment(trainer, self, row, lambda: self._guard(trainer.state))
        self._left = None
        return self

    def detach(self) -> None:
        """Give the trainer its own methods back, for good. The callback stays in its list."""
        if self._attachment is not None:
            self._attachment.undo()
            self._left = weakref.ref(self._attachment.trainer)
        self._attachment = None

    def _attach_to_caller(self) -> None:
        trainer = calling_trainer()
        if trainer is None or self not in trainer.callback_handler.callbacks:
            return
        was_left = self._left is not None and self._left() is trainer
        if self._attachment is not None or not was_left:
            self.attach(trainer)

    def _say_unattached(self) -> None:
        if self._attachment is None and not self._said_unattached and is_main(PartialState()):
            self._said_unattached = True
            logger.warning(
                "%s is attached to no Trainer: its numbers reach best-model selection, "
                "state.log_history and %s, but no reporter, and early stopping only if it stands "
                "before it; tokens_seen is known only under include_num_input_tokens_seen; "
                "callback.attach(trainer) gives all of it",
                type(self).__name__,
                self._file_name,
            )

    # events

    def on_init_end(self, args, state, control, **kwargs):
        """Attach to the trainer that was given this callback as it was made."""
        self._attach_to_caller()

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        """Check the schedule, tidy the files of an earlier run, and score a fresh model."""
        self._attach_to_caller()
        self._say_unattached()
        self._take(processing_class)
        self._check_schedule(args, state)
        self._check_search(state)
        check_same_step(state.global_step, PartialState())
        check_saving(args, unwrapped(model), PartialState())
        self._prepare(args, state, model)
        self._num_tokens_before = self._open_log(args).open(state.global_step)
        self._run_began = True
        if self._attachment is not None:
            self._attachment.num_tokens = None if self._num_tokens_before is None else 0
        self._memo = None
        fresh = state.global_step == 0
        if fresh and self._with_start():
            self._measure_and_log(args, state, control, model)
        elif not fresh and self.schedule.is_due(args, state) and self._missing(state):
            self._measure_and_log(args, state, control, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Score every `steps` steps, and the last weights before best ones may replace them."""
        is_last = state.global_step >= state.max_steps and args.load_best_model_at_end
        if self.schedule.steps is not None:
            now = state.global_step % self.schedule.steps == 0
        else:
            now = self.schedule.strategy is None and is_last and not control.should_evaluate
        if now:
            self._measure_and_log(args, state, control, model)

    def on_evaluate(
        self, args, state, control, model=None, metrics=None, processing_class=None, **kwargs
    ):
        """Add our numbers to the evaluation's metrics where its row did not hold them already."""
        before = self._attachment
        self._attach_to_caller()  # added to a trainer that evaluates before it trains
        self._say_unattached()
        self._take(processing_class)
        in_row = before is not None and before is self._attachment
        if in_row or not self._with_evaluations():
            return
        row = self._row(model, args, state)
        metrics.update(row)
        if self._attachment is not None:
            self._report(row, state, control)
            return
        # Trainer has logged its row already; ours goes with it, once for several evaluation sets
        last = state.log_history[-1] if state.log_history else None
        if last is not None and not set(row) <= set(last):
            last.update(row)

    def on_save(self, args, state, control, model=None, **kwargs):
        """Score with each checkpoint where that is the schedule."""
        if self.schedule.with_saves(args):
            self._measure_and_log(args, state, control, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Score the last weights of a run without a strategy of its own."""
        if self.schedule.strategy is not None:
            return

        # Trainer looks for the best checkpoint on each node's own disk
        def is_replaced() -> bool:
            return args.load_best_model_at_end and state.best_model_checkpoint is not None

        if not from_main(PartialState(), is_replaced) and self._missing(state):
            self._measure_and_log(args, state, control, model)

    # when

    def _with_start(self) -> bool:
        return self.schedule.strategy is None

    def _with_evaluations(self) -> bool:
        return self.schedule.with_evaluations

    def _check_schedule(self, args, state) -> None:
        self.schedule.check_fires(args, state, type(self).__name__)
        self.schedule.check_best(args, *self._directions())

    def _check_search(self, state) -> None:
        """Refuse a hyperparameter search whose objective would be a sum that ours enter."""
        if not (state.is_hyper_param_search and self._with_evaluations()):
            return
        trainer = None if self._attachment is None else self._attachment.trainer
        objective = getattr(trainer, "compute_objective", None)
        if objective is None or objective is default_compute_objective:
            first = "callback.attach(trainer) and " if trainer is None else ""
            raise InputError.at(
                f"the search would add the numbers of {type(self).__name__} to its objective, "
                "which by default is the sum of all metrics",
                remedy=f"write {first}trainer.hyperparameter_search("
                "compute_objective=lambda metrics: metrics['eval_loss'])",
                field="compute_objective",
            )

    def _missing(self, state) -> bool:
        return self._log is not None and self._log.missing(self._names(), state.global_step)

    # measuring

    def _take(self, processing_class: Any) -> None:
        if self.processing_class is None:
            # a trainer's image processor holds no tokenizer: then one is missing, if one is needed
            with suppress(InputError):
                self.processing_class = tokenizer_of(processing_class)

    def _measure_and_log(self, args, state, control, model) -> None:
        """A row of its own, outside an evaluation."""
        self._report(self._row(model, args, state), state, control)

    def _report(self, row: dict[str, float], state, control) -> None:
        if not row:
            return
        if self._attachment is None:
            state.log_history.append({"epoch": state.epoch, **row, "step": state.global_step})
            return
        # the plain method: TRL's would drain its own metrics into our row; and logging clears
        # should_log, which would swallow the training row of this step
        should_log = control.should_log
        Trainer.log(self._attachment.trainer, row)
        control.should_log = should_log

    def _row(self, model, args, state) -> dict[str, float]:
        """Our keys for these weights: scored, or remembered if they were just scored."""
        row: dict[str, float] = {}
        with self._guard(state):
            weights = (state.global_step, weights_checksum(model, PartialState()))
            if self._memo is None or self._memo[0] != weights:
                with told_after(SILENT_S, has_bar=not args.disable_tqdm):
                    self._memo = (weights, self._measure(model, args, state))
            row = dict(self._memo[1])
        return row

    @contextmanager
    def _guard(self, state) -> Iterator[None]:
        """What is behind goes on without our numbers where `on_error` says so."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            logger.warning(
                "%s: nothing at step %d: %s", type(self).__name__, state.global_step, error
            )

    def _write(self, args, line: dict[str, Any]) -> None:
        """Add a line to the file.

        An evaluation before any training of this process stands at step 0; beside the lines of
        another run, whose weights these may be, that would be a false one, and is left out.
        """
        log = self._open_log(args)
        if self._run_began or not is_main(PartialState()) or not log.has_others():
            log.append(line)
        else:
            logger.info(
                "%s: no line in %s: no training has begun here, so the step of these weights is "
                "not known",
                type(self).__name__,
                log.path,
            )

    def _tokens_seen(self, state) -> int | None:
        """Trainer's own count where it keeps one, else ours where attached, else unknown."""
        if state.num_input_tokens_seen:
            return int(state.num_input_tokens_seen)
        if self._attachment is None or self._num_tokens_before is None:
            return None
        own = self._attachment.num_tokens
        # a rank whose batches are no ids must not leave the others waiting
        counted = sum_over_ranks(np.array([np.nan if own is None else own]), PartialState())[0]
        return None if np.isnan(counted) else self._num_tokens_before + int(counted)

    def _open_log(self, args) -> PredictionLog:
        if self._log is None:
            folder = Path(self.output_dir or Path(args.output_dir) / "hf_proxy")
            self._log = PredictionLog(folder / self._file_name)
        return self._log

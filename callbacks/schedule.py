"""When a callback measures, and the schedules under which a run would go wrong."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from hf_proxy.records.errors import InputError

STRATEGIES = (None, "evaluate", "steps", "save")


@dataclass(frozen=True)
class Schedule:
    """See `ProxyScoreCallback`.

    Raises:
        InputError: there is no such strategy, or `steps` does not go with it.
    """

    strategy: str | None
    steps: int | None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"strategy must be one of {STRATEGIES}, not {self.strategy!r}")
        is_by_steps = self.strategy == "steps"
        if is_by_steps != (self.steps is not None) or (self.steps is not None and self.steps < 1):
            raise InputError(
                "steps (a positive number) goes with strategy='steps', and only with it"
            )

    @property
    def with_evaluations(self) -> bool:
        """Whether each evaluation is measured."""
        return self.strategy in (None, "evaluate")

    def with_saves(self, args: Any) -> bool:
        """Whether each checkpoint is measured."""
        return self.strategy == "save" or (
            self.strategy is None and args.eval_strategy == "no" and args.save_strategy != "no"
        )

    def is_due(self, args: Any, state: Any) -> bool:
        """Whether it asks for a line at the step that a run is resumed from."""
        step = state.global_step
        if self.steps is not None:
            return step % self.steps == 0
        if self.with_saves(args):
            return True  # a run resumes from a checkpoint
        if args.eval_strategy == "epoch":
            return state.epoch is not None and float(state.epoch).is_integer()
        every = state.eval_steps or args.eval_steps
        return args.eval_strategy == "steps" and bool(every) and step % int(every) == 0

    def check_fires(self, args: Any, state: Any, name: str) -> None:
        """Refuse a run in which it never measures.

        Args:
            name: of the callback's class.
        """
        if self.strategy == "evaluate" and args.eval_strategy == "no" and not args.eval_on_start:
            raise InputError(
                f"{name}(strategy='evaluate') never fires, because the trainer does "
                "not evaluate; set eval_strategy, or use strategy='steps' or 'save'"
            )
        if self.strategy == "save" and args.save_strategy == "no":
            raise InputError(
                f"{name}(strategy='save') never fires, because the trainer does not "
                "save; set save_strategy, or use strategy='steps' or 'evaluate'"
            )
        if self.steps is not None and self.steps > state.max_steps:
            raise InputError(f"{name}(steps={self.steps}) never fires in {state.max_steps} steps")

    def check_best(self, args: Any, lower: Set[str], higher: Set[str]) -> None:
        """Refuse a choice of the best model that would go the wrong way, or miss its number.

        Args:
            lower, higher: logged keys that get better as they fall, and as they grow.
        """
        wanted = args.metric_for_best_model
        if wanted is None:
            return
        key = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
        if key not in lower | higher:
            return
        better = key in higher
        if args.greater_is_better is not better:
            raise InputError(
                f"metric_for_best_model={wanted!r} gets {'better' if better else 'worse'} as it "
                f"grows; set TrainingArguments(greater_is_better={better})"
            )
        if not self.with_evaluations:
            raise InputError(
                f"metric_for_best_model={wanted!r} is read at every evaluation, but strategy="
                f"{self.strategy!r} leaves evaluations out; use strategy='evaluate' or None"
            )

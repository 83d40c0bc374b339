"""The model in training held against an amateur: what it would learn from, while it trains."""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from accelerate import PartialState
from datasets import Dataset
from transformers import Trainer

from hf_proxy.callbacks.set_folders import set_folder, tidy_sets
from hf_proxy.callbacks.watching import WatchingCallback
from hf_proxy.mining.amateurs import amateur_model, amateur_tokenizer
from hf_proxy.mining.correctness import read_answers
from hf_proxy.mining.foretelling import Foreteller, check_foretellable
from hf_proxy.mining.miner import Miner
from hf_proxy.mining.sets import mine_folder
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.models.access import adapters_off, input_device, unwrapped, weights_checksum
from hf_proxy.models.disks import require_shared
from hf_proxy.models.parallel import from_main, is_main, stop_together
from hf_proxy.models.whole import Gather, check_gather, made_whole, on_device
from hf_proxy.records.defaults import SYSTEM_PROMPT
from hf_proxy.records.errors import InputError
from hf_proxy.records.lines import FedLine, read_log
from hf_proxy.tokens.prompts import Prompts, read_prompts
from hf_proxy.tokens.tokenizers import tokenizer_of
from hf_proxy.training.feeding import ONLY_FED, Feeding, require_same_tokenizer
from hf_proxy.training.trainer import SelectiveSFTTrainer

# logged key: statistic of the set
KEYS = {
    "contrast_kept_share": "kept_share",
    "contrast_kl_mean": "kl_mean",
    "contrast_top1_agreement": "top1_agreement",
    "contrast_support_size": "support_size",
    "contrast_flip_rate": "flip_rate",
}
FORETOLD = "contrast_foretold_gain"
EXPERTS = ("live", "base")


class ContrastCallback(WatchingCallback):
    """Hold the model in training (the expert) against a small amateur (LightReasoner).

    At each measurement the model as it stands writes trajectories for the next `num_prompts`
    prompts; the steps where it and the amateur part are kept with their targets. Watches only:
    weights, optimizer state and random streams are what they would be without it; with `feed` the
    model learns from what was kept.

    Args:
        amateur: a causal language model, or the folder or hub id of one.
        prompts: rows with `prompt` and `example_id`, or texts; taken in turn, from the first again
            after the last.
        processing_class: the model's tokenizer; taken from the trainer where it has one.
        amateur_processing_class: the amateur's, checked token by token; None: read from the folder
            or hub id that the amateur was loaded from.
        num_prompts: of each measurement.
        feed: give a `SelectiveSFTTrainer` without train_dataset its rows, those of the newest
            measurement, mined before the first step whatever the schedule. One that keeps no step
            leaves the rows as they were.
        foretell: rows with `prompt` and `answer`, answered at each measurement by the expert, by
            the amateur (once) and by contrastive decoding, at most `max_new_tokens` each: what
            training on these targets would gain, see `foretell_gain`. Logged as a fraction.
        expert: `"live"`: the model as it stands; `"base"`: with its adapters off (PEFT only).
        strategy, steps: as in `ProxyScoreCallback`.
        output_dir: of `contrast.jsonl` and `soft_targets/step-*/` (sets for `load_soft_targets`);
            `<args.output_dir>/hf_proxy` by default.
        on_error: `"raise"`, or `"warn"`: go on without figures.
        context, system_prompt, chat_template_kwargs: of `read_prompts`.
        max_new_tokens, temperature, batch_size, seed, divergence_beta, plausibility_alpha,
            contrast_temperature, parity, select, target, mixture_weight, only_correct, gather: of
            `mine_soft_targets`.
        amateur_offload: between measurements the amateur is where it was given or loaded, in the
            host's memory; False: on the model's device for good.
    """

    def __init__(
        self,
        amateur: Any,
        prompts: Dataset | Sequence[str],
        *,
        num_prompts: int,
        processing_class: Any = None,
        amateur_processing_class: Any = None,
        feed: bool = False,
        foretell: Dataset | Sequence[Mapping[str, Any]] | None = None,
        expert: str = "live",
        strategy: str | None = None,
        steps: int | None = None,
        output_dir: str | None = None,
        on_error: str = "raise",
        context: str = "chat",
        system_prompt: str | None = SYSTEM_PROMPT,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        max_new_tokens: int = MiningSettings.max_new_tokens,
        temperature: float = MiningSettings.temperature,
        batch_size: int = MiningSettings.batch_size,
        seed: int = MiningSettings.seed,
        divergence_beta: float = MiningSettings.divergence_beta,
        plausibility_alpha: float = MiningSettings.plausibility_alpha,
        contrast_temperature: float = MiningSettings.contrast_temperature,
        parity: str | None = None,
        select: str = MiningSettings.select,
        target: str = MiningSettings.target,
        mixture_weight: float | None = MiningSettings.mixture_weight,
        only_correct: bool = MiningSettings.only_correct,
        gather: Gather = "whole",
        amateur_offload: bool = True,
    ):
        super().__init__(
            file_name="contrast.jsonl",
            processing_class=processing_class,
            strategy=strategy,
            steps=steps,
            output_dir=output_dir,
            on_error=on_error,
        )
        if expert not in EXPERTS:
            raise InputError(f"expert must be one of {EXPERTS}, not {expert!r}")
        if not 1 <= num_prompts <= len(prompts):
            raise InputError(
                f"num_prompts must be between 1 and the number of prompts, {len(prompts)}, not "
                f"{num_prompts}"
            )
        self.settings = MiningSettings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed,
            divergence_beta=divergence_beta,
            plausibility_alpha=plausibility_alpha,
            contrast_temperature=contrast_temperature,
            parity=parity,
            select=select,
            target=target,
            mixture_weight=mixture_weight,
            only_correct=only_correct,
        )
        if foretell is not None:
            check_foretellable(self.settings)
        self.foretell = foretell
        amateur = amateur_model(amateur)
        check_gather(gather)
        if foretell is not None and gather != "whole":
            raise InputError.at(
                "foretelling needs whole weights on each process",
                remedy="leave out foretell, or set gather='whole'",
                field="gather",
            )
        self.gather, self.amateur_offload = gather, amateur_offload
        self.amateur = amateur.eval().requires_grad_(False)
        self.amateur_processing_class = amateur_tokenizer(amateur, amateur_processing_class)
        self.prompts, self.num_prompts, self.expert = prompts, num_prompts, expert
        self._context: dict[str, Any] = {
            "context": context,
            "system_prompt": system_prompt,
            "chat_template_kwargs": chat_template_kwargs,
        }
        self._ready: tuple[Any, Miner, Prompts] | None = None
        self._foreteller: Foreteller | None = None
        mined_with = dataclasses.asdict(self.settings) | {"expert": expert}
        self.feeding = Feeding(mined_with) if feed else None

    def _names(self) -> Iterable[str]:
        return ("contrast",)

    def _directions(self) -> tuple[set[str], set[str]]:
        return set(), set()  # none of the figures is better as it falls or grows

    def _check_schedule(self, args, state) -> None:
        super()._check_schedule(args, state)
        wanted = (args.metric_for_best_model or "").removeprefix("eval_")
        if wanted in (*KEYS, FORETOLD):
            raise InputError(
                f"metric_for_best_model={args.metric_for_best_model!r} is no measure of quality, "
                "so it cannot choose the best model; choose a loss or a proxy score"
            )

    def attach(self, trainer: Trainer) -> Self:
        """As every callback's; with `feed`, to a trainer that learns what this callback mines.

        Raises:
            InputError: the trainer does not, or has another tokenizer.
        """
        if self.feeding is not None:
            if not isinstance(trainer, SelectiveSFTTrainer):
                raise InputError(ONLY_FED)
            if self.processing_class is not None:
                theirs = tokenizer_of(trainer.processing_class)
                require_same_tokenizer(theirs, self.processing_class)
        return super().attach(trainer)

    def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
        """As every callback's; a resumed run that is fed takes up the rows that it had."""
        if self.feeding is not None:
            self._take(processing_class)
            self.feeding.begin(self.processing_class, self._open_log(args).path)
        super().on_train_begin(args, state, control, model, processing_class, **kwargs)
        if self.feeding is not None and self.feeding.is_empty:
            self._recall(self.feeding, state.global_step)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """As every callback's."""
        super().on_train_end(args, state, control, model=model, **kwargs)
        if self.feeding is not None:
            self.feeding.end()

    def _with_start(self) -> bool:
        return self.feeding is not None or super()._with_start()

    def _recall(self, feeding: Feeding, step: int) -> None:
        """Take up the newest rows with kept steps, mined at or before `step`."""
        log = self._log
        assert log is not None

        def newest() -> tuple[str, int, int] | None:
            lines = [line.record for line in read_log(log.path, FedLine)[0]]
            kept = [
                (line.folder, number, line.step)
                for number, line in enumerate(lines)
                if line.num_kept and line.step <= step
            ]
            return kept[-1] if kept else None

        found = from_main(PartialState(), newest)
        with stop_together(PartialState()):
            if found is not None:
                folder, number, mined_at = found
                feeding.put(log.path.parent / folder, number, mined_at)

    def _prepare(self, args, state, model) -> None:
        with stop_together(PartialState()):
            self._open_miner(model)
        require_shared(self._folder(args).parent, PartialState())
        with stop_together(PartialState()):
            if is_main(PartialState()):
                tidy_sets(self._folder(args), state.global_step)

    def _open_miner(self, model) -> tuple[Miner, Prompts]:
        """Made once for a model; whatever does not fit together is refused here."""
        if self._ready is None or self._ready[0] is not model:
            if self.processing_class is None:
                raise InputError(
                    "the trainer has no processing_class; pass ContrastCallback("
                    "processing_class=tokenizer)"
                )
            if self.expert == "base" and not hasattr(unwrapped(model), "disable_adapter"):
                raise InputError("expert='base' needs a model with adapters (PEFT)")
            self.amateur = made_whole(self.amateur)
            prompts = read_prompts(self.prompts, self.processing_class, **self._context)
            answers = None
            if self.settings.only_correct:
                found = read_answers(self.prompts, prompts.example_id, "prompts")
                answers = dict(zip(prompts.example_id, found, strict=True))
            miner = Miner(
                model,
                self.amateur,
                processing_class=self.processing_class,
                amateur_processing_class=self.amateur_processing_class,
                settings=self.settings,
                answers=answers,
            )
            miner.check_lengths(prompts)
            if self.foretell is not None:
                self._foreteller = Foreteller(
                    miner,
                    self.foretell,
                    **self._context,
                )
            self._ready = (model, miner, prompts)
        return self._ready[1:]

    def _folder(self, args) -> Path:
        return self._open_log(args).path.parent / "soft_targets"

    def _step_folder(self, args, state, model) -> Path:
        checksum = weights_checksum(model, PartialState())
        # before a run begins, nothing here says of which step these weights are
        step = state.global_step if self._run_began else None
        return from_main(PartialState(), lambda: set_folder(self._folder(args), step, checksum))

    def _measure(self, model, args, state) -> dict[str, float]:
        start, processes = time.perf_counter(), PartialState()
        with stop_together(processes):
            miner, prompts = self._open_miner(model)
        log = self._open_log(args)
        number = log.count_before(state.global_step)
        places = [
            (number * self.num_prompts + i) % len(prompts.example_id)
            for i in range(self.num_prompts)
        ]
        own = dataclasses.replace(
            prompts,
            example_id=[prompts.example_id[i] for i in places],
            input_ids=[prompts.input_ids[i] for i in places],
        )
        bare = unwrapped(model)
        folder = self._step_folder(args, state, model)
        with (
            adapters_off(bare) if self.expert == "base" else nullcontext(),
            on_device(self.amateur, input_device(bare, processes), offload=self.amateur_offload),
        ):
            tally, content = mine_folder(
                miner,
                own,
                folder,
                processes,
                gather=self.gather,
                facts={"expert": f"{self.expert}, step {state.global_step}"},
                first_batch=number * -(-self.num_prompts // self.settings.batch_size),
            )
            foretold = self._foretold(processes)
        statistics = tally.statistics()
        dropped = {"num_wrong": self.num_prompts - tally.num_rows}
        line = {
            "name": "contrast",
            "step": state.global_step,
            "epoch": state.epoch,
            "tokens_seen": self._tokens_seen(state),
            **statistics,
            **(dropped if self.settings.only_correct else {}),
            "mining": {name: content[name] for name in content if name != "template"},
            "expert_is": self.expert,
            "folder": f"soft_targets/{folder.name}",
            **foretold,
            "seconds": time.perf_counter() - start,
        }
        with stop_together(processes):
            self._write(args, line)
            if self.feeding is not None and self._run_began and statistics["num_kept"]:
                self.feeding.put(folder, number, state.global_step)
        row = {key: statistics[name] for key, name in KEYS.items()}
        if foretold:
            row[FORETOLD] = foretold["foretold"]["gain"]
        return {key: float(value) for key, value in row.items() if value is not None}

    def _foretold(self, processes: PartialState) -> dict[str, Any]:
        """What training on the targets of these weights would gain, for the line."""
        if self._foreteller is None:
            return {}
        setting = (self.settings.divergence_beta, self.settings.plausibility_alpha)
        found = self._foreteller.foretell([setting], accelerator=processes)
        return {"foretold": {k: v for k, v in vars(found).items() if k != "settings"}}

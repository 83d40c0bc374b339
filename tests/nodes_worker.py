"""What each of two nodes finds that share FOLDER, and by the same relative paths nothing else.

    nodes_worker.py FOLDER INPUTS OWN CASE ...

On two processes. Each works in OWN, where {rank} is its rank, and writes what it found, by case, to
FOLDER/found-RANK.json; an error is told by its text.
"""

import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from building_worker import build
from datasets import Dataset
from helpers.mining import make_callback, mine
from helpers.models import make_model, sharp_pair
from helpers.traces import make_traces
from helpers.trainers import lines_of, plain_trainer
from peft import LoraConfig
from transformers import AutoTokenizer, TrainingArguments
from trl import ModelConfig, SFTConfig, SFTTrainer

from hf_proxy import foretell_gain
from hf_proxy.callbacks import ProxyScoreCallback
from hf_proxy.models import disks
from hf_proxy.models.access import weights_checksum
from hf_proxy.models.parallel import end_together
from hf_proxy.recipes import finetune_with_proxy, score_checkpoints
from hf_proxy.recipes.library.run_records import train_to_the_end
from hf_proxy.records.errors import InputError

ASSETS = Path(finetune_with_proxy.__file__).parent / "assets"
BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_rbridge_nll",
    "greater_is_better": False,
    "learning_rate": 5.0,  # what is learnt at the first evaluation is lost at the last
    "lr_scheduler_type": "constant",
}
LATE = {"eval_steps": 1, "save_steps": 1}


def told(work):
    """What `work` is refused with; None: it is not."""
    try:
        work()
    except InputError as error:
        return str(error)
    return None


class Nodes:
    """What the cases share.

    Args:
        folder: that both nodes see.
        tokenizer: of the models.
    """

    def __init__(self, folder, tokenizer):
        self.state = PartialState()
        self.rank, self.folder, self.tokenizer = self.state.process_index, folder, tokenizer

    def trainer(self, name, callbacks, **arguments):
        return plain_trainer(Path(name), self.tokenizer, callbacks=callbacks, **arguments)

    def scored(self, name, **arguments):
        """A trainer that is scored, and its callback."""
        callback = ProxyScoreCallback(make_traces(5))
        settings = {"max_steps": 4, "gradient_accumulation_steps": 1} | arguments
        return self.trainer(name, [callback], **settings), callback

    # each of these is a case

    def token(self):
        """Who sees what, and that nothing stays."""
        found = [
            disks.ranks_without(place, self.state) for place in (Path("own"), self.folder / "all")
        ]
        self.state.wait_for_everyone()  # until who wrote them has taken them away
        left = [str(path) for path in (*Path().rglob("own/*"), *self.folder.glob("all/*"))]
        return [found, left]

    def fresh(self):
        trainer, _ = self.scored("fresh", max_steps=2, save_strategy="no")
        trainer.train()
        has_lines = Path("fresh/run/hf_proxy/predictions.jsonl").exists()
        lines = lines_of(Path("fresh")) if has_lines else []
        return [line["step"] for line in lines], weights_checksum(trainer.model)

    def best(self):
        """The best weights, which only one node would find, whatever it is asked to save."""
        trainers = [
            self.scored("best", save_on_each_node=each, **BEST)[0] for each in (False, True)
        ]
        return [told(trainer.train) for trainer in trainers]

    def best_on_each(self):
        """The best adapter, which each node saves; measured once more after that."""
        text = {"prompt": "What is 2 plus 3?", "completion": " 5."}
        trainer = SFTTrainer(
            model=make_model("llama", len(self.tokenizer)),
            args=SFTConfig(
                "best-on-each/run",
                save_on_each_node=True,
                max_steps=4,
                eval_strategy="steps",
                eval_steps=2,
                save_steps=2,
                per_device_train_batch_size=1,
                bf16=False,
                use_cpu=True,
                report_to="none",
                **BEST,
            ),
            train_dataset=Dataset.from_list([text] * 8),
            eval_dataset=Dataset.from_list([text] * 2),
            processing_class=self.tokenizer,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
            callbacks=[ProxyScoreCallback(make_traces(5))],
        )
        trainer.train()
        row = trainer.evaluate()
        return {
            "best": trainer.state.best_model_checkpoint,
            "nll": row["eval_rbridge_nll"],
            "best_nll": trainer.state.best_metric,
            "weights": weights_checksum(trainer.model),
        }

    def late(self):
        """A shared disk that has not shown the best checkpoint to one node at the end."""
        where = self.folder / "late"
        trainer, callback = self.scored(where, max_steps=1, load_best_model_at_end=True, **LATE)
        trainer.train()
        trainer.state.best_model_checkpoint = None if self.rank else "checkpoint-1"
        trainer.state.global_step = 2  # without a line
        callback.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
        return [line["step"] for line in lines_of(where)]

    def same_disk(self):
        disks.check_saving(
            TrainingArguments(str(self.folder / "both"), save_on_each_node=True, use_cpu=True),
            None,
            self.state,
        )

    def watched(self):
        """ContrastCallback, before the first step."""
        trainer = self.trainer("watched", [make_callback(self.tokenizer)], max_steps=2)
        try:
            trainer.train()
        finally:
            assert trainer.state.global_step == 0

    def mined(self):
        pair = sharp_pair(len(self.tokenizer))
        mine(pair, self.tokenizer, Path("mined"), accelerator=self.state)

    def mined_shared(self):
        pair = sharp_pair(len(self.tokenizer))
        where = self.folder / "mined"
        return mine(pair, self.tokenizer, where, accelerator=self.state).to_dict()

    def foretold(self):
        problems = Dataset.from_dict({"prompt": ["1 + 1 ="] * 12, "answer": ["2"] * 12})
        foretell_gain(
            *sharp_pair(len(self.tokenizer)),
            problems,
            processing_class=self.tokenizer,
            amateur_processing_class=self.tokenizer,
            output_dir="foretold",
            accelerator=self.state,
            context="{prompt}\n",
            max_new_tokens=4,
        )

    def built(self):
        build("built/set", self.state, max_new_tokens=8)

    def other_step(self):
        """Each node goes on from a checkpoint of its own."""
        trainer, callback = self.scored("other-step")
        trainer.state.global_step, trainer.state.max_steps = 2 + self.rank, 9
        callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)

    def resumed(self):
        """A run whose weights the main node alone has is not gone on with, until all have them."""
        self.scored("resumed", max_steps=2, save_on_each_node=True)[0].train()

        def again():
            trainer, _ = self.scored("resumed", max_steps=4)
            where = Path("resumed/run")
            refused = told(lambda: train_to_the_end(trainer, where, resume=True))
            return refused or trainer.state.global_step

        found = [again()]
        with self.state.main_process_first():
            there, here = "resumed", self.folder / "resumed"
            shutil.copytree(*((here, there) if self.rank else (there, here)), dirs_exist_ok=True)
        path = Path("resumed/run/checkpoint-2/trainer_state.json")
        state = path.read_text()
        if self.rank:  # of another run
            path.write_text(state.replace('"loss": ', '"loss": 1'))
        found.append(again())
        path.write_text(state)
        return [*found, again()]

    def apart(self):
        """Inputs that are not the same on both nodes: weights, a list of checkpoints, rows."""
        shutil.copytree(ASSETS / "expert", "run/checkpoint-1")
        if self.rank:
            path = Path("run/checkpoint-1/config.json")
            path.write_text(
                path.read_text().replace('"rms_norm_eps": 1e-0', '"rms_norm_eps": 2e-0')
            )
        scored = {"traces": str(ASSETS / "traces.parquet"), "use_score_cache": False}

        def score():
            config = score_checkpoints.ScoreConfig(models=["run"], **scored)
            return told(lambda: score_checkpoints.main(config))

        found = [score()]
        if self.rank:
            shutil.copytree(ASSETS / "expert", "run/checkpoint-2")
        found.append(score())
        trainer, _ = self.scored("apart")
        trainer.train_dataset = trainer.train_dataset.select(range(8 + self.rank))
        where = Path("apart/run")
        return [*found, told(lambda: train_to_the_end(trainer, where, resume=True))]

    def recipe(self):
        """`hf-proxy finetune`: its lines are on one node, what it gives on all."""
        rows = Path("rows.jsonl")
        rows.write_text(json.dumps({"prompt": "What is 2 plus 3?", "completion": " 5."}) + "\n")
        rows.write_text(rows.read_text() * 8)
        found = finetune_with_proxy.main(
            finetune_with_proxy.FinetuneConfig(
                train_data=str(rows), traces=[str(ASSETS / "traces.parquet")], world_size=2
            ),
            SFTConfig(
                output_dir="recipe",
                max_steps=1,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
            ),
            ModelConfig(model_name_or_path=str(ASSETS / "expert")),
        )
        return [[score["step"], score["value"]] for score in found["scores"]]


def main(folder: Path, inputs: Path, own: str, cases: list[str]) -> None:
    """Do the cases in turn."""
    torch.set_num_threads(1)
    # a rank that is left alone is so for that long only
    state = PartialState(cpu=True, timeout=timedelta(seconds=40))
    assert state.num_processes == 2
    disks.APPEARS_S = 0.2
    nodes = Nodes(folder, AutoTokenizer.from_pretrained(inputs / "tokenizer"))
    os.chdir(own.format(rank=nodes.rank))
    found = {}
    for case in cases:
        try:
            found[case] = getattr(nodes, case)()
        except InputError as error:
            found[case] = str(error)
    (folder / f"found-{nodes.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with end_together():
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])

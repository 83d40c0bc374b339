"""No flag is taken and does nothing: every field of the trainer's classes is read or refused.

A new release's field fails the first test until it stands in a list here.
"""

import ast
import inspect
import json
import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model
from helpers.selective import make_rows, plain_loss, selective_trainer
from transformers import AutoModelForCausalLM
from transformers.trainer_pt_utils import AcceleratorConfig
from trl import ModelConfig, SFTConfig, SFTTrainer

from hf_proxy import InputError, SelectiveSFTConfig, SelectiveSFTTrainer
from hf_proxy.cli import main
from hf_proxy.recipes.library import training
from hf_proxy.recipes.library.checkpoints import find_checkpoints
from hf_proxy.training.checks import check_parallelism

# Trainer, accelerate, or SFTTrainer outside of the loss and the preparation of text
READ_BY_THE_HOST = """
    activation_checkpointing activation_checkpointing_kwargs activation_offloading adam_beta1
    adam_beta2 adam_epsilon auto_find_batch_size bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm
    enable_jit_checkpoint eos_token eval_accumulation_steps eval_delay eval_on_start eval_steps
    eval_strategy eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config full_determinism
    gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy
    hub_token ignore_data_skip include_num_input_tokens_seen learning_rate length_column_name
    liger_kernel_config load_best_model_at_end log_level log_level_replica log_on_each_node
    logging_first_step logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs
    lr_scheduler_type max_grad_norm max_steps metric_for_best_model neftune_noise_alpha
    num_train_epochs optim optim_args optim_target_modules output_dir per_device_eval_batch_size
    per_device_train_batch_size prediction_loss_only project push_to_hub report_to
    restore_callback_states_from_checkpoint run_name save_on_each_node save_only_model save_steps
    save_strategy save_total_limit seed skip_memory_metrics tf32 torch_compile
    torch_compile_backend torch_compile_mode torch_empty_cache_steps trackio_bucket_id
    trackio_space_id trackio_static_space_id train_sampling_strategy use_cache use_cpu
    use_liger_kernel warmup_steps weight_decay
""".split()
# a value that SelectiveSFTConfig refuses
REFUSED_BY_OURS = {
    "assistant_only_loss": True,
    "batch_eval_metrics": True,
    "chat_template_path": "template.jinja",
    "completion_only_loss": False,
    "dataset_kwargs": {"skip_prepare_dataset": False},
    "dataset_num_proc": 2,
    "dataset_text_field": "question",
    "eval_do_concat_batches": False,
    "eval_packing": True,
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "label_smoothing_factor": 0.1,
    "loss_type": "dft",
    "packing": True,
    "packing_strategy": "wrapped",
    "pad_to_multiple_of": 8,
    "pad_token": "<pad>",
    "remove_unused_columns": True,
    "router_aux_loss_coef": 0.5,
    "shuffle_dataset": True,
    "truncation_mode": "keep_end",
}
# a value that the commands refuse, of either trainer
REFUSED_BY_RECIPES = {
    "batch_eval_metrics": True,
    "dataset_text_field": "question",
    "do_eval": True,
    "do_predict": True,
    "eval_do_concat_batches": False,
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "model_init_kwargs": {"dtype": "bfloat16"},
    "resume_from_checkpoint": "checkpoint-4",
}
# by us: the test that shows what it does
READ_BY_OURS = {
    "accelerator_config": "test_batches_that_are_cut_or_missing_are_refused",
    "average_tokens_across_devices": "test_batches_that_are_cut_or_missing_are_refused",
    "max_length": "test_no_row_is_cut",
    "model_init_kwargs": "test_arguments_of_the_host_that_do_nothing_are_refused",
    "padding_free": "test_the_update_is_that_of_one_record_per_step",
    "parallelism_config": "test_rows_are_not_shared_between_processes",
    "trust_remote_code": "test_what_a_model_is_loaded_with",
    "sft_weight": "test_plain_cross_entropy_has_a_count_of_its_own",
    "expert": "test_the_base_stays_and_the_live_expert_moves",
    "divergence_beta": "test_settings_of_mining_are_read_or_refused",
    "plausibility_alpha": "test_settings_of_mining_are_read_or_refused",
    "contrast_temperature": "test_settings_of_mining_are_read_or_refused",
    "select": "test_settings_of_mining_are_read_or_refused",
    "target": "test_settings_of_mining_are_read_or_refused",
    "mixture_weight": "test_settings_of_mining_are_read_or_refused",
    "only_correct": "test_settings_of_mining_are_read_or_refused",
}
HARMLESS = {
    "do_train": "a recipe trains always",
    "do_eval": "set by eval_strategy; scripts of the library read it",
    "do_predict": "scripts of the library read it",
    "resume_from_checkpoint": "scripts of the library read it",
    "local_rank": "launchers set it",
}
ACCELERATOR = {
    "split_batches": "host: indices are split before rows are collated",
    "dispatch_batches": "refused",
    "even_batches": "refused where several processes would wait",
    "use_seedable_sampler": "host",
    "non_blocking": "host",
    "gradient_accumulation_kwargs": "host",
    "use_configured_state": "host",
}
ARGUMENTS = {
    "refused": {
        "data_collator": print,
        "compute_loss_func": print,
        "compute_metrics": print,
        "preprocess_logits_for_metrics": print,
        "formatting_func": print,
        "quantization_config": object(),
    },
    "read": "self model args train_dataset eval_dataset processing_class callbacks optimizers "
    "optimizer_cls_and_kwargs peft_config",
}
# of the model: a value, and the test or the refusal that it meets
MODEL_READ = {
    "model_name_or_path": "tests of every command",
    "model_revision": "test_what_a_model_is_loaded_with",
    "dtype": "test_what_a_model_is_loaded_with",
    "attn_implementation": "test_what_a_model_is_loaded_with",
    "load_in_8bit": "test_what_a_model_is_loaded_with",
    "load_in_4bit": "test_what_a_model_is_loaded_with",
    "bnb_4bit_quant_type": "test_what_a_model_is_loaded_with",
    "use_bnb_nested_quant": "test_what_a_model_is_loaded_with",
    "bnb_4bit_quant_storage": "test_what_a_model_is_loaded_with",
    "use_peft": "test_the_command_trains_resumes_and_records",
    "lora_r": "test_adapter_flags_reach_the_adapter",
    "lora_alpha": "test_adapter_flags_reach_the_adapter",
    "lora_dropout": "test_adapter_flags_reach_the_adapter",
    "lora_target_modules": "test_adapter_flags_reach_the_adapter",
    "lora_target_parameters": "test_adapter_flags_reach_the_adapter",
    "lora_modules_to_save": "test_adapter_flags_reach_the_adapter",
    "use_rslora": "test_adapter_flags_reach_the_adapter",
    "use_dora": "test_adapter_flags_reach_the_adapter",
    "lora_task_type": "test_model_flags_that_do_nothing_are_refused",
}
ADAPTER = {
    "lora_r": 3,
    "lora_alpha": 5,
    "lora_dropout": 0.25,
    "lora_target_modules": ["q_proj", "k_proj"],
    "lora_target_parameters": ["mlp.experts"],
    "lora_modules_to_save": ["lm_head"],
    "use_rslora": True,
    "use_dora": True,
}


def settings(tmp_path, **changes):
    plain = {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True, "report_to": "none"}
    return plain | changes


def names_of(config_class):
    return {field.name for field in fields(config_class)}


# the lists are whole


def test_every_field_stands_in_a_list():
    ours = [READ_BY_THE_HOST, REFUSED_BY_OURS, READ_BY_OURS, HARMLESS]
    assert names_of(SelectiveSFTConfig) == set().union(*ours)
    assert sum(map(len, ours)) == len(set().union(*ours))
    # TRL's own trainer reads what ours refuses, but for what the commands refuse
    plain = names_of(SFTConfig)
    assert plain <= {*READ_BY_THE_HOST, *REFUSED_BY_OURS, *REFUSED_BY_RECIPES} | {
        *READ_BY_OURS,
        *HARMLESS,
    }
    assert set(REFUSED_BY_RECIPES) <= plain
    assert names_of(ModelConfig) == set(MODEL_READ)
    assert names_of(AcceleratorConfig) == set(ACCELERATOR)
    taken = set(inspect.signature(SFTTrainer.__init__).parameters)
    assert taken == set(ARGUMENTS["refused"]) | set(ARGUMENTS["read"].split())


def test_the_host_reads_what_it_is_said_to_read():
    """In the sources of Trainer and SFTTrainer, as an attribute of the arguments."""
    folders = [Path(find_spec(name).origin).parent for name in ("transformers", "trl")]
    files = [*folders[0].glob("train*.py"), *(folders[0] / "integrations").glob("*.py")]
    files += [folders[1] / "trainer" / name for name in ("sft_trainer.py", "sft_config.py")]
    text = "\n".join(file.read_text() for file in files)
    named = re.findall(r"\b(?:args|self)\.(?=(\w+))|getattr\((?:self\.)?args, \"(\w+)", text)
    read = {name for pair in named for name in pair}
    assert set(READ_BY_THE_HOST) <= read
    assert "dataset_text" not in read  # a name that is none is not found


def test_the_tests_that_are_named_exist():
    here = Path(__file__).parent
    written = set(
        re.findall(
            r"^def (test_\w+)",
            "\n".join(file.read_text() for file in (here / "test_flags.py", here / "test_sft.py")),
            flags=re.MULTILINE,
        )
    )
    named = {*READ_BY_OURS.values(), *MODEL_READ.values()} - {"tests of every command"}
    assert named <= written


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("train_selective_sft", "TrainConfig"),
        ("finetune_with_proxy", "FinetuneConfig"),
        ("closed_loop", "LoopConfig"),
    ],
)
def test_commands_read_their_own_fields(module, name):
    source = (Path(training.__file__).parents[1] / f"{module}.py").read_text()
    read = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "config"
    }
    (found,) = [n for n in ast.walk(ast.parse(source)) if getattr(n, "name", "") == name]
    own = {node.target.id for node in found.body if isinstance(node, ast.AnnAssign)}
    assert own - {"json"} == own & read  # json is read where a command ends


# what ours refuses


@pytest.mark.parametrize("name", REFUSED_BY_OURS)
def test_selective_sft_refuses_what_it_does_not_read(tmp_path, name):
    with pytest.raises(InputError, match=f"^field {name}: .*; "):
        SelectiveSFTConfig(**settings(tmp_path, **{name: REFUSED_BY_OURS[name]}))


def test_batches_that_are_cut_or_missing_are_refused(tmp_path, tokenizer, monkeypatch):
    SelectiveSFTConfig(**settings(tmp_path, accelerator_config={"even_batches": False}))
    with pytest.raises(InputError, match="accelerator_config dispatch_batches: True would cut"):
        SelectiveSFTConfig(**settings(tmp_path, accelerator_config={"dispatch_batches": True}))
    monkeypatch.setattr(SelectiveSFTConfig, "world_size", property(lambda self: 2))
    with pytest.raises(InputError, match="even_batches: False leaves processes without a batch"):
        SelectiveSFTConfig(**settings(tmp_path, accelerator_config={"even_batches": False}))
    with pytest.raises(InputError, match="field average_tokens_across_devices: False would change"):
        SelectiveSFTConfig(**settings(tmp_path, average_tokens_across_devices=False))


@pytest.mark.parametrize("name", ARGUMENTS["refused"])
def test_arguments_of_the_host_that_do_nothing_are_refused(tmp_path, tokenizer, name):
    with pytest.raises(InputError, match=f"^field {name}: it would change nothing; "):
        SelectiveSFTTrainer(
            make_model("llama", len(tokenizer)),
            SelectiveSFTConfig(**settings(tmp_path)),
            make_rows(tokenizer),
            processing_class=tokenizer,
            **{name: ARGUMENTS["refused"][name]},
        )


def test_a_model_that_is_there_takes_no_settings_of_loading(tmp_path, tokenizer):
    with pytest.raises(InputError, match="^field model_init_kwargs: it would change nothing"):
        selective_trainer(
            tmp_path, tokenizer, make_rows(tokenizer), model_init_kwargs={"dtype": "float16"}
        )


@pytest.mark.parametrize(
    "name, why",
    [
        ("cp", "it would cut rows"),
        ("sp", "it would cut rows"),
        ("tp", "its processes learn from the same rows"),
    ],
)
def test_rows_are_not_shared_between_processes(name, why):
    on = {"cp_size": 1, "sp_size": 1, "tp_size": 1} | {f"{name}_size": 2}
    with pytest.raises(InputError, match=f"parallelism_config {name}_size: {why}"):
        check_parallelism(SimpleNamespace(**on))


def test_settings_of_mining_are_read_or_refused(tmp_path, tokenizer):
    """Read with an amateur, see test_sft; rows that were mined before are as they are."""
    rows = make_rows(tokenizer)
    for name, value in (
        ("divergence_beta", 0.1),
        ("plausibility_alpha", 0.5),
        ("contrast_temperature", 2.0),
        ("expert", "live"),
        ("select", "entropy"),
        ("target", "token"),
        ("mixture_weight", 0.5),
        ("only_correct", True),
    ):
        with pytest.raises(InputError, match=f"field {name}: .* would change nothing"):
            selective_trainer(tmp_path, tokenizer, rows, **{name: value})
    with pytest.raises(InputError, match="field max_length: it would change nothing without a"):
        selective_trainer(tmp_path, tokenizer, None, max_length=9)
    with pytest.raises(InputError, match="field train_sampling_strategy: it would change"):
        selective_trainer(tmp_path, tokenizer, None, train_sampling_strategy="sequential")


# sets of rows


def test_no_row_is_cut(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    longest = max(map(len, rows["input_ids"]))
    number = list(map(len, rows["input_ids"])).index(longest)
    selective_trainer(tmp_path, tokenizer, rows, max_length=longest)
    said = f"row {number}, field input_ids: {longest} tokens are more than "
    with pytest.raises(InputError, match=f"{said}max_length of {longest - 1}; drop the row"):
        selective_trainer(tmp_path, tokenizer, rows, max_length=longest - 1)
    model = make_model("llama", len(tokenizer), max_position_embeddings=longest - 1)
    with pytest.raises(InputError, match=f"{said}the model's window of {longest - 1}"):
        selective_trainer(tmp_path, tokenizer, rows, model=model)
    shorter = rows.select([place for place in range(len(rows)) if place != number])
    trainer = selective_trainer(tmp_path, tokenizer, shorter, model=model)
    for give in (trainer.evaluate, trainer.predict):
        with pytest.raises(InputError, match=f"{said}the model's window of {longest - 1}"):
            give(rows)


def test_several_evaluation_sets_and_predict(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    sets = {"a": rows.select(range(3)), "b": rows.select(range(3, 8))}
    trainer = selective_trainer(
        tmp_path,
        tokenizer,
        rows,
        eval_dataset=sets,
        eval_strategy="steps",
        eval_steps=1,
        learning_rate=0.1,
    )
    trainer.train()
    logged = {key: row[key] for row in trainer.state.log_history for key in row}
    for name, own in sets.items():
        loss = plain_loss(trainer.model, own).item()
        assert logged[f"eval_{name}_loss"] == pytest.approx(loss, rel=1e-5)
        assert logged[f"eval_{name}_num_kept"] == sum(map(len, own["position"]))
        assert trainer.evaluate(own)["eval_loss"] == pytest.approx(loss, rel=1e-5)
        predicted = trainer.predict(own)
        assert predicted.metrics["test_loss"] == pytest.approx(loss, rel=1e-5)
        assert predicted.predictions is None
    again = trainer.evaluate({"c": sets["a"]})
    assert again["eval_c_loss"] == pytest.approx(logged["eval_a_loss"], rel=1e-6)
    with pytest.raises(InputError, match=r"eval_dataset 'b': columns \['example_id'"):
        selective_trainer(
            tmp_path, tokenizer, rows, eval_dataset=sets | {"b": Dataset.from_dict({"t": ["a"]})}
        )
    twice = rows.select([0, 0])
    for give in (trainer.evaluate, trainer.predict):
        with pytest.raises(InputError, match="'0' stands in row 0 and again in row 1"):
            give(twice)


def test_sets_that_are_not_in_memory_are_refused(tmp_path, tokenizer):
    rows = make_rows(tokenizer)
    said = "expected a datasets.Dataset, found IterableDataset; rows are checked before"
    with pytest.raises(InputError, match=f"train_dataset: {said}"):
        selective_trainer(tmp_path, tokenizer, rows.to_iterable_dataset())
    with pytest.raises(InputError, match=f"eval_dataset 'a': {said}"):
        selective_trainer(tmp_path, tokenizer, rows, eval_dataset={"a": rows.to_iterable_dataset()})
    trainer = selective_trainer(tmp_path, tokenizer, rows)
    with pytest.raises(InputError, match=f"test_dataset: {said}"):
        trainer.predict(rows.to_iterable_dataset())
    with pytest.raises(InputError, match="eval_dataset: expected a datasets.Dataset, found list"):
        trainer.evaluate(rows.to_list())


# the commands


@pytest.mark.parametrize("name", REFUSED_BY_RECIPES)
def test_commands_refuse_what_no_recipe_reads(tmp_path, name):
    arguments = SFTConfig(**settings(tmp_path, **{name: REFUSED_BY_RECIPES[name]}))
    with pytest.raises(InputError, match=f"^field {name}: "):
        training.check_flags(arguments, ModelConfig("a"))


def test_steps_that_no_strategy_reads_are_refused(tmp_path):
    for what, remedy in (("eval", "and hold rows out with --num_eval"), ("save", "steps")):
        given = settings(tmp_path, **{f"{what}_steps": 7, f"{what}_strategy": "no"})
        with pytest.raises(InputError, match=f"field {what}_steps: it is not read.*{remedy}"):
            training.check_flags(SFTConfig(**given), ModelConfig("a"))
        given[f"{what}_strategy"] = "steps"
        training.check_flags(SFTConfig(**given), ModelConfig("a"))


def test_model_flags_that_do_nothing_are_refused(tmp_path):
    arguments = SFTConfig(**settings(tmp_path))
    quantized = {"load_in_8bit": True, "load_in_4bit": True}
    for name, value in (ADAPTER | quantized).items():
        with pytest.raises(InputError, match=f"field {name}: it is read with use_peft only"):
            training.check_flags(arguments, ModelConfig("a", **{name: value}))
        training.check_flags(arguments, ModelConfig("a", use_peft=True, **{name: value}))
    for name, value in (
        ("bnb_4bit_quant_type", "fp4"),
        ("use_bnb_nested_quant", True),
        ("bnb_4bit_quant_storage", "uint8"),
    ):
        with pytest.raises(InputError, match=f"field {name}: it is read with load_in_4bit only"):
            training.check_flags(arguments, ModelConfig("a", use_peft=True, **{name: value}))
    with pytest.raises(InputError, match="field lora_task_type: 'SEQ_CLS' is not what"):
        training.check_flags(arguments, ModelConfig("a", lora_task_type="SEQ_CLS"))
    with pytest.raises(InputError, match="field model_revision: .* is a folder"):
        training.check_flags(arguments, ModelConfig(str(tmp_path), model_revision="step1000"))
    with pytest.raises(InputError, match="field dtype: load_in_4bit computes in a dtype"):
        training.check_flags(
            arguments, ModelConfig("a", use_peft=True, load_in_4bit=True, dtype="auto")
        )


def test_adapter_flags_reach_the_adapter():
    config = training.adapter_config(
        ModelConfig("a", use_peft=True, model_revision="step1000", **ADAPTER)
    )
    assert config.revision == "step1000"  # else a score would be of another base
    for name, value in ADAPTER.items():
        found = getattr(
            config,
            name.removeprefix("lora_")
            .replace("alpha", "lora_alpha")
            .replace("dropout", "lora_dropout"),
        )
        assert (sorted(found) if isinstance(value, list) else found) == (
            sorted(value) if isinstance(value, list) else value
        )


@pytest.fixture
def hub(tmp_path, tokenizer, monkeypatch):
    """A hub cache with one model of two revisions, which differ in width."""
    cache = tmp_path / "hub" / "models--me--tiny"
    (cache / "refs").mkdir(parents=True)
    for sha, name, width in (("a" * 40, "main", 32), ("b" * 40, "step1000", 64)):
        folder = cache / "snapshots" / sha
        make_model("llama", len(tokenizer), hidden_size=width).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (cache / "refs" / name).write_text(sha)
    for module in ("huggingface_hub.constants", "transformers.utils.hub"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return "me/tiny"


def test_what_a_model_is_loaded_with(tmp_path, hub, tokenizer, monkeypatch):
    for revision, width in (("main", 32), ("step1000", 64)):
        config = ModelConfig(
            hub, model_revision=revision, dtype="bfloat16", attn_implementation="eager"
        )
        model, _ = training.load_trainable(config)
        assert model.config.hidden_size == width
        assert model.dtype == torch.bfloat16
        assert model.config._attn_implementation == "eager"
    # an adapter of a revision is scored on that revision
    (tmp_path / "adapter").mkdir()
    named = {"base_model_name_or_path": hub, "revision": "step1000"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(named))
    (found,) = find_checkpoints(str(tmp_path / "adapter"))
    assert found.base.name == "b" * 40
    seen = {}

    def note(name, **arguments):
        seen.update(arguments)
        return make_model("llama", len(tokenizer))

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    training.load_trainable(ModelConfig(hub), trust_remote_code=True)
    assert seen["trust_remote_code"] is True and seen["quantization_config"] is None
    kinds = {
        "bnb_4bit_quant_type": "fp4",
        "use_bnb_nested_quant": True,
        "bnb_4bit_quant_storage": "uint8",
    }
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    for name in ("load_in_4bit", "load_in_8bit"):
        with pytest.raises(InputError, match=f"field {name}: the package bitsandbytes is not"):
            training.load_trainable(ModelConfig(hub, **{name: True}))
    monkeypatch.setattr(training, "find_spec", lambda name: name)
    training.load_trainable(ModelConfig(hub, load_in_8bit=True))
    assert seen["quantization_config"].load_in_8bit
    training.load_trainable(ModelConfig(hub, load_in_4bit=True, **kinds))
    asked = seen["quantization_config"]
    assert asked.load_in_4bit and asked.bnb_4bit_use_double_quant
    assert asked.bnb_4bit_quant_type == "fp4" and asked.bnb_4bit_quant_storage == torch.uint8
    assert asked.bnb_4bit_compute_dtype == torch.float32


@pytest.mark.parametrize("command", ["train", "finetune", "loop"])
def test_the_commands_say_it_in_one_line(tmp_path, command, capsys):
    line = [command, "--model_name_or_path", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    line += ["--bf16", "false", "--use_cpu", "--model_revision", "step1000"]
    line += {
        "train": ["--soft_targets", "x"],
        "finetune": ["--train_data", "x", "--traces", "y"],
        "loop": ["--amateur", "x", "--prompts", "y", "--traces", "z"],
    }[command]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "field model_revision: " in said


def test_rounded_weights_are_not_merged(tmp_path, capsys):
    line = ["train", "--model_name_or_path", "me/tiny", "--soft_targets", "x", "--output_dir"]
    line += [str(tmp_path / "out"), "--bf16", "false", "--use_cpu", "--use_peft", "--load_in_4bit"]
    assert main(line) == 2
    assert "field merge: an adapter merged into rounded weights" in capsys.readouterr().err

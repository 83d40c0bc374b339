"""Sharded training without a GPU: FSDP1, FSDP2, HSDP, ZeRO-2 and ZeRO-3 on gloo.

DeepSpeed runs on CPUs as it is (but for one operation that only CPUs have, which is left out). FSDP
does not: on CPUs accelerate ignores its plugin without a word, and trains as DDP. `gpus_on_cpu`
replaces the one function that maps hardware to a backend; it answers ("gloo", MULTI_GPU). All else,
plugins, prepare, state dicts, is accelerate's own code.

    in a test       run_jobs(shared, folder, 2, [job("a", "fsdp2", "my_jobs:train", lora=True)])
                    a = results(folder, "a", 2)             # one dict for each rank
    as users start  launch(folder, "fsdp2", 2, [...])       # accelerate launch --config_file
    any script      launched(config, script, *arguments), forked_script(shared, config, 2, script)
    in a job        assert_sharded(trainer, setup); state_of_rank(trainer)

A job is `work(out, setup, **options) -> dict` in a module of tests/; it runs on every rank, between
its set-up's environment and its undoing, so one start does many set-ups: imports dominate.
"""

import argparse
import gc
import hashlib
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from accelerate.commands import launch as accelerate_launch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, gather_object, patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from helpers.processes import ROOT, TESTS, forked, python

ASSETS = ROOT / "recipes" / "assets"
TIMEOUT_S = 120  # of one job: a hang ends with the stack of every rank
WORKER = TESTS / "sharded_worker.py"

_FSDP2 = {
    "fsdp_version": 2,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "fsdp_reshard_after_forward": True,
    "fsdp_state_dict_type": "FULL_STATE_DICT",
    "fsdp_cpu_ram_efficient_loading": True,
}
# what `accelerate config` would write, without what is the same for all
SETUPS: dict[str, dict[str, Any]] = {
    "ddp": {"distributed_type": "MULTI_GPU"},
    "fsdp1": {
        "distributed_type": "FSDP",
        "fsdp_config": {
            "fsdp_version": 1,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_sharding_strategy": "FULL_SHARD",
            # on CPUs torch's own FULL_STATE_DICT of FSDP1 ends in a segmentation fault, and loading
            # by one rank in an error: FSDP1 broadcasts from an accelerator
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_sync_module_states": False,
        },
    },
    "fsdp2": {"distributed_type": "FSDP", "fsdp_config": _FSDP2},
    # shards within two processes, copies between two such pairs
    "hsdp": {
        "distributed_type": "FSDP",
        "fsdp_config": _FSDP2,
        "parallelism_config": {
            "parallelism_config_dp_replicate_size": 2,
            "parallelism_config_dp_shard_size": 2,
        },
    },
    "zero2": {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}},
    "zero3": {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 3}},
}
_DEEPSPEED = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "bf16": {"enabled": "auto"},
}
# parameters of fewer values than the threshold are not partitioned: with its default a tiny model
# is whole everywhere, and the test hollow; nor may any be kept or fetched ahead
_ZERO = {
    2: {"stage": 2},
    3: {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": 0,
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}


def gpus_on_cpu() -> None:
    """In a rank, before anything asks for devices: CPUs stand for GPUs."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.pop("ACCELERATE_USE_CPU", None)
    import deepspeed.ops
    import transformers.training_args

    # an all-reduce of CPUs alone, which would be compiled at first use, a minute long
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    def prepare_backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
        sharded = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(os.environ)
        # plain DDP would be given the numbers of GPUs
        return "gloo", DistributedType.MULTI_GPU if sharded else DistributedType.MULTI_CPU

    if "LOCAL_RANK" in os.environ:
        PartialState._prepare_backend = prepare_backend
    # TrainingArguments refuses bf16 without a GPU; CPUs compute it all the same
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True


def write_config(setup: str, folder: Path, num_processes: int) -> Path:
    """The set-up's file for `accelerate launch --config_file`."""
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "mixed_precision": "no",
        "num_machines": 1,
        "num_processes": num_processes,
    } | SETUPS[setup]
    if "deepspeed_config" in config:
        stage = config["deepspeed_config"]["zero_stage"]
        del config["mixed_precision"]  # accelerate refuses it beside a file of DeepSpeed's
        file = folder / f"{setup}-deepspeed.json"
        file.write_text(json.dumps(_DEEPSPEED | {"zero_optimization": _ZERO[stage]}))
        config["deepspeed_config"] = {
            "deepspeed_config_file": str(file),
            "zero3_init_flag": stage == 3,
        }
    path = folder / f"{setup}-{num_processes}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def launch_environment(config: Path) -> dict[str, str]:
    """What `accelerate launch --config_file config` adds to the environment, by its own code."""
    parser = accelerate_launch.launch_command_parser()
    args = parser.parse_args(["--config_file", str(config), "--main_process_port", "0", "script"])
    args, defaults, has_precision = accelerate_launch._validate_launch_command(args)
    if args.use_deepspeed:
        fields = [*defaults.deepspeed_config, *(["mixed_precision"] if has_precision else [])]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        _, environment = prepare_deepspeed_cmd_env(args)
    else:
        environment = prepare_multi_gpu_env(args)
    return {k: v for k, v in environment.items() if os.environ.get(k) != v}


@contextmanager
def set_up(config: Path) -> Iterator[None]:
    """In a rank: as if launched with this file; afterwards as if it had not been."""
    before = dict(os.environ)
    for name in before:
        # of the set-up that the start itself has
        if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")):
            del os.environ[name]
    os.environ.update(launch_environment(config), ACCELERATE_TORCH_DEVICE="cpu")
    _forget_set_up()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        _forget_set_up()
        gc.collect()


def _forget_set_up() -> None:
    """What accelerate and transformers keep of it; the group of processes stays."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState()


def job(name: str, setup: str, work: str, **options: Any) -> dict[str, Any]:
    """A job for `run_jobs` and `launch`.

    Args:
        name: of its results and of its folder `out`, which is new.
        setup: a key of `SETUPS`.
        work: `"module:function"` in tests/, called as `function(out, setup, **options)`.
        options: JSON values.
    """
    return {"name": name, "setup": setup, "work": work, "options": options}


def _plan(folder: Path, num_processes: int, jobs: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for setup in {job["setup"] for job in jobs}:
        write_config(setup, folder, num_processes)
    path = folder / "plan.json"
    path.write_text(json.dumps(jobs))
    return path


def run_jobs(base: Path, folder: Path, num_processes: int, jobs: list[dict]) -> None:
    """All jobs, of any set-ups, in one start by the fork server of the session (`shared`).

    Each rank has the environment that `accelerate launch` would give it.
    """
    plan = _plan(folder, num_processes, jobs)
    done = forked(base, WORKER, plan, world_size=num_processes)
    assert done.returncode == 0, (done.stdout[-2000:] + done.stderr)[-8000:]


def launch(
    folder: Path,
    setup: str,
    num_processes: int,
    jobs: list[dict],
    *,
    timeout: float = 600,
    on_gpus: bool = False,
) -> None:
    """All jobs in one start by `accelerate launch`, with the file of `setup`.

    Jobs of that set-up run as users start them; those of others as `run_jobs` does it.
    """
    plan = _plan(folder, num_processes, jobs)
    config = folder / f"{setup}-{num_processes}.yaml"
    arguments = (WORKER, plan, "--launched", setup)
    done = launched(config, *arguments, timeout=timeout, on_gpus=on_gpus)
    assert done.returncode == 0, (done.stdout[-2000:] + done.stderr)[-8000:]


def launched(
    config: Path,
    script: Path,
    *arguments: Any,
    timeout: float = 600,
    flags: Any = (),
    on_gpus: bool = False,
):
    """Any script by `accelerate launch`, on CPUs that stand for GPUs; how it ended.

    Args:
        flags: of the launcher, such as `("--num_processes", 2)`.
        on_gpus: on GPUs themselves.
    """
    launcher = ["-m", "accelerate.commands.launch", "--config_file", config]
    launcher += ["--main_process_port", 0, *flags]
    launcher += [] if on_gpus else [TESTS / "gpus_on_cpu.py"]
    return python(*launcher, script, *arguments, timeout=timeout, use_cpu=not on_gpus)


def forked_script(base: Path, config: Path, num_processes: int, script: Path, *arguments: Any):
    """The same by the fork server of the session, which has imported; how it ended."""
    with patch_environment(**launch_environment(config)):
        script_on_cpu = (TESTS / "gpus_on_cpu.py", script, *arguments)
        return forked(base, *script_on_cpu, world_size=num_processes)


def results(folder: Path, name: str, num_processes: int) -> list[dict[str, Any]]:
    """What each rank's job returned."""
    files = (folder / f"{name}-rank{rank}.json" for rank in range(num_processes))
    return [json.loads(file.read_text()) for file in files]


def assert_sharded(trainer: Any, setup: str) -> dict[str, Any]:
    """The trainer runs under what its set-up says, and this process holds only its part.

    Every rank calls, after `train()` has wrapped the model.

    Returns:
        `distributed_type`, `wrapper`, and `share`: the part of the weights (ZeRO-2: of the
        optimizer's) that this process holds.
    """
    state = trainer.accelerator.state
    named = SETUPS[setup]["distributed_type"]
    assert state.distributed_type == ("MULTI_CPU" if setup == "ddp" else named), state
    parameters = list(trainer.model.parameters())
    wrapper = type(trainer.model_wrapped).__name__
    if setup == "ddp":
        share = 1.0
    elif setup == "fsdp1":
        assert wrapper == "FullyShardedDataParallel"
        own = sum(p.numel() for p in parameters)
        share = own / sum(gather_object([own]))
    elif setup in ("fsdp2", "hsdp"):
        from torch.distributed.tensor import DTensor

        reshard(trainer.model)
        assert all(isinstance(p, DTensor) for p in parameters)
        assert all(p.device_mesh.ndim == (2 if setup == "hsdp" else 1) for p in parameters)
        share = sum(p.to_local().numel() for p in parameters) / sum(p.numel() for p in parameters)
    elif setup == "zero2":
        assert trainer.model_wrapped.zero_optimization_stage() == 2
        zero = trainer.model_wrapped.optimizer
        own, whole = zero.single_partition_of_fp32_groups, zero.bit16_groups_flat
        share = sum(x.numel() for x in own) / sum(x.numel() for x in whole)
    else:
        assert trainer.model_wrapped.zero_optimization_stage() == 3
        assert all(p.numel() == 0 and p.ds_numel > 0 for p in parameters)
        share = sum(p.ds_tensor.numel() for p in parameters) / sum(p.ds_numel for p in parameters)
    assert setup == "ddp" or share < 0.75, share
    return {"distributed_type": state.distributed_type.value, "wrapper": wrapper, "share": share}


def reshard(model: torch.nn.Module) -> None:
    """FSDP2 leaves its root gathered behind a forward; what is compared are the shards."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def _hash(value: Any) -> str:
    if not torch.is_tensor(value):
        return repr(value)
    value = value.detach()
    value = value.to_local() if hasattr(value, "to_local") else value
    content = value.reshape(-1).contiguous().cpu().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def state_of_rank(trainer: Any) -> dict[str, Any]:
    """All that training has changed on this rank, as hashes of the bits: JSON.

    `weights` by name and `optimizer` are this rank's shards; `rng` are torch's, Python's and
    numpy's streams; `log` is the trainer's own, without times and without what our callbacks add.
    """
    reshard(trainer.model)
    optimizer = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    # not by parameter: under ZeRO-3 the state is of flat partitions that no group holds any more
    moments = [
        [_hash(value) for _, value in sorted(of_one.items())] for of_one in optimizer.state.values()
    ]
    assert any(moments), "an optimizer without state compares nothing"
    named = trainer.model.named_parameters()
    return {
        "weights": {name: _hash(getattr(p, "ds_tensor", p)) for name, p in named},
        "optimizer": moments,
        "rng": [
            _hash(torch.get_rng_state()),
            hashlib.sha256(repr(random.getstate()).encode()).hexdigest()[:16],
            _hash(torch.from_numpy(np.random.get_state()[1].astype(np.int64))),
        ],
        "log": [row for row in map(_own_log, trainer.state.log_history) if len(row) > 2],
    }


def _own_log(row: dict[str, Any]) -> dict[str, Any]:
    added = ("runtime", "per_second", "rbridge", "contrast", "total_flos")
    return {k: repr(v) for k, v in row.items() if not any(word in k for word in added)}


def differences(a: list[dict], b: list[dict]) -> list[str]:
    """Which parts of `state_of_rank` differ between two lists of them, by rank: `["1 rng"]`."""
    assert len(a) == len(b)
    return [
        f"{rank} {part}"
        for rank, (x, y) in enumerate(zip(a, b, strict=True))
        for part in ("weights", "optimizer", "rng", "log")
        if x[part] != y[part]
    ]


def whole_state_dict(trainer: Any) -> dict[str, torch.Tensor]:
    """The whole weights on the main process, float32; empty elsewhere. Every rank calls."""
    accelerator = trainer.accelerator
    wrapped = trainer.model_wrapped
    model = wrapped if accelerator.distributed_type == DistributedType.DEEPSPEED else trainer.model
    found = accelerator.get_state_dict(model)
    # copies: tied weights would share their memory
    return {name: value.float().cpu().clone() for name, value in (found or {}).items()}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Arguments of sharded_worker.py."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--launched", help="the set-up of the file that accelerate was given")
    return parser.parse_args(argv)

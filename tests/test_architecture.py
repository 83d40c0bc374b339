"""The house: rooms in ranks, imports go down them, heavy libraries stay out of the doorway."""

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig, SFTConfig

import hf_proxy
from hf_proxy import align_traces, annotate_traces, build_traces, contrast, mine_soft_targets
from hf_proxy.building.settings import BuildSettings, ServerSettings
from hf_proxy.callbacks import ContrastCallback, ProxyScoreCallback
from hf_proxy.cli import COMMANDS
from hf_proxy.mining.settings import MiningSettings
from hf_proxy.recipes.build_small_world import BuildConfig
from hf_proxy.recipes.closed_loop import LoopConfig
from hf_proxy.recipes.demo import DemoConfig
from hf_proxy.recipes.evaluate_accuracy import AccuracyConfig
from hf_proxy.recipes.finetune_with_proxy import FinetuneConfig
from hf_proxy.recipes.fit_predictor import FitConfig
from hf_proxy.recipes.library.flags import RecipeParser
from hf_proxy.recipes.mine_soft_targets import MineConfig
from hf_proxy.recipes.predict_accuracy import PredictConfig
from hf_proxy.recipes.rank_models import RankConfig
from hf_proxy.recipes.report import ReportConfig
from hf_proxy.recipes.score_checkpoints import ScoreConfig
from hf_proxy.recipes.traces import AnnotateConfig
from hf_proxy.recipes.traces import BuildConfig as BuildTracesConfig
from hf_proxy.recipes.train_selective_sft import TrainConfig
from hf_proxy.traces.settings import AlignmentSettings
from hf_proxy.training.config import SelectiveSFTConfig

ROOT = Path(__file__).parent.parent
# a room may import those of lower ranks and itself, never one of its own rank
RANKS = (
    {"records", "intervals"},
    {"tokens", "models", "answers"},
    {"traces.shapes"},
    {"traces", "mining"},
    {"scoring", "training"},
    {"building", "prediction"},
    {"metrics", "report"},
    {"callbacks"},
    {"recipes.library"},
    {"recipes"},
    {"cli"},
)
RANK_OF = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
# the two methods know nothing of each other
WAYS = ({"traces.shapes", "traces", "scoring", "building", "prediction"}, {"mining", "training"})
WITHOUT_TORCH = (
    "records", "intervals", "tokens", "answers", "traces.shapes", "traces", "prediction"
)  # fmt: skip
# rooms within a room: rank and rule of their own, drawn with the room they lie in
SUB_ROOMS = ("recipes.library", "traces.shapes")
RECIPES_OF_RECIPES = ("hf_proxy.recipes.demo",)  # runs commands one after the other
LONGEST_MODULE = 350  # lines


def room_of(module: str) -> str:
    """`hf_proxy.recipes.library.flags` lies in `recipes.library`; `hf_proxy` itself in none."""
    parts = module.split(".")
    if ".".join(parts[1:3]) in SUB_ROOMS:
        return ".".join(parts[1:3])
    return parts[1] if len(parts) > 1 else ""


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the tree rather than a name inside one."""
    first, *rest = name.split(".")
    folder = ROOT / first
    if rest and rest[0] in ("callbacks", "recipes"):
        folder = ROOT
    path = folder.joinpath(*rest)
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imported(source: str) -> set[str]:
    """Every module of ours that a source names, and every name it takes from one.

    `from hf_proxy.models import logits` names `hf_proxy.models.logits`; a name that is no module
    comes as `module:name`.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if is_module(inside) else f"{node.module}:{alias.name}")
    ours = ("hf_proxy", "callbacks", "recipes")
    return {name for name in found if re.split(r"[.:]", name)[0] in ours}


def violations(module: str, source: str) -> list[str]:
    """Imports of `module` that go against the rule."""
    wrong = []
    mine = room_of(module)
    for name in sorted(imported(source)):
        target, _, attribute = name.partition(":")
        theirs = room_of(target)
        here = f"{module} imports {name}"
        if target.split(".")[0] != "hf_proxy":
            wrong.append(f"{here}: a second copy of its classes")
        elif attribute.startswith("_") and not attribute.startswith("__"):
            wrong.append(f"{here}: private to its module")
        elif theirs == "":
            if attribute != "__version__":
                wrong.append(f"{here}: the front door is for users")
        elif theirs not in RANK_OF:
            wrong.append(f"{here}, which lies in no room")
        elif theirs == mine:
            recipes = mine == "recipes" and module not in RECIPES_OF_RECIPES
            if recipes or (mine == "callbacks" and target.split(".")[-1] in CALLBACKS):
                wrong.append(f"{here}: each of these stands alone")
        elif RANK_OF[theirs] >= RANK_OF[mine]:
            wrong.append(f"{here}, which is no lower")
        elif any(mine in way and theirs in other for way in WAYS for other in WAYS if way != other):
            wrong.append(f"{here}: the two methods know nothing of each other")
    return wrong


CALLBACKS = ("contrast", "proxy_score")


def sources():
    """Module name and text of every file of the package; `__init__` stands for its folder."""
    for folder in ("hf_proxy", "callbacks", "recipes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if folder == "hf_proxy" else ("hf_proxy", *parts))
            yield name, path.read_text()


def inside_rooms(all_sources) -> dict[str, dict[str, set[str]]]:
    """For each room what each of its modules imports of the same room."""
    rooms: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for name, source in all_sources:
        targets = {target.partition(":")[0] for target in imported(source)} - {name}
        rooms[room_of(name)][name] = {t for t in targets if room_of(t) == room_of(name)}
    return rooms


def circles(rooms) -> list[str]:
    """Rooms in which a module imports itself by a detour."""
    found = []
    for room, graph in rooms.items():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(f"{room}: {' -> '.join(error.args[1])}")
    return found


def test_imports_go_down_the_ranks():
    found = [
        line
        for name, source in sources()
        if not name.endswith("__init__")
        for line in violations(name, source)
    ]
    assert found == []
    rooms = {room_of(name) for name, _ in sources()} - {"__init__"}
    assert rooms == set(RANK_OF), "a room is missing from the drawing, or drawn only"


def floors_drawn(readme: str) -> list[set[str]]:
    """The rooms on each line of README's drawing of hf_proxy."""
    (drawing,) = re.findall(r"^hf_proxy/ .*\n((?:  .*\n)+)", readme, re.MULTILINE)
    return [set(re.findall(r"\b([a-z]+)(?:/|\.py)(?= )", line)) for line in drawing.splitlines()]


def test_readme_draws_the_same_floors():
    readme = (ROOT / "README.md").read_text()
    inside = [rank for rank in RANKS if not rank & {"callbacks", "recipes", "cli", *SUB_ROOMS}]
    assert floors_drawn(readme) == inside
    assert floors_drawn(readme.replace("  mining/", "  digging/")) != inside


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("hf_proxy.records.rows", "from hf_proxy.scoring.comparison import compare"),
        ("hf_proxy.intervals", "from hf_proxy.records.errors import InputError"),
        ("hf_proxy.tokens.prompts", "from hf_proxy.models.access import unwrapped"),
        ("hf_proxy.models.access", "from hf_proxy.answers import grading"),
        ("hf_proxy.scoring.scoring", "def f():\n    import hf_proxy.recipes.demo"),
        ("hf_proxy.scoring.scoring", "from hf_proxy import cli"),
        ("hf_proxy.scoring.scoring", "from hf_proxy import load_traces"),
        ("hf_proxy.scoring.scoring", "from hf_proxy.mining.divergence import contrast"),
        ("hf_proxy.training.rows", "from hf_proxy.traces.checks import check_trace"),
        ("hf_proxy.traces.shapes.chat", "from hf_proxy.traces.parts import parts_of"),
        ("hf_proxy.training.rows", "from hf_proxy.traces.shapes.answer import Answer"),
        ("hf_proxy.prediction.curve", "from hf_proxy.training.loss import selective_loss"),
        ("hf_proxy.prediction.curve", "from hf_proxy.scoring.comparison import _private"),
        ("hf_proxy.report.page", "from hf_proxy.metrics import load_metric"),
        ("hf_proxy.callbacks.x", "from hf_proxy.recipes.library.running import run"),
        ("hf_proxy.callbacks.x", "from hf_proxy.callbacks.proxy_score import ProxyScoreCallback"),
        ("hf_proxy.recipes.x", "from hf_proxy.recipes.traces import annotate"),
        ("hf_proxy.recipes.x", "from hf_proxy.recipes import traces"),
        ("hf_proxy.recipes.library.x", "from hf_proxy.recipes.traces import annotate"),
        ("hf_proxy.recipes.demo", "import callbacks"),
        ("hf_proxy.recipes.demo", "from recipes.library.checkpoints import load_model"),
        ("hf_proxy.scoring.scoring", "from hf_proxy.utils import everything"),
    ],
)
def test_the_import_rule_can_fail(module, source):
    assert len(violations(module, source)) == 1


def test_no_circle_inside_a_room():
    assert circles(inside_rooms(sources())) == []
    ring = [
        ("hf_proxy.records.rows", "from hf_proxy.records.errors import InputError"),
        ("hf_proxy.records.errors", "from hf_proxy.records.rows import WEIGHTINGS"),
    ]
    assert len(circles(inside_rooms(ring))) == 1


def named_like_a_public_name(rooms, public) -> set[str]:
    return set(rooms) & set(public)


def test_folders_have_empty_doors_and_names_of_their_own():
    doors = {name for name, source in sources() if name.endswith("__init__") and source.strip()}
    # the front door, the callbacks (public), and the metrics' own
    assert doors == {f"hf_proxy.{name}__init__" for name in ("", "callbacks.", "metrics.")}
    assert not named_like_a_public_name(RANK_OF, hf_proxy.__all__)
    # a folder `contrast` would make `from hf_proxy import contrast` give the module
    assert named_like_a_public_name({*RANK_OF, "contrast"}, hf_proxy.__all__) == {"contrast"}


def too_long(all_sources) -> list[str]:
    return [name for name, source in all_sources if len(source.splitlines()) > LONGEST_MODULE]


def test_no_module_is_too_long():
    assert too_long(sources()) == []
    assert too_long([("hf_proxy.x", "\n" * (LONGEST_MODULE + 1))]) == ["hf_proxy.x"]


def test_only_one_module_asks_for_logits():
    askers = {
        name for name, source in sources() if ".logits" in source.replace("models.logits", "")
    }
    assert askers == {"hf_proxy.models.logits"}


def modules_after(statement: str) -> set[str]:
    """Modules that a process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_rooms_load_no_torch():
    names = [
        name
        for name, _ in sources()
        if room_of(name) in WITHOUT_TORCH and not name.endswith("__init__")
    ]
    assert len(names) > 20
    loaded = modules_after("\n".join(f"import {name}" for name in (*names, "hf_proxy.cli")))
    assert set(names) < loaded
    assert "torch" not in loaded
    assert "beartype" not in loaded  # shapes are checked in the tests alone


def test_a_public_name_loads_no_recipe():
    loaded = modules_after("import hf_proxy; hf_proxy.score_traces")
    assert "hf_proxy.scoring.scoring" in loaded and "torch" in loaded  # the guard above can fail
    assert not {name for name in loaded if name.startswith(("hf_proxy.recipes", "hf_proxy.cli"))}


def test_public_names_are_told_to_type_checkers_too():
    tree = ast.parse((ROOT / "hf_proxy" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = {name: f"hf_proxy.{module}" for name, module in hf_proxy._MODULE_OF.items()}
    assert told == found
    assert hf_proxy.__all__ == sorted(found)


def test_public_names_exist_and_are_documented():
    for name in hf_proxy.__all__:
        assert getattr(hf_proxy, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_proxy.nothing
    for module, source in sources():
        tree = ast.parse(source)
        assert ast.get_docstring(tree) or not source.strip(), module
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name}"


CONFIGS = {
    "build_small_world": (BuildConfig,),
    "demo": (DemoConfig,),
    "mine_soft_targets": (MineConfig,),
    "fit_predictor": (FitConfig,),
    "predict_accuracy": (PredictConfig,),
    "rank_models": (RankConfig,),
    "finetune_with_proxy": (FinetuneConfig, SFTConfig, ModelConfig),
    "score_checkpoints": (ScoreConfig,),
    "traces": (AnnotateConfig,),
    "traces_build": (BuildTracesConfig,),
    "train_selective_sft": (TrainConfig, SelectiveSFTConfig, ModelConfig),
    "train_selective_sft_paper": (TrainConfig, SelectiveSFTConfig, ModelConfig),
    "closed_loop": (LoopConfig, SelectiveSFTConfig, ModelConfig),
    "evaluate_accuracy": (AccuracyConfig,),
    "report": (ReportConfig,),
}


def other_defaults(settings, takers) -> list[str]:
    """Defaults of functions, callbacks and recipes that are not the ones of the settings."""
    own = {field.name: field.default for field in dataclasses.fields(settings)}
    found = []
    for taker in takers:
        inherited = set().union(*(getattr(base, "__annotations__", ()) for base in bases(taker)))
        for name, parameter in inspect.signature(taker).parameters.items():
            default = None if parameter.default == "none" else parameter.default  # a flag's word
            if name in own and name not in inherited and default != own[name]:
                found.append(f"{taker.__name__}: {name}={default!r}, not {own[name]!r}")
    return found


def bases(taker) -> tuple:
    return taker.__mro__[1:] if isinstance(taker, type) else ()


def test_defaults_of_settings_are_the_same_everywhere():
    mining = (contrast, mine_soft_targets, ContrastCallback, MineConfig, LoopConfig)
    assert other_defaults(MiningSettings, (*mining, SelectiveSFTConfig)) == []
    alignment = (align_traces, annotate_traces, ProxyScoreCallback, ScoreConfig, AnnotateConfig)
    assert other_defaults(AlignmentSettings, alignment) == []
    assert other_defaults(BuildSettings, (build_traces, BuildTracesConfig)) == []
    assert other_defaults(ServerSettings, (BuildTracesConfig, AnnotateConfig)) == []

    def odd(*, divergence_beta=0.5, seed=0):
        """One that has its own."""

    assert other_defaults(MiningSettings, [odd]) == ["odd: divergence_beta=0.5, not 0.4"]


def test_every_recipe_has_a_yaml_that_parses_into_it():
    yamls = {p.stem for p in (ROOT / "recipes").glob("*.yaml") if "accelerate_" not in p.name}
    recipes = {p.stem for p in (ROOT / "recipes").glob("*.py")} - {"__init__"}
    assert yamls == set(CONFIGS)
    assert (
        {name.removesuffix("_paper").removesuffix("_build") for name in yamls} == recipes <= yamls
    )
    for name, classes in CONFIGS.items():
        path = ROOT / "recipes" / f"{name}.yaml"
        parser = RecipeParser(classes, prog=name)
        configs = parser.parse(["--config", str(path)])
        for key, value in yaml.safe_load(path.read_text()).items():
            (config,) = [config for config in configs if hasattr(config, key)]
            assert getattr(config, key) == value
        head = path.read_text().split("\n\n")[0]
        for word in ("Purpose", "Hardware and time", "Launch", "Last line"):
            assert word in head, f"{path.name} does not say {word}"


def test_every_command_has_its_recipe():
    for recipe, _ in COMMANDS.values():
        assert callable(importlib.import_module(f"hf_proxy.recipes.{recipe}").cli)


def test_no_paths_of_a_machine():
    pattern = re.compile(r"/(home|root|work|tmp)/\w")
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        if path.suffix in (".py", ".toml", ".yaml", ".md", ".txt") and inside[0] in (
            "hf_proxy",
            "callbacks",
            "recipes",
            "pyproject.toml",
            "README.md",
            ".ci",
        ):
            assert not pattern.search(path.read_text()), path

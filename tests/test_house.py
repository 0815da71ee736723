"""The house rules: what is installed, who imports whom and what, how long a file is and what it is called."""

import ast
import importlib.util
import io
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOMS: dict[str, str] = SETUPTOOLS["package-dir"]
FLOORS = {"tilec.ir": 0, "tilec.backends": 1, "tilec": 2, "tilec.ops": 3, "tilec.torch": 4}  # imports go down
LONGEST, LONGEST_EXAMPLE = 400, 80
HEAVY = {"llvmlite", "sympy", "ml_dtypes", "cuda", "hypothesis", "sklearn", "torch"}  # only inside functions
ONLY_IN = {
    "llvmlite": "tilec.backends.llvm",
    "cuda.bindings.driver": "tilec.backends.ptx.driver",
    "cuda.bindings.nvjitlink": "tilec.backends.ptx.link",
}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join([package, *parts]).removesuffix(".__init__"), path


def names(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imports(path: Path) -> Iterator[str]:
    return names(ast.walk(ast.parse(path.read_text())))


def imports_at_once(path: Path) -> Iterator[str]:
    """What a module imports when it is imported itself: all that stands outside of functions."""

    def outside(node: ast.AST) -> Iterator[ast.AST]:
        yield node
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from outside(child)

    return names(outside(ast.parse(path.read_text())))


def inside(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def floor(module: str) -> int:
    return FLOORS[max((room for room in FLOORS if inside(module, room)), key=len)]


def target(module: str) -> str | None:
    """The backend a module belongs to: tilec.backends.ptx.emit -> tilec.backends.ptx."""
    package = ".".join(module.split(".")[:3])
    return package if inside(package, "tilec.backends") and package in SETUPTOOLS["packages"] else None


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


each_module = pytest.mark.parametrize(("module", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
each_package = pytest.mark.parametrize("package", SETUPTOOLS["packages"])


def test_every_package_is_listed() -> None:
    found = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in modules()}
    assert sorted(found) == sorted(SETUPTOOLS["packages"])


@each_package
def test_a_package_refuses_a_second_name(package: str) -> None:
    """`import ir` from the repository's root would make a second copy of every class."""
    room = max((room for room in ROOMS if inside(package, room)), key=len)
    folder = ROOT / ROOMS[room] / Path(*package.removeprefix(room).split("."))
    spec = importlib.util.spec_from_file_location("second_name", folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    with pytest.raises(ImportError, match="second_name"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@each_module
def test_imports_go_down(module: str, path: Path) -> None:
    for name in (n for n in imports(path) if inside(n, "tilec")):
        assert floor(name) <= floor(module), f"{module} imports {name}, which lives upstairs"
        if target(module) not in (None, "tilec.backends"):
            siblings = (None, "tilec.backends", target(module))
            assert target(name) in siblings, f"{module} imports its sibling {name}"


@each_module
def test_heavy_imports_wait(module: str, path: Path) -> None:
    heavy = {name.split(".")[0] for name in imports_at_once(path)} & HEAVY
    heavy -= {"torch"} if inside(module, "tilec.torch") else set()
    assert not heavy, f"{module} imports {sorted(heavy)} at once: import inside the function that needs it"


@each_module
def test_one_door_to_each_library(module: str, path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] != "cuda" or name in ONLY_IN, f"{module} imports {name}: no door"
        doors = [door for library, door in ONLY_IN.items() if inside(name, library)]
        assert doors in ([], [module]), f"{module} imports {name}: only {doors[0]} may"


@each_module
def test_files_stay_short(module: str, path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LONGEST, f"{module} has {lines} lines: find the seam and split it"


@each_module
def test_no_name_of_the_standard_library(module: str, path: Path) -> None:
    """A script run from such a file's folder would import it in place of the real one."""
    assert path.stem not in sys.stdlib_module_names, f"{path.name} hides the standard library's {path.stem}"


@each_module
def test_every_module_says_what_it_is(module: str, path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{module} has no docstring"


def test_examples_stay_short() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert path.read_text().count("\n") < LONGEST_EXAMPLE, f"{path.name}: one new idea, in under 80 lines"


def test_the_wheel_stays_small() -> None:
    """What a wheel holds, compressed as a wheel is: under 1 MB."""
    with io.BytesIO() as held:
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as wheel:
            for module, path in modules():
                wheel.write(path, module)
        assert held.tell() < 1_000_000, f"the wheel has {held.tell()} bytes"


def test_importing_tilec_loads_numpy_alone() -> None:
    done = python(
        "import sys, numpy; before = set(sys.modules); import tilec; tilec.kernel\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"tilec", "numpy", *sys.stdlib_module_names}


def test_importing_tilec_waits_for_its_first_name() -> None:
    done = python("import sys, tilec; print(*(name for name in sys.modules if name.startswith('tilec')))")
    assert done.stdout.split() == ["tilec"], done.stderr


def test_a_checkout_runs_uninstalled() -> None:
    done = python("import tilec, tilec.ir, tilec.backends.ptx, tilec.ops; print(tilec.__file__)")
    assert done.stdout.strip() == str(ROOT / "tilec" / "__init__.py"), done.stderr


def test_a_room_is_not_a_package_of_its_own() -> None:
    done = python("import ir")
    assert "'ir' is the source folder of tilec.ir: import that" in done.stderr

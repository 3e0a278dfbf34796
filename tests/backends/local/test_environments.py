"""The set-up with a Python that only notes what it was asked: what is done anew, what is left alone, what is repaired."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backends.local import environments
from backends.local.environments import GATEWAY, INTERRUPTED, MARKER, WORKER, SetupError, set_up

ROOT = Path(__file__).parents[3]

# Like Python as far as the set-up uses it: `-m venv` copies it into the new environment, `-m pip` and the rest succeed
# unless the file `fail` holds a part of their arguments.
FAKE_PYTHON = """#!/bin/sh
ROOT=@ROOT@
echo "$0 $*" | sed "s|^$ROOT/||" >> "$ROOT/calls"
if [ -s "$ROOT/fail" ] && echo "$*" | grep -qF -- "$(cat "$ROOT/fail")"; then
    echo "ERROR: no room at the inn"
    exit 1
fi
case "$*" in
    *version_info*) cat "$(dirname "$0")/version" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$(dirname "$0")/version" "$3/bin/version" ;;
    *model.py*) mkdir -p "$3" ;;
esac
"""


class Checkout:
    """A folder that looks like a fresh clone, with a Python beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "base" / "python"
        self.python.parent.mkdir(parents=True)
        self.python.write_text(FAKE_PYTHON.replace("@ROOT@", str(root)), "utf-8")
        self.python.chmod(0o755)
        self.version("3.11")
        for wanted in (GATEWAY, WORKER):
            (root / wanted.lock).write_text("a==1\n", "utf-8")

    def version(self, version: str) -> None:
        (self.python.parent / "version").write_text(version + "\n", "utf-8")

    def fail(self, words: str) -> None:
        """The next commands whose arguments contain `words` fail; "" for none."""
        (self.root / "fail").write_text(words, "utf-8")

    def set_up(self) -> list[str]:
        """The commands that it took, without the questions for the version."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        try:
            set_up(self.root, self.python, {"PATH": "/usr/bin:/bin"})
        finally:
            self.calls = [line for line in calls.read_text("utf-8").splitlines() if "version_info" not in line]
        return self.calls


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


MODEL_CALL = ".venv-worker/bin/python -I"


def test_a_fresh_clone(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout.root
    calls = checkout.set_up()
    assert calls[:4] == [
        f"base/python -m venv {root}/.venv",
        f".venv/bin/python -m pip install --no-deps --requirement {root}/requirements.lock",
        ".venv/bin/python -m pip install --no-deps --editable .",
        ".venv/bin/python -c import torch, litestar",
    ]
    assert calls[4:7] == [
        f"base/python -m venv {root}/.venv-worker",
        f".venv-worker/bin/python -m pip install --no-deps --requirement {root}/requirements-worker.lock",
        ".venv-worker/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec",
    ]
    assert calls[-1].startswith(MODEL_CALL)
    assert (root / environments.MODEL).is_dir()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in said] == ["gateway environment", "worker environment", "model folder"]
    assert all(re.search(r"… \d+ s$", line) for line in said)


def test_nothing_to_do(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    checkout.set_up()
    capsys.readouterr()
    calls = checkout.set_up()
    assert len(calls) == 1
    assert calls[0].startswith(MODEL_CALL)
    assert capsys.readouterr().out.splitlines() == [
        "gateway environment: up to date",
        "worker environment: up to date",
        "model folder: up to date",
    ]


def test_a_changed_lock_file_updates_that_environment_only(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.root / WORKER.lock).write_text("a==2\n", "utf-8")
    calls = checkout.set_up()
    assert not [call for call in calls if "venv " in call]
    assert {call.split("/")[0] for call in calls} == {".venv-worker"}
    assert len(checkout.set_up()) == 1


def test_an_environment_made_by_hand_is_taken_over(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.root / GATEWAY.folder / MARKER).unlink()
    assert not [call for call in checkout.set_up() if "-m venv" in call]


@pytest.mark.parametrize("step", ["-m venv", "--requirement", "--editable", "import torch"])
def test_an_interrupted_environment_is_made_anew(checkout: Checkout, step: str) -> None:
    checkout.fail(step)
    with pytest.raises(SetupError) as caught:
        checkout.set_up()
    assert "no room at the inn" in str(caught.value)
    assert "setup-venv.log" in str(caught.value)
    folder = checkout.root / GATEWAY.folder
    assert (folder / INTERRUPTED).exists()
    assert not (folder / MARKER).exists()
    (folder / "half-unpacked").touch()

    checkout.fail("")
    calls = checkout.set_up()
    assert calls[0] == f"base/python -m venv {folder}"
    assert not (folder / "half-unpacked").exists()
    assert not (folder / INTERRUPTED).exists()
    assert len(checkout.set_up()) == 1


def test_an_environment_of_another_python_is_made_anew(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.version("3.12")
    assert [call for call in checkout.set_up() if "-m venv" in call] == [
        f"base/python -m venv {checkout.root}/.venv",
        f"base/python -m venv {checkout.root}/.venv-worker",
    ]


def test_an_environment_whose_python_is_gone_is_made_anew(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.root / WORKER.folder / "bin" / "python").unlink()
    assert f"base/python -m venv {checkout.root}/.venv-worker" in checkout.set_up()


def test_the_wrong_torch_is_explained(checkout: Checkout) -> None:
    checkout.fail("endswith('+cpu')")
    with pytest.raises(SetupError, match="PIP_EXTRA_INDEX_URL"):
        checkout.set_up()


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_the_wrong_python_is_refused(checkout: Checkout, version: str) -> None:
    checkout.version(version)
    with pytest.raises(SetupError, match=rf"needs Python 3\.11 to 3\.13, and this one is {version}"):
        checkout.set_up()
    assert checkout.calls == []


def test_a_python_that_does_not_run(checkout: Checkout) -> None:
    with pytest.raises(SetupError, match="does not run"):
        set_up(checkout.root, checkout.root / "nowhere")


def test_a_full_disk_is_said_first(checkout: Checkout) -> None:
    with pytest.raises(SetupError, match="Make room"):
        environments.check_disk(checkout.root, 1e9)
    environments.check_disk(checkout.root, 0)


def test_a_missing_lock_file(checkout: Checkout) -> None:
    (checkout.root / WORKER.lock).unlink()
    with pytest.raises(SetupError, match=r"git checkout requirements-worker\.lock"):
        checkout.set_up()


def test_the_command_says_what_went_wrong(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout.root / GATEWAY.lock).unlink()
    assert environments.main([str(checkout.root)]) == 1
    assert "requirements.lock can't be read" in capsys.readouterr().out


@pytest.mark.parametrize("wanted", [GATEWAY, WORKER], ids=["gateway", "worker"])
def test_the_lock_files_are_plain(wanted: environments.Environment) -> None:
    """Only pinned names: they must mean the same on any machine, with any index."""
    lines = (ROOT / wanted.lock).read_text("utf-8").splitlines()
    names = [line.split("==")[0] for line in lines if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*", line)] == []
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in lines
    assert not {"pip", "torchvision", "torchaudio", "torchcodec", "kvshelf"} & set(names)

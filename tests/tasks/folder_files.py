"""Reading, changing and copying the files of a dataset folder, for the tests beside this file."""

import json
import shutil
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def load(folder, name):
    return json.loads((folder / name).read_text())


def store(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def copy_of(folder, tmp_path, *, without=()):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        if file.name not in without:
            shutil.copyfile(file, copy / file.name)
    return copy

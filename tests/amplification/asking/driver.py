"""`amplify` with a model that is a function, for tests in a process of its own.

In the folder AMPLIFY_TEST: `asked` gets a line for each call, `wrong.json` maps questions to what is answered instead
of the truth, and while `gate` is there, questions that hold its text wait for it to go.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from amplification import cli, serving
from amplification.serving.base import Call, Completion, ModelRef
from amplification.serving.config import SAMPLERS, ServingConfig
from amplification.tasks import task_of

FOLDER = Path(os.environ["AMPLIFY_TEST"])


class Model:
    """Answers with the truth; to another draw of a question with the truth too, which `wrong.json` spares."""

    def __init__(self, settings: ServingConfig) -> None:
        pass

    def sample(self, calls: Sequence[Call]) -> list[Completion]:
        wrong = json.loads((FOLDER / "wrong.json").read_text()) if (FOLDER / "wrong.json").exists() else {}
        for call in calls:
            self._wait(call.prompt)
        with (FOLDER / "asked").open("a") as asked:
            asked.writelines(f"{call.sample} {call.prompt}\n" for call in calls)
        return [self._complete(call, wrong) for call in calls]

    def _wait(self, prompt: str) -> None:
        gate = FOLDER / "gate"
        while gate.exists() and gate.read_text() in prompt:
            (FOLDER / "waiting").touch()
            time.sleep(0.01)

    def _complete(self, call: Call, wrong: dict[str, str]) -> Completion:
        text = call.prompt.removesuffix(" :")
        task = task_of(text)
        said = task.truth(text) if task else "nonsense"
        return Completion(wrong.get(text, said) if call.sample == 0 else said, len(text.split()), 1)

    def parameters(self, model: ModelRef) -> int:
        return 1

    def close(self) -> None:
        pass


if __name__ == "__main__":
    with patch.object(serving, "SAMPLERS", dict.fromkeys(SAMPLERS, "__main__:Model")):
        sys.exit(cli.main())
